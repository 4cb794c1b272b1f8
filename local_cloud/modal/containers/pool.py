"""What the pools of servers and functions share: one loop that looks, decides and sleeps until something changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from local_cloud.modal.containers.worker import Platform, Stage, Worker
from local_cloud.modal.state.ports import Definition, LaunchError

__all__ = ["Pool"]

LONGEST_BACKOFF = 60.0
"""Seconds between attempts to start containers that fail to start."""

logger = logging.getLogger(__name__)

W = TypeVar("W", bound=Worker)


class Pool(ABC, Generic[W]):
    """All containers of one Function or Server."""

    def __init__(self, platform: Platform, definition: Definition) -> None:
        self.platform = platform
        self.definition: Definition | None = definition
        """What is published now; None once the App is stopped."""
        self.function_id = definition.function_id
        self.app_id = definition.app_id
        self.workers: list[W] = []
        self._failures = 0
        self._not_before = 0.0
        self._change = asyncio.Event()
        self._loop = asyncio.create_task(self._run(), name=f"pool {definition.tag}")

    @abstractmethod
    def new_worker(self, definition: Definition) -> W:
        """Opens a task and starts its container. Raises LaunchError."""

    @abstractmethod
    def step(self, now: float) -> float | None:
        """Decides what to start and to end; the answer is the number of seconds until it must look again, None for no need."""

    def changed(self) -> None:
        """Something happened: look again."""
        self._change.set()

    def update(self, definition: Definition | None) -> None:
        """What is published has changed; a new deploy gets its first attempt at once."""
        if (
            definition is not None
            and self.definition is not None
            and definition.generation != self.definition.generation
        ):
            self._failures, self._not_before = 0, 0.0
        self.definition = definition
        self.changed()

    def worker(self, task_id: str) -> W | None:
        """The worker of a task."""
        return next((w for w in self.workers if w.task_id == task_id), None)

    def start(self, number: int, limit: int, now: float) -> bool:
        """Starts up to `number` containers within `limit`, which counts those that still drain.

        False when starting has failed or has to wait for the backoff.
        """
        if number > 0 and now < self._not_before:
            return False
        assert self.definition is not None
        for _ in range(min(number, limit - len(self.workers))):
            try:
                self.workers.append(self.new_worker(self.definition))
            except LaunchError as error:
                self.platform.ledger.system_log(self.function_id, f"Could not start a container: {error}")
                self._failed(now)
                return False
        return True

    def backoff(self, now: float) -> float | None:
        """Seconds until a start may be tried again."""
        return self._not_before - now if self._not_before > now else None

    async def close(self) -> None:
        """Ends everything, without regard for what is in flight, and returns when it is gone."""
        self._loop.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._loop
        for worker in self.workers:
            worker.end("the local cloud stops")
        await asyncio.gather(*(w.ended() for w in self.workers))

    async def _run(self) -> None:
        while True:
            self._change.clear()
            try:
                await self._reap()
                pause = self.step(time.monotonic())
            except Exception:
                logger.exception("a decision about the containers of %s failed", self.function_id)
                pause = 1.0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._change.wait()

    async def _reap(self) -> None:
        for worker in list(self.workers):
            if worker.failure and not worker.failure_counted:  # before its end, or the next one starts while it ends
                worker.failure_counted = True
                self._failures = 0 if worker.was_ready else self._failures
                self._failed(time.monotonic())
            if worker.stage is Stage.ENDED:
                await worker.ended()
                self.workers.remove(worker)
                if worker.was_ready and not worker.failure:
                    self._failures = 0

    def _failed(self, now: float) -> None:
        """1, 2, 4, ... seconds: a container that cannot start is not started in a loop."""
        self._failures += 1
        self._not_before = now + min(2.0 ** (self._failures - 1), LONGEST_BACKOFF)
