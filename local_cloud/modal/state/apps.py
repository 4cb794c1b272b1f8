"""Apps, their deployments and what each deployment published."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass

from modal_proto import api_pb2

from local_cloud.modal.state.database import Database
from local_cloud.modal.state.errors import Conflict, NotFound
from local_cloud.modal.state.ids import new_id

__all__ = ["LIVE_STATES", "AppRecord", "Apps", "Deployment"]

LIVE_STATES = frozenset(
    {
        api_pb2.APP_STATE_DEPLOYED,
        api_pb2.APP_STATE_EPHEMERAL,
        api_pb2.APP_STATE_DETACHED,
        api_pb2.APP_STATE_DETACHED_DISCONNECTED,
    }
)
"""States in which an App's functions answer."""


@dataclass(frozen=True)
class AppRecord:
    """One App. `name` is empty until it is deployed and for ephemeral Apps; times are Unix seconds, 0.0 for never."""

    app_id: str
    environment: str
    name: str
    description: str
    state: int
    created_at: float
    deployed_at: float
    stopped_at: float
    version: int
    tags: Mapping[str, str]
    heartbeat_at: float

    @property
    def live(self) -> bool:
        """Whether its functions answer."""
        return self.state in LIVE_STATES


@dataclass(frozen=True)
class Deployment:
    """One version of an App: which definition each Function id had."""

    app_id: str
    version: int
    deployed_at: float
    client_version: str
    tag: str
    rollback_version: int
    kind: int
    commit_info: bytes
    functions: Mapping[str, tuple[str, str]]
    """(function id, definition id) by tag."""
    classes: Mapping[str, str]


class Apps:
    """All Apps. A stopped App stays, with its history and logs; the next deploy of its name makes another one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self, environment: str, description: str, state: int, tags: Mapping[str, str], name: str = ""
    ) -> AppRecord:
        """A new App, unnamed unless `name` is given."""
        app_id, now = new_id("ap"), time.time()
        self._database.execute(
            "INSERT INTO apps (app_id, environment, name, description, state, created_at, tags, heartbeat_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            *(app_id, environment, name, description, state, now, json.dumps(dict(tags)), now),
        )
        return self.get(app_id)

    def get(self, app_id: str) -> AppRecord:
        """Raises NotFound."""
        row = self._database.one("SELECT * FROM apps WHERE app_id = ?", app_id)
        if row is None:
            raise NotFound(f"App '{app_id}' not found")
        return _app(row)

    def deployed(self, environment: str, name: str) -> AppRecord | None:
        """The App that is deployed under a name."""
        row = self._database.one(
            "SELECT * FROM apps WHERE environment = ? AND name = ? AND state = ?",
            environment,
            name,
            api_pb2.APP_STATE_DEPLOYED,
        )
        return _app(row) if row else None

    def last_stopped(self, environment: str, name: str) -> AppRecord | None:
        """The App that had a name last."""
        row = self._database.one(
            "SELECT * FROM apps WHERE environment = ? AND name = ? AND state = ? ORDER BY stopped_at DESC LIMIT 1",
            *(environment, name, api_pb2.APP_STATE_STOPPED),
        )
        return _app(row) if row else None

    def all(self, environment: str | None = None) -> list[AppRecord]:
        """Every App, oldest first."""
        rows = self._database.all(
            "SELECT * FROM apps WHERE ? IS NULL OR environment = ? ORDER BY created_at", environment, environment
        )
        return [_app(row) for row in rows]

    def heartbeat(self, app_id: str) -> None:
        """The client that runs it is alive."""
        self._database.execute("UPDATE apps SET heartbeat_at = ? WHERE app_id = ?", time.time(), app_id)

    def set_tags(self, app_id: str, tags: Mapping[str, str]) -> None:
        """Replaces all tags. Raises NotFound."""
        self._database.execute(
            "UPDATE apps SET tags = ? WHERE app_id = ?", json.dumps(dict(tags)), self.get(app_id).app_id
        )

    def stop(self, app_id: str) -> None:
        """For ever. Raises NotFound."""
        self.get(app_id)
        self._database.execute(
            "UPDATE apps SET state = ?, stopped_at = ? WHERE app_id = ? AND state != ?",
            *(api_pb2.APP_STATE_STOPPED, time.time(), app_id, api_pb2.APP_STATE_STOPPED),
        )

    def set_state(self, app_id: str, state: int) -> None:
        """For an ephemeral App that goes on without its client."""
        self._database.execute("UPDATE apps SET state = ? WHERE app_id = ?", state, app_id)

    def publish(self, app_id: str, name: str, state: int, deployment: Deployment) -> None:
        """Makes a deployment the App's newest one. Raises Conflict when the App is stopped or another one took the name
        meanwhile.
        """
        app = self.get(app_id)
        if app.state == api_pb2.APP_STATE_STOPPED:
            raise Conflict(f"App '{app.description}' ({app_id}) is stopped and cannot be deployed")
        other = self.deployed(app.environment, name) if name else None
        if other is not None and other.app_id != app_id:
            raise Conflict(f"App '{name}' was deployed by someone else at the same time: deploy again")
        with self._database.transaction():
            self._database.execute(
                "INSERT INTO deployments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                *(app_id, deployment.version, deployment.deployed_at, deployment.client_version, deployment.tag),
                *(deployment.rollback_version, deployment.kind, deployment.commit_info),
                *(json.dumps(deployment.functions), json.dumps(deployment.classes)),
            )
            self._database.execute(
                "UPDATE apps SET state = ?, name = ?, description = ?, version = ?, deployed_at = ? WHERE app_id = ?",
                *(state, name or app.name, name or app.description, deployment.version, deployment.deployed_at, app_id),
            )

    def deployments(self, app_id: str) -> list[Deployment]:
        """Newest first."""
        return [
            _deployment(row)
            for row in self._database.all("SELECT * FROM deployments WHERE app_id = ? ORDER BY version DESC", app_id)
        ]

    def deployment(self, app_id: str, version: int) -> Deployment | None:
        """One version, if there is such."""
        row = self._database.one("SELECT * FROM deployments WHERE app_id = ? AND version = ?", app_id, version)
        return _deployment(row) if row else None


def _app(row: sqlite3.Row) -> AppRecord:
    return AppRecord(**{**dict(row), "tags": json.loads(row["tags"])})


def _deployment(row: sqlite3.Row) -> Deployment:
    functions = {tag: (pair[0], pair[1]) for tag, pair in json.loads(row["functions"]).items()}
    return Deployment(**{**dict(row), "functions": functions, "classes": json.loads(row["classes"])})
