"""Logs: fetched by time, counted, and followed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from itertools import groupby

from google.protobuf.timestamp_pb2 import Timestamp
from modal_proto import api_pb2

from local_cloud.modal.rpc.context import Rpc
from local_cloud.modal.rpc.dispatch import Caller, answers
from local_cloud.modal.state.logs import LogFilter, LogLine

__all__ = ["LogRpc"]

_LONGEST_STREAM_S = 55.0
_LAST_LINES_S = 5.0
"""How long a stopped App's containers have for their last lines before its log is called complete."""


class LogRpc(Rpc):
    """`modal app logs` and the `.logs` of Apps, Functions, Servers and calls."""

    @answers("AppFetchLogs")
    async def fetch(self, request: api_pb2.AppFetchLogsRequest, _caller: Caller) -> api_pb2.AppFetchLogsResponse:
        """The last lines in a range of time."""
        since, until = _seconds(request.since), _seconds(request.until)
        lines = self.state.logs.between(_filter(request), since, until, request.limit)
        return api_pb2.AppFetchLogsResponse(batches=_batches(lines))

    @answers("AppCountLogs")
    async def count(self, request: api_pb2.AppCountLogsRequest, _caller: Caller) -> api_pb2.AppCountLogsResponse:
        """How many lines there are in each bucket of time."""
        buckets: dict[int, api_pb2.AppCountLogsResponse.LogBucket] = {}
        since, until = _seconds(request.since), _seconds(request.until)
        for start, fd, count in self.state.logs.counts(_filter(request), since, until, request.bucket_secs):
            bucket = buckets.setdefault(start, api_pb2.AppCountLogsResponse.LogBucket())
            bucket.bucket_start_at.FromSeconds(start)
            match fd:
                case api_pb2.FILE_DESCRIPTOR_STDOUT:
                    bucket.stdout_logs += count
                case api_pb2.FILE_DESCRIPTOR_STDERR:
                    bucket.stderr_logs += count
                case _:
                    bucket.system_logs += count
        return api_pb2.AppCountLogsResponse(app_id=request.app_id, buckets=buckets.values())

    @answers("AppGetLogs")
    async def follow(self, request: api_pb2.AppGetLogsRequest, _caller: Caller) -> AsyncIterator[api_pb2.TaskLogsBatch]:
        """Lines as they come. Without a cursor: all of a call, of a container or of an ephemeral App; else the new ones."""
        app_id = request.app_id or self.state.tasks.get(request.task_id).app_id
        which = _filter(request, app_id=app_id)
        seq = int(request.last_entry_id or 0) or self._first_seq(request, app_id)
        if not request.last_entry_id:
            yield api_pb2.TaskLogsBatch(entry_id=str(seq))
        deadline = time.monotonic() + min(request.timeout, _LONGEST_STREAM_S)
        while True:
            lines = self.state.logs.after(which, seq)
            for batch in _batches(lines):
                yield batch
            if lines:
                seq = lines[-1].seq
            elif self._ended(app_id, request.task_id):
                yield api_pb2.TaskLogsBatch(entry_id=str(seq), app_done=True)
                return
            elif time.monotonic() >= deadline:
                return
            else:
                await self.state.signals.wait(f"logs:{app_id}", min(1.0, deadline - time.monotonic()))

    def _first_seq(self, request: api_pb2.AppGetLogsRequest, app_id: str) -> int:
        if request.function_call_id or request.task_id:
            return 0
        app = self.state.apps.get(app_id)
        if app.state == api_pb2.APP_STATE_DEPLOYED:
            return self.state.logs.last_seq()
        return 0

    def _ended(self, app_id: str, task_id: str) -> bool:
        """Whether no line can come any more."""
        if task_id:
            return bool(self.state.tasks.get(task_id).finished_at)
        app = self.state.apps.get(app_id)
        if app.state != api_pb2.APP_STATE_STOPPED:
            return False
        return not self.state.tasks.list_open(app_id=app_id) or time.time() - app.stopped_at > _LAST_LINES_S


def _filter(
    request: api_pb2.AppFetchLogsRequest | api_pb2.AppCountLogsRequest | api_pb2.AppGetLogsRequest, *, app_id: str = ""
) -> LogFilter:
    fd = request.file_descriptor if isinstance(request, api_pb2.AppGetLogsRequest) else request.source
    return LogFilter(
        app_id=app_id or request.app_id,
        function_id=request.function_id,
        task_id=request.task_id,
        call_id=request.function_call_id,
        fd=fd,
        text=request.search_text,
    )


def _batches(lines: Iterable[LogLine]) -> list[api_pb2.TaskLogsBatch]:
    """Neighbouring lines of one container share a batch; its cursor is the last line's."""
    batches = []
    for (task_id, function_id, _), group in groupby(
        lines, key=lambda line: (line.task_id, line.function_id, line.input_id)
    ):
        members = list(group)
        batches.append(
            api_pb2.TaskLogsBatch(
                task_id=task_id,
                function_id=function_id,
                input_id=members[0].input_id,
                entry_id=str(members[-1].seq),
                items=[
                    api_pb2.TaskLogs(
                        data=line.data,
                        timestamp=line.at,
                        timestamp_ns=int(line.at * 1e9),
                        file_descriptor=api_pb2.FileDescriptor.ValueType(line.fd),
                        function_call_id=line.call_id,
                        input_id=line.input_id,
                        container_id=task_id,
                    )
                    for line in members
                ],
            )
        )
    return batches


def _seconds(timestamp: Timestamp) -> float:
    return timestamp.seconds + timestamp.nanos / 1e9
