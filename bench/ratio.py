"""Two commands in turn, A B A B ..., and the ratio of their times pair by pair: machines drift, pairs drift together."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

__all__ = ["compare"]


def compare(
    a: Callable[[], float], b: Callable[[], float], *, names: tuple[str, str], pairs: int, goal: float
) -> float:
    """Call `a` and `b` (each returns seconds) `pairs` times in turn, print the figures, and return the median of a/b."""
    times = [(a(), b()) for _ in range(pairs)]
    ratios = [x / y for x, y in times]
    for name, column in zip(names, zip(*times, strict=True), strict=True):
        sys.stdout.write(f"{name:<44} {_spread(column)} s\n")
    median = statistics.median(ratios)
    sys.stdout.write(f"{'ratio':<44} {_spread(ratios)}   goal: {goal:.2f} or less\n")
    return median


def _spread(values: list[float] | tuple[float, ...]) -> str:
    return f"min {min(values):.2f}  median {statistics.median(values):.2f}  max {max(values):.2f}"
