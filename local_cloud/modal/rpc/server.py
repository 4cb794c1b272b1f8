"""The gRPC listeners: one on loopback for clients, one unix socket for each container; and what has to be done in time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from grpclib.server import Server
from modal_proto import api_pb2

from local_cloud.modal.rpc.apps import AppRpc
from local_cloud.modal.rpc.calls import CallRpc
from local_cloud.modal.rpc.containers import ContainerRpc
from local_cloud.modal.rpc.context import Rpc, Urls
from local_cloud.modal.rpc.dicts import DictRpc
from local_cloud.modal.rpc.dispatch import Credentials, Dispatcher
from local_cloud.modal.rpc.files import FileRpc
from local_cloud.modal.rpc.functions import FunctionRpc
from local_cloud.modal.rpc.logs import LogRpc
from local_cloud.modal.rpc.secrets import SecretRpc
from local_cloud.modal.rpc.volumes import VolumeRpc
from local_cloud.modal.rpc.workspace import WorkspaceRpc
from local_cloud.modal.state.cloud import CloudState
from local_cloud.modal.state.ledger import StateLedger
from local_cloud.modal.state.ports import Fleet

__all__ = ["RpcServer"]

_log = logging.getLogger(__name__)

_CLIENT_LOST_S = 60.0
"""An ephemeral App whose client has not been heard of for so long is stopped; the client sends a sign every 15 s."""


class RpcServer:
    """Implements `ports.Wire`, and listens for clients."""

    def __init__(self, state: CloudState, ledger: StateLedger, urls: Urls, credentials: Credentials) -> None:
        self._state = state
        self._ledger = ledger
        self._apps = AppRpc(state, ledger, urls)
        self._containers = ContainerRpc(state, ledger, urls)
        others: tuple[type[Rpc], ...] = (
            *(WorkspaceRpc, SecretRpc, DictRpc, FileRpc, VolumeRpc),
            *(FunctionRpc, CallRpc, LogRpc),
        )
        self._answerers: list[Rpc] = [self._apps, self._containers, *(other(state, ledger, urls) for other in others)]
        self._dispatcher = Dispatcher(self._answerers, credentials)
        self._server: Server | None = None
        self._clock: asyncio.Task[None] | None = None

    async def start(self, fleet: Fleet, port: int) -> None:
        """Answers clients from now on. Raises OSError when the port is taken."""
        for answerer in self._answerers:
            answerer.fleet = fleet
        server = self._dispatcher.listener()
        await server.start("127.0.0.1", port)
        self._server = server
        self._clock = asyncio.create_task(self._every_second(fleet))

    async def stop(self) -> None:
        """Answers clients no more; what they wait for is cut off."""
        if self._clock is not None:
            self._clock.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._clock
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def serve_task(self, task_id: str, path: Path) -> Callable[[], Awaitable[None]]:
        """See `ports.Wire`."""
        server = self._dispatcher.listener(task_id)
        await server.start(path=str(path))
        path.chmod(0o600)

        async def close() -> None:
            server.close()
            await server.wait_closed()

        return close

    def container_arguments(self, task_id: str) -> bytes:
        """See `ports.Wire`."""
        return self._containers.container_arguments(task_id)

    def retire(self, task_id: str) -> None:
        """See `ports.Wire`."""
        self._containers.retire(task_id)

    async def _every_second(self, fleet: Fleet) -> None:
        while True:
            await asyncio.sleep(1)
            try:
                self._end_overdue_inputs(fleet)
                self._stop_abandoned_apps()
                for function_id in self._state.calls.functions_with_queue():
                    self._state.signals.notify(f"queue:{function_id}")  # a retry whose delay is over
                    fleet.inputs_queued(function_id)
            except Exception:
                _log.exception("the once-a-second work failed")

    def _end_overdue_inputs(self, fleet: Fleet) -> None:
        now = time.time()
        for task in self._ledger.open_tasks():
            for record in self._state.calls.claimed(task.task_id):
                definition = self._ledger.definition(record.function_id)
                limit_s = definition.function.timeout_secs if definition else 0
                if not limit_s or now < record.claimed_at + limit_s:
                    continue
                text = f"Task's current input in {task.task_id} hit its timeout of {limit_s}s"
                self._ledger.system_log(record.function_id, text, task.task_id)
                timeout = api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_TIMEOUT, exception=text)
                self._ledger.fail_input(record, timeout)
                self._state.tasks.request_stop(task.task_id)
                fleet.stop_task(task.task_id, graceful=False)

    def _stop_abandoned_apps(self) -> None:
        now = time.time()
        for app in self._state.apps.all():
            lost = now > app.heartbeat_at + _CLIENT_LOST_S
            working = bool(self._state.calls.unfinished(app_id=app.app_id))
            match app.state:
                case api_pb2.APP_STATE_EPHEMERAL | api_pb2.APP_STATE_INITIALIZING if lost:
                    self._apps.stop_app(app)
                case api_pb2.APP_STATE_DETACHED if lost:
                    self._state.apps.set_state(app.app_id, api_pb2.APP_STATE_DETACHED_DISCONNECTED)
                case api_pb2.APP_STATE_DETACHED_DISCONNECTED if not working:
                    self._apps.stop_app(app)
