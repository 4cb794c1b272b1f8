"""`LlamaServerBuild`: one compiled llama-server, as a directory `<key>/` on the builds Volume.

Identity     the key: llama.cpp tag + patches + recipe + generation, and the Volume
Replaced by  any of them
Updated by   nothing but drift, which is mended in its place
Never        compiles what a complete directory with that key already holds; deletes a build: another release may roll back to it
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, ReadResult, Resource, UpdateResult

from providers import artifacts, reasons
from providers.base import Inputs, has_unknown
from providers.errors import ProviderError, one_line

__all__ = ["LlamaServerBuild", "LlamaServerBuildProvider"]

PATCHES = Path("patches")
"""Relative to the project directory, which is the working directory of a provider."""

DEADLINE_SECONDS = 3 * 3600
"""A CUDA build takes about an hour of CPU; two jobs may wait for each other."""


class LlamaServerBuildProvider(artifacts.ArtifactProvider):
    """Inputs: those of every artifact (`artifacts.KEPT`), and the fields of `BuildSpec`."""

    label = "build"
    compared = ("environment", "volume", "tag", "patches", "recipe", "generation", "key")
    identity = compared
    kept = (*artifacts.KEPT, "tag", "patches", "recipe", "generation")

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
        manifest, found = artifacts.find_or_make(props, _job(props, with_patches=True))
        return CreateResult(props["key"], self.outputs(props, found=found, **artifacts.computed(props, manifest)))

    @one_line
    def read(self, id_: str, props: Inputs) -> ReadResult:
        """A build that lost files, or whose Volume is another one now, has drifted."""
        props = self.current(props)
        drift, volume_id = artifacts.drift(props, _job(props), self.deep)
        return self.seen(id_, {**props, "volumeId": volume_id}, drift)

    @one_line
    def update(self, id_: str, olds: Inputs, news: Inputs) -> UpdateResult:
        """Mend what drifted."""
        files = self.current(olds)["files"]
        manifest = artifacts.mend(news, _job(news, with_patches=True), files)
        return UpdateResult(self.outputs(news, found=False, **artifacts.computed(news, manifest)))

    @one_line
    def delete(self, id_: str, props: Inputs) -> None:
        """Leave the directory where it is: a rollback finds it and does not compile."""
        artifacts.kept(self.current(props), self.label)


def _job(props: Inputs, with_patches: bool = False) -> artifacts.Job:
    from modal_app import builder

    spec = _spec(props)
    return artifacts.Job(
        function="build_llama_server_cpu" if spec.recipe.backend == "cpu" else "build_llama_server",
        args=[json.dumps(spec.props()), json.dumps(_patch_texts(spec) if with_patches else {})],
        needed=builder.NEEDED,
        verify="verify_build",
        deadline=DEADLINE_SECONDS,
    )


def _spec(props: Inputs) -> Any:
    from modal_app.release import BuildSpec

    return BuildSpec.model_validate({k: props[k] for k in ("tag", "patches", "recipe", "generation")})


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
