"""What containers say: who they are is known by the socket that they say it on. And the list of them for clients."""

from __future__ import annotations

import asyncio
import time

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from local_cloud.modal.rpc.apps import app_layout
from local_cloud.modal.rpc.context import Rpc, Urls
from local_cloud.modal.rpc.dispatch import Caller, answers
from local_cloud.modal.state.calls import InputRecord
from local_cloud.modal.state.cloud import CloudState
from local_cloud.modal.state.errors import Conflict, NotFound
from local_cloud.modal.state.ledger import StateLedger

__all__ = ["ContainerRpc"]

_POLL_S = 20.0
"""How long a container's question for inputs waits before it is answered with none; the container asks again."""

_FAILURES = (api_pb2.GenericResult.GENERIC_STATUS_FAILURE, api_pb2.GenericResult.GENERIC_STATUS_INTERNAL_FAILURE)


class ContainerRpc(Rpc):
    """The container's side of calls and lifecycles, and `modal container`."""

    def __init__(self, state: CloudState, ledger: StateLedger, urls: Urls) -> None:
        super().__init__(state, ledger, urls)
        self._retiring: set[str] = set()

    def retire(self, task_id: str) -> None:
        """See `ports.Wire`."""
        self._retiring.add(task_id)
        self.state.signals.notify(f"queue:{self.ledger.task(task_id).function_id}")

    def container_arguments(self, task_id: str) -> bytes:
        """See `ports.Wire`."""
        task = self.ledger.task(task_id)
        definition = self.ledger.definition(task.function_id)
        if definition is None:
            raise NotFound(f"Function {task.function_id} is not deployed")
        function = api_pb2.Function()
        function.CopyFrom(definition.function)
        # The client asks for no CUDA checkpoint unless both of these are set, and there is no GPU here to take one of.
        function.resources.ClearField("gpu_config")
        function._experimental_enable_gpu_snapshot = False
        function.is_checkpointing_function = function.checkpointing_enabled
        layout = app_layout(self.state, self.state.apps.get(task.app_id))
        known = {found.object_id for found in layout.objects}
        for dependency in function.object_dependencies:
            if dependency.object_id not in known:
                layout.objects.append(self._dependency(dependency.object_id))
        arguments = api_pb2.ContainerArguments(
            task_id=task_id,
            function_id=task.function_id,
            app_id=task.app_id,
            function_def=function,
            environment_name=definition.environment,
            app_layout=layout,
        )
        if function.checkpointing_enabled:
            arguments.checkpoint_id = f"ch-{task_id.removeprefix('ta-')}"
        return arguments.SerializeToString()

    def _dependency(self, object_id: str) -> api_pb2.Object:
        found = api_pb2.Object(object_id=object_id)
        if object_id.startswith("vo-"):
            volume = self.state.volumes.get(object_id)
            found.volume_metadata.name = volume.name
            found.volume_metadata.version = api_pb2.VolumeFsVersion.ValueType(volume.version)
        return found

    # Lifecycle

    @answers("ContainerHello")
    async def hello(self, _request: Empty, caller: Caller) -> Empty:
        """A Function's container has started."""
        self.fleet.task_ready(_task_id(caller))
        return Empty()

    @answers("ContainerServerLifecycleReady")
    async def server_ready(self, _request: api_pb2.ContainerServerLifecycleReadyRequest, caller: Caller) -> Empty:
        """A Server's enter hooks are done; its port may not be open yet."""
        self.fleet.task_ready(_task_id(caller))
        return Empty()

    @answers("ContainerHeartbeat")
    async def heartbeat(
        self, _request: api_pb2.ContainerHeartbeatRequest, caller: Caller
    ) -> api_pb2.ContainerHeartbeatResponse:
        """Tells the container which inputs to leave off."""
        cancelled = self.state.calls.cancelled(_task_id(caller))
        if not cancelled:
            return api_pb2.ContainerHeartbeatResponse()
        event = api_pb2.CancelInputEvent(input_ids=cancelled)
        return api_pb2.ContainerHeartbeatResponse(cancel_input_event=event)

    @answers("TaskResult")
    async def task_result(self, request: api_pb2.TaskResultRequest, caller: Caller) -> Empty:
        """The user's code failed at import or in a hook; the process then ends with 0."""
        task_id = _task_id(caller)
        self.state.tasks.set_result(task_id, request.result.SerializeToString())
        self.fleet.task_failed(task_id, request.result.exception)
        return Empty()

    @answers("ContainerCheckpoint")
    async def checkpoint(self, request: api_pb2.ContainerCheckpointRequest, caller: Caller) -> Empty:
        """The container is ready for its snapshot."""
        await self.fleet.checkpoint(_task_id(caller), request.checkpoint_id)
        return Empty()

    # Inputs and outputs

    @answers("FunctionGetInputs")
    async def get_inputs(
        self, request: api_pb2.FunctionGetInputsRequest, caller: Caller
    ) -> api_pb2.FunctionGetInputsResponse:
        """The next input, or the kill switch for a container that is to end."""
        task_id = _task_id(caller)
        function_id = self.ledger.task(task_id).function_id
        self.state.tasks.asked_for_inputs(task_id)
        deadline = time.monotonic() + _POLL_S
        while True:
            if task_id in self._retiring or self.ledger.definition(function_id) is None:
                return api_pb2.FunctionGetInputsResponse(inputs=[api_pb2.FunctionGetInputsItem(kill_switch=True)])
            records = self.ledger.claim_inputs(function_id, task_id, max(1, request.batch_max_size))
            if 0 < len(records) < request.batch_max_size and request.batch_linger_ms:
                await asyncio.sleep(request.batch_linger_ms / 1000)
                records += self.ledger.claim_inputs(function_id, task_id, request.batch_max_size - len(records))
            if records:
                return api_pb2.FunctionGetInputsResponse(inputs=[self._item(record) for record in records])
            if not await self.state.signals.wait(f"queue:{function_id}", deadline - time.monotonic()):
                return api_pb2.FunctionGetInputsResponse()

    def _item(self, record: InputRecord) -> api_pb2.FunctionGetInputsItem:
        call = self.state.calls.get(record.call_id)
        return api_pb2.FunctionGetInputsItem(
            input_id=record.input_id,
            input=record.input,
            function_call_id=record.call_id,
            function_call_invocation_type=api_pb2.FunctionCallInvocationType.ValueType(call.invocation),
            retry_count=record.retries,
        )

    @answers("FunctionPutOutputs")
    async def put_outputs(self, request: api_pb2.FunctionPutOutputsRequest, caller: Caller) -> Empty:
        """Ends inputs, or queues them again where they failed and may be tried again."""
        task_id = _task_id(caller)
        for output in request.outputs:
            record = self.state.calls.input(output.input_id)
            if record.state != "claimed" or record.task_id != task_id:
                continue  # cancelled, timed out or given to another container meanwhile
            if output.result.status in _FAILURES and self.ledger.may_retry(record):
                self.ledger.retry(record)
            else:
                self.state.calls.finish(record, _output_item(output, task_id))
        self.fleet.input_finished(task_id)
        return Empty()

    @answers("FunctionCallPutDataOut")
    async def put_data_out(self, request: api_pb2.FunctionCallPutDataRequest, _caller: Caller) -> Empty:
        """What a generator yielded."""
        self.state.calls.put_data(request.function_call_id, request.data_chunks)
        return Empty()

    @answers("FunctionGetDynamicConcurrency")
    async def dynamic_concurrency(
        self, request: api_pb2.FunctionGetDynamicConcurrencyRequest, _caller: Caller
    ) -> api_pb2.FunctionGetDynamicConcurrencyResponse:
        """As many as it takes at most."""
        return api_pb2.FunctionGetDynamicConcurrencyResponse(concurrency=request.max_concurrency)

    # What clients know about containers

    @answers("TaskList")
    async def task_list(self, request: api_pb2.TaskListRequest, caller: Caller) -> api_pb2.TaskListResponse:
        """Those that have not ended."""
        environment = "" if request.app_id else self.environment(request.environment_name, caller)
        tasks = [
            api_pb2.TaskStats(
                task_id=task.task_id,
                app_id=task.app_id,
                app_description=self.state.apps.get(task.app_id).description,
                started_at=task.started_at,
                enqueued_at=task.enqueued_at,
            )
            for task in self.state.tasks.list_open(app_id=request.app_id, environment=environment)
        ]
        return api_pb2.TaskListResponse(tasks=tasks)

    @answers("TaskGetInfo")
    async def task_info(self, request: api_pb2.TaskGetInfoRequest, _caller: Caller) -> api_pb2.TaskGetInfoResponse:
        """One container, running or ended."""
        task = self.state.tasks.get(request.task_id)
        info = api_pb2.TaskInfo(
            id=task.task_id,
            enqueued_at=task.enqueued_at,
            started_at=task.started_at,
            finished_at=task.finished_at,
        )
        reported = self.state.tasks.row(task.task_id)["result"]
        if reported:
            info.result.ParseFromString(reported)
        return api_pb2.TaskGetInfoResponse(app_id=task.app_id, info=info)

    @answers("ContainerStop")
    async def stop(self, request: api_pb2.ContainerStopRequest, _caller: Caller) -> api_pb2.ContainerStopResponse:
        """`modal container stop`; what it works on is done by another one."""
        task = self.state.tasks.get(request.task_id)
        if task.finished_at:
            return api_pb2.ContainerStopResponse()
        definition = self.ledger.definition(task.function_id)
        if request.graceful and definition is not None and definition.is_server:
            raise Conflict("Graceful stop is only supported for containers running a Modal Function")
        self.state.tasks.request_stop(task.task_id)
        self.fleet.stop_task(task.task_id, graceful=request.graceful)
        return api_pb2.ContainerStopResponse()


def _task_id(caller: Caller) -> str:
    if not caller.task_id:
        raise GRPCError(Status.PERMISSION_DENIED, "only a container may call this")
    return caller.task_id


def _output_item(output: api_pb2.FunctionPutOutputsItem, task_id: str) -> api_pb2.FunctionGetOutputsItem:
    return api_pb2.FunctionGetOutputsItem(
        result=output.result,
        data_format=output.data_format,
        task_id=task_id,
        input_started_at=output.input_started_at,
        output_created_at=output.output_created_at,
    )
