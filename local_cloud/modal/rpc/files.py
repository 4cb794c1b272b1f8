"""Bytes on their way in: blobs, mounted source files and images."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import AsyncIterator

from google.protobuf.timestamp_pb2 import Timestamp
from modal_proto import api_pb2

from local_cloud.modal.rpc.context import Rpc
from local_cloud.modal.rpc.dispatch import Caller, answers
from local_cloud.modal.rpc.workspace import IMAGE_BUILDER_VERSION
from local_cloud.modal.state.errors import NotFound
from local_cloud.modal.state.images import ImageRecord

__all__ = ["FileRpc"]

_SUCCESS = api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS)


class FileRpc(Rpc):
    """Blobs, mounts and images."""

    @answers("BlobCreate", once=True)
    async def blob_create(self, _request: api_pb2.BlobCreateRequest, _caller: Caller) -> api_pb2.BlobCreateResponse:
        """One PUT, of any size."""
        blob_id = self.state.files.new_blob()
        return api_pb2.BlobCreateResponse(
            blob_ids=[blob_id], upload_urls=api_pb2.UploadUrlList(items=[self.urls.blob(blob_id)])
        )

    @answers("BlobGet")
    async def blob_get(self, request: api_pb2.BlobGetRequest, _caller: Caller) -> api_pb2.BlobGetResponse:
        """Where to fetch it."""
        if not self.state.files.blob(request.blob_id).exists():
            raise NotFound(f"Blob '{request.blob_id}' not found")
        return api_pb2.BlobGetResponse(download_url=self.urls.blob(request.blob_id))

    @answers("MountBatchedCheckExistence")
    async def check_existence(
        self, request: api_pb2.MountBatchedCheckExistenceRequest, _caller: Caller
    ) -> api_pb2.MountBatchedCheckExistenceResponse:
        """Which contents are still to be uploaded."""
        missing = [sha for sha in request.sha256_hex_hashes if not self.state.files.content(sha).exists()]
        return api_pb2.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing, checked_at=_now())

    @answers("MountPutFile")
    async def put_file(self, request: api_pb2.MountPutFileRequest, _caller: Caller) -> api_pb2.MountPutFileResponse:
        """Without data it asks whether the content is there."""
        match request.WhichOneof("data_oneof"):
            case "data":
                await asyncio.to_thread(self.state.files.put_content, request.sha256_hex, request.data)
            case "data_blob_id":
                blob = self.state.files.blob(request.data_blob_id)
                if not blob.exists() and not self.state.files.content(request.sha256_hex).exists():
                    raise NotFound(f"Blob '{request.data_blob_id}' not found")
                if blob.exists():
                    await asyncio.to_thread(self.state.files.adopt_content, request.sha256_hex, blob)
        exists = self.state.files.content(request.sha256_hex).exists()
        return api_pb2.MountPutFileResponse(exists=exists, checked_at=_now())

    @answers("MountGetOrCreate", once=True)
    async def mount_get_or_create(
        self, request: api_pb2.MountGetOrCreateRequest, _caller: Caller
    ) -> api_pb2.MountGetOrCreateResponse:
        """Named ones are Modal's own (its client, standalone Pythons): empty here, as this machine has both."""
        mount_id, checksum = self.state.mounts.create(request.files)
        return api_pb2.MountGetOrCreateResponse(
            mount_id=mount_id,
            handle_metadata=api_pb2.MountHandleMetadata(content_checksum_sha256_hex=checksum),
        )

    @answers("ImageGetOrCreate", once=True)
    async def image_get_or_create(
        self, request: api_pb2.ImageGetOrCreateRequest, _caller: Caller
    ) -> api_pb2.ImageGetOrCreateResponse:
        """Built the first time that its log has been read."""
        image = self.state.images.get_or_create(
            request.image,
            request.builder_version,
            build_function=bool(request.build_function_id),
            force=request.force_build,
        )
        if not image.built:
            return api_pb2.ImageGetOrCreateResponse(image_id=image.image_id)
        return api_pb2.ImageGetOrCreateResponse(
            image_id=image.image_id, result=_SUCCESS, metadata=_image_metadata(image)
        )

    @answers("ImageJoinStreaming")
    async def image_join(
        self, request: api_pb2.ImageJoinStreamingRequest, _caller: Caller
    ) -> AsyncIterator[api_pb2.ImageJoinStreamingResponse]:
        """The build log, which says what is not done, then success."""
        image = self.state.images.get(request.image_id)
        if not image.built or request.include_logs_for_finished:
            for number, line in enumerate(image.build_log.splitlines(keepends=True)):
                log = api_pb2.TaskLogs(data=line, file_descriptor=api_pb2.FILE_DESCRIPTOR_STDOUT)
                yield api_pb2.ImageJoinStreamingResponse(task_logs=[log], entry_id=str(number + 1))
        self.state.images.mark_built(image.image_id)
        yield api_pb2.ImageJoinStreamingResponse(result=_SUCCESS, metadata=_image_metadata(image), eof=True)

    @answers("ImageFromId")
    async def image_from_id(self, request: api_pb2.ImageFromIdRequest, _caller: Caller) -> api_pb2.ImageFromIdResponse:
        """By id."""
        image = self.state.images.get(request.image_id)
        return api_pb2.ImageFromIdResponse(image_id=image.image_id, metadata=_image_metadata(image))

    @answers("ImagePublish")
    async def image_publish(
        self, request: api_pb2.ImagePublishRequest, _caller: Caller
    ) -> api_pb2.ImagePublishResponse:
        """Names it."""
        self.state.images.publish(request.image_id, request.tag)
        return api_pb2.ImagePublishResponse(image_id=request.image_id)

    @answers("ImageGetByTag")
    async def image_by_tag(
        self, request: api_pb2.ImageGetByTagRequest, _caller: Caller
    ) -> api_pb2.ImageGetByTagResponse:
        """By name."""
        return api_pb2.ImageGetByTagResponse(image_id=self.state.images.by_tag(request.tag).image_id)


def _image_metadata(image: ImageRecord) -> api_pb2.ImageMetadata:
    return api_pb2.ImageMetadata(
        python_version_info=platform.python_version(),
        workdir=image.workdir or "/root",
        image_builder_version=IMAGE_BUILDER_VERSION,
    )


def _now() -> Timestamp:
    now = Timestamp()
    now.GetCurrentTime()
    return now
