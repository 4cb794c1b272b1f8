"""What every group of RPCs needs: the state, the containers' fleet, and how to address bytes over HTTP."""

from __future__ import annotations

from typing import Protocol

from local_cloud.modal.rpc.dispatch import Caller
from local_cloud.modal.state.cloud import CloudState
from local_cloud.modal.state.ledger import StateLedger
from local_cloud.modal.state.ports import Fleet

__all__ = ["Rpc", "Urls"]

USER = "local"
"""The name of the only user, as the creator of things."""


class Urls(Protocol):
    """Addresses that cannot be guessed, for what travels outside gRPC."""

    def blob(self, blob_id: str) -> str:
        """Where a blob is put and fetched."""

    def block(self, sha256: str) -> str:
        """Where a block of a version 2 Volume is put."""

    def volume_range(self, volume_id: str, path: str, start: int, length: int) -> str:
        """Where `length` bytes of a Volume's file are fetched."""


class Rpc:
    """Base of the groups of RPCs."""

    fleet: Fleet
    """Set by the daemon before the first call: the fleet needs the wire, and the wire the fleet."""

    def __init__(self, state: CloudState, ledger: StateLedger, urls: Urls) -> None:
        self.state = state
        self.ledger = ledger
        self.urls = urls

    def environment(self, name: str, caller: Caller) -> str:
        """The environment that a request means: its own word, else the container's, else the default. Raises NotFound."""
        if not name and caller.task_id:
            name = self.state.tasks.row(caller.task_id)["environment"]
        return self.state.environments.get(name).name
