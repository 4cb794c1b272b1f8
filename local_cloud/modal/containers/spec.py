"""What a container is, whichever runtime starts it: what it runs, what it sees, and how the host reaches it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import aiohttp

__all__ = [
    "TASK_DIRECTORY",
    "Bind",
    "Container",
    "ContainerSpec",
    "OnOutput",
    "Runtime",
    "SnapshotContainer",
    "SnapshotError",
    "SnapshotRuntime",
    "StartError",
    "exit_text",
]

TASK_DIRECTORY = "/__modal"
"""Where a container finds its API socket and its arguments (Modal's own place: modal/config.py, `restore_state_path`)."""

OnOutput = Callable[[int, bytes], None]
"""Takes the file descriptor (1 or 2) and one or more whole lines of output, newline included."""


class StartError(Exception):
    """The runtime could not start a container; the text is one line."""


class SnapshotError(Exception):
    """A checkpoint could not be taken; the text is one line."""


@dataclass(frozen=True)
class Bind:
    """A file or directory of the host at its path in the container."""

    source: Path
    target: str
    read_only: bool = True


@dataclass(frozen=True)
class ContainerSpec:
    """One container to start. All paths in `binds`, `workdir` and `argv` are the container's own."""

    task_id: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    """Who the container is. Where things are (PATH, HOME, the API socket, ...) is added by the runtime."""
    source_tree: Path | None
    """Mounted source, laid out like `/`: `<source_tree>/root/app.py` appears as `/root/app.py`."""
    volumes: tuple[Bind, ...]
    workdir: str
    directory: Path
    """The task's own directory (0700), at `/__modal` in the container; holds api.sock and args.bin, and what the runtime adds."""
    port: int | None = None
    """The port that a server declares; None for functions."""


class Container(Protocol):
    """A started container."""

    @property
    def pid(self) -> int:
        """The host process that lives as long as the container."""

    async def wait(self) -> int:
        """Exit code once everything in the container has ended; minus the signal's number when one ended it."""

    def terminate(self) -> None:
        """SIGTERM to the container's main process. Call it once: a second one would cut the exit hooks short."""

    def interrupt(self) -> None:
        """SIGINT to the main process: Modal's way to stop a function's container (modal/exception.py, InputCancellation)."""

    def kill(self) -> None:
        """Ends every process of the container at once."""

    async def connector(self, port: int) -> aiohttp.BaseConnector:
        """A way to the container's `port`, as soon as something listens there. Waits for ever: the caller has the deadline."""

    async def listens(self, port: int) -> bool:
        """Whether something accepts connections on the container's `port` now."""


class Runtime(Protocol):
    """Starts containers."""

    name: str

    async def start(self, spec: ContainerSpec, on_output: OnOutput) -> Container:
        """Returns once the process runs. Raises StartError. Must be called in the thread that outlives the container."""


class SnapshotContainer(Container, Protocol):
    """A container that can be checkpointed."""

    async def checkpoint(self, snapshot: Path) -> None:
        """Writes its memory and its own files to `snapshot`, an empty directory; it goes on running.

        Raises SnapshotError. What is in `snapshot` then, or when the call is cancelled, is worth nothing.
        """


class SnapshotRuntime(Runtime, Protocol):
    """A runtime whose containers can be checkpointed, and any number of others started from the checkpoint."""

    @property
    def build(self) -> str:
        """Changes with the program: a checkpoint is for the one that took it alone."""

    async def start(self, spec: ContainerSpec, on_output: OnOutput) -> SnapshotContainer:
        """See Runtime."""

    async def restore(self, spec: ContainerSpec, snapshot: Path, on_output: OnOutput) -> Container:
        """As `start`, but the container goes on where `snapshot` was taken: `spec` must have the same mounts and may have another
        environment. Returns once the process runs, not once the memory is there. Raises StartError.
        """


def exit_text(code: int | None) -> str:
    """`exit code 1` or `signal 9`."""
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
