"""`ModelFiles`: the files of one model at one commit, as a directory `<key>/` on the models Volume.

Identity     the key: repository + commit + file set, and the Volume
Replaced by  any of them
Updated by   nothing but drift, which is mended in its place
Never        trusts a file without its sha256; overwrites in place; deletes files that a snapshot may need
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, ReadResult, Resource, UpdateResult

from providers import artifacts, reasons
from providers.base import Inputs, has_unknown
from providers.errors import one_line

__all__ = ["ModelFiles", "ModelFilesProvider"]

DEADLINE_SECONDS = 3 * 3600
"""19 GB take 1 to 10 minutes from the Hub; retries wait up to 3 minutes, and another download may be first in the queue."""


class ModelFilesProvider(artifacts.ArtifactProvider):
    """Inputs: those of every artifact (`artifacts.KEPT`), and the fields of `ModelSpec`."""

    label = "model"
    compared = ("environment", "volume", "repo", "revision", "weights", "projector", "drafter", "key")
    identity = compared
    kept = (*artifacts.KEPT, "repo", "revision", "weights", "projector", "drafter")

    def problems(self, news: Inputs) -> Iterator[tuple[str, str]]:
        """The key must be the one that the other inputs make."""
        if has_unknown(news):
            return
        if _spec(news).key != news["key"]:
            yield "key", f"{news['key']!r} is not the key of these inputs ({_spec(news).key})"

    def words(self, olds: Inputs, news: Inputs) -> str:
        """The old files stay, and those that were fetched before are found: only the Volume knows."""
        why = "; ".join(reasons.of_model(olds, news))
        return why and f"download, unless the Volume has these files: {why}"

    @one_line
    def create(self, props: Inputs) -> CreateResult:
        """Find the files on the Volume, or have them downloaded and verified by a job there."""
        manifest, found = artifacts.find_or_make(props, _job(props))
        return CreateResult(props["key"], self.outputs(props, found=found, **artifacts.computed(props, manifest)))

    @one_line
    def read(self, id_: str, props: Inputs) -> ReadResult:
        """A model that lost a file has drifted; with driftCheck `deep`, so has one with a changed byte."""
        props = self.current(props)
        drift, volume_id = artifacts.drift(props, _job(props), self.deep)
        return self.seen(id_, {**props, "volumeId": volume_id}, drift)

    @one_line
    def update(self, id_: str, olds: Inputs, news: Inputs) -> UpdateResult:
        """Mend what drifted."""
        files = self.current(olds)["files"]
        manifest = artifacts.mend(news, _job(news), files)
        return UpdateResult(self.outputs(news, found=False, **artifacts.computed(news, manifest)))

    @one_line
    def delete(self, id_: str, props: Inputs) -> None:
        """Leave the files where they are: a snapshot that needs them would fail to restore."""
        artifacts.kept(self.current(props), self.label)


def _job(props: Inputs) -> artifacts.Job:
    from modal_app import model

    return artifacts.Job(
        function="download_model",
        args=[json.dumps(_spec(props).props())],
        needed=model.needed(_spec(props)),
        verify="verify_model",
        deadline=DEADLINE_SECONDS,
        adopt="adopt_model",
        with_token=("download_model", "adopt_model"),
    )


def _spec(props: Inputs) -> Any:
    from modal_app.release import ModelSpec

    return ModelSpec.model_validate({k: props.get(k) for k in ("repo", "revision", "weights", "projector", "drafter")})


class ModelFiles(Resource, module="modal", name="ModelFiles"):
    """Model files on the models Volume. `key` names their directory."""

    key: pulumi.Output[str]

    def __init__(self, name: str, props: dict[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(ModelFilesProvider(), name, {**props, **artifacts.COMPUTED}, opts)
