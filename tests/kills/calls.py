"""Which remote calls an operation makes, for which resource, and the points between them.

A call belongs to the resource that Pulumi works on: with `--parallel 1` that is one at a time, and the engine writes it into the
stack's file as a pending operation before it asks the provider (observed with Pulumi 3.259.0).
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["LOOKS", "POLLS", "Call", "Holder", "Recorder", "When", "calls_of_interest"]

When = Literal["before", "after"]

LOOKS = frozenset({"AppFetchLogs", "AppCountLogs"})
"""Looks at a log while something takes long: one run makes them and the next, which is quicker, does not."""

POLLS = LOOKS | {"AppHeartbeat", "FunctionGetOutputs", "FunctionGet", "ImageJoinStreaming"}
"""Repeated until something happens, so their number says how long it took: only the first one of a resource is a point.

`FunctionGet` is one because every look at a server's log begins with it, `ImageJoinStreaming` because the client calls it only
for an image that was not built yet when it asked.
"""


@dataclass(frozen=True)
class Call:
    """The `n`-th call of an RPC while Pulumi worked on a resource (its name in the program)."""

    resource: str
    rpc: str
    n: int


class _Counter:
    """Names calls as they come."""

    def __init__(self, stack_file: Path) -> None:
        self._stack_file = stack_file
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def arrived(self, rpc: str) -> Call:
        """See `proxy.Watcher`."""
        with self._lock:
            resource = _under_way(self._stack_file)
            self._counts[resource, rpc] += 1
            return Call(resource, rpc, self._counts[resource, rpc])


def _under_way(stack_file: Path) -> str:
    try:
        operations = json.loads(stack_file.read_text())["checkpoint"]["latest"].get("pending_operations") or []
    except (FileNotFoundError, KeyError, ValueError):  # being replaced
        return "-"
    return "+".join(sorted(operation["resource"]["urn"].rsplit("::", 1)[1] for operation in operations)) or "-"


class Recorder(_Counter):
    """Takes down every call."""

    def __init__(self, stack_file: Path) -> None:
        super().__init__(stack_file)
        self.calls: list[Call] = []

    def arrived(self, rpc: str) -> Call:
        """See `proxy.Watcher`."""
        call = super().arrived(rpc)
        self.calls.append(call)
        return call

    def answered(self, call: object) -> None:
        """See `proxy.Watcher`."""


class Holder(_Counter):
    """Holds one call, before it is passed on or after it was answered, and does something meanwhile."""

    def __init__(self, stack_file: Path, call: Call, when: When, then: Callable[[], None]) -> None:
        super().__init__(stack_file)
        self._call = call
        self._when = when
        self._then = then
        self.held = threading.Event()

    def arrived(self, rpc: str) -> Call:
        """See `proxy.Watcher`."""
        call = super().arrived(rpc)
        if self._when == "before":
            self._look(call)
        return call

    def answered(self, call: object) -> None:
        """See `proxy.Watcher`."""
        if self._when == "after":
            self._look(call)

    def _look(self, call: object) -> None:
        if call == self._call and not self.held.is_set():
            self._then()
            self.held.set()


def calls_of_interest(calls: Iterable[Call]) -> list[tuple[Call, When]]:
    """Where to interrupt: after every call, and before the first one of each resource.

    After a call and before the next one of the same resource the world is the same; between the last call of a resource and the
    first one of the next, the engine writes its state.
    """
    found: list[tuple[Call, When]] = []
    seen: set[str] = set()
    for call in calls:
        if call.rpc in POLLS and call.n > 1:
            continue
        if call.resource not in seen:
            seen.add(call.resource)
            found.append((call, "before"))
        found.append((call, "after"))
    return found
