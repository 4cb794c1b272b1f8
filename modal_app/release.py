"""What is served, as frozen values: the one vocabulary of builds, models, releases and deployments.

```
BuildSpec  --key-->  /builds/<key>/     tag + patches + recipe + generation
ModelSpec  --key-->  /models/<key>/     repo + commit + files
Release    --key-->  /builds/proofs/<key>.json   build, model, argv, machine, snapshot, secrets: all that a snapshot freezes
Deployment           one release, the app that serves it and how it scales
```

Keys are digests of canonical JSON, so both sides (the Pulumi program and the container) compute the same key from the same
values, and a preview knows them without asking anybody.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

__all__ = [
    "BUILDS_MOUNT",
    "MODELS_MOUNT",
    "SERVER_NAME",
    "BuildSpec",
    "Deployment",
    "Frozen",
    "ModelFile",
    "ModelSpec",
    "PatchRef",
    "Recipe",
    "Release",
    "Scaling",
    "SecretRef",
    "digest",
    "release_alias",
    "tag_number",
    "tag_value",
]

BUILDS_MOUNT = "/builds"
"""Where the builds Volume is mounted in every container: `/builds/<build key>/llama-server`."""

MODELS_MOUNT = "/models"
"""Where the models Volume is mounted: `/models/<model key>/<file>`."""

SERVER_NAME = "LlamaServer"
"""The `@app.server` class of every serving app; part of its identity on Modal."""

Tag = Annotated[str, StringConstraints(pattern=r"^b\d{4,6}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]


def digest(value: Any, length: int = 12) -> str:
    """The first `length` hex digits of the SHA-256 of `value`'s canonical JSON (sorted keys, no spaces)."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:length]


class Frozen(BaseModel):
    """A value: immutable, comparable, and strict about unknown fields.

    Its JSON form is camelCase (`props()`), as Pulumi shows properties; both spellings are read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)

    def props(self) -> dict[str, Any]:
        """This value as plain JSON types under camelCase names: a Pulumi property, a line on a pipe."""
        return self.model_dump(mode="json", by_alias=True)


class PatchRef(Frozen):
    """One patch of the series, by name and content; the order in a `BuildSpec` is the order of application."""

    name: str
    sha256: Sha256


class Recipe(Frozen):
    """How llama-server is compiled: for which kind of machine, with which CMake definitions."""

    backend: Literal["cpu", "cuda"]
    image: str
    """The container image that it is compiled in (`modal_app.pins`)."""
    definitions: tuple[str, ...]
    """Complete `-DNAME=VALUE` list (`modal_app.recipe.recipe()` makes it); its hash is part of the build key."""


class BuildSpec(Frozen):
    """What makes one llama-server build. Equal specs have equal keys and are compiled once."""

    tag: Tag
    patches: tuple[PatchRef, ...] = ()
    recipe: Recipe
    generation: Annotated[int, Field(ge=0)] = 0

    @property
    def key(self) -> str:
        """Directory name on the builds Volume, for example `b11434-0f3a5c9d2e7b`."""
        rest = digest(self.model_dump(exclude={"tag"}))
        return f"{self.tag}-{rest}"


class ModelFile(Frozen):
    """One file of a model repository. Without `sha256` the Hub's own digest at the pinned commit is what must match."""

    path: str
    sha256: Sha256 | None = None


class ModelSpec(Frozen):
    """A GGUF model and what belongs to it (projector for images, drafter), at one commit of one Hub repository."""

    repo: Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: Commit
    weights: ModelFile
    projector: ModelFile | None = None
    drafter: ModelFile | None = None
    """Multi-token-prediction drafter (`mtp`), from the same repository."""

    @property
    def files(self) -> tuple[ModelFile, ...]:
        """Every file to fetch, weights first."""
        return tuple(f for f in (self.weights, self.projector, self.drafter) if f is not None)

    @property
    def key(self) -> str:
        """Directory name on the models Volume: `<owner>--<name>@<commit>-<file set>`.

        The file set is part of it because a replacement is created before the old one is deleted: two file sets of one
        commit must not share a directory.
        """
        files = digest([f.path for f in self.files], 8)
        return f"{self.repo.replace('/', '--')}@{self.revision[:12]}-{files}"


class SecretRef(Frozen):
    """A Modal secret by name. `generation` rises with every change of its values, so that a rotation makes a new release."""

    name: str
    generation: int = 0


class Release(Frozen):
    """Everything that a memory snapshot freezes. Two releases with one key answer alike; a changed key needs a new proof."""

    tag: Tag
    build_key: str
    model_key: str
    argv: tuple[str, ...]
    """llama-server's complete argument list, without the program and without any secret (`modal_app.command.argv()`)."""
    port: int = 8000
    image: str
    """The container image that llama-server runs in (`modal_app.pins`)."""
    gpu: str | None = None
    cpu: float = 4.0
    """CPU cores of a container."""
    memory: int = 32768
    """Memory of a container in MiB."""
    snapshot: Literal["gpu", "cpu", "none"] = "none"
    snapshot_generation: int = 0
    min_headroom_mib: Annotated[int | None, Field(ge=1, alias="minHeadroomMiB")] = None
    """MiB of host and of GPU memory that must be left after the warm-up; None asks for none.

    It changes what is accepted, not what is served. It is part of the key all the same: a proof says that this much was left, and
    an app that asks for more than was proven would replace its containers by some that may refuse to start.
    """
    api_key: SecretRef

    @property
    def key(self) -> str:
        """40 hex digits that name this release in proofs, tags and logs."""
        # releases of before it existed keep their keys
        without = {"min_headroom_mib"} if self.min_headroom_mib is None else set()
        return digest(self.model_dump(mode="json", exclude=without), 40)

    @property
    def alias(self) -> str:
        """Second `--alias` of the server, by which `/v1/models` says from outside which release answers."""
        return release_alias(self.key)

    @property
    def build_dir(self) -> str:
        """Absolute path of the build in the container."""
        return f"{BUILDS_MOUNT}/{self.build_key}"


def release_alias(key: str) -> str:
    """`~rel-` and the first 12 digits of a release key.

    llama-server sorts its names and answers with the first (`std::set` in tools/server, b11434): `~` sorts after all others.
    """
    return f"~rel-{key[:12]}"


class Scaling(Frozen):
    """How many containers run, and when. Not part of the release: changing it neither re-proves nor re-snapshots."""

    min_containers: Annotated[int, Field(ge=0)] = 0
    max_containers: Annotated[int, Field(ge=1)] = 1
    scaledown_window: Annotated[int, Field(ge=2, le=3600)] = 300
    """Seconds without a request after which a container stops (Modal: 2 to 3600)."""
    target_concurrency: float | None = None
    """Requests per container that the autoscaler aims at; None leaves autoscaling off."""
    max_concurrency: int | None = None
    """Requests per container above which the edge answers 429; None is unlimited."""
    startup_timeout: Annotated[int, Field(ge=1)] = 900
    """Seconds from container start to the port listening, snapshot creation included."""
    exit_grace_period: Annotated[int, Field(ge=0, le=3600)] = 60
    """Seconds that in-flight requests get at scale-down (Modal's default 0 cuts streams)."""

    @property
    def autoscaled(self) -> bool:
        """Whether Modal's autoscaler decides. A single container needs none, and is left without a cap as well.

        Without a target there is no autoscaling, so one container serves; and a cap of one would leave a redeploy no room
        for the new container beside the old one: 503 for as long as a start takes (`App.server`, modal.com/docs/guide/servers).
        """
        return self.max_containers > 1


class Deployment(Frozen):
    """One app on Modal: a release, where it runs and how it scales. The input of `python -m modal_app.deploy`."""

    app_name: str
    environment: str
    artifact_environment: str
    """Environment that owns the builds and models Volumes; another environment mounts them read-only."""
    builds_volume: str = "llama-builds"
    models_volume: str = "llama-models"
    routing_region: str = "us-east"
    unauthenticated: bool = True
    """True: Modal's edge lets everybody through and llama-server's own key decides. False: Modal proxy tokens."""
    release: Release
    scaling: Scaling = Scaling()
    tags: dict[str, str] = Field(default_factory=dict)


def tag_value(text: str) -> str:
    """What Modal allows as the value of an app's tag: letters, digits, `-._`, 63 of them. Keys differ at their end."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)[-63:]


_TAG_NUMBER = re.compile(r"^b(\d+)$")


def tag_number(tag: str) -> int:
    """The build number of a llama.cpp tag: `tag_number("b11434") == 11434`. Raises ValueError for anything else."""
    match = _TAG_NUMBER.match(tag)
    if match is None:
        raise ValueError(f"{tag!r} is not a llama.cpp tag: expected b and a number, like b11434")
    return int(match.group(1))
