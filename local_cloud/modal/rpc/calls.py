"""Function calls as clients see them: inputs go in, outputs come back by long polls."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from local_cloud.modal.rpc.context import Rpc
from local_cloud.modal.rpc.dispatch import Caller, answers
from local_cloud.modal.state.calls import CallRecord
from local_cloud.modal.state.errors import NotFound

__all__ = ["CallRpc"]

_LONGEST_POLL_S = 55.0
"""The client gives an attempt 5 s more than the 55 s that it asks for (modal 1.6.4, function_utils.py)."""

_MAX_INPUTS_OUTSTANDING = 1000
_Status = api_pb2.GenericResult


class CallRpc(Rpc):
    """`.remote`, `.spawn`, `.map`, generators and `modal.FunctionCall`."""

    @answers("FunctionMap", once=True)
    async def function_map(self, request: api_pb2.FunctionMapRequest, _caller: Caller) -> api_pb2.FunctionMapResponse:
        """A call, with its first inputs. Retries are done here, not by the client."""
        definition = self.ledger.definition(request.function_id)
        if definition is None:
            raise NotFound(f"Function {request.function_id} is not deployed")
        call = self.state.calls.create(
            request.function_id,
            definition.app_id,
            request.function_call_type,
            request.function_call_invocation_type,
        )
        return api_pb2.FunctionMapResponse(
            function_call_id=call.call_id,
            pipelined_inputs=self._put(call, request.pipelined_inputs),
            retry_policy=definition.function.retry_policy,
            sync_client_retries_enabled=False,
            max_inputs_outstanding=_MAX_INPUTS_OUTSTANDING,
        )

    @answers("FunctionPutInputs", once=True)
    async def put_inputs(
        self, request: api_pb2.FunctionPutInputsRequest, _caller: Caller
    ) -> api_pb2.FunctionPutInputsResponse:
        """More inputs of a map."""
        call = self.state.calls.get(request.function_call_id)
        return api_pb2.FunctionPutInputsResponse(inputs=self._put(call, request.inputs))

    def _put(
        self, call: CallRecord, items: Iterable[api_pb2.FunctionPutInputsItem]
    ) -> list[api_pb2.FunctionPutInputsResponseItem]:
        placed = self.state.calls.put_inputs(call, [(item.idx, item.input) for item in items])
        if placed:
            self.fleet.inputs_queued(call.function_id)
        return [
            api_pb2.FunctionPutInputsResponseItem(idx=idx, input_id=input_id, input_jwt=input_id)
            for idx, input_id in placed
        ]

    @answers("FunctionFinishInputs")
    async def finish_inputs(self, _request: api_pb2.FunctionFinishInputsRequest, _caller: Caller) -> Empty:
        """No more inputs of a map: nothing here waits for that."""
        return Empty()

    @answers("FunctionGetOutputs")
    async def get_outputs(
        self, request: api_pb2.FunctionGetOutputsRequest, _caller: Caller
    ) -> api_pb2.FunctionGetOutputsResponse:
        """Outputs newer than the cursor, waiting for one if there is none."""
        call = self.state.calls.get(request.function_call_id)
        cursor = int(request.last_entry_id.partition("-")[0] or 0)
        first = request.start_idx if request.HasField("start_idx") else None
        last = request.end_idx if request.HasField("end_idx") else None
        deadline = time.monotonic() + min(request.timeout, _LONGEST_POLL_S)
        # looked at once more after the last wait: the client takes no output and nothing unfinished for a result that expired
        while not (found := self.state.calls.outputs(call.call_id, cursor, first, last, request.max_values)):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            await self.state.signals.wait(f"call:{call.call_id}", left)
        return api_pb2.FunctionGetOutputsResponse(
            idxs=[item.idx for _, item in found],
            outputs=[item for _, item in found],
            last_entry_id=f"{found[-1][0]}-0" if found else request.last_entry_id,
            num_unfinished_inputs=self.state.calls.count(call.call_id)[1],
        )

    @answers("FunctionCallFromId")
    async def from_id(
        self, request: api_pb2.FunctionCallFromIdRequest, _caller: Caller
    ) -> api_pb2.FunctionCallFromIdResponse:
        """`FunctionCall.from_id`."""
        call = self.state.calls.get(request.function_call_id)
        return api_pb2.FunctionCallFromIdResponse(
            function_call_id=call.call_id,
            num_inputs=self.state.calls.count(call.call_id)[0],
            metadata=api_pb2.FunctionCallHandleMetadata(app_id=call.app_id, function_id=call.function_id),
        )

    @answers("FunctionCallGetInfo")
    async def info(
        self, request: api_pb2.FunctionCallGetInfoRequest, _caller: Caller
    ) -> api_pb2.FunctionCallGetInfoResponse:
        """How many of its inputs ended how."""
        call = self.state.calls.get(request.function_call_id)
        statuses = self.state.calls.output_statuses(call.call_id)
        total, unfinished = self.state.calls.count(call.call_id)
        ended = {status: statuses.count(status) for status in set(statuses)}
        succeeded = ended.pop(_Status.GENERIC_STATUS_SUCCESS, 0) + ended.pop(_Status.GENERIC_STATUS_UNSPECIFIED, 0)
        timed_out = ended.pop(_Status.GENERIC_STATUS_TIMEOUT, 0)
        cancelled = ended.pop(_Status.GENERIC_STATUS_TERMINATED, 0)
        info = api_pb2.FunctionCallInfo(
            function_call_id=call.call_id,
            created_at=call.created_at,
            pending_inputs=api_pb2.InputCategoryInfo(total=unfinished),
            succeeded_inputs=api_pb2.InputCategoryInfo(total=succeeded),
            timeout_inputs=api_pb2.InputCategoryInfo(total=timed_out),
            cancelled_inputs=api_pb2.InputCategoryInfo(total=cancelled),
            failed_inputs=api_pb2.InputCategoryInfo(total=sum(ended.values())),
            total_inputs=total,
        )
        return api_pb2.FunctionCallGetInfoResponse(info=info)

    @answers("FunctionCallCancel")
    async def cancel(self, request: api_pb2.FunctionCallCancelRequest, _caller: Caller) -> Empty:
        """Waiting inputs end at once; those being worked on when their container hears of it, or ends."""
        call = self.state.calls.get(request.function_call_id)
        terminated = api_pb2.GenericResult(
            status=_Status.GENERIC_STATUS_TERMINATED, exception="Function call was cancelled"
        )
        working = self.state.calls.mark_cancelled(call.call_id)
        for record in self.state.calls.unfinished(call_id=call.call_id):
            self.state.calls.finish_with(record, terminated)
        if request.terminate_containers:
            for task_id in {record.task_id for record in working}:
                self.fleet.stop_task(task_id, graceful=False)
        return Empty()

    @answers("FunctionCallGetDataOut")
    async def get_data_out(
        self, request: api_pb2.FunctionCallGetDataRequest, _caller: Caller
    ) -> AsyncIterator[api_pb2.DataChunk]:
        """What a generator yields; the client ends the stream."""
        index = request.last_index
        while True:
            for chunk in self.state.calls.data(request.function_call_id, index):
                index = chunk.index
                yield chunk
            if not self.state.calls.data(request.function_call_id, index):
                await self.state.signals.wait(f"data:{request.function_call_id}", _LONGEST_POLL_S)
