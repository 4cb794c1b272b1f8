"""Functions and Servers: an id that stays over redeploys, and a definition for each time that it was described differently.

A variant is what `Function.with_options` makes of a Function: an id of its own, and with it a queue and containers of its own,
for the Function as it is published now with some settings replaced.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from modal_proto import api_pb2

from local_cloud.modal.state.database import Database
from local_cloud.modal.state.errors import Invalid, NotFound
from local_cloud.modal.state.ids import new_id

__all__ = ["FunctionRecord", "Functions", "single_function", "with_options"]


@dataclass(frozen=True)
class FunctionRecord:
    """One Function id."""

    function_id: str
    app_id: str
    tag: str
    handle: api_pb2.FunctionHandleMetadata
    latest_definition_id: str
    """Of the last FunctionCreate, published or not; empty before it."""
    override: api_pb2.AutoscalerSettings
    """What `autoscaler.update` has set since the last deploy."""


class Functions:
    """All Functions, their definitions, and the classes of `@app.cls`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # not part of the schema, whose version it would raise: state from before it goes on without a loss
        database.execute(
            "CREATE TABLE IF NOT EXISTS variants (function_id TEXT PRIMARY KEY, base_id TEXT NOT NULL, options BLOB NOT NULL)"
        )

    def get_or_create(self, app_id: str, tag: str, existing_id: str) -> FunctionRecord:
        """Raises Invalid when `existing_id` belongs to another App."""
        if not existing_id:
            existing_id = new_id("fu")
            self._database.execute(
                "INSERT INTO functions (function_id, app_id, tag, handle) VALUES (?, ?, ?, x'')",
                existing_id,
                app_id,
                tag,
            )
        function = self.get(existing_id)
        if function.app_id != app_id:
            raise Invalid(f"Function {existing_id} belongs to another App")
        return function

    def get(self, function_id: str) -> FunctionRecord:
        """Raises NotFound."""
        row = self._database.one("SELECT * FROM functions WHERE function_id = ?", function_id)
        if row is None:
            raise NotFound(f"Function {function_id} not found")
        return FunctionRecord(
            function_id=function_id,
            app_id=row["app_id"],
            tag=row["tag"],
            handle=api_pb2.FunctionHandleMetadata.FromString(row["handle"]),
            latest_definition_id=row["latest_definition_id"] or "",
            override=api_pb2.AutoscalerSettings.FromString(row["override"]),
        )

    def set_handle(self, function_id: str, handle: api_pb2.FunctionHandleMetadata) -> None:
        """What clients learn about it."""
        self._database.execute(
            "UPDATE functions SET handle = ? WHERE function_id = ?",
            handle.SerializeToString(deterministic=True),
            function_id,
        )

    def set_override(self, function_id: str, override: api_pb2.AutoscalerSettings) -> None:
        """Until the next deploy; an empty one clears it."""
        self._database.execute(
            "UPDATE functions SET override = ? WHERE function_id = ?", override.SerializeToString(), function_id
        )

    def define(self, function_id: str, data: api_pb2.FunctionData) -> str:
        """Keeps a definition and answers its id: the same description is the same definition, whatever order its mounts
        came in.
        """
        normal = api_pb2.FunctionData()
        normal.CopyFrom(data)
        for ranked in normal.ranked_functions:
            ranked.function.mount_ids[:] = sorted(ranked.function.mount_ids)
        stored = normal.SerializeToString(deterministic=True)
        definition_id = f"de-{hashlib.sha256(function_id.encode() + stored).hexdigest()[:22]}"
        with self._database.transaction():
            self._database.execute(
                "INSERT OR IGNORE INTO definitions VALUES (?, ?, ?)", definition_id, function_id, stored
            )
            self._database.execute(
                "UPDATE functions SET latest_definition_id = ? WHERE function_id = ?", definition_id, function_id
            )
        return definition_id

    def definition(self, definition_id: str) -> api_pb2.FunctionData:
        """Raises NotFound."""
        row = self._database.one("SELECT data FROM definitions WHERE definition_id = ?", definition_id)
        if row is None:
            raise NotFound(f"Function definition {definition_id} not found")
        return api_pb2.FunctionData.FromString(row["data"])

    def bind(self, base: FunctionRecord, options: api_pb2.FunctionOptions) -> str:
        """Keeps a variant and answers its id: the same options of the same Function are the same variant."""
        stored = options.SerializeToString(deterministic=True)
        function_id = f"fu-{hashlib.sha256(base.function_id.encode() + stored).hexdigest()[:22]}"
        with self._database.transaction():
            self._database.execute(
                "INSERT OR IGNORE INTO variants VALUES (?, ?, ?)", function_id, base.function_id, stored
            )
            self._database.execute(
                "INSERT OR IGNORE INTO functions (function_id, app_id, tag, handle) VALUES (?, ?, ?, x'')",
                *(function_id, base.app_id, base.tag),
            )
        self.set_handle(function_id, base.handle)
        return function_id

    def variants(self, base_id: str) -> list[tuple[str, api_pb2.FunctionOptions]]:
        """Every variant's id, with its options."""
        rows = self._database.all("SELECT function_id, options FROM variants WHERE base_id = ?", base_id)
        return [(row["function_id"], api_pb2.FunctionOptions.FromString(row["options"])) for row in rows]

    def set_class(self, app_id: str, existing_id: str, handle: api_pb2.ClassHandleMetadata) -> str:
        """Keeps what clients learn about a class, and answers its id."""
        class_id = existing_id or new_id("cs")
        self._database.execute(
            "INSERT OR REPLACE INTO classes VALUES (?, ?, ?)", class_id, app_id, handle.SerializeToString()
        )
        return class_id

    def class_handle(self, class_id: str) -> api_pb2.ClassHandleMetadata:
        """Raises NotFound."""
        row = self._database.one("SELECT handle FROM classes WHERE class_id = ?", class_id)
        if row is None:
            raise NotFound(f"Class {class_id} not found")
        return api_pb2.ClassHandleMetadata.FromString(row["handle"])


def with_options(function: api_pb2.Function, options: api_pb2.FunctionOptions) -> api_pb2.Function:
    """A definition with some settings replaced, as `Function.with_options` says: secrets and Volumes are not added, but
    take the place of the declared ones.
    """
    changed = api_pb2.Function()
    changed.CopyFrom(function)
    if options.replace_secret_ids:
        changed.secret_ids[:] = options.secret_ids
    if options.replace_volume_mounts:
        del changed.volume_mounts[:]
        changed.volume_mounts.extend(options.volume_mounts)
    changed.resources.MergeFrom(options.resources)
    if options.HasField("retry_policy"):
        changed.retry_policy.CopyFrom(options.retry_policy)
    if options.HasField("timeout_secs"):
        changed.timeout_secs = options.timeout_secs
    if options.HasField("concurrency_limit"):
        changed.autoscaler_settings.max_containers = options.concurrency_limit
    if options.HasField("task_idle_timeout_secs"):
        changed.autoscaler_settings.scaledown_window = options.task_idle_timeout_secs
    return changed


def single_function(data: api_pb2.FunctionData) -> api_pb2.Function:
    """The definition in the form that containers get: the first-choice GPU's, as this machine has none to choose from."""
    function = api_pb2.Function()
    function.CopyFrom(min(data.ranked_functions, key=lambda ranked: ranked.rank).function)
    return function
