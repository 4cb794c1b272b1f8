"""Dicts: by name, and their entries, which only clients can read."""

from __future__ import annotations

from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from local_cloud.modal.rpc.context import USER, Rpc
from local_cloud.modal.rpc.dispatch import Caller, answers
from local_cloud.modal.state.dicts import DictRecord
from local_cloud.modal.state.errors import NotFound

__all__ = ["DictRpc"]


class DictRpc(Rpc):
    """`modal.Dict` and `modal dict`."""

    @answers("DictGetOrCreate", once=True)
    async def get_or_create(
        self, request: api_pb2.DictGetOrCreateRequest, caller: Caller
    ) -> api_pb2.DictGetOrCreateResponse:
        """By name, or an ephemeral one."""
        found = self._dict(self.environment(request.environment_name, caller), request)
        return api_pb2.DictGetOrCreateResponse(dict_id=found.dict_id, metadata=_metadata(found))

    def _dict(self, environment: str, request: api_pb2.DictGetOrCreateRequest) -> DictRecord:
        creation, name = request.object_creation_type, request.deployment_name
        if creation == api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL:
            return self.state.dicts.create(environment, None)
        if creation == api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS:
            return self.state.dicts.create(environment, name)
        try:
            return self.state.dicts.find(environment, name)
        except NotFound:
            if creation != api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING:
                raise
            return self.state.dicts.create(environment, name)

    @answers("DictGetById")
    async def get_by_id(self, request: api_pb2.DictGetByIdRequest, _caller: Caller) -> api_pb2.DictGetByIdResponse:
        """By id."""
        found = self.state.dicts.get(request.dict_id)
        return api_pb2.DictGetByIdResponse(dict_id=found.dict_id, metadata=_metadata(found))

    @answers("DictList")
    async def list_dicts(self, request: api_pb2.DictListRequest, caller: Caller) -> api_pb2.DictListResponse:
        """Named ones, newest first."""
        environment = self.environment(request.environment_name, caller)
        page = request.pagination
        items = [
            api_pb2.DictListResponse.DictInfo(
                name=found.name, created_at=found.created_at, dict_id=found.dict_id, metadata=_metadata(found)
            )
            for found in self.state.dicts.named(environment, page.max_objects, page.created_before)
        ]
        return api_pb2.DictListResponse(dicts=items, environment_name=environment)

    @answers("DictDelete")
    async def delete(self, request: api_pb2.DictDeleteRequest, _caller: Caller) -> Empty:
        """With its entries."""
        self.state.dicts.delete(request.dict_id)
        return Empty()

    @answers("DictHeartbeat")
    async def heartbeat(self, _request: api_pb2.DictHeartbeatRequest, _caller: Caller) -> Empty:
        """Ephemeral Dicts live until the daemon starts again."""
        return Empty()

    @answers("DictGet")
    async def get(self, request: api_pb2.DictGetRequest, _caller: Caller) -> api_pb2.DictGetResponse:
        """One entry."""
        value = self.state.dicts.read(request.dict_id, request.key)
        return api_pb2.DictGetResponse(found=value is not None, value=value)

    @answers("DictContains")
    async def contains(self, request: api_pb2.DictContainsRequest, _caller: Caller) -> api_pb2.DictContainsResponse:
        """Whether there is an entry."""
        return api_pb2.DictContainsResponse(found=self.state.dicts.read(request.dict_id, request.key) is not None)

    @answers("DictPop", once=True)
    async def pop(self, request: api_pb2.DictPopRequest, _caller: Caller) -> api_pb2.DictPopResponse:
        """One entry, which is removed."""
        value = self.state.dicts.pop(request.dict_id, request.key)
        return api_pb2.DictPopResponse(found=value is not None, value=value)

    @answers("DictUpdate", once=True)
    async def update(self, request: api_pb2.DictUpdateRequest, _caller: Caller) -> api_pb2.DictUpdateResponse:
        """Writes entries."""
        entries = {entry.key: entry.value for entry in request.updates}
        created = self.state.dicts.update(request.dict_id, entries, keep=request.if_not_exists)
        return api_pb2.DictUpdateResponse(created=created)

    @answers("DictLen")
    async def length(self, request: api_pb2.DictLenRequest, _caller: Caller) -> api_pb2.DictLenResponse:
        """How many entries."""
        return api_pb2.DictLenResponse(len=len(self.state.dicts.entries(request.dict_id)))

    @answers("DictClear")
    async def clear(self, request: api_pb2.DictClearRequest, _caller: Caller) -> Empty:
        """Removes every entry."""
        self.state.dicts.get(request.dict_id)
        self.state.dicts.clear(request.dict_id)
        return Empty()

    @answers("DictContents")
    async def contents(self, request: api_pb2.DictContentsRequest, _caller: Caller) -> AsyncIterator[api_pb2.DictEntry]:
        """Every entry, or the half of it that is asked for."""
        for key, value in self.state.dicts.entries(request.dict_id):
            yield api_pb2.DictEntry(key=key if request.keys else b"", value=value if request.values else b"")


def _metadata(found: DictRecord) -> api_pb2.DictMetadata:
    return api_pb2.DictMetadata(
        name=found.name, creation_info=api_pb2.CreationInfo(created_at=found.created_at, created_by=USER)
    )
