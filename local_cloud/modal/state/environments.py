"""Environments: namespaces of Apps, Secrets and Volumes. A new local cloud has one, `main`."""

from __future__ import annotations

import time
from dataclasses import dataclass

from local_cloud.modal.state.database import Database
from local_cloud.modal.state.errors import AlreadyExists, Invalid, NotFound
from local_cloud.modal.state.ids import new_id

__all__ = ["DEFAULT_ENVIRONMENT", "Environment", "Environments"]

DEFAULT_ENVIRONMENT = "main"


@dataclass(frozen=True)
class Environment:
    """One namespace."""

    environment_id: str
    name: str
    web_suffix: str
    created_at: float


class Environments:
    """All environments of the workspace."""

    def __init__(self, database: Database) -> None:
        self._database = database
        if not self.list():
            self.create(DEFAULT_ENVIRONMENT)

    def list(self) -> list[Environment]:
        """Oldest first."""
        return [
            Environment(**dict(row)) for row in self._database.all("SELECT * FROM environments ORDER BY created_at")
        ]

    def get(self, name: str) -> Environment:
        """An empty name is the default environment. Raises NotFound."""
        row = self._database.one("SELECT * FROM environments WHERE name = ?", name or DEFAULT_ENVIRONMENT)
        if row is None:
            raise NotFound(f"Environment '{name}' not found")
        return Environment(**dict(row))

    def create(self, name: str) -> Environment:
        """Raises AlreadyExists."""
        environments = {environment.name for environment in self.list()}
        if name in environments:
            raise AlreadyExists(f"Environment '{name}' already exists")
        suffix = name if environments else ""
        self._database.execute("INSERT INTO environments VALUES (?, ?, ?, ?)", new_id("en"), name, suffix, time.time())
        return self.get(name)

    def update(self, name: str, web_suffix: str) -> Environment:
        """Sets the web suffix, which has no effect on the local cloud's URLs."""
        self._database.execute("UPDATE environments SET web_suffix = ? WHERE name = ?", web_suffix, self.get(name).name)
        return self.get(name)

    def delete(self, name: str) -> None:
        """Removes the name alone: whoever calls ends what lives in it first. Raises Invalid for the default environment."""
        environment = self.get(name)
        if environment.name == DEFAULT_ENVIRONMENT:
            raise Invalid(f"Environment '{DEFAULT_ENVIRONMENT}' is the default environment and cannot be deleted")
        self._database.execute("DELETE FROM environments WHERE name = ?", environment.name)
