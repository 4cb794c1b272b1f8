"""Directories in the cache that are either whole or absent, and locks between set-ups that run at the same time."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.steps import Failure, duration

__all__ = ["make_directory", "need_space", "one_at_a_time", "remove_tree"]


@contextmanager
def one_at_a_time(lock: Path, what: str, say: Callable[[str], None], every: float = 10.0) -> Iterator[None]:
    """Hold the lock file `lock`; while another process has it, `say` who and since when, every `every` seconds.

    The system gives the lock back when its holder dies, however it dies.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as file:
        began = told = time.monotonic()
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                now = time.monotonic()
                if told == began or now - told >= every:
                    told = now
                    file.seek(0)
                    holder = file.read().strip() or "unknown"
                    say(f"{what} is in use by process {holder}: waiting for it ({duration(now - began)})")
                time.sleep(0.2)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def make_directory(final: Path, fill: Callable[[Path], None]) -> None:
    """Make `final` by filling a staging directory beside it and renaming that; call it under a lock.

    A run that was killed leaves only a staging directory, which nothing trusts and the next call removes.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    for leftover in final.parent.glob(f".{final.name}.*"):
        remove_tree(leftover)
    staging = final.parent / f".{final.name}.{os.getpid()}"
    staging.mkdir()
    try:
        fill(staging)
        staging.rename(final)
    finally:
        remove_tree(staging)


def need_space(directory: Path, gibibytes: float, what: str) -> None:
    """Raise `Failure` unless the file system of `directory` has room for `what`."""
    existing = directory
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free / 2**30
    if free < gibibytes:
        raise Failure(
            f"{what}: {directory} has {free:.1f} GiB free: {gibibytes:.1f} GiB are needed: free some, or set XDG_CACHE_HOME "
            "to a directory on another disk"
        )


def remove_tree(directory: Path) -> None:
    """Remove a directory if it is there, also one with read-only directories in it, as Go's module cache has."""
    if directory.is_symlink():
        directory.unlink()
    if not directory.exists():
        return
    for parent, _, _ in os.walk(directory):
        Path(parent).chmod(0o700)
    shutil.rmtree(directory)
