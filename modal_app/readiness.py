"""When a server is ready: it is healthy, and when a snapshot is due nobody is connected to it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import httpx

from modal_app import loopback
from modal_app.errors import Failure
from modal_app.lines import say

__all__ = ["connections", "wait_for_health", "wait_until_alone"]

FIRST_POLL_SECONDS, POLL_FACTOR, LONGEST_POLL_SECONDS = 0.05, 1.5, 2.0
ANSWER_SECONDS = 5.0
SAY_SECONDS = 10.0

ALONE_SECONDS = 15.0
"""llama-server ends an idle connection by itself after 5 s (cpp-httplib's keep-alive timeout)."""

OPEN_STATES = {"01": "established", "02": "connecting", "03": "being accepted", "08": "closed by the other side only"}
"""States of `/proc/net/tcp` in which a process still holds the connection (linux/include/net/tcp_states.h)."""


def wait_for_health(url: str, limit: float, ended: Callable[[], Failure | None]) -> None:
    """Poll /health with growing pauses, `limit` seconds at most. The socket opens before the model is loaded: only a 200 counts.

    `ended` is asked before each poll; what it returns is raised. Raises Failure when the time is over.
    """
    begin = spoken = time.monotonic()
    pause, last = FIRST_POLL_SECONDS, ""
    with loopback.client(url) as client:
        while (waited := time.monotonic() - begin) < limit:
            if failure := ended():
                raise failure
            patience = min(ANSWER_SECONDS, limit - waited)
            try:
                answer = client.get("/health", timeout=patience)
                if answer.status_code == httpx.codes.OK:
                    return
                last = f"{answer.status_code} {answer.text[:80]}"
            except httpx.HTTPError as error:
                cut_short = isinstance(error, httpx.TimeoutException) and patience < ANSWER_SECONDS
                if not (cut_short and last):  # the answer before says more
                    last = type(error).__name__
            if time.monotonic() - spoken > SAY_SECONDS:
                spoken = time.monotonic()
                say(f"waiting for llama-server, {waited:.0f} s so far; /health: {last}")
            time.sleep(pause)
            pause = min(pause * POLL_FACTOR, LONGEST_POLL_SECONDS)
    raise Failure(
        f"llama-server was not healthy after {limit:.0f} s ({last}): expected 200 from /health: see its lines"
    )


def wait_until_alone(port: int, limit: float) -> None:
    """Return when nothing is connected to `port`: a connection in a snapshot is a dead one in every container restored from it.

    Raises Failure when one is still open after `limit` seconds.
    """
    deadline = time.monotonic() + limit
    while found := connections(port):
        if time.monotonic() > deadline:
            raise Failure(
                f"llama-server is still connected after {limit:.0f} s ({'; '.join(found[:3])}): expected no connection to port "
                f"{port} when the snapshot is taken: end what talks to the container while it starts"
            )
        time.sleep(FIRST_POLL_SECONDS)


def connections(port: int) -> list[str]:
    """The open TCP connections of this network that begin or end at `port`, a phrase each."""
    found = []
    for table in filter(Path.exists, (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))):
        for line in table.read_text().splitlines()[1:]:
            _, local, remote, state = line.split()[:4]
            ports = [int(address.rpartition(":")[2], 16) for address in (local, remote)]
            if port in ports and state in OPEN_STATES:
                found.append(f"port {ports[0]} to {ports[1]}, {OPEN_STATES[state]}")
    return found
