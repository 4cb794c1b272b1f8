"""Runs the checks, in the order of the list; a failure does not stop the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from checks import access, identity, images, text, thinking, tools
from checks.endpoint import Endpoint, NotServing
from checks.expectations import Expectations
from checks.results import CheckFailed, CheckResult, CheckSkipped
from checks.session import Session

__all__ = ["CHECKS", "NAMES", "each", "run", "wait_for_release"]

Report = Callable[[str], None]

CHECKS: dict[str, Callable[[Session], str]] = {
    "health": identity.health,
    "refused without a key": access.refused_without_a_key,
    "refused with a wrong key": access.refused_with_a_wrong_key,
    "release alias": identity.release_alias,
    "build identity": identity.build_identity,
    "slots and context": identity.slots_and_context,
    "sampling defaults": identity.sampling_defaults,
    "text": text.plain,
    "streaming": text.streaming,
    "thinking on": thinking.switched_on,
    "thinking off": thinking.switched_off,
    "thinking budgets differ": thinking.budgets_differ,
    "no lost answer": thinking.lost_answer,
    "JSON schema": text.json_schema,
    "one tool call": tools.one_call,
    "two tool calls": tools.two_calls,
    "one image": images.one_image,
    "two images": images.two_images,
    "image with thinking": images.one_image_with_thinking,
    "/v1/responses": text.responses,
    "one tool call on /v1/responses": tools.one_call_responses,
    "two tool calls on /v1/responses": tools.two_calls_responses,
    "/v1/messages": text.messages,
    "/metrics": identity.metrics,
    "no model file mapped": identity.model_not_mapped,
}
"""Every check by name. Each returns a note on what it saw, or raises CheckFailed or CheckSkipped."""

NAMES = tuple(CHECKS)

MOST_PROBABLE: Mapping[str, Any] = {"temperature": 0}


def run(
    endpoint: str,
    key: str,
    expect: Expectations,
    report: Report,
    *,
    logs: Callable[[], list[str]] | None = None,
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
    logs: Callable[[], list[str]] | None = None,
    startup_timeout: float = 900,
    sampling: Mapping[str, Any] = MOST_PROBABLE,
    only: Collection[str] = NAMES,
) -> Iterator[CheckResult]:
    """Check the endpoint; yields each result as its check ends.

    `report` gets a line now and then while a server wakes. `logs` returns the server's log lines so far. `startup_timeout`:
    seconds that a server at zero may take to wake. `sampling` goes into every request. Raises NotServing when nothing serves
    in that time.
    """
    with Endpoint(endpoint, key, wake_timeout=startup_timeout, report=report) as server:
        session = Session(server, expect, sampling, logs)
        server.send("GET", "/health", headers={})  # wakes it, so that no check is timed with the start
        for name, check in CHECKS.items():
            if name in only:
                yield _run(name, check, session)


def _run(name: str, check: Callable[[Session], str], session: Session) -> CheckResult:
    began = time.monotonic()

    def seconds() -> float:
        return round(time.monotonic() - began, 3)

    try:
        note = check(session)
    except CheckFailed as failure:
        return CheckResult(name, "failed", seconds(), sent=failure.sent, expected=failure.expected, got=failure.got)
    except CheckSkipped as reason:
        return CheckResult(name, "skipped", seconds(), note=str(reason))
    return CheckResult(name, "passed", seconds(), note=note)


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
            time.sleep(1)
