"""How long a client waits for an answer: from a warm server, at its first start, and after it went to zero.

These are records, not limits: they fail only when no answer comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from checks.logs import NO_SNAPSHOT
from checks.measure import measure, summary
from checks.prompts import CAPITAL
from checks.results import CheckFailed, CheckSkipped, Seen
from checks.session import Session
from checks.waking import Wake

__all__ = ["after_idle", "cold", "warm"]

WARM_TIMES, RESTORE_TIMES = 5, 2

_AWAKE_SECONDS = 0.05  # a server that takes its first request at once was not started by it


def warm(session: Session) -> Seen:
    """From a server that has just answered. The prompt is read anew each time: the cache of the last one would flatter it."""
    body = session.timed_body()
    times = [measure(session.endpoint, body, f'"{CAPITAL}", timed') for _ in range(WARM_TIMES)]
    first, total = [t.first_token_seconds for t in times], [t.total_seconds for t in times]
    return _seen(first, total)


def cold(session: Session) -> Seen:
    """From the first request of this run, with all that it had to wait for."""
    first = session.waking.first
    if first is None or (isinstance(first, Wake) and first.waited_seconds < _AWAKE_SECONDS):
        raise CheckSkipped("it was awake already")
    if isinstance(first, CheckFailed):
        raise first
    session.endpoint.sent.append(f'POST /v1/chat/completions "{CAPITAL}" that wakes it, before any other')
    return _started(session, [first])


def after_idle(session: Session) -> Seen:
    """From the first request after the last container has ended.

    Where nothing is restored this is a cold start once more, which costs a load: one is enough.
    """
    fresh = not session.expect.snapshot or session.log.first_text(NO_SNAPSHOT) is not None
    return _started(session, session.waking.at_least(1 if fresh else RESTORE_TIMES))


def _started(session: Session, wakes: Sequence[Wake]) -> Seen:
    seen = _seen([wake.first_token_seconds for wake in wakes], [wake.total_seconds for wake in wakes])
    return Seen(seen.got, {**seen.figures, "starts": [session.waking.record(wake) for wake in wakes]})


def _seen(first: list[float], total: list[float]) -> Seen:
    if float("inf") in first:
        raise CheckFailed(
            f'POST /v1/chat/completions "{CAPITAL}", streamed', "a token", "none until the end of the stream"
        )
    figures: dict[str, Any] = {"first_token_seconds": summary(first), "total_seconds": summary(total)}
    words = "{0[median]:.2f} s to the {1} token" + (" (median of {0[n]}, p95 {0[p95]:.2f} s)" if len(first) > 1 else "")
    parts = [
        words.format(figures[key], name) for key, name in (("first_token_seconds", "first"), ("total_seconds", "last"))
    ]
    return Seen(", ".join(parts), figures)
