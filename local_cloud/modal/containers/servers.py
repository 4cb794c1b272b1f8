"""Server containers: as many as the edge's requests, the autoscaler's settings and the current deployment ask for."""

from __future__ import annotations

import asyncio
import math
import os
import time

import aiohttp

from local_cloud.modal.containers.pool import Pool
from local_cloud.modal.containers.restorable import RestorableWorker
from local_cloud.modal.containers.spec import Container, Runtime
from local_cloud.modal.containers.worker import Stage
from local_cloud.modal.state.ports import Definition

__all__ = ["NoContainerError", "ServerPool", "ServerWorker", "TooManyRequestsError"]

DEFAULT_SCALEDOWN_WINDOW = 60
"""Seconds. Source: modal.com/docs/guide/scale."""

DEFAULT_STARTUP_TIMEOUT = 30
"""Seconds. Source: modal/app.py, `App.server`."""

HEALTH_INTERVAL = 5.0
"""Seconds between looks at a ready container's port. Too many failures replace the container (modal.com/docs/guide/servers);
the platform does not say how many, or how often."""

HEALTH_FAILURES = 3


class NoContainerError(Exception):
    """No container is ready; one has been asked for."""


class TooManyRequestsError(Exception):
    """Every ready container works on `max_concurrency` requests."""


class ServerWorker(RestorableWorker):
    """A container behind the edge."""

    in_flight = 0
    """Requests between the edge's acceptance and the last byte of the answer."""
    session: aiohttp.ClientSession | None = None

    @property
    def runtime(self) -> Runtime:
        """The one with a network of its own, where there is one."""
        return self.platform.runtimes.servers

    @property
    def startup_timeout(self) -> float:
        """As declared; it includes the time that a snapshot takes."""
        function = self.definition.function
        return function.http_config.startup_timeout or function.startup_timeout_secs or DEFAULT_STARTUP_TIMEOUT

    async def become_ready(self, container: Container) -> None:
        """ContainerServerLifecycleReady does not mean that the port is open, so the port is tried as well."""
        await self.answers()
        if self.will_be_checkpointed:
            await self.hello.wait()
        # what leads to the port is made ready while the container still is not
        connector = await container.connector(self.definition.function.http_config.port)
        try:
            await self.hello.wait()
        except asyncio.CancelledError:
            await connector.close()
            raise
        self.session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )
        self.log(f"Container {self.task_id} is ready after {time.monotonic() - self.opened:.1f} s{self.origin}.")

    async def while_ready(self, container: Container) -> None:
        """Replaces a container whose port has gone."""
        port = self.definition.function.http_config.port
        failures = 0
        while failures < HEALTH_FAILURES:
            await asyncio.sleep(HEALTH_INTERVAL)
            failures = 0 if await container.listens(port) else failures + 1
        if self.is_live:
            self.fail(f"port {port} has stopped listening ({HEALTH_FAILURES} health checks failed)")

    async def drain(self) -> None:
        """In-flight requests get exit_grace_period; its default 0 cuts streams, as on Modal."""
        while self.in_flight and time.monotonic() < self.drain_until:
            await asyncio.sleep(0.05)

    def ask_to_stop(self, container: Container) -> None:
        """SIGTERM, once."""
        container.terminate()

    def request_finished(self) -> None:
        """The edge is done with one request."""
        self.in_flight -= 1
        self.idle_since = time.monotonic()
        self.changed()

    async def ended(self) -> None:
        """Also closes the edge's connections to it."""
        await super().ended()
        if self.session is not None:
            await self.session.close()


class ServerPool(Pool[ServerWorker]):
    """All containers of one server."""

    _wanted_by_request = False

    def new_worker(self, definition: Definition) -> ServerWorker:
        """Opens a task."""
        return ServerWorker(
            self.platform, self.platform.ledger.open_task(definition.function_id), definition, self.changed
        )

    def acquire(self) -> ServerWorker:
        """The ready container with the least to do, counted as one busier; call its `request_finished` afterwards.

        Raises NoContainerError (and has one started) or TooManyRequestsError.
        """
        ready = [w for w in self.workers if w.stage is Stage.READY]
        if not ready:
            self._wanted_by_request = True
            self.changed()
            raise NoContainerError
        newest = max(w.task.generation for w in ready)
        worker = min((w for w in ready if w.task.generation == newest), key=lambda w: (w.in_flight, w.opened))
        limit = worker.definition.function.max_concurrent_inputs
        if limit and worker.in_flight >= limit:
            raise TooManyRequestsError
        worker.in_flight += 1
        self.changed()
        return worker

    def step(self, now: float) -> float | None:
        """Starts and ends containers; returns the seconds until something may have to happen."""
        definition = self.definition
        if definition is None:
            for worker in self.workers:
                worker.end("its App is stopped", grace=_grace(worker))
            return None
        current = [w for w in self.workers if w.is_live and w.task.generation == definition.generation]
        if any(w.stage is Stage.READY for w in current):
            self._wanted_by_request = False
        wanted = self._roll(definition, current) or self._wanted(definition, current)
        limit = self._limit(definition)
        if not self.start(wanted - len(current), limit, now):
            self._wanted_by_request = False
        pauses = [self.backoff(now), self._scale_down(definition, wanted, now)]
        return min((p for p in pauses if p is not None), default=None)

    def _limit(self, definition: Definition) -> int:
        """max_containers. Without one Modal stops at the workspace's limit; this machine's is its cores."""
        return definition.function.autoscaler_settings.max_containers or max(os.cpu_count() or 1, 2)

    def _wanted(self, definition: Definition, current: list[ServerWorker]) -> int:
        """min_containers, one if a request waits for it, and what target_concurrency makes of the requests in flight."""
        settings = definition.function.autoscaler_settings
        wanted = max(settings.min_containers, 1 if self._wanted_by_request else 0)
        target = (
            settings.target_concurrency_float
            or settings.target_concurrency
            or definition.function.target_concurrent_inputs
        )
        if target:
            wanted = max(wanted, math.ceil(sum(w.in_flight for w in current) / target))
        return wanted

    def _roll(self, definition: Definition, current: list[ServerWorker]) -> int:
        """Replaces containers of earlier deploys: they serve until a new one is ready, unless max_containers leaves it no room.

        Returns how many new ones that takes.
        """
        old = [w for w in self.workers if w.task.generation != definition.generation]
        leaving = [w for w in old if w.is_live]
        for worker in leaving:
            if worker.stage is Stage.STARTING or any(w.stage is Stage.READY for w in current):
                worker.end("a newer deployment replaces it", grace=_grace(worker))
        serving = [w for w in leaving if w.is_live]
        # one that is on its way out makes room by itself
        if serving and len(serving) == len(self.workers) >= self._limit(definition):
            self._wanted_by_request = True  # the old one is gone before the new one starts, and somebody counted on it
            serving[0].end(
                "a newer deployment replaces it, and max_containers leaves no room for both", grace=_grace(serving[0])
            )
        replacements = (
            1 if old and not any(w.stage is Stage.READY for w in current) and any(w.was_ready for w in old) else 0
        )
        return max(replacements, self._wanted(definition, current)) if replacements else 0

    def _scale_down(self, definition: Definition, wanted: int, now: float) -> float | None:
        """Ends the youngest idle containers above what is wanted; returns the seconds until the next one is due."""
        window = definition.function.autoscaler_settings.scaledown_window or DEFAULT_SCALEDOWN_WINDOW
        idle = [w for w in self.workers if w.stage is Stage.READY and not w.in_flight]
        due: float | None = None
        remaining = len([w for w in self.workers if w.is_live])
        for worker in sorted(idle, key=lambda w: -w.opened):
            if remaining <= wanted:
                break
            left = worker.idle_since + window - now
            if left > 0:
                due = left if due is None else min(due, left)
                continue
            worker.end(f"idle for {window} s", grace=_grace(worker))
            remaining -= 1
        return due


def _grace(worker: ServerWorker) -> float:
    return float(worker.definition.function.http_config.exit_grace_period)
