"""Two commands in turn, A B A B ..., and the ratio of their times pair by pair: machines drift, pairs drift together."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

__all__ = ["added", "compare"]


def compare(
    a: Callable[[], float], b: Callable[[], float], *, names: tuple[str, str], pairs: int, goal: float
) -> float:
    """Call `a` and `b` (each returns seconds) `pairs` times in turn, print the figures, and return the median of a/b."""
    times = _in_turn(a, b, names, pairs)
    return _compared("ratio", [x / y for x, y in times], "", goal)


def added(a: Callable[[], float], b: Callable[[], float], *, names: tuple[str, str], pairs: int, goal: float) -> float:
    """The same with differences, in seconds: the median of a - b."""
    times = _in_turn(a, b, names, pairs)
    return _compared("added", [x - y for x, y in times], " s", goal)


def _in_turn(
    a: Callable[[], float], b: Callable[[], float], names: tuple[str, str], pairs: int
) -> list[tuple[float, float]]:
    times = [(a(), b()) for _ in range(pairs)]
    for name, column in zip(names, zip(*times, strict=True), strict=True):
        sys.stdout.write(f"{name:<58} {_spread(column)} s\n")
    return times


def _compared(name: str, values: list[float], unit: str, goal: float) -> float:
    sys.stdout.write(f"{name:<58} {_spread(values)}{unit}   goal: {goal:.2f}{unit} or less\n")
    sys.stdout.flush()
    return statistics.median(values)


def _spread(values: list[float] | tuple[float, ...]) -> str:
    return f"min {min(values):.2f}  median {statistics.median(values):.2f}  max {max(values):.2f}"
