"""Secrets, in an SQLite file of their own (mode 0600): the only place that holds their values, which are never logged or
sent back.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from local_cloud.modal.state.database import Database
from local_cloud.modal.state.errors import AlreadyExists, Invalid, NotFound
from local_cloud.modal.state.ids import new_id

__all__ = ["SecretRecord", "SecretStore"]

_SCHEMA = """
CREATE TABLE secrets (
    secret_id TEXT PRIMARY KEY, environment TEXT NOT NULL, name TEXT, app_id TEXT NOT NULL, created_at REAL NOT NULL,
    last_used_at REAL NOT NULL DEFAULT 0, contents TEXT NOT NULL, UNIQUE (environment, name))
"""


@dataclass(frozen=True)
class SecretRecord:
    """What may be known about a Secret; `name` is empty for one made from a dictionary."""

    secret_id: str
    environment: str
    name: str
    created_at: float
    last_used_at: float
    keys: tuple[str, ...]


class SecretStore:
    """All Secrets. The semantics are those of modal 1.6.4's `secret.py` docstrings."""

    def __init__(self, path: Path) -> None:
        # A rollback journal and not a WAL: no second file keeps values after they were overwritten.
        self._database = Database(path, _SCHEMA, 1, journal="DELETE")

    def close(self) -> None:
        """Ends the connection."""
        self._database.close()

    def find(self, environment: str, name: str, required_keys: Iterable[str] = ()) -> SecretRecord:
        """Raises NotFound when the Secret or one of the required keys is missing."""
        row = self._database.one("SELECT * FROM secrets WHERE environment = ? AND name = ?", environment, name)
        if row is None:
            raise NotFound(f"Secret '{name}' not found in environment '{environment}'")
        record = _record(row)
        missing = [key for key in required_keys if key not in record.keys]
        if missing:
            raise NotFound(f"Secret '{name}' is missing required key(s): {', '.join(missing)}")
        return record

    def get(self, secret_id: str) -> SecretRecord:
        """Raises NotFound."""
        return _record(self._row(secret_id))

    def create(
        self, environment: str, name: str, contents: Mapping[str, str], *, exists_ok: bool, overwrite: bool
    ) -> SecretRecord:
        """`exists_ok` keeps the old values of a Secret that exists; `overwrite` replaces them all and keeps the id. Else
        AlreadyExists.
        """
        try:
            existing = self.find(environment, name)
        except NotFound:
            return self._insert(environment, name, "", contents)
        if overwrite:
            self._write(existing.secret_id, contents)
        elif not exists_ok:
            raise AlreadyExists(f"Secret '{name}' already exists in environment '{environment}'")
        return self.get(existing.secret_id)

    def anonymous(self, environment: str, app_id: str, contents: Mapping[str, str]) -> SecretRecord:
        """For `Secret.from_dict`. An App that brings the same values again gets the same id, so that an unchanged deploy
        is one.
        """
        for row in self._database.all("SELECT * FROM secrets WHERE name IS NULL AND app_id = ?", app_id):
            if app_id and json.loads(row["contents"]) == dict(contents):
                return _record(row)
        return self._insert(environment, None, app_id, contents)

    def update(self, secret_id: str, changes: Mapping[str, str | None]) -> None:
        """Merges; None removes a key. Raises NotFound."""
        contents: dict[str, str] = json.loads(self._row(secret_id)["contents"])
        for key, value in changes.items():
            if value is None:
                contents.pop(key, None)
            else:
                contents[key] = value
        self._write(secret_id, contents)

    def named(self, environment: str, limit: int, created_before: float) -> list[SecretRecord]:
        """Named Secrets, newest first; 0 means no limit and no time."""
        rows = self._database.all(
            "SELECT * FROM secrets WHERE environment = ? AND name IS NOT NULL AND (? = 0 OR created_at < ?) ORDER"
            " BY created_at DESC LIMIT ?",
            environment,
            created_before,
            created_before,
            limit or -1,
        )
        return [_record(row) for row in rows]

    def delete(self, secret_id: str) -> None:
        """Raises NotFound."""
        self._row(secret_id)
        self._database.execute("DELETE FROM secrets WHERE secret_id = ?", secret_id)

    def delete_environment(self, environment: str) -> None:
        """Everything in one environment."""
        self._database.execute("DELETE FROM secrets WHERE environment = ?", environment)

    def values_for_container(self, secret_id: str) -> dict[str, str]:
        """The values, for a container's environment and nothing else. Raises NotFound."""
        contents: dict[str, str] = json.loads(self._row(secret_id)["contents"])
        self._database.execute("UPDATE secrets SET last_used_at = ? WHERE secret_id = ?", time.time(), secret_id)
        return contents

    def _row(self, secret_id: str) -> sqlite3.Row:
        row = self._database.one("SELECT * FROM secrets WHERE secret_id = ?", secret_id)
        if row is None:
            raise NotFound(f"Secret {secret_id} not found")
        return row

    def _insert(self, environment: str, name: str | None, app_id: str, contents: Mapping[str, str]) -> SecretRecord:
        _refuse_unusable_keys(contents)
        secret_id = new_id("st")
        self._database.execute(
            "INSERT INTO secrets (secret_id, environment, name, app_id, created_at, contents) VALUES (?, ?, ?, ?, ?, ?)",
            *(secret_id, environment, name, app_id, time.time(), json.dumps(dict(contents))),
        )
        return self.get(secret_id)

    def _write(self, secret_id: str, contents: Mapping[str, str]) -> None:
        _refuse_unusable_keys(contents)
        self._database.execute(
            "UPDATE secrets SET contents = ? WHERE secret_id = ?", json.dumps(dict(contents)), secret_id
        )


def _refuse_unusable_keys(contents: Mapping[str, str]) -> None:
    for key, value in contents.items():
        if not key or "=" in key or "\0" in key or "\0" in value:
            raise Invalid(f"Secret key {key!r} cannot be an environment variable")


def _record(row: sqlite3.Row) -> SecretRecord:
    return SecretRecord(
        secret_id=row["secret_id"],
        environment=row["environment"],
        name=row["name"] or "",
        created_at=row["created_at"],
        last_used_at=row["last_used_at"],
        keys=tuple(sorted(json.loads(row["contents"]))),
    )
