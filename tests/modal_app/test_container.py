"""A serving container from start to end: SIGTERM in every phase, and failures that are not met twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from modal_app import failures, lines
from modal_app.container import TERMINATED
from tests.modal_app.conftest import Faulty, whole
from tests.stack import PROJECT, LocalCloud

pytestmark = pytest.mark.local

NO_MODAL = {"MODAL_CONFIG_PATH": "/nonexistent"}
"""No token, so that the client says so and asks nobody."""


class Running:
    """A container process and what it has printed."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def said(self) -> str:
        return self._log.read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        parsed = (lines.parse_event(line) for line in self.said.splitlines())
        return [event for event in parsed if event and event["event"] == name]

    def until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come:\n{self.said}"
            time.sleep(0.02)

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@contextmanager
def container(faulty: Faulty, directory: Path, **environ: str) -> Iterator[Running]:
    (directory / "release.json").write_text(faulty.release.model_dump_json())
    log = directory / f"log-{time.monotonic_ns()}"
    env = {**faulty.environment, **NO_MODAL, **environ}
    env["PYTHONPATH"] = str(PROJECT)
    with (
        log.open("w") as output,
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.modal_app.one_container", str(directory / "release.json")],
            cwd=PROJECT, env=env, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, text=True,
        ) as process,
    ):  # fmt: skip
        try:
            yield Running(process, log)
        finally:
            process.kill()
            for pid in servers(faulty):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def servers(faulty: Faulty) -> list[int]:
    """Processes of this build that live."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and str(faulty.build).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


PHASES = ("loading", "warming", "ready", "resuming", "serving", "stopping")


def bring_to(phase: str, here: Running, faulty: Faulty) -> None:
    """Wait until the container is in that phase, and stays there."""
    if phase == "loading":
        here.until(lambda: here.events("starting"), "the start")
        here.until((faulty.build / "running").exists, "its server")
        return
    if phase == "warming":
        here.until((faulty.build / "stalled").exists, "the warm-up")
        return
    here.until(lambda: "started" in here.said.splitlines(), "the end of start()")
    if phase == "ready":
        return
    faulty.goes({"resuming": "stalled", "stopping": "lingering"}.get(phase, ""))
    here.go_on()
    if phase == "resuming":
        here.until((faulty.build / "stalled").exists, "the completion")
        return
    here.until(lambda: "serving" in here.said.splitlines(), "the service")


@pytest.mark.parametrize("phase", PHASES)
def test_sigterm_ends_the_server_in_every_phase_and_says_how_long_it_took(
    phase: str, faulty: Faulty, tmp_path: Path
) -> None:
    faulty.goes({"loading": "loading", "warming": "stalled"}.get(phase, ""))
    with container(faulty, tmp_path) as here:
        bring_to(phase, here, faulty)
        here.process.send_signal(signal.SIGTERM)
        if phase == "stopping":  # another one must not cut the end short
            here.until((faulty.build / "lingering").exists, "the beginning of the end")
            here.process.send_signal(signal.SIGTERM)
        code = here.process.wait(60)
        served = phase in ("serving", "stopping")
        [ended] = here.events("stopped" if served else "terminated")
        assert code == (0 if served else TERMINATED), here.said
        assert servers(faulty) == []
        assert ended["phase"] == ("serving" if served else phase)
        assert 0 <= ended["seconds"] < 60
        assert here.events("failed") == []
        assert here.events("crashed") == []


@pytest.fixture
def modal_env(local_cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """What points the real client at the local cloud, in this process too; no record is left."""
    env = {name: value for name, value in local_cloud.env().items() if name.startswith("MODAL_")}
    yield {**env, "MODAL_CONFIG_PATH": "/nonexistent"}
    local_cloud.modal("dict", "delete", "--yes", failures.DICT, check=False)


def records(cloud: LocalCloud) -> list[dict[str, Any]]:
    done = cloud.modal("dict", "items", failures.DICT, "--all", "--json", check=False)
    return list(json.loads(done.stdout)) if done.returncode == 0 else []


def test_what_no_start_mends_is_met_once_and_then_only_told(
    faulty: Faulty, tmp_path: Path, local_cloud: LocalCloud, modal_env: dict[str, str]
) -> None:
    weights = faulty.models / "weights.gguf"
    good = weights.read_bytes()
    weights.write_bytes(good.replace(b"gemma4", b"gemma9"))
    whole(faulty.models)

    with container(faulty, tmp_path, **modal_env) as first:
        assert first.process.wait(60) == 1
        [failed] = first.events("failed")
        assert "unknown model architecture: 'gemma9'" in failed["reason"]
        assert len(first.events("starting")) == 1
    [record] = records(local_cloud)
    assert record["key"] == faulty.release.key

    with container(faulty, tmp_path, **modal_env) as second:
        assert second.process.wait(60) == 1
        assert second.events("starting") == []
        [told] = second.events("failed")
        assert told["reason"].startswith(failed["reason"] + "; not tried again since 20")

    weights.write_bytes(good)
    whole(faulty.models)
    with container(faulty, tmp_path, **modal_env) as mended:
        mended.until(lambda: "started" in mended.said.splitlines(), "the start of the mended model")


def test_what_may_be_better_next_time_is_tried_next_time(
    faulty: Faulty, tmp_path: Path, local_cloud: LocalCloud, modal_env: dict[str, str]
) -> None:
    faulty.goes("loading")
    with container(faulty, tmp_path, **modal_env) as killed:
        killed.until((faulty.build / "running").exists, "its server")
        for pid in servers(faulty):
            os.kill(pid, signal.SIGKILL)  # as the kernel does to whom a neighbour leaves no memory
        assert killed.process.wait(60) == 1
        [failed] = killed.events("failed")
        assert "llama-server ended with -9" in failed["reason"]
    faulty.goes("hollow")
    with container(faulty, tmp_path, **modal_env) as hollow:
        assert hollow.process.wait(60) == 1
        assert len(hollow.events("starting")) == 1
        assert "warm-up 'text'" in hollow.events("failed")[0]["reason"]
    assert records(local_cloud) == []
