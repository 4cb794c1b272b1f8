"""The Hub's download API as an aiohttp application.

Error codes and headers are those by which huggingface_hub 2.4.0 tells its exceptions apart (`utils/_http.py`,
`hf_raise_for_status`); response fields are those that it reads (`hf_api.py`, `file_download.py`).
"""

from __future__ import annotations

import asyncio
import hmac
from pathlib import Path
from typing import Any

from aiohttp import web

from local_cloud.hub.repositories import HubFile, Repositories, Repository

__all__ = ["application"]

_REPOSITORIES = web.AppKey("repositories", Repositories)
_TOKEN = web.AppKey("token", str)
_CHUNK = 1 << 20


def application(models_dir: Path, token: str) -> web.Application:
    """The hub for the repositories in `models_dir`; `token` is the only one that opens gated repositories."""
    app = web.Application()
    app[_REPOSITORIES] = Repositories(models_dir)
    app[_TOKEN] = token
    app.router.add_get("/api/whoami-v2", _who_am_i)
    app.router.add_get("/api/models/{owner}/{name}", _info)
    app.router.add_get("/api/models/{owner}/{name}/revision/{revision}", _info)
    app.router.add_get("/api/models/{owner}/{name}/tree/{revision}", _tree)
    app.router.add_post("/api/models/{owner}/{name}/paths-info/{revision}", _paths_info)
    app.router.add_get("/{owner}/{name}/resolve/{revision}/{file}", _resolve)
    return app


def _error(status: int, code: str, message: str) -> web.HTTPException:
    """An error as the Hub sends it: the code in a header, the text in a header and in the body."""
    headers = {"X-Error-Code": code, "X-Error-Message": message}
    kind = {
        401: web.HTTPUnauthorized,
        403: web.HTTPForbidden,
        404: web.HTTPNotFound,
        416: web.HTTPRequestRangeNotSatisfiable,
    }
    return kind[status](headers=headers, text=message)


def _token_sent(request: web.Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token if scheme == "Bearer" else ""


def _has_token(request: web.Request) -> bool:
    return hmac.compare_digest(_token_sent(request).encode(), request.app[_TOKEN].encode())


async def _who_am_i(request: web.Request) -> web.Response:
    if not _has_token(request):
        raise _error(401, "", "Invalid username or password.")
    return web.json_response(
        {"type": "user", "name": "local", "auth": {"type": "access_token", "accessToken": {"role": "read"}}}
    )


def _repository(request: web.Request) -> Repository:
    owner, name = request.match_info["owner"], request.match_info["name"]
    found = request.app[_REPOSITORIES].find(owner, name)
    if found is None:  # the Hub does not tell an anonymous client whether a repository is private or not there
        raise _error(404 if _token_sent(request) else 401, "RepoNotFound", "Repository not found")
    return found


def _commit(request: web.Request, repository: Repository) -> str:
    revision = request.match_info.get("revision", "main")
    commit = repository.commit(revision)
    if commit is None:
        raise _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    return commit


async def _files(repository: Repository, commit: str) -> dict[str, HubFile]:
    """The files with their digests, which are computed when a file is first asked for: minutes for a large one."""
    return await asyncio.to_thread(repository.files, commit)


async def _info(request: web.Request) -> web.Response:
    repository = _repository(request)
    commit = _commit(request, repository)
    files = await _files(repository, commit)
    blobs = "blobs" in request.query
    return web.json_response(
        {
            "_id": commit[:24],
            "id": repository.name,
            "modelId": repository.name,
            "sha": commit,
            "private": False,
            "disabled": False,
            "gated": "manual" if repository.gated else False,
            "downloads": 0,
            "likes": 0,
            "tags": ["gguf"],
            "siblings": [_sibling(file, blobs) for file in files.values()],
        }
    )


def _sibling(file: HubFile, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": file.name}
    described: dict[str, Any] = {"rfilename": file.name, "size": file.size, "blobId": file.blob_id}
    if file.lfs:
        described["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": len(file.pointer)}
    return described


async def _tree(request: web.Request) -> web.Response:
    repository = _repository(request)
    files = await _files(repository, _commit(request, repository))
    return web.json_response([_tree_entry(file) for file in files.values()])


async def _paths_info(request: web.Request) -> web.Response:
    repository = _repository(request)
    files = await _files(repository, _commit(request, repository))
    asked = [str(name) for name in (await request.post()).getall("paths", [])]
    return web.json_response([_tree_entry(files[name]) for name in asked if name in files])


def _tree_entry(file: HubFile) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": file.name, "size": file.size, "oid": file.blob_id}
    if file.lfs:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(file.pointer)}
    return entry


async def _resolve(request: web.Request) -> web.StreamResponse:
    """A file, whole or a range of it. As on the Hub, info and tree of a gated repository are public, its files are not."""
    repository = _repository(request)
    if repository.gated and not _has_token(request):
        if _token_sent(request):
            raise _error(
                403,
                "GatedRepo",
                f"Access to model {repository.name} is restricted and you are not in the authorized list.",
            )
        raise _error(
            401,
            "GatedRepo",
            f"Access to model {repository.name} is restricted. You must be authenticated to access it.",
        )
    commit = _commit(request, repository)
    file = (await _files(repository, commit)).get(request.match_info["file"])
    if file is None:
        missing = _error(404, "EntryNotFound", "Entry not found")
        missing.headers["X-Repo-Commit"] = commit
        raise missing
    headers = {"ETag": f'"{file.etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
    if file.lfs:
        headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(file.size)}
    return await _send(request, file, headers)


async def _send(request: web.Request, file: HubFile, headers: dict[str, str]) -> web.StreamResponse:
    start, stop, partial = _range(request, file.size)
    if partial:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
    response = web.StreamResponse(status=206 if partial else 200, headers=headers)
    response.content_type = "application/octet-stream"
    response.content_length = stop - start
    await response.prepare(request)
    if request.method != "HEAD":
        with await asyncio.to_thread(file.path.open, "rb") as source:
            source.seek(start)
            while start < stop:
                chunk = await asyncio.to_thread(source.read, min(_CHUNK, stop - start))
                if not chunk:  # the file shrank under us: the client sees an answer that is too short
                    break
                await response.write(chunk)
                start += len(chunk)
    await response.write_eof()
    return response


def _range(request: web.Request, size: int) -> tuple[int, int, bool]:
    """First byte, end, and whether a range was asked for. 416 for a range that the file does not have."""
    try:
        asked = request.http_range
    except ValueError:
        asked = slice(size, None)
    if asked.start is None and asked.stop is None:
        return 0, size, False
    start, stop, _ = slice(asked.start, asked.stop).indices(size)
    if start >= stop:
        unsatisfiable = _error(416, "InvalidRange", f"The file has {size} bytes")
        unsatisfiable.headers["Content-Range"] = f"bytes */{size}"
        raise unsatisfiable
    return start, stop, True
