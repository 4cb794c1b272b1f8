"""Environments, the workspace, the user's token and proxy tokens."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from local_cloud.modal.rpc.context import USER, Rpc
from local_cloud.modal.rpc.dispatch import Caller, answers
from local_cloud.modal.state.environments import DEFAULT_ENVIRONMENT, Environment
from local_cloud.modal.state.errors import NotFound

__all__ = ["IMAGE_BUILDER_VERSION", "WorkspaceRpc"]

IMAGE_BUILDER_VERSION = "2025.06"
"""Must be one that the client knows (modal 1.6.4, builder/base-images.json); from 2025.06 on its packages are not in images."""

WORKSPACE = "local"


class WorkspaceRpc(Rpc):
    """What there is once in a workspace."""

    @answers("ClientHello")
    async def hello(self, _request: Empty, _caller: Caller) -> api_pb2.ClientHelloResponse:
        """The token was right."""
        return api_pb2.ClientHelloResponse(image_builder_version=IMAGE_BUILDER_VERSION)

    @answers("WorkspaceNameLookup")
    async def workspace_name(self, _request: Empty, _caller: Caller) -> api_pb2.WorkspaceNameLookupResponse:
        """Whose workspace this is."""
        return api_pb2.WorkspaceNameLookupResponse(workspace_name=WORKSPACE, username=USER)

    @answers("WorkspaceSettings")
    async def settings(self, _request: Empty, _caller: Caller) -> api_pb2.WorkspaceSettingsResponse:
        """Defaults of the workspace."""
        return api_pb2.WorkspaceSettingsResponse(
            default_environment_name=DEFAULT_ENVIRONMENT, image_builder_version=IMAGE_BUILDER_VERSION
        )

    @answers("TokenInfoGet")
    async def token_info(self, _request: api_pb2.TokenInfoGetRequest, _caller: Caller) -> api_pb2.TokenInfoGetResponse:
        """`modal token info`."""
        created = Timestamp()
        created.FromSeconds(int(self.state.environments.list()[0].created_at))
        return api_pb2.TokenInfoGetResponse(
            token_id="ak-local",  # noqa: S106 - not the token
            workspace_id="ac-local",
            workspace_name=WORKSPACE,
            user_identity=api_pb2.UserIdentity(user_id="us-local", username=USER),
            created_at=created,
            token_name="local cloud",  # noqa: S106
        )

    @answers("EnvironmentGetOrCreate", once=True)
    async def environment_get_or_create(
        self, request: api_pb2.EnvironmentGetOrCreateRequest, caller: Caller
    ) -> api_pb2.EnvironmentGetOrCreateResponse:
        """By name; an empty name is the container's own or the default one."""
        try:
            environment = self.state.environments.get(self.environment(request.deployment_name, caller))
        except NotFound:
            if request.object_creation_type != api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING:
                raise
            environment = self.state.environments.create(request.deployment_name)
        return api_pb2.EnvironmentGetOrCreateResponse(
            environment_id=environment.environment_id,
            metadata=api_pb2.EnvironmentMetadata(
                name=environment.name,
                settings=api_pb2.EnvironmentSettings(
                    image_builder_version=IMAGE_BUILDER_VERSION, webhook_suffix=environment.web_suffix
                ),
            ),
        )

    @answers("EnvironmentList")
    async def environment_list(self, _request: Empty, _caller: Caller) -> api_pb2.EnvironmentListResponse:
        """All of them."""
        return api_pb2.EnvironmentListResponse(items=[_item(found) for found in self.state.environments.list()])

    @answers("EnvironmentCreate", once=True)
    async def environment_create(self, request: api_pb2.EnvironmentCreateRequest, _caller: Caller) -> Empty:
        """A new, empty one."""
        self.state.environments.create(request.name)
        return Empty()

    @answers("EnvironmentUpdate")
    async def environment_update(
        self, request: api_pb2.EnvironmentUpdateRequest, _caller: Caller
    ) -> api_pb2.EnvironmentListItem:
        """Its web suffix; a rename would change what deployed Apps are bound to and is refused."""
        environment = self.state.environments.get(request.current_name)
        if request.HasField("name") and request.name.value != environment.name:
            raise GRPCError(Status.UNIMPLEMENTED, "the local cloud does not rename environments")
        if request.HasField("web_suffix"):
            environment = self.state.environments.update(environment.name, request.web_suffix.value)
        return _item(environment)

    @answers("EnvironmentDelete")
    async def environment_delete(self, request: api_pb2.EnvironmentDeleteRequest, _caller: Caller) -> Empty:
        """With all Apps, Volumes and Secrets in it."""
        name = self.state.environments.get(request.name).name
        self.state.environments.delete(name)
        for app in self.state.apps.all(name):
            if app.live:
                self.state.apps.stop(app.app_id)
                self.fleet.app_stopped(app.app_id)
        for volume in self.state.volumes.named(name, 0, 0):
            self.state.volumes.delete(volume.volume_id)
        self.state.secrets.delete_environment(name)
        self.state.dicts.delete_environment(name)
        return Empty()

    @answers("ObjectSuggest")
    async def suggest(self, _request: api_pb2.ObjectSuggestRequest, _caller: Caller) -> api_pb2.ObjectSuggestResponse:
        """No suggestions after a wrong name."""
        return api_pb2.ObjectSuggestResponse()

    @answers("WebhookTokenCreate", once=True)
    async def proxy_token_create(
        self, request: api_pb2.WebhookTokenCreateRequest, _caller: Caller
    ) -> api_pb2.TokenCreateResponse:
        """A token that opens Servers at the edge."""
        token_id, secret = self.state.proxy_tokens.create(request.name)
        return api_pb2.TokenCreateResponse(token_id=token_id, token_secret=secret)

    @answers("WebhookTokenList")
    async def proxy_token_list(self, _request: Empty, _caller: Caller) -> api_pb2.WebhookTokenListResponse:
        """Without their secrets."""
        tokens = [
            api_pb2.WebhookToken(token_id=token.token_id, created_at=token.created_at, name=token.name)
            for token in self.state.proxy_tokens.list()
        ]
        return api_pb2.WebhookTokenListResponse(tokens=tokens)

    @answers("WebhookTokenDelete")
    async def proxy_token_delete(self, request: api_pb2.TokenDeleteRequest, _caller: Caller) -> Empty:
        """It opens nothing any more."""
        self.state.proxy_tokens.delete(request.token_id)
        return Empty()


def _item(environment: Environment) -> api_pb2.EnvironmentListItem:
    return api_pb2.EnvironmentListItem(
        name=environment.name,
        webhook_suffix=environment.web_suffix,
        created_at=environment.created_at,
        default=environment.name == DEFAULT_ENVIRONMENT,
        environment_id=environment.environment_id,
    )
