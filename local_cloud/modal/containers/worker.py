"""The life of one task. What differs between servers and functions is in the subclasses.

STARTING --hello, port open--> READY --end()--> DRAINING --idle or grace over--> STOPPING --exit--> ENDED
    |            (any state: the container exits, or is killed)                                      ^
    +----------------------------------------------------------------------------------------------+

A task has one container, or several one after the other: one that is checkpointed is followed, still STARTING, by one that is
restored from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import math
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from local_cloud.modal.containers.environment import entrypoint_argv
from local_cloud.modal.containers.runtime import Runtimes
from local_cloud.modal.containers.snapshots import Snapshots
from local_cloud.modal.containers.spec import Bind, Container, ContainerSpec, Runtime, StartError, exit_text
from local_cloud.modal.state.ports import Definition, Launch, LaunchError, Ledger, Task, Wire

logger = logging.getLogger(__name__)

__all__ = ["STOP_TIMEOUT", "Platform", "Stage", "Worker"]

STOP_TIMEOUT = 30.0
"""Seconds between SIGTERM (SIGINT for functions) and SIGKILL. Source: modal.com/docs/guide/servers and modal/exception.py."""


@dataclass(frozen=True)
class Platform:
    """What every task needs from the layers around it."""

    ledger: Ledger
    wire: Wire
    runtimes: Runtimes
    run_directory: Path
    """Short (unix socket paths end at 107 bytes), 0700: a directory for each task that lives."""
    snapshots: Snapshots


class Stage(enum.Enum):
    """How far a task has come."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    ENDED = "ended"


class Worker(ABC):
    """One task and its container. Created inside the event loop, where it runs until ENDED; `changed` is called at every step."""

    def __init__(self, platform: Platform, task: Task, definition: Definition, changed: Callable[[], None]) -> None:
        self.platform = platform
        self.task = task
        self.definition = definition
        """As it was when the task was opened."""
        self.changed = changed
        self.stage = Stage.STARTING
        self.was_ready = False
        self.opened = self.began = self.idle_since = time.monotonic()
        """`began` is what the startup timeout counts from."""
        self.hello = asyncio.Event()
        """The container's own word that its enter hooks have run (servers) or that it takes inputs (functions)."""
        self.failure = ""
        """Why it failed, once it has: one line."""
        self.failure_counted = False
        self.container: Container | None = None
        self.drain_until = math.inf
        """On the monotonic clock: when draining is over, whatever is in flight."""
        self._running = asyncio.create_task(self._run(), name=f"task {task.task_id}")
        self._ending: asyncio.Task[None] | None = None

    @property
    def task_id(self) -> str:
        """`ta-...`."""
        return self.task.task_id

    @property
    def is_live(self) -> bool:
        """Whether it serves, or will."""
        return self.stage in (Stage.STARTING, Stage.READY)

    def end(self, reason: str, *, grace: float = 0.0) -> None:
        """Ends the container in order: drain (`grace` seconds at most), signal, wait, kill.

        A later call can only shorten the grace.
        """
        self.drain_until = min(self.drain_until, time.monotonic() + grace)
        if self._ending is not None or self.stage is Stage.ENDED:
            return
        self.log(f"Container {self.task_id} is stopped: {reason}.")
        self.stage = Stage.DRAINING
        self._ending = asyncio.create_task(self._end(), name=f"end of {self.task_id}")
        self.changed()

    def fail(self, failure: str) -> None:
        """Ends the container at once because of `failure`, which becomes the task's result. The first failure counts."""
        self.failure = self.failure or failure
        self.stage = Stage.STOPPING if self.stage is not Stage.ENDED else self.stage
        if self.container is not None:
            self.container.kill()

    def reported_failure(self, message: str) -> None:
        """The container's TaskResult: truer than the exit code 0 that follows it (observed with modal 1.6.4)."""
        self.failure = self.failure or message or "the container reported a failure without a message"
        if self.is_live:
            self.stage = Stage.STOPPING
            self.changed()
        if self.container is not None:  # it leaves by itself; a child process of it may not
            asyncio.get_running_loop().call_later(STOP_TIMEOUT, self.container.kill)

    async def ended(self) -> None:
        """Returns once nothing of the task is left."""
        await asyncio.shield(self._running)

    def log(self, text: str) -> None:
        """A line of the platform in the App's log."""
        self.platform.ledger.system_log(self.task.function_id, text, self.task_id)

    # What subclasses decide.

    @property
    @abstractmethod
    def runtime(self) -> Runtime:
        """Which runtime starts it."""

    @property
    @abstractmethod
    def startup_timeout(self) -> float:
        """Seconds from the decision to start it until READY."""

    async def lives(self, spec: ContainerSpec) -> AsyncIterator[Container]:
        """The containers of this task; each is asked for when the one before it has ended. Raises StartError."""
        yield await self.runtime.start(spec, self.output)

    def not_ready(self, why: str) -> None:
        """The container did not get ready in time, or cannot."""
        self.fail(why)

    @abstractmethod
    async def become_ready(self, container: Container) -> None:
        """Returns when the container can work."""

    async def while_ready(self, container: Container) -> None:  # noqa: B027 - most containers need nothing here
        """Runs next to a container that is ready; cancelled at its end."""

    @abstractmethod
    async def drain(self) -> None:
        """Returns when the container may be stopped, at `drain_until` at the latest."""

    @abstractmethod
    def ask_to_stop(self, container: Container) -> None:
        """The signal that makes it run its exit hooks."""

    # How it goes.

    async def _run(self) -> None:
        code: int | None = None
        directory = self.platform.run_directory / self.task_id
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(asyncio.to_thread, shutil.rmtree, directory, ignore_errors=True)
            try:
                spec = await self._prepare(directory, stack)
                async for container in self.lives(spec):
                    self.container = container
                    self.platform.ledger.task_started(self.task_id, container.pid)
                    code = await self._live(container)
            except (LaunchError, StartError, OSError) as error:
                self.failure = self.failure or f"could not start the container: {error}"
            except Exception as error:
                logger.exception("starting %s failed", self.task_id)
                self.failure = (
                    self.failure or f"could not start the container: {error!r}: this is a bug of the local cloud"
                )
        unasked = self._ending is None
        self.stage = Stage.ENDED
        if self.failure:
            self.log(f"Container {self.task_id} failed: {self.failure.splitlines()[-1]}")
        elif unasked and (code or self.ends_only_when_asked):
            self.failure = f"the container ended by itself with {exit_text(code)}"
            self.log(f"Container {self.task_id} failed: {self.failure}")
        self.platform.ledger.close_task(self.task_id, code, self.failure)
        self.changed()

    ends_only_when_asked = True
    """Whether an exit with code 0 that nobody asked for is a failure too."""

    async def _prepare(self, directory: Path, stack: contextlib.AsyncExitStack) -> ContainerSpec:
        launch = self.platform.ledger.launch(self.task_id)
        (directory / "modal").mkdir(parents=True, mode=0o700)
        close = await self.platform.wire.serve_task(self.task_id, directory / "modal" / "api.sock")
        stack.push_async_callback(close)
        arguments = directory / "modal" / "args.bin"
        arguments.touch(mode=0o600)
        arguments.write_bytes(self.platform.wire.container_arguments(self.task_id))
        return self._spec(launch, directory)

    def _spec(self, launch: Launch, directory: Path) -> ContainerSpec:
        function = self.definition.function
        return ContainerSpec(
            task_id=self.task_id,
            argv=entrypoint_argv(),
            env=launch.env,
            source_tree=launch.source_tree,
            volumes=tuple(Bind(v.source, v.target, v.read_only) for v in launch.volumes),
            workdir=launch.workdir,
            directory=directory,
            port=function.http_config.port if function.is_server else None,
        )

    async def _live(self, container: Container) -> int:
        if self.stage is not Stage.STARTING:  # stopped or failed while it was being started
            container.kill()
        working = asyncio.create_task(self._work(container))
        try:
            return await container.wait()
        finally:
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await working

    async def _work(self, container: Container) -> None:
        left = self.startup_timeout - (time.monotonic() - self.began)
        try:
            async with asyncio.timeout(left):
                await self.become_ready(container)
        except StartError as error:
            self.not_ready(str(error))
            return
        except TimeoutError:
            self.not_ready(f"it was not ready within startup_timeout ({self.startup_timeout:g} s)")
            return
        if self.stage is Stage.STARTING:
            self.stage = Stage.READY
            self.was_ready = True
            self.idle_since = time.monotonic()
            self.changed()
            await self.while_ready(container)

    async def _end(self) -> None:
        await self.drain()
        if self.stage is Stage.ENDED:  # it left while it was drained: nobody must take it for a container that lives
            return
        self.stage = Stage.STOPPING
        if self.container is None:
            return
        if self.hello.is_set():
            self.ask_to_stop(self.container)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_TIMEOUT):
                    await self.container.wait()
                    return
            self.log(f"Container {self.task_id} did not stop within {STOP_TIMEOUT:g} s: it is killed.")
        self.container.kill()  # before its hello nothing handles a signal: on Modal, too, the first one ends it

    def output(self, descriptor: int, lines: bytes) -> None:
        """Lines of a container, into the App's log."""
        self.platform.ledger.log(self.task_id, descriptor, lines)
