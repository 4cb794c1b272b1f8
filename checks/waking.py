"""The starts that a run of the checks causes: the first one, and those after the server went idle and to zero.

Each is timed as a client meets it, from its first request on, and told from the log what happened meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from checks.endpoint import Endpoint
from checks.logs import CREATING, RESTORING, Event, Log, LogLine
from checks.measure import measure
from checks.prompts import CAPITAL
from checks.results import CheckFailed

__all__ = ["SKEW_SECONDS", "Signs", "Wake", "Waking"]

SKEW_SECONDS = 1.0
"""How far the clocks of the client, the container and the platform may be apart."""

_IDLE_SECONDS = 180.0  # until a candidate, with the shortest window there is, has ended its last container
_PAUSE_SECONDS = 0.3


@dataclass(frozen=True)
class Wake:
    """One start. Seconds count from the first request, which is not served yet."""

    asked: float
    """When that was, in seconds since 1970 by the client's clock."""
    waited_seconds: float
    first_token_seconds: float
    total_seconds: float


@dataclass(frozen=True)
class Signs:
    """Three independent signs that a container came out of a snapshot."""

    platform: bool
    """The platform's log says so."""
    older: bool
    """Its llama-server was started before anybody asked for this container."""
    known: bool
    """Its llama-server is one that another container had started and found ready: the same number drawn at its start."""

    @property
    def agree(self) -> bool:
        """Whether all three say the same."""
        return self.platform == self.older == self.known

    @property
    def restored(self) -> bool:
        """Whether all three are there."""
        return self.platform and self.agree

    def words(self) -> str:
        """Each sign, in words."""
        return ", ".join(
            (
                f"the platform's log {'says' if self.platform else 'does not say'} {RESTORING!r}",
                f"llama-server was started {'before' if self.older else 'after'} it was asked for",
                f"it is {'one' if self.known else 'none'} that was ready before",
            )
        )


class Waking:
    """The starts of one run, which share a request (`body` of a chat completion)."""

    def __init__(self, endpoint: Endpoint, log: Log, body: Mapping[str, Any]) -> None:
        self._endpoint = endpoint
        self._log = log
        self._body = body
        self.first: Wake | CheckFailed | None = None
        """The start with which the run began; a failure when what woke the server was not answered well."""
        self.after_idle: list[Wake] = []

    def begin(self) -> None:
        """Wake the server for the first time. Raises NotServing."""
        try:
            self.first = self._wake()
        except CheckFailed as failure:
            self.first = failure

    def again(self) -> Wake:
        """Wait until no container is left and wake the server. Raises CheckFailed, CheckSkipped, NotServing."""
        self._wait_for_zero()
        resumed = len(self._log.events("resumed"))
        wake = self._wake()
        self._log.last("resumed", at_least=resumed + 1)
        self.after_idle.append(wake)
        return wake

    def at_least(self, times: int) -> list[Wake]:
        """As many starts after idle times, or more. Raises what `again` raises."""
        while len(self.after_idle) < times:
            self.again()
        return self.after_idle

    def _wake(self) -> Wake:
        asked = time.time()
        done = measure(self._endpoint, self._body, f'"{CAPITAL}" that wakes it')
        waited = done.waited_seconds
        return Wake(asked, waited, waited + done.first_token_seconds, waited + done.total_seconds)

    def _wait_for_zero(self) -> None:
        deadline = time.monotonic() + _IDLE_SECONDS
        while self._containers() > 0:
            if time.monotonic() > deadline:
                raise CheckFailed(
                    "nothing", "no container to be left", f"one after {_IDLE_SECONDS:g} s without a request"
                )
            time.sleep(_PAUSE_SECONDS)

    def _containers(self) -> int:
        """How many have come and not gone, by their own words."""
        events = self._log.events("resumed", "stopped", "crashed")
        return sum(1 if event.name == "resumed" else -1 for event in events)

    # ---- what the log says of a start

    def _window(self, wake: Wake) -> tuple[float, float]:
        """From when to when log lines belong to this start."""
        wakes = [w for w in (self.first, *self.after_idle) if isinstance(w, Wake)]
        later = [w.asked for w in wakes if w.asked > wake.asked]
        return wake.asked - SKEW_SECONDS, min(later, default=float("inf")) - SKEW_SECONDS

    def lines(self, wake: Wake) -> list[LogLine]:
        """What was written while this start happened and its container served."""
        begin, end = self._window(wake)
        return [line for line in self._log.lines() if begin <= line.at < end]

    def signs(self, wake: Wake) -> Signs:
        """What speaks for it that this start was a restore. Needs the log."""
        begin, end = self._window(wake)
        resumed = [event.fields for event in self._log.events("resumed") if begin <= event.at < end]
        last = resumed[-1] if resumed else {}
        before = {event.fields.get("nonce") for event in self._log.events("ready") if event.at < begin}
        return Signs(
            platform=any(RESTORING in line.text for line in self.lines(wake)),
            older=float(last.get("started") or "inf") < begin,
            known=bool(last.get("nonce")) and last["nonce"] in before,
        )

    def record(self, wake: Wake) -> dict[str, Any]:
        """The start as plain JSON types: when it was asked for, and the milestones after that, each `[name, seconds]`."""
        milestones: list[tuple[str, float]] = []
        record: dict[str, Any] = {"asked": round(wake.asked, 3)}
        if self._log.readable:
            begin, end = self._window(wake)
            events = [event for event in self._log.events("starting", "ready", "resumed") if begin <= event.at < end]
            milestones += [place for event in events for place in _milestones(event)]
            for text, name in ((CREATING, "snapshot begun"), (RESTORING, "restoring")):
                milestones += [(name, line.at) for line in self.lines(wake) if text in line.text]
            record["restored"] = self.signs(wake).restored
        milestones.append(("first token", wake.asked + wake.first_token_seconds))
        milestones.append(("last token", wake.asked + wake.total_seconds))
        milestones.sort(key=lambda milestone: milestone[1])
        return {**record, "milestones": [[name, round(max(0.0, at - wake.asked), 3)] for name, at in milestones]}


def _milestones(event: Event) -> list[tuple[str, float]]:
    if event.name == "ready":
        return [("healthy", event.at - float(event.fields.get("warm_seconds") or 0)), ("warmed", event.at)]
    return [({"starting": "llama-server starting"}.get(event.name, event.name), event.at)]
