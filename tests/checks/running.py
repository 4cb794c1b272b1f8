"""Runs the checks against a good server that a test may spoil, on a platform that a test may spoil."""

from __future__ import annotations

import checks
from tests.checks.sleeping import Sleeper, expectations
from tests.checks.tampering import Tamper, misbehaving
from tests.stand_in import KEY, StandIn

__all__ = ["assert_failed", "run"]


def run(
    server: StandIn, *only: str, tamper: Tamper | None = None, sleeper: Sleeper | None = None, snapshot: bool = True
) -> list[checks.CheckResult]:
    platform = sleeper or Sleeper(server.expect.build or "")
    with misbehaving(server.url, platform.tamper(tamper or Tamper())) as url:
        return checks.run(
            url,
            server.key,
            expectations(server, snapshot),
            lambda line: None,
            logs=platform.read,
            startup_timeout=5,
            only=only or checks.NAMES,
        )


def assert_failed(result: checks.CheckResult) -> None:
    assert result.status == "failed"
    line = result.line()
    assert "\n" not in line
    assert line.startswith(f"{result.name}: sent {result.sent}: expected ")
    assert all([result.sent, result.expected, result.got])
    assert KEY not in line
