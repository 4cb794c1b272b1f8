"""A process of the host that a container consists of: started, watched, and its output read line by line, on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from local_cloud.modal.containers import launcher
from local_cloud.modal.containers.spec import OnOutput

__all__ = ["HostProcess", "launcher_argv"]

LONGEST_LINE = 64 * 1024
"""Bytes after which an unfinished line is passed on as it is."""

LAST_OUTPUT_TIMEOUT = 2.0
"""Seconds to wait for the end of the output after the process has ended: another process may still hold the pipe."""


def launcher_argv(*arguments: str) -> list[str]:
    """Runs `launcher.py` isolated from the user's site and environment."""
    return [sys.executable, "-I", "-S", str(Path(launcher.__file__)), *arguments]


class HostProcess:
    """Wraps `subprocess.Popen`: asyncio's own subprocesses wait for every holder of their pipes, orphans included."""

    def __init__(
        self,
        argv: Sequence[str],
        on_output: OnOutput,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        control: bool = False,
    ) -> None:
        """Starts `argv` in a session of its own. With `control` its stdin is a pipe that closes with this process.

        Nothing here waits, so that a task that is cancelled has started nothing or can end what it has started.
        Must run in the thread that outlives the process: the kernel's parent-death signal is that of the thread.
        Raises OSError when it cannot be started.
        """
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE if control else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=None if env is None else dict(env),
            cwd=cwd,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._outputs = _Lines(1, on_output), _Lines(2, on_output)
        pipes = self._process.stdout, self._process.stderr
        # kept, because an event loop holds its tasks by weak references only
        self._connecting = [lines.read(pipe) for lines, pipe in zip(self._outputs, pipes, strict=True)]
        self._exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._watch()

    @property
    def pid(self) -> int:
        """Of the host."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it has ended and been waited for."""
        return self._exited.done()

    async def wait(self) -> int:
        """The exit code (minus the signal's number), after all output has been passed on."""
        return await asyncio.shield(self._exited)

    def signal(self, number: int) -> None:
        """Sends a signal unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def close_control(self) -> None:
        """Closes its stdin, which `launcher.py keep` takes as the order to end everything."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        descriptor = os.pidfd_open(self._process.pid)

        def exited() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            code = self._process.wait()
            self.close_control()
            self._last_words = loop.create_task(self._finish(code))

        loop.add_reader(descriptor, exited)

    async def _finish(self, code: int) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_OUTPUT_TIMEOUT):
                for output in self._outputs:
                    await output.closed.wait()
        for output in self._outputs:
            output.close()
        self._exited.set_result(code)


class _Lines(asyncio.Protocol):
    """Splits a pipe's bytes into whole lines."""

    def __init__(self, descriptor: int, on_output: OnOutput) -> None:
        self.closed = asyncio.Event()
        self._descriptor = descriptor
        self._on_output = on_output
        self._unfinished = b""
        self._transport: asyncio.BaseTransport | None = None

    def read(self, pipe: IO[bytes]) -> asyncio.Task[object]:
        """Begins; the task ends before the first line."""
        loop = asyncio.get_running_loop()
        return loop.create_task(loop.connect_read_pipe(lambda: self, pipe))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        data = self._unfinished + data
        end = len(data) if len(data) > LONGEST_LINE and b"\n" not in data else data.rfind(b"\n") + 1
        self._unfinished = data[end:]
        if end:
            self._on_output(self._descriptor, data[:end])

    def connection_lost(self, exc: Exception | None) -> None:
        if self._unfinished:
            self._on_output(self._descriptor, self._unfinished + b"\n")
            self._unfinished = b""
        self.closed.set()

    def close(self) -> None:
        """Lets go of a pipe that an orphan still holds."""
        if self._transport is not None:
            self._transport.close()
