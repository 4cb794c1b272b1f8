"""The jobs app: builds llama-server and fetches models into the Volumes of one environment.

Each function runs in at most one container at a time, so the second caller of a key finds the finished directory. They take
and return JSON text: what a Pulumi provider has, and what `modal run` can pass.

    modal run -m modal_app.jobs::build --tag b11434 --backend cuda
    modal run -m modal_app.jobs::download --model model.json --hub-secret NAME
    modal run -m modal_app.jobs::check --model model.json
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import modal

from modal_app import artifacts, builder, described, images, patches, paths
from modal_app.described import JobsDeployment
from modal_app.lines import say
from modal_app.release import BUILDS_MOUNT, MODELS_MOUNT, BuildSpec, ModelSpec

__all__ = [
    "adopt_model",
    "app",
    "build_llama_server",
    "build_llama_server_cpu",
    "download_model",
    "verify_build",
    "verify_model",
]

HOUR = 3600

JOBS = described.read(JobsDeployment) if described.variable(JobsDeployment) in os.environ else JobsDeployment()
"""`modal run` works without a description, with the default names."""

PATCHES = Path(__file__).parent.parent / "patches"

app = modal.App(JOBS.app_name)

_builds = modal.Volume.from_name(JOBS.builds_volume, environment_name=JOBS.environment, create_if_missing=True)
_models = modal.Volume.from_name(JOBS.models_volume, environment_name=JOBS.environment, create_if_missing=True)


def _image(image: modal.Image) -> modal.Image:
    return image.env(described.encoded(JOBS))


@app.function(
    image=_image(images.builder("cuda")),
    volumes={BUILDS_MOUNT: _builds},
    cpu=16,
    memory=32768,
    timeout=2 * HOUR,
    max_containers=1,
)
def build_llama_server(spec_json: str, patches_json: str) -> str:
    """Build a `BuildSpec` with the CUDA toolchain; `patches_json` maps patch names to their text. Returns the manifest."""
    return _build(spec_json, patches_json)


@app.function(
    image=_image(images.builder("cpu")),
    volumes={BUILDS_MOUNT: _builds},
    cpu=4,
    memory=8192,
    timeout=HOUR,
    max_containers=1,
)
def build_llama_server_cpu(spec_json: str, patches_json: str) -> str:
    """Build a `BuildSpec` of the CPU recipe, in the distribution that serves it. Returns the manifest."""
    return _build(spec_json, patches_json)


def _build(spec_json: str, patches_json: str) -> str:
    spec = BuildSpec.model_validate_json(spec_json)
    _builds.reload()  # a container that is still warm does not see what another one built
    manifest = builder.build(spec, json.loads(patches_json), paths.volume(BUILDS_MOUNT), say)
    _builds.commit()
    return json.dumps(manifest)


@app.function(
    image=_image(images.downloads()),
    volumes={MODELS_MOUNT: _models},
    cpu=4,
    memory=16384,
    timeout=2 * HOUR,
    max_containers=1,
)
def download_model(spec_json: str) -> str:
    """Fetch a `ModelSpec` and prove its bytes. Returns the manifest.

    `HF_TOKEN`, for what the Hub does not give everybody, comes with the caller's own secret (`with_options(secrets=...)`):
    bound here, every stack would redeploy this app with its own.
    """
    from modal_app import model  # its libraries are in this image alone

    _models.reload()
    try:
        manifest = model.fetch(ModelSpec.model_validate_json(spec_json), paths.volume(MODELS_MOUNT), say)
    finally:
        _models.commit()  # finished files of a failed fetch are there for the next one
    return json.dumps(manifest)


@app.function(image=_image(images.downloads()), volumes={MODELS_MOUNT: _models}, cpu=2, timeout=HOUR, max_containers=1)
def adopt_model(spec_json: str) -> str:
    """Prove files that somebody else brought to the Volume, byte by byte, and write their manifest. Returns the manifest.

    `HF_TOKEN` comes as for `download_model`.
    """
    from modal_app import model  # its libraries are in this image alone

    _models.reload()
    manifest = model.adopt(ModelSpec.model_validate_json(spec_json), paths.volume(MODELS_MOUNT), say)
    _models.commit()
    return json.dumps(manifest)


@app.function(image=_image(images.downloads()), volumes={MODELS_MOUNT: _models}, cpu=2, timeout=HOUR, max_containers=1)
def verify_model(spec_json: str, expected_json: str = "") -> str:
    """Read every byte of a fetched `ModelSpec`: `{"key": ..., "problems": [one line per file]}`.

    With `expected_json` (file to sha256), a directory that is not so counts as incomplete from then on.
    """
    _models.reload()  # a container that is still warm does not see later commits
    return _verified(paths.volume(MODELS_MOUNT) / ModelSpec.model_validate_json(spec_json).key, expected_json, _models)


@app.function(image=_image(images.downloads()), volumes={BUILDS_MOUNT: _builds}, cpu=2, timeout=HOUR, max_containers=1)
def verify_build(spec_json: str, expected_json: str = "") -> str:
    """The same for a `BuildSpec`'s directory."""
    _builds.reload()
    return _verified(paths.volume(BUILDS_MOUNT) / BuildSpec.model_validate_json(spec_json).key, expected_json, _builds)


def _verified(directory: Path, expected_json: str, volume: modal.Volume) -> str:
    if expected_json:
        problems = artifacts.discard(directory, json.loads(expected_json))
        volume.commit()
    else:
        problems = artifacts.mangled(directory)
    for problem in problems:
        say(problem)
    return json.dumps({"key": directory.name, "problems": problems})


@app.local_entrypoint()
def build(tag: str, backend: str = "cuda") -> None:
    """Build a tag with the patches of this checkout and print the key."""
    spec = BuildSpec(
        tag=tag, patches=patches.refs(PATCHES), recipe=builder.recipe("cpu" if backend == "cpu" else "cuda")
    )
    function = build_llama_server_cpu if backend == "cpu" else build_llama_server
    _print(function.remote(spec.model_dump_json(), json.dumps(patches.texts(PATCHES))))


@app.local_entrypoint()
def download(model: str, hub_secret: str = "") -> None:
    """Fetch the model that a JSON file describes (repo, revision, weights, projector) and print its key.

    `hub_secret` names a Modal secret with `HF_TOKEN`; without one only public repositories can be fetched.
    """
    job = download_model
    if hub_secret:
        job = job.with_options(secrets=[modal.Secret.from_name(hub_secret, environment_name=JOBS.environment)])
    _print(job.remote(_model_spec(model)))


@app.local_entrypoint()
def check(model: str) -> None:
    """Verify a fetched model; `model` is as for `download`."""
    _print(verify_model.remote(_model_spec(model)))


def _model_spec(file: str) -> str:
    return ModelSpec.model_validate_json(Path(file).read_text()).model_dump_json()


def _print(answer: str) -> None:
    value: dict[str, Any] = json.loads(answer)
    say(json.dumps({name: value[name] for name in ("key", "problems") if name in value}))
