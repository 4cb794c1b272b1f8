"""A task whose container comes out of a memory snapshot, where the App asks for one and this machine can take one.

    no snapshot yet     start --ContainerCheckpoint--> checkpoint, end --> restore --> ready
    a snapshot          restore --> ready
    anything goes wrong, or another container is just taking the snapshot: start without, both enter phases in sequence

The words in the App's log are Modal's (modal.com/docs/guide/memory-snapshots, modal-client issue #4132), and so is the way out: a
snapshot that failed is never used again, the container that met it starts without, and the next one takes a new snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from local_cloud.modal.containers.snapshots import Snapshot
from local_cloud.modal.containers.spec import (
    Container,
    ContainerSpec,
    SnapshotContainer,
    SnapshotError,
    SnapshotRuntime,
    StartError,
)
from local_cloud.modal.containers.worker import Stage, Worker

__all__ = ["RestorableWorker"]

SNAPSHOT_TIMEOUT = 60.0
"""Seconds that a checkpoint may take, and that a restored container has until it calls its API for the first time."""

DISCONNECT_TIMEOUT = 5.0
"""Seconds that the container has to drop its connections, which it does within milliseconds (observed with modal 1.6.4). An older
gVisor cannot checkpoint an open connection to a socket of the host; a newer one cuts it."""

SETTLE_TIME = 0.05
"""Seconds between the last connection's end, as seen here, and the checkpoint: the container's side of it ends a moment later."""


class RestorableWorker(Worker):
    """Takes, or comes from, the snapshot of the version that it runs."""

    _snapshot: Snapshot | None = None
    """The one that is being taken, or restored from; None again once that has failed."""
    _original: SnapshotContainer | None = None
    _taking: asyncio.Task[None] | None = None
    _restored = False

    async def lives(self, spec: ContainerSpec) -> AsyncIterator[Container]:
        """One life, two or three (see the module). A life that was READY, or ended on purpose, is the last."""
        runtime = self.platform.runtimes.snapshots
        if runtime is None or not self.definition.function.checkpointing_enabled:
            yield await self.runtime.start(spec, self.output)
            return
        enabled = replace(spec, env={**spec.env, "MODAL_ENABLE_SNAP_RESTORE": "1"})
        self._snapshot = self._found(runtime)
        if self._snapshot is None and (begun := self._begin(runtime)):
            self._snapshot = begun
            try:
                self._original = await runtime.start(enabled, self.output)
                yield self._original
                if self._taking is None:  # it did not get that far: its own fault
                    return
                await self._taking
            finally:
                self.platform.snapshots.abandon(begun)
        if self._snapshot is not None and self.stage is Stage.STARTING:
            restored = await self._restore(runtime, enabled, self._snapshot)
            if restored is not None:
                yield restored
                code = await restored.wait()
                code = 128 - code if code < 0 else code  # Modal's line has a shell's number for a signal
                self._give_up(f"failed to restore container from snapshot with exit code {code}")
        if self.stage is Stage.STARTING:
            self._restored = False
            self.hello.clear()
            self.began = time.monotonic()
            yield await runtime.start(spec, self.output)

    def checkpoint_asked(self) -> None:
        """The container has run its first enter hooks. It drops its connections after the answer, so the rest comes later."""
        if self._original is not None and self._snapshot is not None and self._taking is None:
            self.log("Creating memory snapshot for Function.")
            taking = self._take(self._original, self._snapshot)
            self._taking = asyncio.create_task(taking, name=f"snapshot of {self.task_id}")

    def not_ready(self, why: str) -> None:
        """What a snapshot may be to blame for is tried again without it."""
        if self._snapshot is not None and self._restored:
            self._give_up(f"failed to restore container from snapshot: {why}")
        elif self._snapshot is not None and self._taking is not None:
            self._give_up(f"failed to create snapshot: {why}")
        else:
            super().not_ready(why)

    def reported_failure(self, message: str) -> None:
        """An error of the App's own, whatever it comes from: the next container does not start from the same memory."""
        if self._snapshot is not None and not self.was_ready:
            self.platform.snapshots.drop(self._snapshot)
        super().reported_failure(message)

    async def answers(self) -> None:
        """Returns when the container has called its API, so that it lives. Raises StartError for a restored one that does not."""
        deadline = time.monotonic() + SNAPSHOT_TIMEOUT
        while not self.hello.is_set() and not _connections(self._api_socket):
            if self._restored and time.monotonic() > deadline:
                raise StartError(f"it did not answer within {SNAPSHOT_TIMEOUT:g} s")
            await asyncio.sleep(0.02)

    @property
    def will_be_checkpointed(self) -> bool:
        """Whether the container may have nothing in it but its own: what else runs there ends the checkpoint early."""
        return self._snapshot is not None and not self._restored

    @property
    def origin(self) -> str:
        """What became of the snapshot that the App wants, for the log; empty where it wants none."""
        if not self.definition.function.checkpointing_enabled:
            return ""
        if self.platform.runtimes.snapshots is None:
            return f" ({self.platform.runtimes.snapshots_reason})"
        return " (restored from a memory snapshot)" if self._restored else " (without a memory snapshot)"

    @property
    def _api_socket(self) -> Path:
        return self.platform.run_directory / self.task_id / "modal" / "api.sock"

    def _found(self, runtime: SnapshotRuntime) -> Snapshot | None:
        found = self.platform.snapshots.find(self.task.function_id, self.task.generation, runtime.build)
        if found is not None:
            self.log("Restoring Function from memory snapshot.")
        return found

    def _begin(self, runtime: SnapshotRuntime) -> Snapshot | None:
        try:
            return self.platform.snapshots.begin(self.task.function_id, self.task.generation, runtime.build)
        except OSError as error:
            self.log(f"Transient snapshot error: failed to create snapshot: {error}. Will retry with no snapshots.")
            return None

    async def _take(self, original: SnapshotContainer, snapshot: Snapshot) -> None:
        """Ends the original in any case. `_snapshot` is None afterwards unless it can be restored."""
        try:
            async with asyncio.timeout(SNAPSHOT_TIMEOUT):
                await self._disconnected()
                await original.checkpoint(snapshot.directory)
            if self.platform.snapshots.finish(snapshot):
                self.log("Snapshot created. Restoring Function from memory snapshot.")
            else:
                self._snapshot = None
        except TimeoutError:
            self._give_up(f"failed to create snapshot: it took longer than {SNAPSHOT_TIMEOUT:g} s")
        except (SnapshotError, OSError) as error:
            self._give_up(f"failed to create snapshot: {error}")
        original.kill()

    async def _disconnected(self) -> None:
        deadline = time.monotonic() + DISCONNECT_TIMEOUT
        while _connections(self._api_socket) and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        await asyncio.sleep(SETTLE_TIME)

    async def _restore(self, runtime: SnapshotRuntime, spec: ContainerSpec, snapshot: Snapshot) -> Container | None:
        if not self.platform.snapshots.is_whole(snapshot):
            self._give_up("failed to restore container from snapshot: its files are damaged")
            return None
        who = {"task_id": self.task_id, "function_id": self.task.function_id}
        (spec.directory / "modal" / "restore-state.json").write_text(json.dumps(who))
        self._restored = True
        try:
            return await runtime.restore(spec, snapshot.directory, self.output)
        except (StartError, OSError) as error:
            self._give_up(f"failed to restore container from snapshot: {error}")
            return None

    def _give_up(self, why: str) -> None:
        """Nobody uses this snapshot again. It is to blame only for what happens until the container is ready."""
        if self._snapshot is None or self.stage is not Stage.STARTING:
            return
        self.log(f"Transient snapshot error: {why}. Will retry with no snapshots.")
        self.platform.snapshots.drop(self._snapshot)
        self._snapshot = None
        if self.container is not None:
            self.container.kill()


def _connections(path: Path) -> int:
    """Open connections that this process has accepted at a unix socket.

    By its own descriptors: /proc/net/unix lists an accepted socket in the network namespace of the other end.
    """
    found = 0
    for descriptor in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        with contextlib.suppress(OSError):  # closed meanwhile, or not connected: the listening socket
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                with socket.fromfd(descriptor, socket.AF_UNIX, socket.SOCK_STREAM) as end:
                    end.getpeername()
                    found += end.getsockname() == str(path)
    return found
