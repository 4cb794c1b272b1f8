"""The log of a release's containers: the platform's lines, and the events that the supervisor writes among them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from checks.results import CheckFailed, CheckSkipped
from modal_app.lines import parse_event

__all__ = ["CREATING", "NO_SNAPSHOT", "RESTORING", "Event", "Log", "LogLine"]

CREATING, RESTORING = "memory snapshot for Function", "Restoring Function from memory snapshot"
"""Modal's log, when it takes a snapshot (`Creating [GPU] memory snapshot for Function.`) and whenever a container comes out of
one (modal.com/docs/guide/memory-snapshots)."""

NO_SNAPSHOT = "no snapshot on this machine"
"""What the platform's log says where it cannot take any; a reason may follow."""

_DELAY_SECONDS = 20.0  # log lines arrive after the answers that they are about
_PAUSE_SECONDS = 0.3


@dataclass(frozen=True)
class LogLine:
    """One line and when it was written, in seconds since 1970 by the platform's clock."""

    at: float
    text: str


@dataclass(frozen=True)
class Event:
    """One event of the supervisor (`modal_app.lines`)."""

    at: float
    name: str
    fields: dict[str, Any]


class Log:
    """What the containers of one release have written so far. `release` None takes every release's events.

    Without `read`, nothing is known: asking for a line skips the check.
    """

    def __init__(self, read: Callable[[], Iterable[LogLine]] | None, release: str | None) -> None:
        self._read = read
        self._release = release

    @property
    def readable(self) -> bool:
        """Whether this run of the checks can read the log at all."""
        return self._read is not None

    def lines(self) -> list[LogLine]:
        """All lines so far, oldest first. Raises CheckSkipped where the log cannot be read."""
        if self._read is None:
            raise CheckSkipped("only the log of its container tells; `pulumi up` reads it")
        return sorted(self._read(), key=lambda line: line.at)

    def events(self, *names: str) -> list[Event]:
        """The release's events of these names, oldest first."""
        parsed = ((line.at, parse_event(line.text)) for line in self.lines())
        return [
            Event(at, event["event"], event)
            for at, event in parsed
            if event and event["event"] in names and self._release in (None, event.get("release"))
        ]

    def last(self, name: str, at_least: int = 1) -> Event:
        """The newest event of this name, as soon as there are `at_least` of them. Raises CheckFailed when they do not come."""
        deadline = time.monotonic() + _DELAY_SECONDS
        while len(found := self.events(name)) < at_least:
            if time.monotonic() > deadline:
                raise CheckFailed(
                    "nothing, but read the log",
                    f"the event {name} {at_least} times",
                    f"{len(found)} in {_DELAY_SECONDS:g} s",
                )
            time.sleep(_PAUSE_SECONDS)
        return found[-1]

    def first_text(self, text: str) -> LogLine | None:
        """The oldest line that holds `text`."""
        return next((line for line in self.lines() if text in line.text), None)
