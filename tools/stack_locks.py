"""What a killed `pulumi` leaves in a file backend: its lock, and creations that it never saw the end of.

The lock is a file per process, `locks/organization/PROJECT/STACK/ID.json` with the process id, host and user; a creation that was
under way stays in the state as a pending operation (observed with Pulumi 3.259.0).
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Lock", "locks", "pending_creations", "wait_for_holders"]


@dataclass(frozen=True)
class Lock:
    """One process that holds, or held, a stack."""

    process: int
    host: str

    def held(self) -> bool:
        """Whether its process still runs; on another host that cannot be known and is assumed."""
        if self.host != socket.gethostname():
            return True
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        name = Path(f"/proc/{self.process}/comm")  # the id may have gone to some other program since (Linux)
        return not name.exists() or name.read_text().strip() == "pulumi"


def locks(state: Path, project: str, stack: str) -> list[Lock]:
    """The locks on a stack of the file backend in `state`."""
    found = []
    for file in (state / ".pulumi" / "locks" / "organization" / project / stack).glob("*.json"):
        try:
            content = json.loads(file.read_text())
        except FileNotFoundError:  # given back meanwhile
            continue
        found.append(Lock(int(content["pid"]), str(content["hostname"])))
    return found


def wait_for_holders(state: Path, project: str, stack: str, seconds: float) -> list[Lock]:
    """Wait until no running process holds the stack; returns those that still do after `seconds`."""
    deadline = time.monotonic() + seconds
    while (holders := [lock for lock in locks(state, project, stack) if lock.held()]) and time.monotonic() < deadline:
        time.sleep(0.5)
    return holders


def pending_creations(exported: str) -> int:
    """How many creations of unknown outcome are in an exported state (`pulumi stack export`)."""
    operations = json.loads(exported)["deployment"].get("pending_operations") or []
    return sum(operation.get("type") == "creating" for operation in operations)
