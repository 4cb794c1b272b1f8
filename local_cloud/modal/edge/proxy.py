"""One request through the edge: streamed to a container, and its answer streamed back."""

from __future__ import annotations

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from local_cloud.modal.containers.servers import ServerWorker

__all__ = ["refusal", "relay"]

HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
"""Headers that concern one connection only (RFC 9110, section 7.6.1), besides those that Connection names."""

NOT_FORWARDED = frozenset(("expect", "modal-key", "modal-secret"))
"""The edge answers Expect itself, and a proxy token is meant for the edge alone."""


def refusal(status: int, text: str) -> web.Response:
    """An answer of the edge itself: one line of text."""
    return web.Response(status=status, text=text + "\n")


async def relay(request: web.BaseRequest, worker: ServerWorker) -> web.StreamResponse:
    """Passes `request` on and its answer back, both as they arrive. Cancelled when the client goes away, which cancels upstream.

    An answer that breaks off in the container breaks off here as well: the connection is cut, so that the client sees it.
    """
    assert worker.session is not None
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    headers = end_to_end(request.headers)
    try:
        upstream = await worker.session.request(
            request.method,
            URL(f"http://container{request.raw_path}", encoded=True),
            headers=headers,
            data=request.content if request.can_read_body else None,
            allow_redirects=False,
        )
    except aiohttp.ClientConnectorError:
        return refusal(503, f"container {worker.task_id} does not accept connections: try again")
    except (aiohttp.ClientError, ConnectionError) as error:
        return refusal(
            502, f"container {worker.task_id} ended the connection without an answer ({type(error).__name__})"
        )
    async with upstream:
        response = web.StreamResponse(
            status=upstream.status, reason=upstream.reason, headers=end_to_end(upstream.headers)
        )
        await response.prepare(request)
        try:
            async for chunk in upstream.content.iter_any():
                await response.write(chunk)
        except (aiohttp.ClientError, ConnectionError):
            if request.transport is not None:
                request.transport.abort()
            return response
        await response.write_eof()
    return response


def end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """The headers that are meant for the other side, in their order, repeated ones included."""
    named = {name.strip().lower() for value in headers.getall(hdrs.CONNECTION, ()) for name in value.split(",")}
    dropped = HOP_BY_HOP | NOT_FORWARDED | named
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in dropped)
