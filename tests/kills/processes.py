"""The processes of one world (Linux): found by where they work, ended by their id."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["kill", "left_behind", "provider_of", "wait_until_none"]


@dataclass(frozen=True)
class _Process:
    pid: int
    arguments: tuple[str, ...]
    cwd: str
    environment: str


def kill(pid: int, seconds: float = 10.0) -> None:
    """SIGKILL, and wait until it is gone or a zombie."""
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + seconds
    while _state(pid) not in ("", "Z"):
        assert time.monotonic() < deadline, f"process {pid} does not end"
        time.sleep(0.002)


def provider_of(project: Path) -> int:
    """The process of the dynamic providers that works in `project`."""
    found = [p.pid for p in _processes() if p.cwd == str(project) and p.arguments[-2:-1] == ("pulumi.dynamic",)]
    assert len(found) == 1, f"expected one provider process in {project}, found {found}"
    return found[0]


def left_behind(root: Path) -> list[str]:
    """Command lines of processes that work in `root`, or have it in their arguments or their environment."""
    own = {os.getpid(), os.getppid()}
    text = str(root)
    return [
        f"{p.pid}: {' '.join(p.arguments)[:200]}"
        for p in _processes()
        if p.pid not in own and (text in p.cwd or text in p.environment or any(text in a for a in p.arguments))
    ]


def wait_until_none(root: Path, seconds: float = 10.0) -> list[str]:
    """Wait until nothing is left behind; returns what still is after `seconds`."""
    deadline = time.monotonic() + seconds
    while (left := left_behind(root)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def _processes() -> list[_Process]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if _state(int(entry.name)) in ("", "Z"):
                continue
            arguments = (entry / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
            environment = (entry / "environ").read_bytes().decode(errors="replace")
            found.append(_Process(int(entry.name), tuple(arguments), str((entry / "cwd").readlink()), environment))
        except OSError:  # ended meanwhile, or another user's
            continue
    return found


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
