"""Volumes: by name, their files, and what containers do with them."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from local_cloud.modal.rpc.context import USER, Rpc, Urls
from local_cloud.modal.rpc.dispatch import Caller, answers
from local_cloud.modal.state.cloud import CloudState
from local_cloud.modal.state.errors import AlreadyExists, Invalid, NotFound
from local_cloud.modal.state.ledger import StateLedger
from local_cloud.modal.state.volumes import VolumeRecord

__all__ = ["BLOCK_BYTES", "VolumeRpc"]

BLOCK_BYTES = 8 * 1024 * 1024
"""What one URL of VolumeGetFile2 answers with (modal 1.6.4, _utils/blob_utils.py BLOCK_SIZE)."""

_LARGE_BYTES = 4 * 1024 * 1024
"""From this size on a content is not kept beside the Volume that it was uploaded for."""


class VolumeRpc(Rpc):
    """`modal.Volume` and `modal volume`, versions 1 and 2."""

    def __init__(self, state: CloudState, ledger: StateLedger, urls: Urls) -> None:
        super().__init__(state, ledger, urls)
        self._creating = asyncio.Lock()

    @answers("VolumeGetOrCreate", once=True)
    async def get_or_create(
        self, request: api_pb2.VolumeGetOrCreateRequest, caller: Caller
    ) -> api_pb2.VolumeGetOrCreateResponse:
        """By name; a new one with a seed starts full."""
        environment = self.environment(request.environment_name, caller)
        volume = await self._volume(environment, request)
        return api_pb2.VolumeGetOrCreateResponse(
            volume_id=volume.volume_id, version=_version(volume), metadata=_metadata(volume)
        )

    async def _volume(self, environment: str, request: api_pb2.VolumeGetOrCreateRequest) -> VolumeRecord:
        version = request.version or api_pb2.VOLUME_FS_VERSION_V1
        creation, name = request.object_creation_type, request.deployment_name
        if creation == api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL:
            return self.state.volumes.create(self.state.volumes.prepare()[0], environment, None, version)
        async with self._creating:  # whoever comes second waits until the first one's seed is in
            try:
                found = self.state.volumes.find(environment, name)
            except NotFound:
                if creation == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
                    raise
            else:
                if creation == api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS:
                    raise AlreadyExists(f"Volume '{name}' already exists in environment '{environment}'")
                return found
            volume_id, directory = self.state.volumes.prepare()
            if self.state.seeds.known(name):
                await asyncio.to_thread(self.state.seeds.fill, name, directory)
            return self.state.volumes.create(volume_id, environment, name, version)

    @answers("VolumeGetById")
    async def get_by_id(self, request: api_pb2.VolumeGetByIdRequest, _caller: Caller) -> api_pb2.VolumeGetByIdResponse:
        """By id."""
        volume = self.state.volumes.get(request.volume_id)
        return api_pb2.VolumeGetByIdResponse(volume_id=volume.volume_id, metadata=_metadata(volume))

    @answers("VolumeList")
    async def list_volumes(self, request: api_pb2.VolumeListRequest, caller: Caller) -> api_pb2.VolumeListResponse:
        """Named ones, newest first."""
        environment = self.environment(request.environment_name, caller)
        page = request.pagination
        items = [
            api_pb2.VolumeListItem(
                label=volume.name,
                volume_id=volume.volume_id,
                created_at=volume.created_at,
                metadata=_metadata(volume),
            )
            for volume in self.state.volumes.named(environment, page.max_objects, page.created_before)
        ]
        return api_pb2.VolumeListResponse(items=items, environment_name=environment)

    @answers("VolumeRename")
    async def rename(self, request: api_pb2.VolumeRenameRequest, _caller: Caller) -> Empty:
        """Apps are bound to the id and go on."""
        self.state.volumes.rename(request.volume_id, request.name)
        return Empty()

    @answers("VolumeDelete")
    async def delete(self, request: api_pb2.VolumeDeleteRequest, _caller: Caller) -> Empty:
        """With its files."""
        self.state.volumes.delete(request.volume_id)
        return Empty()

    @answers("VolumeHeartbeat")
    async def heartbeat(self, _request: api_pb2.VolumeHeartbeatRequest, _caller: Caller) -> Empty:
        """Ephemeral Volumes live until the daemon starts again."""
        return Empty()

    @answers("VolumeListFiles")
    async def list_files(
        self, request: api_pb2.VolumeListFilesRequest, _caller: Caller
    ) -> AsyncIterator[api_pb2.VolumeListFilesResponse]:
        """Of a version 1 Volume."""
        yield api_pb2.VolumeListFilesResponse(entries=self._entries(request))

    @answers("VolumeListFiles2")
    async def list_files2(
        self, request: api_pb2.VolumeListFiles2Request, _caller: Caller
    ) -> AsyncIterator[api_pb2.VolumeListFiles2Response]:
        """Of a version 2 Volume."""
        yield api_pb2.VolumeListFiles2Response(entries=self._entries(request))

    def _entries(
        self, request: api_pb2.VolumeListFilesRequest | api_pb2.VolumeListFiles2Request
    ) -> list[api_pb2.FileEntry]:
        found = self.state.volumes.list_files(request.volume_id, request.path, recursive=request.recursive)
        entries = [
            api_pb2.FileEntry(
                path=file.path,
                type=api_pb2.FileEntry.DIRECTORY if file.is_directory else api_pb2.FileEntry.FILE,
                mtime=file.modified_at,
                size=file.size,
            )
            for file in found
        ]
        return entries[: request.max_entries] if request.HasField("max_entries") else entries

    @answers("VolumeGetFile2")
    async def get_file(self, request: api_pb2.VolumeGetFile2Request, _caller: Caller) -> api_pb2.VolumeGetFile2Response:
        """One URL for each block."""
        path = self.state.volumes.existing(request.volume_id, request.path)
        if not path.is_file():
            raise Invalid(f"{request.path} is not a file")
        size = path.stat().st_size
        start = min(request.start, size)
        length = min(request.len or size, size - start)
        urls = [
            self.urls.volume_range(
                request.volume_id, request.path, position, min(BLOCK_BYTES, start + length - position)
            )
            for position in range(start, start + length, BLOCK_BYTES)
        ]
        return api_pb2.VolumeGetFile2Response(get_urls=urls, size=size, start=start, len=length)

    @answers("VolumePutFiles")
    async def put_files(self, request: api_pb2.VolumePutFilesRequest, _caller: Caller) -> Empty:
        """Places uploaded contents."""
        contents = [self.state.files.content(file.sha256_hex) for file in request.files]
        for file, content in zip(request.files, contents, strict=True):
            if not content.exists():
                raise NotFound(f"Content of {file.filename} has not been uploaded")
        targets = self._targets(
            request.volume_id, [file.filename for file in request.files], keep=request.disallow_overwrite_existing_files
        )
        for file, content, target in zip(request.files, contents, targets, strict=True):
            await asyncio.to_thread(_place, [content], target, file.mode)
        for content in set(contents):
            if content.stat().st_size >= _LARGE_BYTES and not self.state.mounts.needs(content.name):
                content.unlink()
        return Empty()

    @answers("VolumePutFiles2")
    async def put_files2(
        self, request: api_pb2.VolumePutFiles2Request, _caller: Caller
    ) -> api_pb2.VolumePutFiles2Response:
        """Says which blocks are missing, or places the files when none is."""
        missing = [
            api_pb2.VolumePutFiles2Response.MissingBlock(
                file_index=file_index, block_index=block_index, put_url=self.urls.block(block.contents_sha256.hex())
            )
            for file_index, file in enumerate(request.files)
            for block_index, block in enumerate(file.blocks)
            if not self.state.files.block(block.contents_sha256.hex()).exists()
        ]
        targets = self._targets(
            request.volume_id, [file.path for file in request.files], keep=request.disallow_overwrite_existing_files
        )
        if not missing:
            used: set[Path] = set()
            for file, target in zip(request.files, targets, strict=True):
                blocks = [self.state.files.block(block.contents_sha256.hex()) for block in file.blocks]
                await asyncio.to_thread(_place, blocks, target, file.mode, file.size)
                used.update(blocks)
            for block in used:
                block.unlink(missing_ok=True)
        return api_pb2.VolumePutFiles2Response(missing_blocks=missing)

    def _targets(self, volume_id: str, paths: list[str], *, keep: bool) -> list[Path]:
        targets = [self.state.volumes.path(volume_id, path) for path in paths]
        if keep and (existing := [path for path, target in zip(paths, targets, strict=True) if target.exists()]):
            raise AlreadyExists(f"{existing[0]}: already exists")
        return targets

    @answers("VolumeRemoveFile")
    async def remove_file(self, request: api_pb2.VolumeRemoveFileRequest, _caller: Caller) -> Empty:
        """From a version 1 Volume."""
        self.state.volumes.remove_file(request.volume_id, request.path, recursive=request.recursive)
        return Empty()

    @answers("VolumeRemoveFile2")
    async def remove_file2(self, request: api_pb2.VolumeRemoveFile2Request, _caller: Caller) -> Empty:
        """From a version 2 Volume."""
        self.state.volumes.remove_file(request.volume_id, request.path, recursive=request.recursive)
        return Empty()

    @answers("VolumeCopyFiles")
    async def copy_files(self, request: api_pb2.VolumeCopyFilesRequest, _caller: Caller) -> Empty:
        """Within a version 1 Volume."""
        await self._copy(request)
        return Empty()

    @answers("VolumeCopyFiles2")
    async def copy_files2(self, request: api_pb2.VolumeCopyFiles2Request, _caller: Caller) -> Empty:
        """Within a version 2 Volume."""
        await self._copy(request)
        return Empty()

    async def _copy(self, request: api_pb2.VolumeCopyFilesRequest | api_pb2.VolumeCopyFiles2Request) -> None:
        self.state.volumes.copy_files(
            request.volume_id, list(request.src_paths), request.dst_path, recursive=request.recursive
        )

    @answers("VolumeCommit")
    async def commit(self, request: api_pb2.VolumeCommitRequest, _caller: Caller) -> api_pb2.VolumeCommitResponse:
        """Nothing to publish, as writes are visible at once; what was finished goes back to the seed."""
        volume = self.state.volumes.get(request.volume_id)
        if self.state.seeds.known(volume.name):
            directory = self.state.volumes.directory(volume.volume_id)
            await asyncio.to_thread(self.state.seeds.give_back, volume.name, directory)
        return api_pb2.VolumeCommitResponse(skip_reload=True)

    @answers("VolumeReload")
    async def reload(self, request: api_pb2.VolumeReloadRequest, _caller: Caller) -> Empty:
        """Nothing to fetch."""
        self.state.volumes.get(request.volume_id)
        return Empty()


def _place(parts: list[Path], target: Path, mode: int, size: int | None = None) -> None:
    """Writes a file next to its name and renames it; `size` bytes, of which trailing zeros may not have been sent."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.incoming")
    with staging.open("wb") as file:
        for number, part in enumerate(parts):
            with part.open("rb") as source:
                shutil.copyfileobj(source, file, BLOCK_BYTES)
            if size is not None:
                file.seek(min((number + 1) * BLOCK_BYTES, size))
        if size is not None:
            file.truncate(size)
    staging.chmod((mode & 0o777) or 0o644)
    staging.replace(target)


def _version(volume: VolumeRecord) -> api_pb2.VolumeFsVersion.ValueType:
    return api_pb2.VolumeFsVersion.ValueType(volume.version)


def _metadata(volume: VolumeRecord) -> api_pb2.VolumeMetadata:
    return api_pb2.VolumeMetadata(
        version=_version(volume),
        name=volume.name,
        creation_info=api_pb2.CreationInfo(created_at=volume.created_at, created_by=USER),
    )
