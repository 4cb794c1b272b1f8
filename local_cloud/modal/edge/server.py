"""Listens on the loopback port of every deployed server and hands each request to one of its containers.

What Modal's edge does with a request (modal.com/docs/guide/servers):

    no such deployment            404   (the local cloud's own text)
    no or unknown proxy token     401   before anything is started; not with unauthenticated=True
    no container ready            503   at once, and a container is started: clients retry
    max_concurrency reached       429
"""

from __future__ import annotations

import asyncio
import logging
import socket

from aiohttp import web

from local_cloud.modal.containers.fleet import ContainerFleet
from local_cloud.modal.containers.servers import NoContainerError, TooManyRequestsError
from local_cloud.modal.edge.proxy import refusal, relay
from local_cloud.modal.state.ports import Definition, Ledger

__all__ = ["Edge", "PortInUseError"]

Address = tuple[str, str, str, str]
"""Environment, App name, tag and region: what a URL stands for, across redeploys and new App ids."""

SHUTDOWN_TIMEOUT = 1.0
"""Seconds for open connections when the local cloud stops; in-flight requests are the containers' business."""

logger = logging.getLogger(__name__)


class PortInUseError(Exception):
    """Another program listens on the port of a deployed server; the text is one line."""


class Edge:
    """All listening ports. `start` and everything after it belong on the event loop."""

    def __init__(self, ledger: Ledger, fleet: ContainerFleet) -> None:
        self._ledger = ledger
        self._fleet = fleet
        self._runners: dict[Address, web.ServerRunner] = {}
        self._starting: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listens for every deployed server, and from now on for every one that is deployed. Raises PortInUseError."""
        for definition in self._servers():
            await self._serve(definition, self._bind(definition))
        self._fleet.watch_deploys(self._deployed)

    async def stop(self) -> None:
        """Stops listening and cuts what is still open."""
        await asyncio.gather(*self._starting)
        await asyncio.gather(*(runner.cleanup() for runner in self._runners.values()))
        self._runners.clear()

    def _servers(self) -> list[Definition]:
        servers = [d for d in self._ledger.definitions() if d.is_server]
        return [d for d in servers if _address(d) not in self._runners]

    def _deployed(self) -> None:
        """Binds at once: the deploy is answered after this, and its URL must not refuse connections then."""
        for definition in self._servers():
            try:
                bound = self._bind(definition)
            except PortInUseError as error:
                self._ledger.system_log(definition.function_id, str(error))
                continue
            self._runners[_address(definition)] = self._runner(definition)
            task = asyncio.create_task(self._serve(definition, bound))
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    def _bind(self, definition: Definition) -> socket.socket:
        port = self._ledger.server_port(*_address(definition))
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(("127.0.0.1", port))
            bound.listen(1024)
        except OSError as error:
            bound.close()
            raise PortInUseError(
                f"cannot listen on 127.0.0.1:{port} for {definition.tag} of App {definition.app_name}: {error.strerror}: "
                "clients know this address: stop the program that uses the port"
            ) from error
        return bound

    def _runner(self, definition: Definition) -> web.ServerRunner:
        address = _address(definition)

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            return await self._handle(request, address)

        server = web.Server(handle, handler_cancellation=True, auto_decompress=False, access_log=None)
        return web.ServerRunner(server, shutdown_timeout=SHUTDOWN_TIMEOUT)

    async def _serve(self, definition: Definition, bound: socket.socket) -> None:
        runner = self._runners.setdefault(_address(definition), self._runner(definition))
        await runner.setup()
        await web.SockSite(runner, bound).start()

    async def _handle(self, request: web.BaseRequest, address: Address) -> web.StreamResponse:
        environment, app, tag, region = address
        definition = self._ledger.find_server(environment, app, tag)
        if definition is None or definition.region != region:
            return refusal(
                404,
                f"no App {app!r} with a server {tag} in region {region} is deployed in environment {environment!r}: deploy it",
            )
        if not definition.function.http_config.unauthenticated:
            key, secret = request.headers.get("Modal-Key", ""), request.headers.get("Modal-Secret", "")
            if not key or not secret:
                return refusal(401, "modal-http: missing credentials for proxy authorization")
            if not self._ledger.proxy_token_is_valid(key, secret):
                return refusal(401, "modal-http: invalid credentials for proxy authorization")
        try:
            worker = self._fleet.server_pool(definition).acquire()
        except NoContainerError:
            return refusal(503, "this Server has no active containers: one is being started, try again")
        except TooManyRequestsError:
            return refusal(429, "every container of this Server works on max_concurrency requests: try again later")
        try:
            return await relay(request, worker)
        finally:
            worker.request_finished()


def _address(definition: Definition) -> Address:
    return definition.environment, definition.app_name, definition.tag, definition.region
