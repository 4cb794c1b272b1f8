"""Tasks: one row for each container that was ever decided on, and the processes that a dead daemon left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from pathlib import Path

from local_cloud.modal.state.database import Database
from local_cloud.modal.state.errors import NotFound
from local_cloud.modal.state.ids import new_id
from local_cloud.modal.state.ports import Task

__all__ = ["Tasks"]


class Tasks:
    """All tasks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, function_id: str, app_id: str, environment: str, generation: int) -> Task:
        """A new one."""
        task_id = new_id("ta")
        self._database.execute(
            "INSERT INTO tasks (task_id, function_id, app_id, environment, generation, enqueued_at) VALUES (?, ?, ?, ?, ?, ?)",
            *(task_id, function_id, app_id, environment, generation, time.time()),
        )
        return self.get(task_id)

    def get(self, task_id: str) -> Task:
        """Raises NotFound."""
        return _task(self.row(task_id))

    def row(self, task_id: str) -> sqlite3.Row:
        """Everything known. Raises NotFound."""
        row = self._database.one("SELECT * FROM tasks WHERE task_id = ?", task_id)
        if row is None:
            raise NotFound(f"Container '{task_id}' not found")
        return row

    def list_open(self, *, function_id: str = "", app_id: str = "", environment: str = "") -> list[Task]:
        """Those that have not ended, oldest first; an empty argument is no condition."""
        rows = self._database.all(
            "SELECT * FROM tasks WHERE finished_at = 0 AND (? = '' OR function_id = ?) AND (? = '' OR app_id = ?)"
            " AND (? = '' OR environment = ?) ORDER BY enqueued_at",
            *(function_id, function_id, app_id, app_id, environment, environment),
        )
        return [_task(row) for row in rows]

    def started(self, task_id: str, pid: int) -> None:
        """Its process runs."""
        self._database.execute(
            "UPDATE tasks SET started_at = ?, pid = ?, pid_started = ? WHERE task_id = ?",
            time.time(),
            pid,
            _start_time(pid),
            task_id,
        )

    def asked_for_inputs(self, task_id: str) -> None:
        """It came as far as asking for work."""
        self._database.execute(
            "UPDATE tasks SET asked_for_inputs = 1 WHERE task_id = ? AND asked_for_inputs = 0", task_id
        )

    def request_stop(self, task_id: str) -> None:
        """Its end was asked for: what it works on is to be done elsewhere."""
        self._database.execute("UPDATE tasks SET stop_requested = 1 WHERE task_id = ?", task_id)

    def set_result(self, task_id: str, result: bytes) -> None:
        """What the container itself said about its failure (a serialized GenericResult)."""
        self._database.execute("UPDATE tasks SET result = ? WHERE task_id = ?", result, task_id)

    def close(self, task_id: str, exit_code: int | None, failure: str) -> None:
        """It has ended."""
        self._database.execute(
            "UPDATE tasks SET finished_at = ?, exit_code = ?, failure = ? WHERE task_id = ?",
            time.time(),
            exit_code,
            failure,
            task_id,
        )

    def end_leftovers(self) -> list[Task]:
        """Kills what a daemon that died left running and closes its tasks; for the start of a daemon, before any container."""
        leftovers = self.list_open()
        for task in leftovers:
            row = self.row(task.task_id)
            if row["pid"] and row["pid_started"] and _start_time(row["pid"]) == row["pid_started"]:
                with contextlib.suppress(ProcessLookupError):
                    if os.getpgid(row["pid"]) == row["pid"]:
                        os.killpg(row["pid"], signal.SIGKILL)
                    else:
                        os.kill(row["pid"], signal.SIGKILL)
            self.close(task.task_id, None, "the local cloud was stopped")
        return leftovers


def _start_time(pid: int) -> str:
    """When a process began, in clock ticks since boot (proc(5), field 22 of stat): with its id this names it for ever.
    Empty when gone.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def _task(row: sqlite3.Row) -> Task:
    return Task(
        task_id=row["task_id"],
        function_id=row["function_id"],
        app_id=row["app_id"],
        generation=row["generation"],
        enqueued_at=row["enqueued_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        pid=row["pid"],
    )
