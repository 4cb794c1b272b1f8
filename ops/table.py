"""Tables as an operator likes to read them; for check results a row as each ends, then what failed, then the sum."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable
from typing import TextIO

from checks import CheckResult

__all__ = ["Table", "aligned"]

_WORDS = {"passed": "ok", "failed": "FAILED", "skipped": "skipped"}
_COLORS = {"passed": "32", "failed": "1;31", "skipped": "33"}


def aligned(rows: list[list[str]]) -> list[str]:
    """Rows of cells as lines, in columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


class Table:
    """Writes to a screen in colour and within its width, to anything else plainly and in full (https://no-color.org)."""

    def __init__(self, out: TextIO, names: Iterable[str]) -> None:
        self._out = out
        self._name_width = max(map(len, names))
        self._screen = out.isatty()
        self._width = shutil.get_terminal_size().columns if self._screen else 0

    def begin(self, title: str) -> None:
        """The line above the rows."""
        self._write(f"{title}\n")

    def row(self, result: CheckResult) -> None:
        """One check that has ended."""
        seconds = "" if result.status == "skipped" else f"{result.seconds:.2f} s"
        text = f"  {result.name:<{self._name_width}}  {seconds:>8}  {result.got}".rstrip()
        room = self._width - 10
        if self._width and len(text) > room:
            text = f"{text[: room - 3]}..."
        self._write(f"  {self._colored(result.status)}{text}")

    def end(self, results: list[CheckResult]) -> None:
        """What failed, each in one line as in `pulumi up`, and the sum."""
        failed = [result for result in results if not result.passed and result.status != "skipped"]
        if failed:
            self._write("")
        for result in failed:
            self._write(result.line())
        count = Counter(result.status for result in results)
        seconds = sum(result.seconds for result in results)
        parts = [f"{count[status]} {status}" for status in ("passed", "failed", "skipped") if count[status]]
        self._write(f"\n{', '.join(parts)} in {seconds:.1f} s")

    def _colored(self, status: str) -> str:
        word = f"{_WORDS[status]:<8}"
        if not self._screen or os.environ.get("NO_COLOR"):
            return word
        return f"\x1b[{_COLORS[status]}m{word}\x1b[0m"

    def _write(self, text: str) -> None:
        self._out.write(f"{text}\n")
        self._out.flush()
