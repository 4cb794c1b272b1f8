"""The SQLite database of everything but secrets."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Database", "DatabaseVersionError"]

_SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE environments (
    environment_id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, web_suffix TEXT NOT NULL, created_at REAL NOT NULL);
CREATE TABLE proxy_tokens (token_id TEXT PRIMARY KEY, secret_sha256 TEXT NOT NULL, name TEXT NOT NULL, created_at REAL NOT NULL);
CREATE TABLE volumes (
    volume_id TEXT PRIMARY KEY, environment TEXT NOT NULL, name TEXT, version INTEGER NOT NULL, created_at REAL NOT NULL,
    UNIQUE (environment, name));
CREATE TABLE mounts (mount_id TEXT PRIMARY KEY, checksum TEXT NOT NULL, files BLOB NOT NULL);
CREATE TABLE mount_contents (sha256 TEXT PRIMARY KEY);
CREATE TABLE images (
    image_id TEXT PRIMARY KEY, definition BLOB NOT NULL, environ TEXT NOT NULL, workdir TEXT NOT NULL, build_log TEXT NOT NULL,
    built INTEGER NOT NULL DEFAULT 0);
CREATE TABLE image_tags (tag TEXT PRIMARY KEY, image_id TEXT NOT NULL);
CREATE TABLE apps (
    app_id TEXT PRIMARY KEY, environment TEXT NOT NULL, name TEXT NOT NULL, description TEXT NOT NULL, state INTEGER NOT NULL,
    created_at REAL NOT NULL, deployed_at REAL NOT NULL DEFAULT 0, stopped_at REAL NOT NULL DEFAULT 0,
    version INTEGER NOT NULL DEFAULT 0, tags TEXT NOT NULL DEFAULT '{}', heartbeat_at REAL NOT NULL);
CREATE INDEX apps_by_name ON apps (environment, name);
CREATE TABLE functions (
    function_id TEXT PRIMARY KEY, app_id TEXT NOT NULL, tag TEXT NOT NULL, handle BLOB NOT NULL, latest_definition_id TEXT,
    override BLOB NOT NULL DEFAULT x'');
CREATE INDEX functions_by_app ON functions (app_id);
CREATE TABLE definitions (definition_id TEXT PRIMARY KEY, function_id TEXT NOT NULL, data BLOB NOT NULL);
CREATE TABLE classes (class_id TEXT PRIMARY KEY, app_id TEXT NOT NULL, handle BLOB NOT NULL);
CREATE TABLE deployments (
    app_id TEXT NOT NULL, version INTEGER NOT NULL, deployed_at REAL NOT NULL, client_version TEXT NOT NULL, tag TEXT NOT NULL,
    rollback_version INTEGER NOT NULL, kind INTEGER NOT NULL, commit_info BLOB NOT NULL, functions TEXT NOT NULL,
    classes TEXT NOT NULL,
    PRIMARY KEY (app_id, version));
CREATE TABLE server_ports (
    port INTEGER PRIMARY KEY, environment TEXT NOT NULL, app_name TEXT NOT NULL, tag TEXT NOT NULL,
    UNIQUE (environment, app_name, tag));
CREATE TABLE tasks (
    task_id TEXT PRIMARY KEY, function_id TEXT NOT NULL, app_id TEXT NOT NULL, environment TEXT NOT NULL,
    generation INTEGER NOT NULL,
    enqueued_at REAL NOT NULL, started_at REAL NOT NULL DEFAULT 0, finished_at REAL NOT NULL DEFAULT 0,
    pid INTEGER NOT NULL DEFAULT 0,
    pid_started TEXT NOT NULL DEFAULT '', stop_requested INTEGER NOT NULL DEFAULT 0, asked_for_inputs INTEGER NOT NULL DEFAULT 0,
    exit_code INTEGER, failure TEXT NOT NULL DEFAULT '', result BLOB NOT NULL DEFAULT x'');
CREATE INDEX tasks_open ON tasks (finished_at, function_id);
CREATE TABLE calls (
    call_id TEXT PRIMARY KEY, function_id TEXT NOT NULL, app_id TEXT NOT NULL, kind INTEGER NOT NULL, invocation INTEGER NOT NULL,
    created_at REAL NOT NULL);
CREATE TABLE inputs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, input_id TEXT NOT NULL UNIQUE, call_id TEXT NOT NULL, function_id TEXT NOT NULL,
    app_id TEXT NOT NULL, idx INTEGER NOT NULL, input BLOB NOT NULL, state TEXT NOT NULL, task_id TEXT NOT NULL DEFAULT '',
    retries INTEGER NOT NULL DEFAULT 0, not_before REAL NOT NULL DEFAULT 0, created_at REAL NOT NULL,
    claimed_at REAL NOT NULL DEFAULT 0,
    cancelled INTEGER NOT NULL DEFAULT 0);
CREATE INDEX inputs_by_function ON inputs (function_id, state);
CREATE INDEX inputs_by_task ON inputs (task_id, state);
CREATE INDEX inputs_by_call ON inputs (call_id);
CREATE TABLE outputs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, call_id TEXT NOT NULL, idx INTEGER NOT NULL, status INTEGER NOT NULL,
    item BLOB NOT NULL);
CREATE INDEX outputs_by_call ON outputs (call_id, seq);
CREATE TABLE data_out (call_id TEXT NOT NULL, idx INTEGER NOT NULL, chunk BLOB NOT NULL, PRIMARY KEY (call_id, idx));
CREATE TABLE logs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, app_id TEXT NOT NULL, function_id TEXT NOT NULL, task_id TEXT NOT NULL,
    call_id TEXT NOT NULL, input_id TEXT NOT NULL, fd INTEGER NOT NULL, at REAL NOT NULL, data TEXT NOT NULL);
CREATE INDEX logs_by_app ON logs (app_id, at);
CREATE INDEX logs_by_call ON logs (call_id);
"""


class DatabaseVersionError(Exception):
    """The state on disk was written by another version of the local cloud; one line for the user."""


class Database:
    """One connection, used by the daemon's event loop only; every statement commits by itself unless in a `transaction`."""

    def __init__(
        self, path: Path, schema: str = _SCHEMA, version: int = _SCHEMA_VERSION, *, journal: str = "WAL"
    ) -> None:
        path.touch(mode=0o600, exist_ok=True)
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute(f"PRAGMA journal_mode={journal}")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.execute("PRAGMA secure_delete=ON")
        # KiB; the operating system has the file in its cache as well, and 2 MiB that fill up in hours look like a leak
        self._connection.execute("PRAGMA cache_size=-256")
        found = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if found == 0:
            self._connection.executescript(f"BEGIN;{schema};PRAGMA user_version={version};COMMIT;")
        elif found != version:
            self._connection.close()
            raise DatabaseVersionError(
                f"{path} has schema {found}: expected {version}: stop the local cloud and move that directory away"
            )

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        """One statement with its values."""
        return self._connection.execute(sql, values)

    def one(self, sql: str, *values: Any) -> sqlite3.Row | None:
        """The first row, or None."""
        row: sqlite3.Row | None = self._connection.execute(sql, values).fetchone()
        return row

    def all(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """Every row."""
        return self._connection.execute(sql, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. Inside another one it is part of that."""
        if self._connection.in_transaction:
            yield
            return
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def close(self) -> None:
        """Ends the connection; a WAL is folded into the file."""
        self._connection.close()
