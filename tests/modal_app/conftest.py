"""A release of the carried stand-in model and the real build, laid out as on Volumes, and a free port."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from local_cloud.ports import free_port
from modal_app import artifacts, command
from modal_app.command import ServerOptions
from modal_app.pins import runtime_image
from modal_app.release import ModelFile, ModelSpec, Release, SecretRef
from modal_app.supervisor import Supervisor

CARRIED = Path(__file__).parents[2] / "tools/models/tiny-gemma4"
FAULTY = Path(__file__).with_name("faulty_server.py")
KEY = "a-key-for-this-test-alone"

MODEL = ModelSpec(
    repo="someone/tiny",
    revision="0" * 40,
    weights=ModelFile(path="weights.gguf"),
    projector=ModelFile(path="mmproj.gguf"),
)


@dataclass(frozen=True)
class Served:
    """What a container of a release would find: environment variables, and the release."""

    environment: dict[str, str]
    release: Release
    models: Path


def release(build_key: str, model: ModelSpec = MODEL, **options: object) -> Release:
    """A release of the stand-in model, small enough for a busy machine."""
    values = {"parallel": 1, "ctx_per_slot": 8192, "threads": 1, "cache_ram_mib": 64, "gpu_layers": 0, **options}
    argv = command.argv(ServerOptions.model_validate(values), "b11434", build_key, model)
    return Release(
        tag="b11434",
        build_key=build_key,
        model_key=model.key,
        argv=argv,
        image=runtime_image(None),
        api_key=SecretRef(name="llama-api-key"),
    )


@contextmanager
def supervised(release: Release, environment: Mapping[str, str]) -> Iterator[Supervisor]:
    """A supervisor whose server is ended with the block, whatever became of it."""
    server = Supervisor(release, environment)
    try:
        yield server
    finally:
        server.stop()


def has_ended(server: Supervisor) -> bool:
    """Whether it had started a llama-server, which is gone."""
    return server.process is not None and server.process.poll() is not None


def whole(directory: Path) -> None:
    """Give a directory the manifest of what is in it now."""
    files = [path for path in directory.iterdir() if path.name != artifacts.MANIFEST]
    artifacts.take_over(directory, {path: artifacts.sha256(path) for path in files})


@dataclass(frozen=True)
class Faulty:
    """The same with a build that goes wrong on demand (`faulty_server.py`)."""

    environment: dict[str, str]
    release: Release
    build: Path
    models: Path

    def goes(self, fault: str) -> None:
        """From the next request on."""
        (self.build / "fault").write_text(fault)


@pytest.fixture
def faulty(served: Served, llama_server_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Faulty:
    """The default build behind a program that can be told to go wrong."""
    build = tmp_path / "builds" / llama_server_build.name
    build.mkdir(parents=True)
    for name in ("chat-template.jinja", "chat-template-interleaved.jinja"):
        shutil.copy(llama_server_build / name, build / name)
    (build / "llama-server.real").symlink_to(llama_server_build / "llama-server")
    program = build / "llama-server"
    program.write_text(f"#!{sys.executable} -IS\n" + FAULTY.read_text())
    program.chmod(0o755)
    whole(build)
    monkeypatch.setenv("VOLUME_DIR_BUILDS", str(build.parent))
    return Faulty({**served.environment, "VOLUME_DIR_BUILDS": str(build.parent)}, served.release, build, served.models)


@pytest.fixture
def served(llama_server_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    """The default build with the stand-in model."""
    models = tmp_path / "models" / MODEL.key
    models.mkdir(parents=True)
    for name, pattern in (("weights.gguf", "*Q8_0.gguf"), ("mmproj.gguf", "mmproj*.gguf")):
        shutil.copy(next(CARRIED.rglob(pattern)), models / name)
    whole(models)
    places = {
        "VOLUME_DIR_BUILDS": str(llama_server_build.parent),
        "VOLUME_DIR_MODELS": str(models.parent),
        "SERVER_PORT": str(free_port()),
    }
    for name, place in places.items():
        monkeypatch.setenv(name, place)
    environment = {"PATH": "/usr/bin:/bin", "LLAMA_API_KEY": KEY, **places}
    return Served(environment, release(llama_server_build.name), models)
