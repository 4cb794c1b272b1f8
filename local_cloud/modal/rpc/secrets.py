"""Secrets: created, overwritten, merged, listed and deleted; their values never travel back."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from local_cloud.modal.rpc.context import USER, Rpc
from local_cloud.modal.rpc.dispatch import Caller, answers
from local_cloud.modal.state.secret_store import SecretRecord

__all__ = ["SecretRpc"]


class SecretRpc(Rpc):
    """`modal.Secret` and `modal secret`."""

    @answers("SecretGetOrCreate", once=True)
    async def get_or_create(
        self, request: api_pb2.SecretGetOrCreateRequest, caller: Caller
    ) -> api_pb2.SecretGetOrCreateResponse:
        """By name, or made from a dictionary for one App."""
        environment = self.environment(request.environment_name, caller)
        secret = self._secret(environment, request)
        return api_pb2.SecretGetOrCreateResponse(secret_id=secret.secret_id, metadata=_metadata(secret))

    def _secret(self, environment: str, request: api_pb2.SecretGetOrCreateRequest) -> SecretRecord:
        contents = dict(request.env_dict)
        match request.object_creation_type:
            case api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
                return self.state.secrets.find(environment, request.deployment_name, request.required_keys)
            case api_pb2.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP | api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL:
                return self.state.secrets.anonymous(environment, request.app_id, contents)
            case creation:
                return self.state.secrets.create(
                    environment,
                    request.deployment_name,
                    contents,
                    exists_ok=creation == api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING,
                    overwrite=creation == api_pb2.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS,
                )

    @answers("SecretGetInfo")
    async def info(self, request: api_pb2.SecretGetInfoRequest, _caller: Caller) -> api_pb2.SecretGetInfoResponse:
        """By id."""
        return api_pb2.SecretGetInfoResponse(metadata=_metadata(self.state.secrets.get(request.secret_id)))

    @answers("SecretUpdate")
    async def update(self, request: api_pb2.SecretUpdateRequest, _caller: Caller) -> Empty:
        """Merges."""
        changes = {change.key: change.value if change.HasField("value") else None for change in request.updates}
        self.state.secrets.update(request.secret_id, changes)
        return Empty()

    @answers("SecretList")
    async def list_secrets(self, request: api_pb2.SecretListRequest, caller: Caller) -> api_pb2.SecretListResponse:
        """Named ones, newest first."""
        environment = self.environment(request.environment_name, caller)
        page = request.pagination
        items = [
            api_pb2.SecretListItem(
                label=secret.name,
                created_at=secret.created_at,
                last_used_at=secret.last_used_at,
                environment_name=environment,
                secret_id=secret.secret_id,
                metadata=_metadata(secret),
            )
            for secret in self.state.secrets.named(environment, page.max_objects, page.created_before)
        ]
        return api_pb2.SecretListResponse(items=items, environment_name=environment)

    @answers("SecretDelete")
    async def delete(self, request: api_pb2.SecretDeleteRequest, _caller: Caller) -> Empty:
        """Apps that are bound to it stop starting."""
        self.state.secrets.delete(request.secret_id)
        return Empty()


def _metadata(secret: SecretRecord) -> api_pb2.SecretMetadata:
    return api_pb2.SecretMetadata(
        name=secret.name,
        creation_info=api_pb2.CreationInfo(created_at=secret.created_at, created_by=USER),
        keys=secret.keys,
        environment_name=secret.environment,
        last_used_at=secret.last_used_at,
    )
