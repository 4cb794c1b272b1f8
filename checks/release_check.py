"""Runs the checks, in the order of the list; a failure does not stop the others."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from checks.answers import shorten
from checks.catalogue import CHECKS, COLD_START, NAMES
from checks.endpoint import Endpoint, NotServing
from checks.expectations import Expectations
from checks.logs import Log, LogLine
from checks.results import CheckFailed, CheckResult, CheckSkipped, Seen
from checks.session import Session

__all__ = ["each", "run", "wait_for_release"]

Report = Callable[[str], None]
ReadLog = Callable[[], Iterable[LogLine]]

Status = Literal["passed", "failed", "skipped"]

_LONGEST_SENT = 600

MOST_PROBABLE: Mapping[str, Any] = {"temperature": 0}


def run(
    endpoint: str,
    key: str,
    expect: Expectations,
    report: Report,
    *,
    logs: ReadLog | None = None,
    startup_timeout: float = 900,
    sampling: Mapping[str, Any] = MOST_PROBABLE,
    only: Collection[str] = NAMES,
) -> list[CheckResult]:
    """Check the endpoint (with or without `/v1`); returns the results in the order of `NAMES`.

    `report` gets one line as each check ends. The rest as for `each`. Raises NotServing.
    """
    results = []
    for result in each(
        endpoint, key, expect, report, logs=logs, startup_timeout=startup_timeout, sampling=sampling, only=only
    ):
        report(result.line())
        results.append(result)
    return results


def each(
    endpoint: str,
    key: str,
    expect: Expectations,
    report: Report,
    *,
    logs: ReadLog | None = None,
    startup_timeout: float = 900,
    sampling: Mapping[str, Any] = MOST_PROBABLE,
    only: Collection[str] = NAMES,
) -> Iterator[CheckResult]:
    """Check the endpoint; yields each result as its check ends.

    `report` gets a line now and then while a server wakes. `logs` returns the log of its containers so far. `startup_timeout`:
    seconds that a server at zero may take to wake. `sampling` goes into every request. Raises NotServing when nothing serves
    in that time.
    """
    with Endpoint(endpoint, key, wake_timeout=startup_timeout, report=report) as server:
        session = Session(server, expect, sampling, Log(logs, expect.release))
        # wakes it, so that no other check is timed with the start
        if COLD_START in only:
            session.waking.begin()
        else:
            server.send("GET", "/health", headers={})
        for name in CHECKS:
            if name in only:
                yield _run(name, session)


def _run(name: str, session: Session) -> CheckResult:
    check, sent = CHECKS[name], session.endpoint.sent
    sent.clear()
    began = time.monotonic()

    def result(status: Status, expected: str, got: str, figures: Mapping[str, Any] | None = None) -> CheckResult:
        seconds = round(time.monotonic() - began, 3)
        return CheckResult(name, status, seconds, got, _counted(sent), expected, figures or {})

    try:
        seen = check.run(session)
    except CheckFailed as failure:
        return replace(result("failed", failure.expected, failure.got), sent=failure.sent)
    except CheckSkipped as reason:
        return replace(result("skipped", check.expected, str(reason)), sent="nothing")
    seen = Seen(seen) if isinstance(seen, str) else seen
    return result("passed", check.expected, seen.got, seen.figures)


def _counted(sent: list[str]) -> str:
    """Each request once, and how often it was sent."""
    requests = [f"{request} ({times} times)" if times > 1 else request for request, times in Counter(sent).items()]
    return shorten("; ".join(requests), _LONGEST_SENT) or "nothing, but read the log"


def wait_for_release(endpoint: str, key: str, alias: str, timeout: float, report: Report) -> None:
    """Wake the endpoint and wait, `timeout` seconds at most, until `/v1/models` names `alias`. Raises NotServing.

    A rolling deploy lets old containers serve for a while; after a rotation of the key these answer 401.
    """
    deadline = time.monotonic() + timeout
    with Endpoint(endpoint, key, wake_timeout=timeout, report=report) as server:
        while True:
            try:
                serving = server.send("GET", "/v1/models").ok().at(list, "data", 0, "aliases")
                if alias in serving:
                    return
                seen = f"it answers as {', '.join(map(str, serving))}"
            except CheckFailed as failure:
                seen = str(failure)
            if time.monotonic() > deadline:
                raise NotServing(
                    f"{endpoint} does not serve {alias} after {timeout:.0f} s: {seen}: look at the app's logs for why its new "
                    "containers do not serve"
                )
            # while the one before answers, only its containers' log tells of a failure
            report(f"waiting for {alias}: {seen}")
            time.sleep(1)
