"""Log lines of containers and of the platform, in the order in which they came."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from local_cloud.modal.state.database import Database
from local_cloud.modal.state.signals import Signals

__all__ = ["LogFilter", "LogLine", "Logs"]

_KEPT_S = 30 * 86400
"""Older lines are dropped when the daemon starts; 30 days is the longest look-back of modal 1.6.4's `modal app logs`."""


@dataclass(frozen=True)
class LogLine:
    """`seq` is the cursor; `fd` is 1 stdout, 2 stderr, 3 the platform; `at` in Unix seconds."""

    seq: int
    app_id: str
    function_id: str
    task_id: str
    call_id: str
    input_id: str
    fd: int
    at: float
    data: str


@dataclass(frozen=True)
class LogFilter:
    """Which lines; an empty value is no condition."""

    app_id: str = ""
    function_id: str = ""
    task_id: str = ""
    call_id: str = ""
    fd: int = 0
    text: str = ""

    def where(self) -> tuple[str, list[Any]]:
        """The condition in SQL, and its values."""
        conditions, values = ["1"], []
        for column in ("app_id", "function_id", "task_id", "call_id", "fd"):
            if value := getattr(self, column):
                conditions.append(f"{column} = ?")
                values.append(value)
        if self.text:
            conditions.append("instr(data, ?) > 0")
            values.append(self.text)
        return " AND ".join(conditions), values


class Logs:
    """All log lines. Notifies `logs:<app id>`."""

    def __init__(self, database: Database, signals: Signals) -> None:
        self._database = database
        self._signals = signals
        database.execute("DELETE FROM logs WHERE at < ?", time.time() - _KEPT_S)

    def add(self, app_id: str, function_id: str, task_id: str, call_id: str, input_id: str, fd: int, data: str) -> None:
        """One entry: one line or several."""
        self._database.execute(
            "INSERT INTO logs (app_id, function_id, task_id, call_id, input_id, fd, at, data) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            *(app_id, function_id, task_id, call_id, input_id, fd, time.time(), data),
        )
        self._signals.notify(f"logs:{app_id}")

    def after(self, which: LogFilter, seq: int, limit: int = 1000) -> list[LogLine]:
        """The lines that came after a cursor."""
        where, values = which.where()
        query = f"SELECT * FROM logs WHERE {where} AND seq > ? ORDER BY seq LIMIT ?"  # noqa: S608 - `where` has no values
        rows = self._database.all(query, *values, seq, limit)
        return [LogLine(**dict(row)) for row in rows]

    def between(self, which: LogFilter, since: float, until: float, limit: int) -> list[LogLine]:
        """The last `limit` lines in a range of time, oldest first."""
        where, values = which.where()
        query = f"SELECT * FROM logs WHERE {where} AND at >= ? AND at <= ? ORDER BY seq DESC LIMIT ?"  # noqa: S608
        rows = self._database.all(query, *values, since, until, limit or -1)
        return [LogLine(**dict(row)) for row in reversed(rows)]

    def counts(self, which: LogFilter, since: float, until: float, bucket_s: int) -> list[tuple[int, int, int]]:
        """(start of the bucket, fd, number of lines) for every bucket that has lines; buckets begin at multiples of
        `bucket_s`.
        """
        where, values = which.where()
        query = (
            f"SELECT CAST(at / ? AS INTEGER) * ? AS start, fd, COUNT(*) AS n FROM logs WHERE {where}"  # noqa: S608
            " AND at >= ? AND at <= ? GROUP BY start, fd ORDER BY start"
        )
        rows = self._database.all(query, bucket_s, bucket_s, *values, since, until)
        return [(row["start"], row["fd"], row["n"]) for row in rows]

    def last_seq(self) -> int:
        """The cursor of the newest line, 0 when there is none."""
        row = self._database.one("SELECT MAX(seq) AS seq FROM logs")
        return (row["seq"] if row else None) or 0
