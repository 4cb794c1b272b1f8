"""Snapshots and the daemon: what `status` says, what `down` removes, what a killed daemon leaves; and an ordinary user."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import modal
import pytest

from local_cloud.home import Home
from local_cloud.modal.containers import runtime as choosing
from local_cloud.modal.containers.runtime import choose_runtime
from tests.deployed import url_of
from tests.local_cloud.parts import RUNSC, needs_runsc
from tests.local_cloud.snapshots import faulty_runsc
from tests.stack import PROJECT, LocalCloud

pytestmark = [pytest.mark.local, needs_runsc]
APPS = Path(__file__).parent / "apps"
ORDINARY = 65534


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[LocalCloud]:
    with LocalCloud(tmp_path / "home") as cloud:
        yield cloud


def until(happened: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := happened()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.01)
    return value


def kill(cloud: LocalCloud) -> None:
    """SIGKILL; returns when nothing that it started is left."""
    running = Home(cloud.home).running()
    assert running is not None
    run = os.fsencode(Home(cloud.home).run_directory())
    os.kill(running.pid, signal.SIGKILL)
    until(lambda: not mentioning(run), "the end of all containers")


def mentioning(path: bytes) -> list[int]:
    """Processes of this machine with `path` in an argument."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if path in (directory / "cmdline").read_bytes():
                found.append(int(directory.name))
        except OSError:
            continue
    return found


def test_a_killed_daemon_leaves_no_process_and_no_snapshot_that_is_used(cloud: LocalCloud) -> None:
    snapshots = cloud.home / "snapshots"
    assert "snapshots  runsc checkpointed and restored a test process" in cloud.command("status").stdout
    cloud.modal("deploy", str(APPS / "snapshotted.py"))
    url = url_of(cloud, "snapshotted", "Snapshotted")

    def answer() -> str:
        got = httpx.get(url, trust_env=False)
        return got.text if got.status_code == 200 else ""

    # in the middle of a checkpoint
    assert answer() == ""
    until(lambda: list(snapshots.glob("*/image/*")), "the beginning of a checkpoint")
    kill(cloud)
    left = set(snapshots.iterdir())
    assert left
    cloud.up()
    assert not left & set(snapshots.glob("*"))
    # with a finished one
    born = until(answer, "an answer after the restart")
    kill(cloud)
    assert list(snapshots.iterdir())
    cloud.up()
    assert until(answer, "an answer after the second restart") != born
    kill(cloud)
    assert list(snapshots.iterdir())
    cloud.down()
    assert not snapshots.exists()


STARTED_ANEW = """
    for word; do
        shift
        case $word in
            restore) set -- "$@" run ;;
            --direct | --background) ;;
            --image-path) left_out=next ;;
            *) [ -n "$left_out" ] || set -- "$@" "$word"; left_out= ;;
        esac
    done
    exec "$RUNSC" "$@"
"""


def test_a_machine_where_the_probe_of_snapshots_fails_has_none_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_CLOUD_RUNSC", str(faulty_runsc(tmp_path, "checkpoint", "echo not supported >&2; exit 1")))
    chosen = asyncio.run(choose_runtime("auto", cache=tmp_path))
    assert (chosen.name, chosen.snapshots) == ("runsc", None)
    assert chosen.snapshots_reason == (
        "no snapshot on this machine: a test process could not be checkpointed and restored: not supported"
    )
    # one that lies: what it calls restored begins anew
    faulty_runsc(tmp_path, "restore", STARTED_ANEW)
    chosen = asyncio.run(choose_runtime("auto", cache=tmp_path))
    assert chosen.snapshots_reason.startswith("no snapshot on this machine: a test container ended with code 1: ")
    # another answer, another time: a failure is not remembered, but its cost is bounded
    faulty_runsc(tmp_path, "restore", "exec sleep 1000")
    with monkeypatch.context() as patch:
        patch.setattr(choosing, "PROBE_TIMEOUT", 4.0)
        chosen = asyncio.run(choose_runtime("auto", cache=tmp_path))
    assert chosen.snapshots_reason == (
        "no snapshot on this machine: a test process was not checkpointed and restored within 4 s"
    )
    faulty_runsc(tmp_path)
    assert asyncio.run(choose_runtime("auto", cache=tmp_path)).snapshots is not None
    # a success is, for this build of runsc
    faulty_runsc(tmp_path, "checkpoint", "exit 1")
    assert asyncio.run(choose_runtime("auto", cache=tmp_path)).snapshots is not None


AS_ORDINARY_USER = """
import asyncio, os, sys
from pathlib import Path
from local_cloud.modal.containers.runtime import choose_runtime
from tests.local_cloud.parts import cloud
from tests.local_cloud.snapshots import CREATED, RESTORED, asleep, errors, snapshot_app, who
async def scenario():
    runsc = Path(os.environ["LOCAL_CLOUD_RUNSC"])
    chosen = await choose_runtime("auto", cache=Path(os.environ["TMPDIR"]))
    assert chosen.snapshots is not None, chosen.snapshots_reason
    async with cloud("runsc", runsc=runsc) as c:
        await c.deploy(snapshot_app("web"), "web")
        first = await who(c)
        await asleep(c)
        second = await who(c)
        assert first["born"] == second["born"]
        assert errors(c) == []
        assert CREATED in c.system_lines("web")
        assert c.system_lines("web").count(RESTORED) == 2
assert os.getuid() != 0
asyncio.run(scenario())
"""


@pytest.fixture
def ordinary() -> Iterator[dict[str, str]]:
    """The environment of user 65534: a home, and a runsc that it may read."""
    home = Path(tempfile.mkdtemp(prefix="lc"))
    home.chmod(0o755)
    (home / "tmp").mkdir()
    os.chown(home / "tmp", ORDINARY, ORDINARY)
    shutil.copy(str(RUNSC), home / "runsc")
    packages = Path(modal.__file__).parents[1]
    yield {
        "HOME": str(home / "tmp"),
        "TMPDIR": str(home / "tmp"),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{PROJECT}:{packages}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "LOCAL_CLOUD_RUNSC": str(home / "runsc"),
    }
    shutil.rmtree(home)


@pytest.mark.skipif(os.getuid() != 0, reason="all of these tests run as an ordinary user already")
def test_an_ordinary_user_has_snapshots_too(ordinary: dict[str, str]) -> None:
    """An uid without any capability, for which everything happens in a user namespace of its own."""

    def python(*arguments: str, interpreter: str = sys.executable) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [interpreter, *arguments], env=ordinary, cwd="/", capture_output=True, text=True, timeout=180,
            user=ORDINARY, group=ORDINARY, extra_groups=[],
        )  # fmt: skip

    def can_run(interpreter: str) -> bool:
        try:
            return python("-c", "import modal, tests", interpreter=interpreter).returncode == 0
        except OSError:
            return False

    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    usable = [path for path in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}") if can_run(path)]
    if not usable:
        pytest.skip(f"user {ORDINARY} may run no {version} with the packages of this checkout")
    done = python("-c", AS_ORDINARY_USER, interpreter=usable[0])
    assert done.returncode == 0, done.stderr
