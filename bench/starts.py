"""One start of a deployed server as its client meets it, and where its time went, by the platform's clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import httpx

from bench.stack import line
from modal_app import warmup
from modal_app.lines import parse_event
from tests.deployed import Deployed

__all__ = ["LOAD", "WARM_UP", "Start", "first_token", "healthy", "ready", "show"]

POLL_SECONDS = 0.02
"""Between requests that a server at zero refuses: how exactly a start is timed."""

LONGEST_SECONDS = 300.0

SANDBOX, LOAD, WARM_UP = "sandbox, Python and our modules", "llama-server's load", "warm-up"
RESUME, REST = "looks at its health after that", "forwarder, edge and answer"


@dataclass(frozen=True)
class Start:
    """From the first request that a server at zero refused to the first answer."""

    seconds: float
    parts: dict[str, float]
    resident_mib: float
    """Of llama-server, as its supervisor saw it last."""
    answer: str = ""


def healthy(server: Deployed) -> float:
    """Seconds until /health answers with 200."""
    began = time.perf_counter()
    with _client(server) as client:
        while not _answered(client.get("/health")):
            _pause(began)
    return time.perf_counter() - began


def ready(server: Deployed) -> Start:
    """The same, of a llama-server."""
    since = datetime.now(UTC)
    return _told(server, since, healthy(server))


def first_token(server: Deployed) -> Start:
    """Until an answer of one token is there. As a stream, random weights may say nothing that is text."""
    began, since = time.perf_counter(), datetime.now(UTC)
    body = {**next(warmup.warmups(images=False)).body, "max_tokens": 1}
    with _client(server) as client:
        while not _answered(answer := client.post("/v1/chat/completions", json=body)):
            _pause(began)
    seconds = time.perf_counter() - began
    if answer.json()["usage"]["completion_tokens"] != 1:
        raise SystemExit(f"{server.app} answered with {answer.text[:200]}: expected one token")
    return replace(_told(server, since, seconds), answer=answer.json()["choices"][0]["message"]["content"])


def show(starts: Sequence[Start]) -> None:
    """The median of each part."""
    for name in starts[0].parts:
        line(f"    {name}", f"{statistics.median(start.parts[name] for start in starts):.2f} s")


def _client(server: Deployed) -> httpx.Client:
    return httpx.Client(base_url=server.url, headers=server.headers, timeout=LONGEST_SECONDS, trust_env=False)


def _answered(answer: httpx.Response) -> bool:
    if answer.status_code not in (httpx.codes.OK, httpx.codes.SERVICE_UNAVAILABLE):
        raise SystemExit(f"{answer.request.url} answered {answer.status_code}")
    return answer.status_code == httpx.codes.OK


def _pause(began: float) -> None:
    if time.perf_counter() - began > LONGEST_SECONDS:
        raise SystemExit(f"nothing served within {LONGEST_SECONDS:.0f} s")
    time.sleep(POLL_SECONDS)


def _told(server: Deployed, since: datetime, seconds: float) -> Start:
    """What its supervisor has said of this start meanwhile, as parts that add up to `seconds`."""
    said = {e["event"]: (at, e) for at, text in server.said(since, "stdout") if (e := parse_event(text))}
    at, resumed = said["resumed"]
    parts = {}
    if "starting" in said:
        parts[SANDBOX] = said["starting"][0] - since.timestamp()
        parts[LOAD] = said["ready"][1]["health_seconds"]
        parts[WARM_UP] = said["ready"][1]["warm_seconds"]
    else:
        parts[SANDBOX] = at - resumed["seconds"] - since.timestamp()
    parts[RESUME] = resumed["seconds"]
    parts[REST] = seconds - sum(parts.values())
    return Start(seconds, parts, resumed["memory"]["rss_mib"])
