"""How a check ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["CheckFailed", "CheckResult", "CheckSkipped"]


class CheckFailed(Exception):  # noqa: N818 # a finding, not an error of the check
    """What came back is not what was expected: shown as one line."""

    def __init__(self, sent: str, expected: str, got: str) -> None:
        super().__init__(f"sent {sent}: expected {expected}: got {got}")
        self.sent, self.expected, self.got = sent, expected, got


class CheckSkipped(Exception):  # noqa: N818 # the same
    """The caller did not say what to expect. A release is not proved by a check that was skipped."""


@dataclass(frozen=True)
class CheckResult:
    """One named check: passed with what was seen (`note`), failed with what was sent, expected and got, or skipped."""

    name: str
    status: Literal["passed", "failed", "skipped"]
    seconds: float
    note: str = ""
    sent: str = ""
    expected: str = ""
    got: str = ""

    @property
    def passed(self) -> bool:
        """True only for a check that ran and saw what it expected."""
        return self.status == "passed"

    def line(self) -> str:
        """The result in one line; a failure as `name: sent ...: expected ...: got ...`."""
        if self.status == "failed":
            return f"{self.name}: sent {self.sent}: expected {self.expected}: got {self.got}"
        if self.status == "skipped":
            return f"{self.name}: skipped: {self.note}"
        return f"{self.name}: passed in {self.seconds:.2f} s" + (f": {self.note}" if self.note else "")

    def record(self) -> dict[str, Any]:
        """The result as plain JSON types, for a proof or `--json`. It holds no secret."""
        record: dict[str, Any] = {"name": self.name, "status": self.status, "seconds": self.seconds, "note": self.note}
        if self.status == "failed":
            record |= {"sent": self.sent, "expected": self.expected, "got": self.got}
        return record
