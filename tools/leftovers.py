"""Processes that a killed `pulumi` left behind: a plugin that had no work yet outlives it, as does its shell.

The providers end with their engine (providers/engine.py), but only once the first of them was loaded (observed with Pulumi
3.259.0). Only processes of this checkout are ended, and only those whose engine is gone.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from pathlib import Path

__all__ = ["end_orphans", "orphans"]

MARKS = ("pulumi.dynamic", "language_host.py", "pulumi-language-python-exec")
"""One of these is an argument of every process that the engine starts for a Python program."""


def orphans(root: Path, proc: Path = Path("/proc")) -> list[int]:
    """Ids of this user's plugin processes that work in `root` and whose engine no longer listens (Linux; else none)."""
    found = []
    for entry in proc.glob("[0-9]*"):
        try:
            arguments = (entry / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
            works_here = entry.stat().st_uid == os.getuid() and (entry / "cwd").readlink() == root
        except OSError:  # it has ended, or is another user's
            continue
        marked = any(argument.endswith(MARKS) for argument in arguments)
        if works_here and marked and not _listens(arguments[-1]):
            found.append(int(entry.name))
    return found


def end_orphans(root: Path, seconds: float = 5.0) -> list[int]:
    """End what `orphans` finds, by SIGTERM and after `seconds` by SIGKILL; returns the ids."""
    ended = orphans(root)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in orphans(root):
            try:
                os.kill(process, number)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + seconds
        while orphans(root) and time.monotonic() < deadline:
            time.sleep(0.1)
    return ended


def _listens(address: str) -> bool:
    match = re.fullmatch(r"(127\.0\.0\.1|localhost):(\d+)", address)
    if not match:
        return True  # not an engine's address: nothing to judge by
    try:
        with socket.create_connection((match[1], int(match[2])), timeout=1):
            return True
    except OSError:
        return False
