from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tools.leftovers import end_orphans, orphans

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")


@contextmanager
def plugin(directory: Path, engine: str, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that looks like the one of a dynamic provider, working in `directory` for the engine at `engine`."""
    sleep = "import time; time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", sleep, "-m", "pulumi.dynamic", *more, engine], cwd=directory)
    while b"pulumi.dynamic" not in Path(f"/proc/{child.pid}/cmdline").read_bytes():
        time.sleep(0.01)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


@pytest.fixture
def engine() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def gone_engine() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_plugin_whose_engine_is_gone_is_ended(tmp_path: Path) -> None:
    with plugin(tmp_path, gone_engine()) as left:
        assert orphans(tmp_path) == [left.pid]
        assert end_orphans(tmp_path, seconds=0.5) == [left.pid]
        assert left.wait(5) != 0


def test_a_plugin_at_work_is_left_alone(tmp_path: Path, engine: str) -> None:
    with plugin(tmp_path, engine) as working:
        assert end_orphans(tmp_path) == []
        assert working.poll() is None


def test_another_checkouts_plugins_are_not_ours(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with plugin(tmp_path / "other", gone_engine()) as other:
        assert end_orphans(tmp_path) == []
        assert other.poll() is None
