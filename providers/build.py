"""`LlamaServerBuild`: one compiled llama-server, as a directory `<key>/` on the builds Volume.

Identity     the key: llama.cpp tag + patches + recipe + generation, and the Volume
Replaced by  any of them
Updated by   nothing
Never        compiles what a complete directory with that key already holds; deletes a build: another release may roll back to it
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, ReadResult, Resource

from modal_app.artifacts import Needed
from providers import artifacts, reasons
from providers.base import Inputs, Provider, has_unknown
from providers.errors import ProviderError, one_line

__all__ = ["LlamaServerBuild", "LlamaServerBuildProvider"]

PATCHES = Path("patches")
"""Relative to the project directory, which is the working directory of a provider."""

DEADLINE_SECONDS = 3 * 3600
"""A CUDA build takes about an hour of CPU; two jobs may wait for each other."""


class LlamaServerBuildProvider(Provider):
    """Inputs: address, environment, volume, hubSecret, and the fields of `BuildSpec` with its key."""

    label = "build"
    compared = ("environment", "volume", "tag", "patches", "recipe", "generation", "key")
    identity = compared

    def problems(self, news: Inputs) -> Iterator[tuple[str, str]]:
        """The key must be the one that the other inputs make."""
        if has_unknown(news):
            return
        if _spec(news).key != news["key"]:
            yield "key", f"{news['key']!r} is not the key of these inputs ({_spec(news).key})"

    def words(self, olds: Inputs, news: Inputs) -> str:
        """The old build stays, and one that was made before is found: only the Volume knows."""
        why = "; ".join(reasons.of_build(olds, news))
        return why and f"rebuild, unless the Volume has this build: {why}"

    @one_line
    def create(self, props: Inputs) -> CreateResult:
        """Find the build on the Volume, or have it compiled by a job there."""
        key = props["key"]
        spec = _spec(props)
        manifest, found = artifacts.find_or_make(
            props,
            key,
            _needed(),
            function="build_llama_server_cpu" if spec.recipe.backend == "cpu" else "build_llama_server",
            args=[json.dumps(spec.props()), json.dumps(_patch_texts(spec))],
            deadline=DEADLINE_SECONDS,
        )
        return CreateResult(key, self.outputs(props, found=found, **artifacts.computed(props, manifest)))

    @one_line
    def read(self, id_: str, props: Inputs) -> ReadResult:
        """A build that lost files, or whose Volume is another one now, reads as gone."""
        return ReadResult(id_, props) if artifacts.is_whole(props, id_, _needed()) else ReadResult("", {})

    @one_line
    def delete(self, id_: str, props: Inputs) -> None:
        """Leave the directory where it is: a rollback finds it and does not compile."""
        artifacts.kept(props, id_)


def _spec(props: Inputs) -> Any:
    from modal_app.release import BuildSpec

    return BuildSpec.model_validate({k: props[k] for k in ("tag", "patches", "recipe", "generation")})


def _needed() -> Needed:
    from modal_app import builder

    return builder.NEEDED


def _patch_texts(spec: Any) -> dict[str, str]:
    """The patches of the series, as the program hashed them."""
    texts = {}
    for patch in spec.patches:
        path = PATCHES / patch.name
        data = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(data).hexdigest() != patch.sha256:
            raise ProviderError(
                f"{path} is not what the preview saw: expected sha256 {patch.sha256[:12]}...: run the command again"
            )
        texts[patch.name] = data.decode()
    return texts


class LlamaServerBuild(Resource, module="modal", name="LlamaServerBuild"):
    """A compiled llama-server. `key` names its directory on the builds Volume."""

    key: pulumi.Output[str]

    def __init__(self, name: str, props: dict[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(LlamaServerBuildProvider(), name, {**props, **artifacts.COMPUTED}, opts)
