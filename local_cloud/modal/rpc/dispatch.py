"""Which method answers which RPC of Modal's API: by name, so that every other RPC can say what it is called."""

from __future__ import annotations

import asyncio
import hmac
import inspect
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpclib import GRPCError, Status
from grpclib.const import Cardinality, Handler
from grpclib.events import RecvRequest, listen
from grpclib.server import Server, Stream
from modal_proto import api_pb2

from local_cloud.modal.state.errors import AlreadyExists, Conflict, Invalid, NotFound, StateError

__all__ = ["Caller", "Credentials", "Dispatcher", "answers"]

_log = logging.getLogger(__name__)

_SERVICE = api_pb2.DESCRIPTOR.services_by_name["ModalClient"]
_STATUS = {
    NotFound: Status.NOT_FOUND,
    AlreadyExists: Status.ALREADY_EXISTS,
    Invalid: Status.INVALID_ARGUMENT,
    Conflict: Status.FAILED_PRECONDITION,
}
_CARDINALITY = {tuple(cardinality.value): cardinality for cardinality in Cardinality}
_REMEMBERED_REQUESTS = 2000
_TASK_ID = "x-local-cloud-task-id"
"""In a request's metadata, written by the listener that it came in on: whose socket that is."""

Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(frozen=True)
class Credentials:
    """The token of the one user of a local cloud."""

    token_id: str
    token_secret: str


@dataclass(frozen=True)
class Caller:
    """Who calls: a client that showed the token, or a container, known by the socket that it came in on."""

    task_id: str
    client_version: str
    idempotency_key: str


def answers(name: str, *, once: bool = False) -> Callable[[Method], Method]:
    """Marks a method as the answer to an RPC. `once`: a repeated request (same x-idempotency-key) gets the first one's
    response.
    """
    if name not in _SERVICE.methods_by_name:
        raise ValueError(f"Modal's API has no RPC {name}")

    def mark(method: Method) -> Method:
        method.__dict__["rpc"] = (name, once)
        return method

    return mark


class Dispatcher:
    """All RPCs, for clients with the token and for every task's container."""

    def __init__(self, answerers: Iterable[object], credentials: Credentials) -> None:
        self._credentials = credentials
        self._methods: dict[str, tuple[Callable[..., Any], bool]] = {}
        self._remembered: OrderedDict[str, asyncio.Future[Message]] = OrderedDict()
        for answerer in answerers:
            for _, method in inspect.getmembers(answerer, inspect.ismethod):
                if mark := method.__func__.__dict__.get("rpc"):
                    self._methods[mark[0]] = (method, mark[1])
        # Made once: grpclib's servers are cycles, so that a container's own handlers would wait for Python's collector.
        self._handlers = {
            f"/{_SERVICE.full_name}/{name}": Handler(
                self._handler(name),
                _CARDINALITY[descriptor.client_streaming, descriptor.server_streaming],
                GetMessageClass(descriptor.input_type),
                GetMessageClass(descriptor.output_type),
            )
            for name, descriptor in _SERVICE.methods_by_name.items()
        }

    def __mapping__(self) -> Mapping[str, Handler]:
        """What grpclib's server asks for: a handler for every RPC of the service, known here or not."""
        return self._handlers

    def listener(self, task_id: str = "") -> Server:
        """A server, not started, for clients that show the token; or for the container of one task, which needs none."""
        server = Server([self])

        async def identify(event: RecvRequest) -> None:
            event.metadata[_TASK_ID] = task_id

        listen(server, RecvRequest, identify)
        return server

    def _handler(self, name: str) -> Callable[[Stream[Message, Message]], Awaitable[None]]:
        method, once = self._methods.get(name, (None, False))

        async def handle(stream: Stream[Message, Message]) -> None:
            caller = self._caller(stream)
            request = await stream.recv_message()
            if method is None:
                _log.warning("%s was called: the local cloud does not implement it", name)
                raise GRPCError(Status.UNIMPLEMENTED, f"{name} is not implemented by the local cloud")
            try:
                if inspect.isasyncgenfunction(method):
                    await _stream_out(stream, method(request, caller))
                elif once and caller.idempotency_key:
                    await stream.send_message(await self._first(name, caller, method, request))
                else:
                    await stream.send_message(await method(request, caller))
            except StateError as error:
                raise GRPCError(_STATUS[type(error)], str(error)) from None
            except (GRPCError, ConnectionError, asyncio.CancelledError):
                raise
            except Exception as error:
                _log.exception("%s failed", name)
                raise GRPCError(Status.INTERNAL, f"{name} failed in the local cloud: {error!r}: see its log") from error

        return handle

    def _caller(self, stream: Stream[Message, Message]) -> Caller:
        metadata: Mapping[str, str | bytes] = stream.metadata or {}
        task_id = str(metadata[_TASK_ID])
        if not task_id:
            shown = (str(metadata.get("x-modal-token-id", "")), str(metadata.get("x-modal-token-secret", "")))
            known = (self._credentials.token_id, self._credentials.token_secret)
            if not all(hmac.compare_digest(a.encode(), b.encode()) for a, b in zip(shown, known, strict=True)):
                raise GRPCError(
                    Status.UNAUTHENTICATED,
                    "Token is not this local cloud's: "
                    "expected the one of `python -m local_cloud env`: run `. ./activate` again",
                )
        return Caller(
            task_id=task_id,
            client_version=str(metadata.get("x-modal-client-version", "")),
            idempotency_key=str(metadata.get("x-idempotency-key", "")),
        )

    async def _first(
        self, name: str, caller: Caller, method: Callable[..., Awaitable[Message]], request: Message | None
    ) -> Message:
        """The response to the first request with this key: the client sends it again when it did not see the answer."""
        key = f"{name} {caller.task_id} {caller.idempotency_key}"
        future = self._remembered.get(key)
        if future is None:
            future = asyncio.ensure_future(method(request, caller))
            self._remembered[key] = future
            while len(self._remembered) > _REMEMBERED_REQUESTS:
                self._remembered.popitem(last=False)
        try:
            return await asyncio.shield(future)
        except Exception:
            self._remembered.pop(key, None)  # what failed may be tried again
            raise


async def _stream_out(stream: Stream[Message, Message], responses: AsyncIterator[Message]) -> None:
    async for response in responses:
        await stream.send_message(response)
