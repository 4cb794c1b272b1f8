"""How a check ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["CheckFailed", "CheckResult", "CheckSkipped", "Seen"]


class CheckFailed(Exception):  # noqa: N818 # a finding, not an error of the check
    """What came back is not what was expected: shown as one line."""

    def __init__(self, sent: str, expected: str, got: str) -> None:
        super().__init__(f"sent {sent}: expected {expected}: got {got}")
        self.sent, self.expected, self.got = sent, expected, got


class CheckSkipped(Exception):  # noqa: N818 # the same
    """What is checked cannot be asked here; the text says why."""


@dataclass(frozen=True)
class Seen:
    """What a check that passed saw, in words, and what it measured."""

    got: str
    figures: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class CheckResult:
    """One named check: what was sent, what was expected and what came back; of a skipped one, `got` says why."""

    name: str
    status: Literal["passed", "failed", "skipped"]
    seconds: float
    got: str = ""
    sent: str = ""
    expected: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What was measured, in plain JSON types (`checks.latency`, `checks.memory`)."""

    @property
    def passed(self) -> bool:
        """True only for a check that ran and saw what it expected."""
        return self.status == "passed"

    def line(self) -> str:
        """The result in one line; a failure as `name: sent ...: expected ...: got ...`."""
        if self.status == "failed":
            return f"{self.name}: sent {self.sent}: expected {self.expected}: got {self.got}"
        if self.status == "skipped":
            return f"{self.name}: skipped: {self.got}"
        return f"{self.name}: passed in {self.seconds:.2f} s" + (f": {self.got}" if self.got else "")

    def record(self) -> dict[str, Any]:
        """The result as plain JSON types, for a proof or `--json`. It holds no secret."""
        fields = ("name", "status", "seconds", "sent", "expected", "got", "figures")
        return {name: getattr(self, name) for name in fields}
