"""Functions and Servers: described at a deploy, looked up, scaled."""

from __future__ import annotations

from google.protobuf.json_format import MessageToDict, ParseDict
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from local_cloud.modal.rpc.context import Rpc
from local_cloud.modal.rpc.dispatch import Caller, answers
from local_cloud.modal.state.errors import Invalid, NotFound
from local_cloud.modal.state.functions import FunctionRecord, single_function
from local_cloud.modal.state.ports import Definition, routing_region

__all__ = ["FunctionRpc"]

_SHARED_FIELDS = [
    "module_name",
    "function_name",
    "function_type",
    "warm_pool_size",
    "concurrency_limit",
    "task_idle_timeout_secs",
    "timeout_secs",
    "web_url",
    "webhook_config",
    "method_definitions",
    "method_definitions_set",
    "is_class",
    "class_parameter_info",
    "is_method",
    "schedule",
    "untrusted",
    "autoscaler_settings",
    "function_schema",
    "experimental_options",
    "startup_timeout_secs",
    "supported_input_formats",
    "supported_output_formats",
    "http_config",
    "implementation_name",
    "is_server",
    "routing_region",
    "is_sessioned",
]
"""What FunctionData repeats from its Function."""

_NOT_BOUND = ("max_concurrent_inputs", "batch_max_size", "buffer_containers")
"""Options of a variant that would be accepted and then never happen."""


class FunctionRpc(Rpc):
    """`@app.function`, `@app.server`, `modal.Function` and `modal.Server`."""

    @answers("FunctionPrecreate", once=True)
    async def precreate(
        self, request: api_pb2.FunctionPrecreateRequest, _caller: Caller
    ) -> api_pb2.FunctionPrecreateResponse:
        """An id, so that functions can refer to each other before they are described."""
        record = self.state.functions.get_or_create(request.app_id, request.function_name, request.existing_function_id)
        handle = api_pb2.FunctionHandleMetadata(
            function_name=request.function_name,
            function_type=request.function_type,
            app_id=request.app_id,
            function_schema=request.function_schema,
            supported_input_formats=request.supported_input_formats,
            supported_output_formats=request.supported_output_formats,
        )
        for name, method in request.method_definitions.items():
            handle.method_handle_metadata[name].CopyFrom(_method_handle(request.app_id, method))
        return api_pb2.FunctionPrecreateResponse(function_id=record.function_id, handle_metadata=handle)

    @answers("FunctionCreate", once=True)
    async def create(self, request: api_pb2.FunctionCreateRequest, _caller: Caller) -> api_pb2.FunctionCreateResponse:
        """Describes it; nothing changes for callers before the App is published."""
        data = _function_data(request)
        function = single_function(data)
        _refuse_unsupported(function)
        record = self.state.functions.get_or_create(
            request.app_id, function.function_name, request.existing_function_id
        )
        self._check_bound(function)
        if function.is_server:
            data.flash_service_urls[:] = [self._server_url(record, function)]
        definition_id = self.state.functions.define(record.function_id, data)
        handle = self._handle(record, function, definition_id)
        self.state.functions.set_handle(record.function_id, handle)
        return api_pb2.FunctionCreateResponse(
            function_id=record.function_id, function=function, function_data=data, handle_metadata=handle
        )

    def _check_bound(self, function: api_pb2.Function) -> None:
        """Raises NotFound for an id that does not exist, Invalid for a class with a Function's mistakes."""
        for secret_id in function.secret_ids:
            self.state.secrets.get(secret_id)
        for mount in function.volume_mounts:
            self.state.volumes.get(mount.volume_id)
        if function.image_id:
            self.state.images.get(function.image_id)
        if function.is_server and not function.http_config.port:
            raise Invalid(f"Server {function.function_name} has no port")

    def _server_url(self, record: FunctionRecord, function: api_pb2.Function) -> str:
        app = self.state.apps.get(record.app_id)
        region = routing_region(function)
        port = self.ledger.server_port(app.environment, app.name or app.description, record.tag, region)
        return f"http://127.0.0.1:{port}"

    def _handle(
        self, record: FunctionRecord, function: api_pb2.Function, definition_id: str
    ) -> api_pb2.FunctionHandleMetadata:
        handle = api_pb2.FunctionHandleMetadata(
            function_name=function.function_name,
            function_type=function.function_type,
            definition_id=definition_id,
            app_id=record.app_id,
            is_method=function.is_method,
            class_parameter_info=function.class_parameter_info,
            function_schema=function.function_schema,
            supported_input_formats=function.supported_input_formats,
            supported_output_formats=function.supported_output_formats,
        )
        if function.is_server:
            handle._experimental_flash_urls.append(self._server_url(record, function))
        for name, method in function.method_definitions.items():
            handle.method_handle_metadata[name].CopyFrom(_method_handle(record.app_id, method))
        return handle

    @answers("FunctionGet")
    async def get(self, request: api_pb2.FunctionGetRequest, caller: Caller) -> api_pb2.FunctionGetResponse:
        """By App and name."""
        environment = self.environment(request.environment_name, caller)
        app = self.state.apps.deployed(environment, request.app_name)
        if app is None:
            raise NotFound(f"App '{request.app_name}' not found in environment '{environment}'")
        deployment = self.state.apps.deployment(app.app_id, request.app_version or app.version)
        pair = deployment.functions.get(request.object_tag) if deployment else None
        if pair is None:
            raise NotFound(f"App '{request.app_name}' has no Function or Server named '{request.object_tag}'")
        function_id, definition_id = pair
        return api_pb2.FunctionGetResponse(
            function_id=function_id,
            handle_metadata=self.state.functions.get(function_id).handle,
            function=self.state.functions.definition(definition_id),
        )

    @answers("FunctionGetById")
    async def get_by_id(
        self, request: api_pb2.FunctionGetByIdRequest, _caller: Caller
    ) -> api_pb2.FunctionGetByIdResponse:
        """As it is published, or as it was described last where it is not."""
        record = self.state.functions.get(request.function_id)
        app = self.state.apps.get(record.app_id)
        deployment = self.state.apps.deployment(app.app_id, app.version)
        published = dict(deployment.functions.values()) if deployment else {}
        definition_id = published.get(record.function_id, record.latest_definition_id)
        return api_pb2.FunctionGetByIdResponse(
            function=self.state.functions.definition(definition_id), handle_metadata=record.handle
        )

    @answers("FunctionBindParams")
    async def bind(
        self, request: api_pb2.FunctionBindParamsRequest, _caller: Caller
    ) -> api_pb2.FunctionBindParamsResponse:
        """`Function.with_options`: a variant, with a queue and containers of its own."""
        base = self.state.functions.get(request.function_id)
        options = request.function_options
        not_here = [field.name for field, _ in options.ListFields() if field.name in _NOT_BOUND]
        if request.serialized_params or not_here:
            what = not_here[0] if not_here else "parameters"
            raise GRPCError(Status.UNIMPLEMENTED, f"the local cloud makes no variants of a Function with other {what}")
        for secret_id in options.secret_ids:
            self.state.secrets.get(secret_id)
        for mount in options.volume_mounts:
            self.state.volumes.get(mount.volume_id)
        function_id = self.state.functions.bind(base, options)
        return api_pb2.FunctionBindParamsResponse(bound_function_id=function_id, handle_metadata=base.handle)

    @answers("ClassCreate", once=True)
    async def class_create(self, request: api_pb2.ClassCreateRequest, _caller: Caller) -> api_pb2.ClassCreateResponse:
        """`@app.cls`: a name for the Function that holds the methods."""
        handle = api_pb2.ClassHandleMetadata(methods=request.methods)
        class_id = self.state.functions.set_class(request.app_id, request.existing_class_id, handle)
        return api_pb2.ClassCreateResponse(class_id=class_id, handle_metadata=handle)

    @answers("ClassGet")
    async def class_get(self, request: api_pb2.ClassGetRequest, caller: Caller) -> api_pb2.ClassGetResponse:
        """By App and name."""
        environment = self.environment(request.environment_name, caller)
        app = self.state.apps.deployed(environment, request.app_name)
        deployment = self.state.apps.deployment(app.app_id, app.version) if app else None
        class_id = deployment.classes.get(request.object_tag) if deployment else None
        if class_id is None:
            raise NotFound(f"App '{request.app_name}' has no class named '{request.object_tag}'")
        return api_pb2.ClassGetResponse(class_id=class_id, handle_metadata=self.state.functions.class_handle(class_id))

    @answers("FunctionGetSchedulingParams")
    async def scaling(
        self, request: api_pb2.FunctionGetSchedulingParamsRequest, _caller: Caller
    ) -> api_pb2.FunctionGetSchedulingParamsResponse:
        """As deployed, as overridden, and both together."""
        definition = self._published(request.function_id)
        record = self.state.functions.get(request.function_id)
        deployed = single_function(self._published_data(definition)).autoscaler_settings
        configuration = api_pb2.AutoscalerConfiguration(
            settings=definition.function.autoscaler_settings,
            static_settings=deployed,
            override_settings=record.override,
        )
        return api_pb2.FunctionGetSchedulingParamsResponse(autoscaler_configuration=configuration)

    @answers("FunctionUpdateSchedulingParams")
    async def update_scaling(
        self, request: api_pb2.FunctionUpdateSchedulingParamsRequest, _caller: Caller
    ) -> api_pb2.FunctionUpdateSchedulingParamsResponse:
        """Until the next deploy."""
        definition = self._published(request.function_id)
        override = self.state.functions.get(request.function_id).override
        override.MergeFrom(request.settings)
        self.state.functions.set_override(request.function_id, override)
        self.fleet.app_deployed(definition.app_id)
        current = self._published(request.function_id).function.autoscaler_settings
        return api_pb2.FunctionUpdateSchedulingParamsResponse(current_settings=current)

    @answers("FunctionGetCurrentStats")
    async def stats(self, request: api_pb2.FunctionGetCurrentStatsRequest, _caller: Caller) -> api_pb2.FunctionStats:
        """How many inputs wait, and how many containers there are."""
        tasks = self.ledger.open_tasks(request.function_id)
        return api_pb2.FunctionStats(
            backlog=self.ledger.queued_inputs(request.function_id),
            num_total_tasks=len(tasks),
            num_running_inputs=sum(self.ledger.claimed_inputs(task.task_id) for task in tasks),
        )

    def _published(self, function_id: str) -> Definition:
        definition = self.ledger.definition(function_id)
        if definition is None:
            raise NotFound(f"Function {function_id} is not deployed")
        return definition

    def _published_data(self, definition: Definition) -> api_pb2.FunctionData:
        deployment = self.state.apps.deployment(definition.app_id, definition.generation)
        if deployment is None:
            raise NotFound(f"Function {definition.function_id} is not deployed")
        return self.state.functions.definition(deployment.functions[definition.tag][1])


def _function_data(request: api_pb2.FunctionCreateRequest) -> api_pb2.FunctionData:
    """One form for both ways of describing a Function: with one GPU type, or with a ranked list of them."""
    if request.HasField("function_data") and request.function_data.ranked_functions:
        data = api_pb2.FunctionData()
        data.CopyFrom(request.function_data)
        return data
    data = api_pb2.FunctionData(
        ranked_functions=[api_pb2.FunctionData.RankedFunction(rank=0, function=request.function)]
    )
    # Both messages give these fields the same names and types but not the same numbers, so they are copied through dictionaries.
    described = MessageToDict(request.function, preserving_proto_field_name=True)
    shared = {name: value for name, value in described.items() if name in _SHARED_FIELDS}
    return ParseDict(shared, data)


def _refuse_unsupported(function: api_pb2.Function) -> None:
    """What would be accepted and then never happen is refused when it is deployed."""
    if function.schedule.WhichOneof("schedule_oneof"):
        raise GRPCError(
            Status.UNIMPLEMENTED,
            f"{function.function_name} has a schedule: the local cloud runs no schedules: call the Function instead",
        )
    webhooks = [function.webhook_config, *(method.webhook_config for method in function.method_definitions.values())]
    if any(webhook.type for webhook in webhooks):
        raise GRPCError(
            Status.UNIMPLEMENTED,
            f"{function.function_name} is a web endpoint: the local cloud publishes Servers only: use @app.server",
        )


def _method_handle(app_id: str, method: api_pb2.MethodDefinition) -> api_pb2.FunctionHandleMetadata:
    return api_pb2.FunctionHandleMetadata(
        function_name=method.function_name,
        function_type=method.function_type,
        app_id=app_id,
        is_method=True,
        function_schema=method.function_schema,
        supported_input_formats=method.supported_input_formats,
        supported_output_formats=method.supported_output_formats,
    )
