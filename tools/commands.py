"""Commands that take long: watched line by line, never silent for long, and ended together with the one who started them."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["run_attached", "watch"]

GRACE_SECONDS = 15.0
"""What an interrupted command gets to clean up, before it is killed."""


def watch(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None,
    env: Mapping[str, str] | None,
    take: Callable[[bytes], bool],
    quiet: Callable[[], None],
    every: float,
    limit: float | None = None,
) -> int | None:
    """Run a command and return its exit status, or None when it had to be ended after `limit` seconds.

    Its output (both streams) goes to `take`, which says whether it showed something to the user; `quiet` is called whenever
    nothing was shown for `every` seconds.
    """
    began = shown = time.monotonic()
    with _group(argv, cwd, env) as child, selectors.DefaultSelector() as selector:
        pipe = child.stdout
        assert pipe is not None
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            ended = child.poll()
            if selector.select(0 if ended is not None else max(0.0, min(1.0, shown + every - time.monotonic()))):
                chunk = os.read(pipe.fileno(), 65536)
                if not chunk:
                    return child.wait()
                if take(chunk):
                    shown = time.monotonic()
            elif ended is not None:  # what it left in the background may hold the pipe open for ever
                return ended
            now = time.monotonic()
            if limit is not None and now - began > limit:
                _end_group(child)
                return None
            if now - shown >= every:
                shown = now
                quiet()


def run_attached(argv: Sequence[str | Path], *, cwd: Path | None, env: Mapping[str, str] | None) -> int:
    """Run a command that has the terminal to itself, and return its exit status.

    It stays in our process group, as a terminal's foreground: Ctrl-C reaches it directly, and it is waited for.
    """
    child = None
    try:
        with _uninterrupted():
            child = subprocess.Popen(argv, cwd=cwd, env=env)
        return child.wait()
    except (KeyboardInterrupt, SystemExit) as interrupted:
        if child is not None:
            if isinstance(interrupted, SystemExit):
                child.send_signal(signal.SIGINT)
            child.wait(GRACE_SECONDS * 4)
        raise


@contextmanager
def _group(
    argv: Sequence[str | Path], cwd: Path | None, env: Mapping[str, str] | None
) -> Iterator[subprocess.Popen[bytes]]:
    """A child in a process group of its own, ended with all of its group when the block ends by an exception."""
    child = None
    try:
        with _uninterrupted():
            child = subprocess.Popen(
                argv,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        yield child
    except BaseException:
        if child is not None:
            _end_group(child)
        raise
    finally:
        if child is not None and child.stdout is not None:
            child.stdout.close()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put off SIGINT and SIGTERM to the end of the block: raised in the middle of a start, they leave a child nobody knows.

    Not by blocking them: the child would inherit that. It inherits an ignored signal too, which therefore stays ignored.
    """
    came: list[int] = []
    heeded = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]
    handlers = {number: signal.signal(number, lambda number, _: came.append(number)) for number in heeded}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """Interrupt a child and its group, and after `GRACE_SECONDS` kill what is left of them."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        child.wait(GRACE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
