"""What travels outside gRPC, on a loopback port of its own: blobs, blocks and the bytes of Volume files.

Every address carries a signature made with a key that only the daemon knows, so none can be guessed, and none expires
with a restart.
"""

from __future__ import annotations

import hashlib
import hmac
import urllib.parse
from pathlib import Path

from aiohttp import web

from local_cloud.modal.state.cloud import CloudState
from local_cloud.modal.state.errors import StateError

__all__ = ["SignedUrls", "http_application"]

_CHUNK_BYTES = 1024 * 1024


class SignedUrls:
    """Makes the addresses (`context.Urls`) and checks them."""

    def __init__(self, base_url: str, key: bytes) -> None:
        self._base_url = base_url
        self._key = key

    def blob(self, blob_id: str) -> str:
        """See `context.Urls`."""
        return self._url("blob", blob_id)

    def block(self, sha256: str) -> str:
        """See `context.Urls`."""
        return self._url("block", sha256)

    def volume_range(self, volume_id: str, path: str, start: int, length: int) -> str:
        """See `context.Urls`."""
        return self._url("range", f"{volume_id}:{start}:{length}:{path}")

    def _url(self, kind: str, what: str) -> str:
        query = urllib.parse.urlencode({"what": what, "signature": self._signature(kind, what)})
        return f"{self._base_url}/{kind}?{query}"

    def checked(self, kind: str, request: web.Request) -> str:
        """What a request is about. Raises HTTPForbidden when this daemon did not make its address."""
        what = request.query.get("what", "")
        if not hmac.compare_digest(self._signature(kind, what), request.query.get("signature", "")):
            raise web.HTTPForbidden(text="this address was not made by this local cloud")
        return what

    def _signature(self, kind: str, what: str) -> str:
        return hmac.new(self._key, f"{kind}:{what}".encode(), hashlib.sha256).hexdigest()


def http_application(state: CloudState, urls: SignedUrls) -> web.Application:
    """Serves the addresses that `urls` makes."""

    async def put_blob(request: web.Request) -> web.Response:
        blob_id = urls.checked("blob", request)
        path, md5 = await _receive(request, state)
        path.replace(state.files.blob(blob_id))
        return web.Response(headers={"ETag": f'"{md5}"'})

    async def get_blob(request: web.Request) -> web.StreamResponse:
        path = state.files.blob(urls.checked("blob", request))
        if not path.exists():
            raise web.HTTPNotFound(text="no such blob")
        return web.FileResponse(path)

    async def put_block(request: web.Request) -> web.Response:
        sha256 = urls.checked("block", request)
        path, md5 = await _receive(request, state)
        try:
            state.files.adopt_block(sha256, path)
        except StateError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        return web.Response(headers={"ETag": f'"{md5}"'}, body=sha256.encode())

    async def get_range(request: web.Request) -> web.StreamResponse:
        volume_id, start, length, name = urls.checked("range", request).split(":", 3)
        try:
            path = state.volumes.existing(volume_id, name)
        except StateError as error:
            raise web.HTTPNotFound(text=str(error)) from None
        return await _send_range(request, path, int(start), int(length))

    application = web.Application()
    application.router.add_put("/blob", put_blob)
    application.router.add_get("/blob", get_blob)
    application.router.add_put("/block", put_block)
    application.router.add_get("/range", get_range)
    return application


async def _receive(request: web.Request, state: CloudState) -> tuple[Path, str]:
    """The body in a file, and its MD5, which the client checks against its own."""
    path = state.files.incoming()
    md5 = hashlib.md5(usedforsecurity=False)
    try:
        with path.open("wb") as file:
            async for chunk in request.content.iter_chunked(_CHUNK_BYTES):
                md5.update(chunk)
                file.write(chunk)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path, md5.hexdigest()


async def _send_range(request: web.Request, path: Path, start: int, length: int) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(length)})
    await response.prepare(request)
    with path.open("rb") as file:
        file.seek(start)
        while length > 0 and (chunk := file.read(min(_CHUNK_BYTES, length))):
            await response.write(chunk)
            length -= len(chunk)
    return response
