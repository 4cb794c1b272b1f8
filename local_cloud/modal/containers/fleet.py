"""All containers of the local cloud: hears what happens on the wire and at the edge, and passes it to the pool concerned."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

from local_cloud.modal.containers.functions import FunctionPool, FunctionWorker
from local_cloud.modal.containers.restorable import RestorableWorker
from local_cloud.modal.containers.runtime import Runtimes
from local_cloud.modal.containers.servers import ServerPool
from local_cloud.modal.containers.snapshots import Snapshots
from local_cloud.modal.containers.worker import Platform, Worker
from local_cloud.modal.state.ports import Definition, Ledger, Wire

__all__ = ["ContainerFleet"]


class ContainerFleet:
    """Implements `state.ports.Fleet`. Everything happens on the event loop that `start` was called on."""

    def __init__(self, ledger: Ledger, wire: Wire, runtimes: Runtimes, run_directory: Path, snapshots: Path) -> None:
        self._platform = Platform(ledger, wire, runtimes, run_directory, Snapshots(snapshots))
        self._pools: dict[str, FunctionPool | ServerPool] = {}
        self._deploy_watchers: list[Callable[[], None]] = []

    @property
    def runtime_name(self) -> str:
        """ "runsc" or "process"."""
        return self._platform.runtimes.name

    async def start(self) -> None:
        """Takes up what is published: minimum containers are started, and queued inputs get theirs."""
        await asyncio.to_thread(self._platform.snapshots.clear)
        directory = self._platform.run_directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in directory.glob("ta-*"):
            await asyncio.to_thread(shutil.rmtree, left, ignore_errors=True)
        for task in self._platform.ledger.open_tasks():
            self._platform.ledger.close_task(task.task_id, None, "the local cloud ended while this container ran")
        for definition in self._platform.ledger.definitions():
            self._pool(definition)

    async def stop(self) -> None:
        """Ends every container (signal, exit hooks, kill after the usual time) and returns when none is left."""
        pools = list(self._pools.values())
        self._pools.clear()
        await asyncio.gather(*(pool.close() for pool in pools))
        await asyncio.to_thread(self._platform.snapshots.clear)

    def watch_deploys(self, watcher: Callable[[], None]) -> None:
        """`watcher` is called after every change of what is published."""
        self._deploy_watchers.append(watcher)

    def server_pool(self, definition: Definition) -> ServerPool:
        """The containers of a published server."""
        pool = self._pool(definition)
        assert isinstance(pool, ServerPool)
        return pool

    # state.ports.Fleet

    def inputs_queued(self, function_id: str) -> None:
        """New inputs are waiting."""
        definition = self._platform.ledger.definition(function_id)
        if definition is not None:
            self._pool(definition).changed()

    def input_finished(self, task_id: str) -> None:
        """A function's container has put an output."""
        for pool in self._pools.values():
            if isinstance(pool, FunctionPool):
                pool.input_finished(task_id)

    def app_deployed(self, app_id: str) -> None:
        """Something was published, or its scaling changed."""
        self._refresh(app_id)

    def app_stopped(self, app_id: str) -> None:
        """Nothing of the App is published any more."""
        self._refresh(app_id)

    def stop_task(self, task_id: str, *, graceful: bool) -> None:
        """`modal container stop`, a recreate deploy, or an input that ran into its timeout."""
        worker = self._worker(task_id)
        if worker is None:
            return
        if isinstance(worker, FunctionWorker) and graceful:
            worker.retire("asked for")
        else:
            grace = worker.definition.function.http_config.exit_grace_period if graceful else 0.0
            worker.end("asked for", grace=grace)

    def task_ready(self, task_id: str) -> None:
        """ContainerServerLifecycleReady or ContainerHello."""
        worker = self._worker(task_id)
        if worker is not None:
            worker.hello.set()

    def task_failed(self, task_id: str, message: str) -> None:
        """TaskResult with a failure."""
        worker = self._worker(task_id)
        if worker is not None:
            worker.reported_failure(message)

    async def checkpoint(self, task_id: str, checkpoint_id: str) -> None:
        """ContainerCheckpoint of a server that was told to take the snapshot path (MODAL_ENABLE_SNAP_RESTORE)."""
        worker = self._worker(task_id)
        if not isinstance(worker, RestorableWorker):
            raise RuntimeError(f"container {task_id} asked for checkpoint {checkpoint_id}, which nobody told it to")
        worker.checkpoint_asked()

    def _pool(self, definition: Definition) -> FunctionPool | ServerPool:
        pool = self._pools.get(definition.function_id)
        if pool is None:
            kind = ServerPool if definition.is_server else FunctionPool
            pool = self._pools[definition.function_id] = kind(self._platform, definition)
        return pool

    def _refresh(self, app_id: str) -> None:
        published = {d.function_id: d for d in self._platform.ledger.definitions() if d.app_id == app_id}
        for function_id, pool in self._pools.items():
            if function_id not in published and pool.app_id == app_id:
                self._platform.snapshots.supersede(function_id, None)
                pool.update(None)
        for definition in published.values():
            self._platform.snapshots.supersede(definition.function_id, definition.generation)
            self._pool(definition).update(definition)
        for watcher in self._deploy_watchers:
            watcher()

    def _worker(self, task_id: str) -> Worker | None:
        found = (pool.worker(task_id) for pool in self._pools.values())
        return next((worker for worker in found if worker is not None), None)
