"""Function containers: started while inputs wait, stopped when they have been idle."""

from __future__ import annotations

import asyncio
import math
import os
import time

from local_cloud.modal.containers.pool import Pool
from local_cloud.modal.containers.spec import Container, Runtime
from local_cloud.modal.containers.worker import Stage, Worker
from local_cloud.modal.state.ports import Definition

__all__ = ["FunctionPool", "FunctionWorker"]

DEFAULT_SCALEDOWN_WINDOW = 60
"""Seconds. Source: modal.com/docs/guide/scale."""

DEFAULT_STARTUP_TIMEOUT = 300
"""Seconds. Source: modal/app.py: startup_timeout defaults to the timeout, which defaults to 300 s."""

RETIREMENT_TIMEOUT = 30.0
"""Seconds that an idle container gets for its exit hooks after the kill switch."""

APP_STOP_GRACE = 1.0
"""Seconds after which a container of a stopped App is interrupted. An idle one follows the kill switch in less time,
and one that runs its exit hooks ignores the interrupt (modal/_runtime/user_code_imports.py, `disable_signals`)."""


class FunctionWorker(Worker):
    """A container that fetches inputs until it is told that there are no more."""

    ends_only_when_asked = False  # a single-use container exits by itself
    retiring = False
    """Ended by the kill switch, not by a signal: it finishes what it works on."""

    @property
    def runtime(self) -> Runtime:
        """On the host's network: it reaches the hub, package registries and the blob server."""
        return self.platform.runtimes.functions

    @property
    def startup_timeout(self) -> float:
        """As declared."""
        function = self.definition.function
        return function.startup_timeout_secs or function.timeout_secs or DEFAULT_STARTUP_TIMEOUT

    @property
    def is_idle(self) -> bool:
        """Ready, and without an input."""
        return self.stage is Stage.READY and not self.platform.ledger.claimed_inputs(self.task_id)

    async def become_ready(self, container: Container) -> None:
        """ContainerHello."""
        await self.hello.wait()

    def retire(self, reason: str, *, grace: float = math.inf) -> None:
        """Lets it finish its inputs, then go; what is not finished within `grace` seconds is interrupted."""
        self.retiring = True
        self.end(reason, grace=grace)

    async def drain(self) -> None:
        """By the kill switch in its next (or waiting) FunctionGetInputs; a busy container first finishes its inputs."""
        if not self.retiring or self.container is None:
            return
        self.platform.wire.retire(self.task_id)
        idle_since = time.monotonic()
        while (
            time.monotonic() < min(idle_since + RETIREMENT_TIMEOUT, self.drain_until) and self.stage is not Stage.ENDED
        ):
            if self.platform.ledger.claimed_inputs(self.task_id):
                idle_since = time.monotonic()
            await asyncio.sleep(0.1)

    def ask_to_stop(self, container: Container) -> None:
        """SIGINT raises KeyboardInterrupt in user code and runs the exit hooks; for SIGTERM it has no handler."""
        container.interrupt()


class FunctionPool(Pool[FunctionWorker]):
    """All containers of one function."""

    def new_worker(self, definition: Definition) -> FunctionWorker:
        """Opens a task."""
        return FunctionWorker(
            self.platform, self.platform.ledger.open_task(definition.function_id), definition, self.changed
        )

    def step(self, now: float) -> float | None:
        """Starts and retires containers; returns the seconds until something may have to happen."""
        definition = self.definition
        if definition is None:
            for worker in self.workers:
                worker.retire("its App is stopped", grace=APP_STOP_GRACE)
            return None
        for worker in self.workers:
            if worker.task.generation != definition.generation:
                worker.retire("a newer deployment replaces it")
        live = [w for w in self.workers if w.is_live]
        settings = definition.function.autoscaler_settings
        each = definition.function.max_concurrent_inputs or 1
        claimed = sum(self.platform.ledger.claimed_inputs(w.task_id) for w in live)
        queued = self.platform.ledger.queued_inputs(self.function_id)
        wanted = max(settings.min_containers, math.ceil((queued + claimed) / each))
        self.start(wanted - len(live), settings.max_containers or max(os.cpu_count() or 1, 1), now)
        pauses = [self.backoff(now) if queued else None, self._scale_down(live, settings.min_containers, queued, now)]
        return min((p for p in pauses if p is not None), default=None)

    def input_finished(self, task_id: str) -> None:
        """A container put an output: its idle time starts now, if it has nothing else."""
        worker = self.worker(task_id)
        if worker is not None:
            worker.idle_since = time.monotonic()
        self.changed()

    def _scale_down(self, live: list[FunctionWorker], keep: int, queued: int, now: float) -> float | None:
        assert self.definition is not None
        window = self.definition.function.autoscaler_settings.scaledown_window or DEFAULT_SCALEDOWN_WINDOW
        due: float | None = None
        idle = [w for w in live if w.is_idle] if not queued else []
        for worker in idle[: max(len(live) - keep, 0)]:
            left = worker.idle_since + window - now
            if left <= 0:
                worker.retire(f"idle for {window} s")
            else:
                due = left if due is None else min(due, left)
        return due
