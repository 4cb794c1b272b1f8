"""A snapshot that goes wrong costs one line and a fresh start: never a hang, never the same broken snapshot again."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from local_cloud.modal.containers import restorable
from local_cloud.modal.containers.runsc import has_sys_admin
from tests.local_cloud.parts import Cloud, cloud, get, needs_runsc
from tests.local_cloud.snapshots import CREATED, RESTORED, asleep, errors, faulty_runsc, snapshot_app, who
from tests.stack import PROJECT

pytestmark = [pytest.mark.local, needs_runsc]


async def falls_back(c: Cloud, error: str) -> None:
    """The next container meets a broken snapshot, or cannot take one: it serves without, one line says why, nothing is left."""
    await asleep(c)
    before = len(errors(c))
    said = await who(c)
    found = errors(c)[before:]
    assert len(found) == 1
    assert re.search(error, found[0]), found
    assert c.system_lines("web").rstrip().endswith("(without a memory snapshot).")
    assert [t.task_id for t in c.ledger.open_tasks()] == [said["task"]]
    assert list(c.snapshots.iterdir()) == []


async def takes_a_new_one(c: Cloud) -> Path:
    """The next container takes a snapshot again, and comes from it."""
    await asleep(c)
    before = c.system_lines("web")
    await who(c)
    assert c.system_lines("web").removeprefix(before).startswith(CREATED)
    (snapshot,) = c.snapshots.iterdir()
    return snapshot


def test_a_damaged_or_missing_snapshot_is_not_restored() -> None:
    damaged = "failed to restore container from snapshot: its files are damaged"

    async def scenario() -> None:
        async with cloud("runsc") as c:
            await c.deploy(snapshot_app("web"), "web")
            with (await takes_a_new_one(c) / "image" / "pages.img").open("r+b") as pages:
                pages.write(b"\0" * 64)
            await falls_back(c, damaged)
            shutil.rmtree(await takes_a_new_one(c))
            await falls_back(c, damaged)

    asyncio.run(scenario())


KILLED_HALF_WAY = """
    for image; do case $image in */image) break ;; esac; done
    "$RUNSC" "$@" &
    until [ -e "$image/checkpoint.img" ]; do :; done
    kill -9 $!
    exit 137
"""


def test_a_checkpoint_that_fails_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with cloud("runsc", runsc=faulty_runsc(tmp_path, "checkpoint", KILLED_HALF_WAY)) as c:
            await c.deploy(snapshot_app("web"), "web")
            await falls_back(c, "failed to create snapshot: .*137")
            faulty_runsc(tmp_path, "checkpoint", "exit 0")
            await falls_back(c, "failed to create snapshot: runsc checkpoint wrote no memory")
            with monkeypatch.context() as patch:
                patch.setattr(restorable, "SNAPSHOT_TIMEOUT", 2.0)
                faulty_runsc(tmp_path, "checkpoint", "exec sleep 1000")
                await falls_back(c, "failed to create snapshot: it took longer than 2 s")
            faulty_runsc(tmp_path)
            await takes_a_new_one(c)

    asyncio.run(scenario())


def test_a_restore_that_fails_hangs_or_lies_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with cloud("runsc", runsc=faulty_runsc(tmp_path)) as c:
            await c.deploy(snapshot_app("web"), "web")
            await takes_a_new_one(c)
            faulty_runsc(tmp_path, "restore", "echo statefile error: hash mismatch >&2; exit 128")
            await falls_back(c, "failed to restore container from snapshot with exit code 128")
            assert (2, "statefile error: hash mismatch\n") in c.log("web")
            faulty_runsc(tmp_path)
            await takes_a_new_one(c)
            with monkeypatch.context() as patch:
                patch.setattr(restorable, "SNAPSHOT_TIMEOUT", 2.0)
                faulty_runsc(tmp_path, "restore", "exec sleep 1000")
                await falls_back(c, "failed to restore container from snapshot: it did not answer within 2 s")
            faulty_runsc(tmp_path)
            await takes_a_new_one(c)
            # an update of runsc: its checkpoints are for nobody else
            (tmp_path / "runsc").touch()
            await takes_a_new_one(c)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("fail", "error"),
    [("dead", r": it was not ready within startup_timeout \(12 s\)"), ("exit", " with exit code 139")],
)
def test_a_restored_container_without_a_server_is_replaced_by_a_fresh_one(fail: str, error: str) -> None:
    async def scenario() -> None:
        async with cloud("runsc") as c:
            await c.deploy(snapshot_app("web", fail=fail, startup_timeout=12), "web")
            await falls_back(c, f"failed to restore container from snapshot{error}")

    asyncio.run(scenario())


def test_an_error_of_the_app_before_its_snapshot_is_the_apps() -> None:
    async def scenario() -> None:
        async with cloud("runsc") as c:
            await c.deploy(snapshot_app("web", fail="before"), "web")
            assert (await get(c.url("web"))).status_code == 503
            await c.eventually(lambda: "failed" in c.system_lines("web"), 60)
            assert "no such model" in c.system_lines("web")
            assert errors(c) == []
            await c.eventually(lambda: not list(c.snapshots.iterdir()))

    asyncio.run(scenario())


def test_an_app_that_stops_while_its_snapshot_is_taken_leaves_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        late = f"until [ -e {tmp_path}/go ]; do sleep 0.1; done"
        async with cloud("runsc", runsc=faulty_runsc(tmp_path, "checkpoint", late)) as c:
            await c.deploy(snapshot_app("web"), "web")
            assert (await get(c.url("web"))).status_code == 503
            await c.eventually(lambda: "Creating memory snapshot" in c.system_lines("web"), 60)
            await c.command("app", "stop", "--yes", "web")
            (tmp_path / "go").touch()
            await c.eventually(lambda: not c.ledger.open_tasks(), 60)
            assert errors(c) == []
            assert RESTORED not in c.system_lines("web")
            assert list(c.snapshots.iterdir()) == []

    asyncio.run(scenario())


FULL_DISK = """
import asyncio, sys
from pathlib import Path
from tests.local_cloud.parts import cloud
from tests.local_cloud.snapshots import snapshot_app
from tests.local_cloud.test_snapshot_faults import falls_back
async def scenario():
    async with cloud("runsc", snapshots=Path(sys.argv[1])) as c:
        await c.deploy(snapshot_app("web"), "web")
        await falls_back(c, "failed to create snapshot: .*no space left on device")
asyncio.run(scenario())
"""


def test_a_full_disk_costs_the_snapshot_only(tmp_path: Path) -> None:
    namespaces = ["--mount"] if has_sys_admin() else ["--user", "--map-root-user", "--mount"]
    mount = 'mount -t tmpfs -o size=20m,mode=700 none "$1" && exec "$2" -c "$3" "$1"'
    command = ["unshare", *namespaces, "sh", "-c", mount, "sh", str(tmp_path), sys.executable, FULL_DISK]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
