"""Fixtures of these tests."""

from __future__ import annotations

import pytest

from tests.stand_in import stand_in

__all__ = ["stand_in"]


@pytest.fixture
def one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log here is written by this process: no clock differs, nothing comes late."""
    monkeypatch.setattr("checks.waking.SKEW_SECONDS", 0.001)
    monkeypatch.setattr("checks.waking._PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("checks.waking._IDLE_SECONDS", 0.5)
    monkeypatch.setattr("checks.logs._DELAY_SECONDS", 0.5)
    monkeypatch.setattr("checks.restore._DELAY_SECONDS", 0.5)
