"""Dicts, in an SQLite file of their own: keys and values as the client serialized them.

An entry that nobody has read or written for seven days is gone (modal 1.6.4, `dict.py`, "Lifetime of a Dict and its items").
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from local_cloud.modal.state.database import Database
from local_cloud.modal.state.errors import AlreadyExists, NotFound
from local_cloud.modal.state.ids import new_id

__all__ = ["DictRecord", "Dicts"]

LIFETIME_S = 7 * 86400.0

_SCHEMA = """
CREATE TABLE dicts (
    dict_id TEXT PRIMARY KEY, environment TEXT NOT NULL, name TEXT, created_at REAL NOT NULL, UNIQUE (environment, name));
CREATE TABLE entries (
    dict_id TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, used_at REAL NOT NULL, PRIMARY KEY (dict_id, key));
"""


@dataclass(frozen=True)
class DictRecord:
    """One Dict; `name` is empty for an ephemeral one."""

    dict_id: str
    name: str
    created_at: float


class Dicts:
    """All Dicts and what is in them."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, _SCHEMA, 1)
        # ephemeral ones end with the client that made them, at the latest now
        for row in self._database.all("SELECT dict_id FROM dicts WHERE name IS NULL"):
            self.delete(row["dict_id"])

    def close(self) -> None:
        """Ends the connection."""
        self._database.close()

    def find(self, environment: str, name: str) -> DictRecord:
        """Raises NotFound."""
        row = self._database.one("SELECT * FROM dicts WHERE environment = ? AND name = ?", environment, name)
        if row is None:
            raise NotFound(f"Dict '{name}' not found in environment '{environment}'")
        return _record(row)

    def get(self, dict_id: str) -> DictRecord:
        """Raises NotFound."""
        row = self._database.one("SELECT * FROM dicts WHERE dict_id = ?", dict_id)
        if row is None:
            raise NotFound(f"Dict {dict_id} not found")
        return _record(row)

    def create(self, environment: str, name: str | None) -> DictRecord:
        """An empty one; `name` None makes an ephemeral one. Raises AlreadyExists."""
        dict_id = new_id("di")
        try:
            self._database.execute("INSERT INTO dicts VALUES (?, ?, ?, ?)", dict_id, environment, name, time.time())
        except sqlite3.IntegrityError:
            raise AlreadyExists(f"Dict '{name}' already exists in environment '{environment}'") from None
        return self.get(dict_id)

    def named(self, environment: str, limit: int, created_before: float) -> list[DictRecord]:
        """Named ones, newest first; 0 means no limit and no time."""
        rows = self._database.all(
            "SELECT * FROM dicts WHERE environment = ? AND name IS NOT NULL AND (? = 0 OR created_at < ?) ORDER"
            " BY created_at DESC LIMIT ?",
            *(environment, created_before, created_before, limit or -1),
        )
        return [_record(row) for row in rows]

    def delete(self, dict_id: str) -> None:
        """With its entries. Raises NotFound."""
        self.get(dict_id)
        self.clear(dict_id)
        self._database.execute("DELETE FROM dicts WHERE dict_id = ?", dict_id)

    def delete_environment(self, environment: str) -> None:
        """Everything in one environment."""
        for row in self._database.all("SELECT dict_id FROM dicts WHERE environment = ?", environment):
            self.delete(row["dict_id"])

    def clear(self, dict_id: str) -> None:
        """Removes every entry."""
        self._database.execute("DELETE FROM entries WHERE dict_id = ?", dict_id)

    def read(self, dict_id: str, key: bytes) -> bytes | None:
        """The value of a key, which lives on for being read; None when there is none. Raises NotFound for the Dict."""
        found = dict(self.entries(dict_id)).get(key)
        if found is not None:
            self._database.execute(
                "UPDATE entries SET used_at = ? WHERE dict_id = ? AND key = ?", time.time(), dict_id, key
            )
        return found

    def update(self, dict_id: str, entries: Mapping[bytes, bytes], *, keep: bool) -> bool:
        """Writes entries; with `keep` those that exist stay. Whether all were written. Raises NotFound."""
        there = dict(self.entries(dict_id))
        new = {key: value for key, value in entries.items() if not (keep and key in there)}
        for key, value in new.items():
            self._database.execute(
                "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)", dict_id, key, value, time.time()
            )
        return len(new) == len(entries)

    def pop(self, dict_id: str, key: bytes) -> bytes | None:
        """Removes a key and returns what it had; None when there was none. Raises NotFound for the Dict."""
        found = self.read(dict_id, key)
        self._database.execute("DELETE FROM entries WHERE dict_id = ? AND key = ?", dict_id, key)
        return found

    def entries(self, dict_id: str) -> list[tuple[bytes, bytes]]:
        """Every entry that still lives. Raises NotFound."""
        self.get(dict_id)
        self._database.execute("DELETE FROM entries WHERE used_at < ?", time.time() - LIFETIME_S)
        rows = self._database.all("SELECT key, value FROM entries WHERE dict_id = ? ORDER BY rowid", dict_id)
        return [(row["key"], row["value"]) for row in rows]


def _record(row: sqlite3.Row) -> DictRecord:
    return DictRecord(dict_id=row["dict_id"], name=row["name"] or "", created_at=row["created_at"])
