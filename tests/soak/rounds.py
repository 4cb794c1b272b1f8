"""Traffic on one app from nothing to as much as its containers take, and back to nothing, several times."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from tests.deployed import Deployed
from tests.soak.holdings import Holdings, daemon_of, holdings, memory_of, more
from tests.soak.load import Load, Seen

__all__ = ["GROWTH", "Plan", "Round", "problems", "soak"]

GROWTH = 0.05
"""How much more memory the local cloud may have after the last round than after the first."""

SCALED_UP_SECONDS = 120.0
"""How long the peak of a round may last until every container serves."""


@dataclass(frozen=True)
class Plan:
    """How much."""

    slots: int
    containers: int
    rounds: int
    questions: int
    """Of all rounds together, at least."""

    @property
    def clients(self) -> int:
        """At the peak: one for every slot of every container."""
        return self.slots * self.containers

    def steps(self) -> list[tuple[int, int]]:
        """Of one round: how many clients at once, and how many questions. Every client has the same share of each step."""
        sizes = [*range(1, self.clients + 1), *range(self.clients - 1, 0, -1)]
        share = -(-self.questions // (self.rounds * sum(sizes)))
        return [(size, size * share) for size in sizes]


@dataclass(frozen=True)
class Round:
    """What came of one, with nothing running any more."""

    seen: Seen
    restored: int
    """Containers that came out of the snapshot."""
    started: int
    """Containers that were started without it."""
    seconds: float
    memory: int
    """Of the local cloud's daemon, in bytes."""
    leaked: list[str]
    """What the local cloud holds more of than before the first round."""


def soak(server: Deployed, plan: Plan) -> Iterator[Round]:
    """Each round when it is over. The app has its snapshot already, and is at rest."""
    daemon = daemon_of(server.cloud)
    server.wait_for_zero(120)  # the container that fetched the model has the platform's own window
    before = holdings(server.cloud)
    for _ in range(plan.rounds):
        began, since = time.monotonic(), datetime.now(UTC)
        seen = _traffic(server, plan, since)
        server.wait_for_zero()
        ready = _ready(server, since)
        restored = sum("restored from a memory snapshot" in line for line in ready)
        leaked = _settled(server, before)
        yield Round(seen, restored, len(ready) - restored, time.monotonic() - began, memory_of(daemon), leaked)


def problems(plan: Plan, rounds: list[Round], snapshots: bool) -> list[str]:
    """What is not as promised, one line each. `snapshots`: whether this machine can take any."""
    found = []
    for number, each in enumerate(rounds, 1):
        found += [f"round {number}: {line}" for line in (*each.seen.wrong, *each.leaked)]
        if each.restored + each.started < plan.containers:
            found.append(f"round {number}: {each.restored + each.started} containers: expected {plan.containers}")
        if snapshots and each.started:
            found.append(f"round {number}: {each.started} containers were started without the snapshot")
    if (asked := sum(each.seen.asked for each in rounds)) < plan.questions:
        found.append(f"{asked} questions: expected {plan.questions}")
    if (growth := rounds[-1].memory / rounds[0].memory - 1) > GROWTH:
        found.append(
            f"the local cloud's memory grew by {growth:.1%} after the first round: expected {GROWTH:.0%} at most"
        )
    return found


def _traffic(server: Deployed, plan: Plan, since: datetime) -> Seen:
    load = Load(server.url, server.key, plan.clients)
    at_once = threading.Event()
    at_once.set()
    try:
        for clients, questions in plan.steps():
            peak = threading.Event()
            if clients == plan.clients:
                watching = threading.Thread(target=_scaled_up, args=(server, plan.containers, since, peak))
                watching.start()
                load.step(clients, questions, peak)
                watching.join()
            else:
                load.step(clients, questions, at_once)
    finally:
        load.close()
    return load.seen


def _scaled_up(server: Deployed, containers: int, since: datetime, reached: threading.Event) -> None:
    """Sets `reached` when as many containers have got ready, or after SCALED_UP_SECONDS."""
    deadline = time.monotonic() + SCALED_UP_SECONDS
    try:
        while len(_ready(server, since)) < containers and time.monotonic() < deadline:
            time.sleep(0.5)
    finally:
        reached.set()


def _ready(server: Deployed, since: datetime) -> list[str]:
    """The platform's lines about containers that got ready."""
    return [line for _, line in server.said(since) if " is ready after " in line]


def _settled(server: Deployed, before: Holdings) -> list[str]:
    """What there is more of than before, after the second in which the last connections are closed."""
    deadline = time.monotonic() + 5
    while (leaked := more(before, holdings(server.cloud))) and time.monotonic() < deadline:
        time.sleep(0.1)
    return leaked
