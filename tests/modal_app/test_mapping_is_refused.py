"""A release whose server maps its weights is refused before it can be snapshotted, with real servers and their own maps.

By the arguments, and should those mean something else to a server than to us, by what it has mapped once it has loaded. That the
flags of every era mean it is held against the source trees in `tests/tags`.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import modal
import pytest

from modal_app import lines
from modal_app.errors import Failure
from modal_app.release import Deployment, Release, Scaling
from modal_app.supervisor import Supervisor
from tests.local_cloud.parts import cloud, get, needs_runsc
from tests.modal_app.conftest import CARRIED, KEY, MODEL, Served, has_ended, release, supervised, whole

pytestmark = pytest.mark.local
PROJECT = Path(__file__).parents[2]

MAPS_ANYWAY = """#!/bin/sh
exec "$0.real" "$@" --load-mode mmap
"""
"""A server to which our flag means nothing."""


def deaf_build(build: Path, directory: Path) -> Path:
    """A build whose server maps its weights whatever it is told."""
    deaf = Path(shutil.copytree(build, directory / build.name))
    (deaf / "llama-server").rename(deaf / "llama-server.real")
    (deaf / "llama-server").write_text(MAPS_ANYWAY)
    (deaf / "llama-server").chmod(0o755)
    whole(deaf)
    return deaf


def of_build(served: Release, build: Path) -> Release:
    """The same release with another build."""
    argv = tuple(word.replace(served.build_key, build.name) for word in served.argv)
    return served.model_copy(update={"tag": build.name.partition("-")[0], "build_key": build.name, "argv": argv})


@pytest.mark.parametrize("build", ["llama_server_build", "earlier_build"])
def test_a_server_that_maps_its_weights_is_never_ready_for_a_snapshot(
    build: str,
    served: Served,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    deaf = deaf_build(request.getfixturevalue(build), tmp_path / "builds")
    monkeypatch.setenv("VOLUME_DIR_BUILDS", str(deaf.parent))
    tag = deaf.name.partition("-")[0]
    with supervised(of_build(served.release, deaf), served.environment) as server:
        with pytest.raises(Failure) as failure:
            server.start()
        assert str(failure.value) == (
            f"llama-server maps {served.models / 'weights.gguf'}: expected the weights in anonymous memory, or what is "
            "restored from a snapshot answers from whatever the file is by then: check the flags of "
            f"{tag} in modal_app/command.py"
        )
        assert has_ended(server)
        assert "ready" not in [
            said["event"] for said in map(lines.parse_event, capfd.readouterr().out.splitlines()) if said
        ]


@pytest.mark.parametrize("build", ["llama_server_build", "earlier_build"])
def test_no_variable_and_no_configuration_file_makes_a_server_map_its_weights(
    build: str,
    served: Served,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    """llama-server reads `~/.config/llama.cpp/config.ini`, too (common/arg.cpp, b10405 to b11434): our flags have to win."""
    monkeypatch.setenv("VOLUME_DIR_BUILDS", str(request.getfixturevalue(build).parent))
    file = tmp_path / "llama.cpp" / "config.ini"
    file.parent.mkdir()
    file.write_text("[*]\nload-mode = mmap\nlazy-mode = on\nfit = on\n")
    environment = {
        "LLAMA_ARG_LOAD_MODE": "mmap",
        "LLAMA_ARG_LAZY_MODE": "on",
        "LLAMA_ARG_MMAP": "1",
        "LLAMA_ARG_FIT": "on",
    }
    environment |= {"XDG_CONFIG_HOME": str(tmp_path), **served.environment}
    with supervised(of_build(served.release, request.getfixturevalue(build)), environment) as server:
        server.start()
        out = capfd.readouterr().out
        assert f"using config file: {file}" in out
        (ready,) = [said for said in map(lines.parse_event, out.splitlines()) if said and said["event"] == "ready"]
        assert ready["maps"] == {"model_files_mapped": 0}


@pytest.mark.parametrize(
    "words", [("--load-mode", "mmap"), ("--load_mode", "mmap"), ("-lm", "mmap"), ("--lazy-mode", "on")]
)
def test_a_release_whose_arguments_map_starts_no_server(served: Served, words: tuple[str, str]) -> None:
    mapping = served.release.model_copy(update={"argv": (*served.release.argv, *words)})
    with pytest.raises(Failure, match="would not be in anonymous memory"):
        Supervisor(mapping, served.environment)


@needs_runsc
def test_no_snapshot_exists_of_a_server_that_maps_its_weights(llama_server_build: Path, tmp_path: Path) -> None:
    """The product's own app, on a platform that would take one: the reason is in its log, and no checkpoint was asked for."""
    deaf = deaf_build(llama_server_build, tmp_path)
    refused = release(deaf.name).model_copy(update={"snapshot": "cpu"})
    app = Deployment(
        app_name="mapped",
        environment="main",
        artifact_environment="main",
        release=refused,
        scaling=Scaling(startup_timeout=240),
    )

    async def scenario() -> None:
        async with cloud("runsc") as c:
            for name, key, source in (
                ("llama-builds", deaf.name, deaf),
                ("llama-models", MODEL.key, carried(tmp_path)),
            ):
                await modal.Volume.objects.create.aio(name, client=c.client)
                shutil.copytree(source, c.state.volumes.directory(c.state.volumes.find("main", name).volume_id) / key)
            await modal.Secret.objects.create.aio(refused.api_key.name, {"LLAMA_API_KEY": KEY}, client=c.client)
            await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-m", "modal_app.deploy", "server"],
                input=app.model_dump_json(),
                cwd=PROJECT,
                env=c.environment(),
                capture_output=True,
                text=True,
                check=True,
                timeout=120,
            )
            assert (await get(c.url("mapped", "LlamaServer"))).status_code == 503
            await c.eventually(lambda: "failed" in c.system_lines("mapped"), 240)
            events = [lines.parse_event(line) for _, text in c.log("mapped") for line in text.splitlines()]
            (failed,) = [said for said in events if said and said["event"] == "failed"]
            assert failed["reason"].startswith(
                f"llama-server maps /models/{MODEL.key}/weights.gguf: expected the weights in"
            )
            assert "Creating memory snapshot" not in c.system_lines("mapped")
            assert not list(c.snapshots.glob("*/image/*"))

    asyncio.run(scenario())


def carried(directory: Path) -> Path:
    """The stand-in as the release names its files."""
    model = directory / MODEL.key
    model.mkdir()
    for name, pattern in (("weights.gguf", "*Q8_0.gguf"), ("mmproj.gguf", "mmproj*.gguf")):
        shutil.copy(next(CARRIED.rglob(pattern)), model / name)
    whole(model)
    return model
