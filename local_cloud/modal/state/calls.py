"""Function calls: inputs that wait, are worked on and end; their outputs; and what generators yield.

An input's state: queued -> claimed (by a task) -> done. A failed or lost one goes back to queued while its retries last.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from modal_proto import api_pb2

from local_cloud.modal.state.database import Database
from local_cloud.modal.state.errors import NotFound
from local_cloud.modal.state.ids import new_id
from local_cloud.modal.state.signals import Signals

__all__ = ["CallRecord", "Calls", "InputRecord"]

_KEPT_S = 7 * 86400
"""Older calls are dropped when the daemon starts; Modal's results expire too (modal.exception.OutputExpiredError)."""


@dataclass(frozen=True)
class CallRecord:
    """One function call: `kind` and `invocation` are the FunctionCallType and FunctionCallInvocationType of its FunctionMap."""

    call_id: str
    function_id: str
    app_id: str
    kind: int
    invocation: int
    created_at: float


@dataclass(frozen=True)
class InputRecord:
    """One input of a call; times in Unix seconds."""

    input_id: str
    call_id: str
    function_id: str
    app_id: str
    idx: int
    input: api_pb2.FunctionInput
    state: str
    task_id: str
    retries: int
    created_at: float
    claimed_at: float


class Calls:
    """All calls. Notifies `queue:<function id>`, `call:<call id>` and `data:<call id>`."""

    def __init__(self, database: Database, signals: Signals) -> None:
        self._database = database
        self._signals = signals
        self._forget_old()

    def _forget_old(self) -> None:
        before = time.time() - _KEPT_S
        old = "SELECT call_id FROM calls WHERE created_at < ?"
        with self._database.transaction():
            for table in ("inputs", "outputs", "data_out"):
                self._database.execute(f"DELETE FROM {table} WHERE call_id IN ({old})", before)  # noqa: S608 - names only
            self._database.execute("DELETE FROM calls WHERE created_at < ?", before)

    def create(self, function_id: str, app_id: str, kind: int, invocation: int) -> CallRecord:
        """A call without inputs yet."""
        call_id = new_id("fc")
        self._database.execute(
            "INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?)", call_id, function_id, app_id, kind, invocation, time.time()
        )
        return self.get(call_id)

    def get(self, call_id: str) -> CallRecord:
        """Raises NotFound."""
        row = self._database.one("SELECT * FROM calls WHERE call_id = ?", call_id)
        if row is None:
            raise NotFound(f"Function call '{call_id}' not found")
        return CallRecord(**dict(row))

    def put_inputs(self, call: CallRecord, items: Iterable[tuple[int, api_pb2.FunctionInput]]) -> list[tuple[int, str]]:
        """Queues inputs: (idx, input id) of each."""
        placed = []
        with self._database.transaction():
            for idx, function_input in items:
                input_id = new_id("in")
                self._database.execute(
                    "INSERT INTO inputs (input_id, call_id, function_id, app_id, idx, input, state, created_at)"
                    " VALUES (?, ?, ?, ?, ?, ?, 'queued', ?)",
                    *(
                        input_id,
                        call.call_id,
                        call.function_id,
                        call.app_id,
                        idx,
                        function_input.SerializeToString(),
                        time.time(),
                    ),
                )
                placed.append((idx, input_id))
        self._signals.notify(f"queue:{call.function_id}")
        return placed

    def claim(self, function_id: str, task_id: str, limit: int) -> list[InputRecord]:
        """Gives the oldest waiting inputs to a task."""
        with self._database.transaction():
            rows = self._database.all(
                "SELECT * FROM inputs WHERE function_id = ? AND state = 'queued' AND not_before <= ? ORDER BY seq LIMIT ?",
                *(function_id, time.time(), limit),
            )
            for row in rows:
                self._database.execute(
                    "UPDATE inputs SET state = 'claimed', task_id = ?, claimed_at = ? WHERE input_id = ?",
                    *(task_id, time.time(), row["input_id"]),
                )
        return [self.input(row["input_id"]) for row in rows]

    def input(self, input_id: str) -> InputRecord:
        """Raises NotFound."""
        row = self._database.one("SELECT * FROM inputs WHERE input_id = ?", input_id)
        if row is None:
            raise NotFound(f"Input '{input_id}' not found")
        return _input(row)

    def finish(self, record: InputRecord, item: api_pb2.FunctionGetOutputsItem) -> None:
        """Its output, for good."""
        item.idx, item.input_id, item.retry_count = record.idx, record.input_id, record.retries
        with self._database.transaction():
            self._database.execute("UPDATE inputs SET state = 'done' WHERE input_id = ?", record.input_id)
            self._database.execute(
                "INSERT INTO outputs (call_id, idx, status, item) VALUES (?, ?, ?, ?)",
                *(record.call_id, record.idx, item.result.status, item.SerializeToString()),
            )
        self._signals.notify(f"call:{record.call_id}")

    def finish_with(self, record: InputRecord, result: api_pb2.GenericResult) -> None:
        """Its output, written by the platform."""
        self.finish(
            record, api_pb2.FunctionGetOutputsItem(result=result, task_id=record.task_id, output_created_at=time.time())
        )

    def requeue(self, record: InputRecord, *, delay_s: float = 0.0, counts_as_retry: bool) -> None:
        """Back to the queue, after `delay_s` seconds."""
        self._database.execute(
            "UPDATE inputs SET state = 'queued', task_id = '', not_before = ?, retries = retries + ? WHERE input_id = ?",
            *(time.time() + delay_s, int(counts_as_retry), record.input_id),
        )
        self._signals.notify(f"queue:{record.function_id}")

    def outputs(
        self, call_id: str, after: int, first_idx: int | None, last_idx: int | None, limit: int
    ) -> list[tuple[int, api_pb2.FunctionGetOutputsItem]]:
        """(cursor, output) in the order of completion."""
        rows = self._database.all(
            "SELECT seq, item FROM outputs WHERE call_id = ? AND seq > ? AND (? IS NULL OR idx >= ?) AND (? IS NULL OR idx <= ?)"
            " ORDER BY seq LIMIT ?",
            *(call_id, after, first_idx, first_idx, last_idx, last_idx, limit or -1),
        )
        return [(row["seq"], api_pb2.FunctionGetOutputsItem.FromString(row["item"])) for row in rows]

    def output_statuses(self, call_id: str) -> list[int]:
        """The GenericResult status of every output so far."""
        return [row["status"] for row in self._database.all("SELECT status FROM outputs WHERE call_id = ?", call_id)]

    def count(self, call_id: str) -> tuple[int, int]:
        """(all inputs, those not done)."""
        row = self._database.one(
            "SELECT COUNT(*) AS n, SUM(state != 'done') AS unfinished FROM inputs WHERE call_id = ?", call_id
        )
        return (row["n"], row["unfinished"] or 0) if row else (0, 0)

    def queued(self, function_id: str) -> int:
        """Inputs that could be claimed now."""
        row = self._database.one(
            "SELECT COUNT(*) AS n FROM inputs WHERE function_id = ? AND state = 'queued' AND not_before <= ?",
            function_id,
            time.time(),
        )
        return int(row["n"]) if row else 0

    def functions_with_queue(self) -> list[str]:
        """Function ids for which inputs wait."""
        rows = self._database.all(
            "SELECT DISTINCT function_id FROM inputs WHERE state = 'queued' AND not_before <= ?", time.time()
        )
        return [row["function_id"] for row in rows]

    def unfinished(
        self,
        *,
        task_id: str = "",
        call_id: str = "",
        function_id: str = "",
        app_id: str = "",
        states: Sequence[str] = ("queued", "claimed"),
    ) -> list[InputRecord]:
        """Inputs that are not done, oldest first; an empty argument is no condition."""
        rows = self._database.all(
            "SELECT * FROM inputs WHERE state IN (?, ?) AND (? = '' OR task_id = ?) AND (? = '' OR call_id = ?)"
            " AND (? = '' OR function_id = ?) AND (? = '' OR app_id = ?) ORDER BY seq",
            *(states[0], states[-1], task_id, task_id, call_id, call_id, function_id, function_id, app_id, app_id),
        )
        return [_input(row) for row in rows]

    def claimed(self, task_id: str) -> list[InputRecord]:
        """What a task works on."""
        return self.unfinished(task_id=task_id, states=("claimed",))

    def mark_cancelled(self, call_id: str) -> list[InputRecord]:
        """Asks the containers that work on a call to leave off; answers those inputs."""
        self._database.execute("UPDATE inputs SET cancelled = 1 WHERE call_id = ? AND state = 'claimed'", call_id)
        return self.unfinished(call_id=call_id, states=("claimed",))

    def cancelled(self, task_id: str) -> list[str]:
        """Input ids that a task should leave off, each told once."""
        rows = self._database.all("SELECT input_id FROM inputs WHERE task_id = ? AND cancelled = 1", task_id)
        for row in rows:
            self._database.execute("UPDATE inputs SET cancelled = 2 WHERE input_id = ?", row["input_id"])
        return [row["input_id"] for row in rows]

    def put_data(self, call_id: str, chunks: Iterable[api_pb2.DataChunk]) -> None:
        """What a generator yielded. A chunk that comes twice is kept once."""
        with self._database.transaction():
            for chunk in chunks:
                self._database.execute(
                    "INSERT OR IGNORE INTO data_out VALUES (?, ?, ?)", call_id, chunk.index, chunk.SerializeToString()
                )
        self._signals.notify(f"data:{call_id}")

    def data(self, call_id: str, after: int) -> list[api_pb2.DataChunk]:
        """What a generator yielded after an index."""
        rows = self._database.all(
            "SELECT chunk FROM data_out WHERE call_id = ? AND idx > ? ORDER BY idx", call_id, after
        )
        return [api_pb2.DataChunk.FromString(row["chunk"]) for row in rows]


def _input(row: sqlite3.Row) -> InputRecord:
    return InputRecord(
        input_id=row["input_id"],
        call_id=row["call_id"],
        function_id=row["function_id"],
        app_id=row["app_id"],
        idx=row["idx"],
        input=api_pb2.FunctionInput.FromString(row["input"]),
        state=row["state"],
        task_id=row["task_id"],
        retries=row["retries"],
        created_at=row["created_at"],
        claimed_at=row["claimed_at"],
    )
