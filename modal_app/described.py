"""How an app's description reaches the module that defines it: decorators bind their settings when they are imported.

`python -m modal_app.deploy` puts the description into this process's environment before the import, and the image carries
it into the container, so that both sides import the same definitions.
"""

from __future__ import annotations

import base64
import os
from typing import TypeVar

from modal_app.errors import Failure
from modal_app.release import Deployment, Frozen, Scaling

__all__ = ["JOBS_APP", "JobsDeployment", "encoded", "frozen_part", "read", "variable"]

JOBS_APP = "llama-jobs"


class JobsDeployment(Frozen):
    """The app that builds and downloads for the Volumes of one environment; the same for every stack that shares them."""

    environment: str = "main"
    builds_volume: str = "llama-builds"
    models_volume: str = "llama-models"

    @property
    def app_name(self) -> str:
        """Name of the app; one for each environment."""
        return JOBS_APP


Described = TypeVar("Described", Deployment, JobsDeployment)


def variable(kind: type[Frozen]) -> str:
    """The environment variable that carries a description of this kind."""
    return f"LLAMA_ON_MODAL_{kind.__name__.upper()}"


def encoded(description: Frozen) -> dict[str, str]:
    """A description as an environment variable. Base64, because an image quotes and expands its variables."""
    text = description.model_dump_json().encode()
    return {variable(type(description)): base64.urlsafe_b64encode(text).decode()}


def read(kind: type[Described]) -> Described:
    """The description in this process's environment. Raises Failure when there is none."""
    value = os.environ.get(variable(kind))
    if value is None:
        raise Failure(
            f"{variable(kind)} is not set: expected a description of what to deploy: use `python -m modal_app.deploy`"
        )
    return kind.model_validate_json(base64.urlsafe_b64decode(value))


def frozen_part(deployment: Deployment) -> Deployment:
    """A deployment without what a container does not see: scaling and tags. A change of those leaves the image as it is."""
    return deployment.model_copy(update={"scaling": Scaling(), "tags": {}})
