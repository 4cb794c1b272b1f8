"""Apps: made, published, rolled back, stopped, listed."""

from __future__ import annotations

import time

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from local_cloud.modal.rpc.context import USER, Rpc
from local_cloud.modal.rpc.dispatch import Caller, answers
from local_cloud.modal.state.apps import AppRecord, Deployment
from local_cloud.modal.state.cloud import CloudState
from local_cloud.modal.state.errors import Conflict, Invalid, NotFound
from local_cloud.modal.state.functions import single_function

__all__ = ["AppRpc", "app_layout"]

_EPHEMERAL = (api_pb2.APP_STATE_EPHEMERAL, api_pb2.APP_STATE_INITIALIZING)


class AppRpc(Rpc):
    """`modal.App`, `modal deploy`, `modal run` and `modal app`."""

    @answers("AppCreate", once=True)
    async def create(self, request: api_pb2.AppCreateRequest, caller: Caller) -> api_pb2.AppCreateResponse:
        """Before it is published it has no name."""
        environment = self.environment(request.environment_name, caller)
        app = self.state.apps.create(environment, request.description, request.app_state, request.tags)
        return api_pb2.AppCreateResponse(app_id=app.app_id, app_page_url=_page(app), app_logs_url=_page(app))

    @answers("AppGetOrCreate", once=True)
    async def get_or_create(
        self, request: api_pb2.AppGetOrCreateRequest, caller: Caller
    ) -> api_pb2.AppGetOrCreateResponse:
        """`App.lookup`: by name, or by id."""
        environment = self.environment(request.environment_name, caller)
        if request.app_name.startswith("ap-"):
            app: AppRecord | None = self.state.apps.get(request.app_name)
        else:
            app = self.state.apps.deployed(environment, request.app_name)
        if app is None:
            if request.object_creation_type != api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING:
                raise NotFound(f"App '{request.app_name}' not found in environment '{environment}'")
            app = self.state.apps.create(
                environment, request.app_name, api_pb2.APP_STATE_DEPLOYED, {}, name=request.app_name
            )
        return api_pb2.AppGetOrCreateResponse(app_id=app.app_id, handle_metadata=self._handle(app))

    @answers("AppGetByDeploymentName")
    async def get_by_name(
        self, request: api_pb2.AppGetByDeploymentNameRequest, caller: Caller
    ) -> api_pb2.AppGetByDeploymentNameResponse:
        """The App that has the name, else the one that had it last."""
        environment = self.environment(request.environment_name, caller)
        response = api_pb2.AppGetByDeploymentNameResponse(environment_name=environment)
        app = self.state.apps.deployed(environment, request.name)
        if app is not None:
            response.app_id = app.app_id
        else:
            app = self.state.apps.last_stopped(environment, request.name)
            response.previous_app_id = app.app_id if app else ""
        if app is not None:
            response.lifecycle.CopyFrom(_lifecycle(app))
        return response

    @answers("AppGetLifecycle")
    async def lifecycle(
        self, request: api_pb2.AppGetLifecycleRequest, _caller: Caller
    ) -> api_pb2.AppGetLifecycleResponse:
        """By id."""
        return api_pb2.AppGetLifecycleResponse(lifecycle=_lifecycle(self.state.apps.get(request.app_id)))

    @answers("AppGetLayout")
    async def layout(self, request: api_pb2.AppGetLayoutRequest, _caller: Caller) -> api_pb2.AppGetLayoutResponse:
        """What is published in it."""
        return api_pb2.AppGetLayoutResponse(app_layout=app_layout(self.state, self.state.apps.get(request.app_id)))

    @answers("AppHeartbeat")
    async def heartbeat(self, request: api_pb2.AppHeartbeatRequest, _caller: Caller) -> Empty:
        """Keeps an ephemeral App."""
        self.state.apps.heartbeat(request.app_id)
        return Empty()

    @answers("AppPublish", once=True)
    async def publish(self, request: api_pb2.AppPublishRequest, caller: Caller) -> api_pb2.AppPublishResponse:
        """A new version, unless nothing changed: then deployed_at is 0 and containers go on."""
        app = self.state.apps.get(request.app_id)
        functions = {
            tag: (function_id, self._latest_definition(function_id))
            for tag, function_id in request.function_ids.items()
        }
        current = self.state.apps.deployment(app.app_id, app.version)
        self.state.apps.set_tags(app.app_id, request.tags)
        if app.live and current is not None and self._unchanged(current, functions, request):
            return api_pb2.AppPublishResponse(url=_page(app))
        deployed_at = self._add_version(
            app,
            functions,
            dict(request.class_ids),
            name=request.name,
            state=request.app_state or app.state,
            client_version=caller.client_version,
            tag=request.deployment_tag,
            commit_info=request.commit_info.SerializeToString() if request.HasField("commit_info") else b"",
        )
        return api_pb2.AppPublishResponse(url=_page(app), deployed_at=deployed_at)

    def _latest_definition(self, function_id: str) -> str:
        definition_id = self.state.functions.get(function_id).latest_definition_id
        if not definition_id:
            raise Invalid(f"Function {function_id} was never created")
        return definition_id

    def _unchanged(
        self, current: Deployment, functions: dict[str, tuple[str, str]], request: api_pb2.AppPublishRequest
    ) -> bool:
        """A new deployment tag, or overridden scaling that a deploy resets, is a change."""
        overridden = any(self.state.functions.get(fid).override.ListFields() for fid, _ in functions.values())
        return (
            current.functions == functions
            and current.classes == dict(request.class_ids)
            and (not request.deployment_tag or request.deployment_tag == current.tag)
            and not overridden
        )

    def _add_version(
        self,
        app: AppRecord,
        functions: dict[str, tuple[str, str]],
        classes: dict[str, str],
        *,
        name: str,
        state: int,
        client_version: str = "",
        tag: str = "",
        commit_info: bytes = b"",
        rollback_version: int = 0,
        kind: int = api_pb2.DEPLOYMENT_TYPE_STANDARD,
    ) -> float:
        """Publishes and tells the containers; the Unix time of the deploy."""
        deployment = Deployment(
            app_id=app.app_id,
            version=app.version + 1,
            deployed_at=time.time(),
            client_version=client_version,
            tag=tag,
            rollback_version=rollback_version,
            kind=kind,
            commit_info=commit_info,
            functions=functions,
            classes=classes,
        )
        self.state.apps.publish(app.app_id, name, state, deployment)
        for function_id, _ in functions.values():
            self.state.functions.set_override(function_id, api_pb2.AutoscalerSettings())
        self.fleet.app_deployed(app.app_id)
        return deployment.deployed_at

    def _again(self, app: AppRecord, old: Deployment, kind: int, rollback_version: int = 0) -> float:
        if app.state != api_pb2.APP_STATE_DEPLOYED:
            raise Conflict(f"App '{app.description}' is not deployed")
        return self._add_version(
            app,
            dict(old.functions),
            dict(old.classes),
            name=app.name,
            state=app.state,
            client_version=old.client_version,
            tag=old.tag,
            commit_info=old.commit_info,
            rollback_version=rollback_version,
            kind=kind,
        )

    @answers("AppRollback", once=True)
    async def rollback(self, request: api_pb2.AppRollbackRequest, _caller: Caller) -> api_pb2.AppRollbackResponse:
        """An old version as the newest one; -1 is the one before."""
        app = self.state.apps.get(request.app_id)
        version = request.version if request.version > 0 else app.version - 1
        old = self.state.apps.deployment(app.app_id, version)
        if old is None:
            raise NotFound(f"App '{app.description}' has no version v{version}")
        deployed_at = self._again(app, old, api_pb2.DEPLOYMENT_TYPE_ROLLBACK, version)
        return api_pb2.AppRollbackResponse(url=_page(app), deployed_at=deployed_at)

    @answers("AppRollover", once=True)
    async def rollover(self, request: api_pb2.AppRolloverRequest, _caller: Caller) -> api_pb2.AppRolloverResponse:
        """The same version again, with fresh containers."""
        app = self.state.apps.get(request.app_id)
        old = self.state.apps.deployment(app.app_id, app.version)
        if old is None:
            raise Conflict(f"App '{app.description}' is not deployed")
        deployed_at = self._again(app, old, api_pb2.DEPLOYMENT_TYPE_ROLLOVER)
        return api_pb2.AppRolloverResponse(url=_page(app), deployed_at=deployed_at)

    @answers("AppDeploymentHistory")
    async def history(
        self, request: api_pb2.AppDeploymentHistoryRequest, _caller: Caller
    ) -> api_pb2.AppDeploymentHistoryResponse:
        """Newest first."""
        app = self.state.apps.get(request.app_id)
        versions = []
        for deployment in self.state.apps.deployments(app.app_id):
            version = api_pb2.AppDeploymentHistory(
                app_id=app.app_id,
                version=deployment.version,
                client_version=deployment.client_version,
                deployed_at=deployment.deployed_at,
                deployed_by=USER,
                tag=deployment.tag,
                rollback_version=deployment.rollback_version,
                rollback_allowed=True,
                deployment_type=api_pb2.DeploymentType.ValueType(deployment.kind),
            )
            if deployment.commit_info:
                version.commit_info.ParseFromString(deployment.commit_info)
            versions.append(version)
        return api_pb2.AppDeploymentHistoryResponse(
            app_deployment_histories=versions, production_app_version=app.version
        )

    @answers("AppClientDisconnect")
    async def client_disconnect(self, request: api_pb2.AppClientDisconnectRequest, _caller: Caller) -> Empty:
        """Ends an ephemeral App, or one whose first deploy failed; a detached one goes on until its work is done."""
        app = self.state.apps.get(request.app_id)
        if app.state == api_pb2.APP_STATE_DETACHED:
            self.state.apps.set_state(app.app_id, api_pb2.APP_STATE_DETACHED_DISCONNECTED)
        elif app.state in _EPHEMERAL:
            self.stop_app(app)
        return Empty()

    @answers("AppStop")
    async def stop(self, request: api_pb2.AppStopRequest, _caller: Caller) -> Empty:
        """For ever: the next deploy of the name makes another App."""
        self.stop_app(self.state.apps.get(request.app_id))
        return Empty()

    def stop_app(self, app: AppRecord) -> None:
        """Ends the App, its containers and what waits for them."""
        if app.state == api_pb2.APP_STATE_STOPPED:
            return
        self.state.apps.stop(app.app_id)
        self.fleet.app_stopped(app.app_id)
        terminated = api_pb2.GenericResult(
            status=api_pb2.GenericResult.GENERIC_STATUS_TERMINATED, exception="The App was stopped"
        )
        for record in self.state.calls.unfinished(app_id=app.app_id):
            self.state.calls.finish_with(record, terminated)
        queues = [f"queue:{task.function_id}" for task in self.state.tasks.list_open(app_id=app.app_id)]
        self.state.signals.notify(f"logs:{app.app_id}", *queues)

    @answers("AppSetTags")
    async def set_tags(self, request: api_pb2.AppSetTagsRequest, _caller: Caller) -> Empty:
        """Replaces all of them."""
        self.state.apps.set_tags(request.app_id, request.tags)
        return Empty()

    @answers("AppGetTags")
    async def get_tags(self, request: api_pb2.AppGetTagsRequest, _caller: Caller) -> api_pb2.AppGetTagsResponse:
        """All of them."""
        return api_pb2.AppGetTagsResponse(tags=self.state.apps.get(request.app_id).tags)

    @answers("AppList")
    async def list_apps(self, request: api_pb2.AppListRequest, caller: Caller) -> api_pb2.AppListResponse:
        """Every App that is not stopped, and those that were stopped last."""
        environment = self.environment(request.environment_name, caller)
        apps = self.state.apps.all(environment)
        stopped = sorted((app for app in apps if not app.live), key=lambda app: app.stopped_at)[-20:]
        items = [
            api_pb2.AppListResponse.AppListItem(
                app_id=app.app_id,
                description=app.description,
                state=_state(app),
                created_at=app.created_at,
                stopped_at=app.stopped_at,
                n_running_tasks=len(self.state.tasks.list_open(app_id=app.app_id)),
                name=app.name,
                metadata=self._handle(app),
            )
            for app in [app for app in apps if app.live] + stopped
        ]
        return api_pb2.AppListResponse(apps=items)

    @answers("AppGetInfo")
    async def info(self, request: api_pb2.AppGetInfoRequest, _caller: Caller) -> api_pb2.AppGetInfoResponse:
        """Its Functions and Servers."""
        app = self.state.apps.get(request.app_id)
        response = api_pb2.AppGetInfoResponse(info=self._handle(app))
        deployment = self.state.apps.deployment(app.app_id, app.version)
        for function_id, definition_id in deployment.functions.values() if deployment else ():
            function = single_function(self.state.functions.definition(definition_id))
            summary = api_pb2.AppGetInfoResponse.FunctionInfoSummary(schedule=function.schedule)
            if function.resources.gpu_config.count:
                summary.gpu_config.append(function.resources.gpu_config)
            if function.is_server:
                summary.requires_proxy_auth = not function.http_config.unauthenticated
            response.function_info_summaries[function_id].CopyFrom(summary)
        return response

    def _handle(self, app: AppRecord) -> api_pb2.AppHandleMetadata:
        handle = api_pb2.AppHandleMetadata(
            description=app.description,
            app_id=app.app_id,
            environment_name=app.environment,
            lifecycle=_lifecycle(app),
        )
        deployment = self.state.apps.deployment(app.app_id, app.version)
        for tag, (function_id, definition_id) in deployment.functions.items() if deployment else ():
            server = single_function(self.state.functions.definition(definition_id)).is_server
            (handle.servers if server else handle.functions)[tag] = function_id
        return handle


def app_layout(state: CloudState, app: AppRecord) -> api_pb2.AppLayout:
    """Functions and classes with what a client or container must know to call them."""
    layout = api_pb2.AppLayout()
    deployment = state.apps.deployment(app.app_id, app.version)
    if deployment is None:
        return layout
    for tag, (function_id, _) in deployment.functions.items():
        layout.function_ids[tag] = function_id
        handle = state.functions.get(function_id).handle
        layout.objects.append(api_pb2.Object(object_id=function_id, function_handle_metadata=handle))
    for tag, class_id in deployment.classes.items():
        layout.class_ids[tag] = class_id
        class_handle = state.functions.class_handle(class_id)
        layout.objects.append(api_pb2.Object(object_id=class_id, class_handle_metadata=class_handle))
    return layout


def _state(app: AppRecord) -> api_pb2.AppState.ValueType:
    return api_pb2.AppState.ValueType(app.state)


def _page(app: AppRecord) -> str:
    """The web page of an App, which a local cloud does not have: the address says which App it would be."""
    return f"https://modal.invalid/local-cloud/{app.environment}/{app.app_id}"


def _lifecycle(app: AppRecord) -> api_pb2.AppLifecycle:
    return api_pb2.AppLifecycle(
        app_state=_state(app),
        created_at=app.created_at,
        created_by=USER,
        deployed_at=app.deployed_at,
        deployed_by=USER if app.deployed_at else "",
        version=app.version,
        stopped_at=app.stopped_at,
        stopped_by=USER if app.stopped_at else "",
    )
