"""Stands between Modal's client and the local cloud, counts the calls, and can hold one of them.

Bytes are passed on as they are, so any RPC goes through. Uploads and downloads over HTTP have signed addresses of their own and
pass by: the calls before and after them are counted.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeVar

from grpclib import GRPCError, Status
from grpclib.client import Channel
from grpclib.const import Cardinality, Handler
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import StreamTerminatedError
from grpclib.protocol import H2Protocol
from grpclib.server import Server, Stream
from modal_proto import api_pb2

__all__ = ["Proxy"]

_SERVICE = api_pb2.DESCRIPTOR.services_by_name["ModalClient"]

T = TypeVar("T")


class _Bytes(CodecBase):
    """Messages as they came."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:
        return bytes(message)

    def decode(self, data: bytes, message_type: Any) -> bytes:
        return data


class Watcher(Protocol):
    """Sees every call, in threads of its own; the call waits while it looks."""

    def arrived(self, rpc: str) -> object:
        """The call was not passed on yet. What is returned names it."""

    def answered(self, call: object) -> None:
        """The local cloud has done it, and the caller does not know yet."""


class _Server(Server):
    """Knows its connections: closing grpclib's server leaves them open, and a program that dies does not."""

    def __init__(self, answerers: list[Any]) -> None:
        super().__init__(answerers, codec=_Bytes())
        self.protocols: list[H2Protocol] = []

    def _protocol_factory(self) -> H2Protocol:
        protocol = super()._protocol_factory()
        self.protocols.append(protocol)
        return protocol

    def drop(self) -> None:
        """Listen no more and end every connection."""
        self.close()
        for protocol in self.protocols:
            if (transport := getattr(protocol.connection, "_transport", None)) is not None:
                transport.abort()


class Proxy:
    """Listens on `port` of loopback while it is open, and passes on to port `behind`.

    Whoever watches may call `cut` while a call waits for it.
    """

    def __init__(self, port: int, behind: int, watcher: Watcher) -> None:
        self._port = port
        self._behind = behind
        self._watcher = watcher
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server: _Server | None = None
        self._channel: Channel | None = None

    def open(self) -> None:
        """Listen."""
        self._run(self._open())

    def cut(self) -> None:
        """Listen no more and drop what is under way: nobody answers here, as when the local cloud is gone."""
        self._run(self._cut())

    def close(self) -> None:
        """End."""
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _open(self) -> None:
        if self._server is not None:
            return
        self._channel = Channel("127.0.0.1", self._behind, codec=_Bytes())
        self._server = _Server([self])
        await self._server.start("127.0.0.1", self._port)

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.drop()
            self._server = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def __mapping__(self) -> Mapping[str, Handler]:
        """What grpclib's server asks for. On the wire every call looks like one with streams both ways."""
        return {
            f"/{_SERVICE.full_name}/{name}": Handler(self._handler(name), Cardinality.STREAM_STREAM, bytes, bytes)
            for name in _SERVICE.methods_by_name
        }

    def _handler(self, name: str) -> Callable[[Stream[bytes, bytes]], Coroutine[Any, Any, None]]:
        async def handle(stream: Stream[bytes, bytes]) -> None:
            request = await stream.recv_message()
            call = await asyncio.to_thread(self._watcher.arrived, name)
            try:
                await self._pass_on(name, call, stream, request or b"")
            except (StreamTerminatedError, OSError) as error:
                raise GRPCError(Status.UNAVAILABLE, str(error)) from None

        return handle

    async def _pass_on(self, name: str, call: object, stream: Stream[bytes, bytes], request: bytes) -> None:
        if self._channel is None:
            raise GRPCError(Status.UNAVAILABLE, "cut off")
        metadata = [(k, v) for k, v in (stream.metadata or {}).items() if k.startswith("x-")]
        path = f"/{_SERVICE.full_name}/{name}"
        answered = False
        try:
            async with self._channel.request(
                path, Cardinality.STREAM_STREAM, bytes, bytes, metadata=metadata, deadline=stream.deadline
            ) as behind:
                await behind.send_message(request, end=True)
                async for message in behind:
                    if not answered:
                        answered = True
                        await asyncio.to_thread(self._watcher.answered, call)
                    await stream.send_message(message)
        except GRPCError:
            if not answered:
                await asyncio.to_thread(self._watcher.answered, call)
            raise
