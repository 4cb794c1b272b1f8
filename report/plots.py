"""Drawings as inline SVG. Places are shares of the width and sizes are pixels: text stays readable on a narrow screen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Bar", "Samples", "Segment", "bars", "latency", "seconds", "timeline"]

ROW = 34
LABELLED_ROW = 50
AXIS = 24
LEFT, RIGHT = 0.5, 99.5
"""Where plots begin and end, in percent of the width: a line at the edge keeps its whole stroke."""


@dataclass(frozen=True)
class Segment:
    """A part of a start, from one moment to another in seconds. `kind` is a class of `page.css`."""

    kind: str
    label: str
    begin: float
    end: float


@dataclass(frozen=True)
class Samples:
    """What was measured several times, in seconds. `kind` is a class of `page.css`."""

    kind: str
    label: str
    samples: Sequence[float]
    median: float
    p95: float


@dataclass(frozen=True)
class Bar:
    """One amount with its words."""

    label: str
    value: float
    text: str


def seconds(value: float) -> str:
    """Seconds for people: `26 ms`, `1.88 s`, `12.6 s`."""
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2f} s" if value < 9.995 else f"{value:.1f} s"


def timeline(segments: Sequence[Segment], longest: float, name: str) -> str:
    """One start as a bar of segments on an axis that ends at `longest` seconds."""
    place = _linear(longest)
    shapes = [_rect(s, place, seconds(s.end - s.begin)) for s in segments if s.end > s.begin]
    return _svg(ROW + AXIS, name, [*_axis(place, _ticks(longest), ROW), *shapes])


def _rect(segment: Segment, place: Callable[[float], float], length: str) -> str:
    x, end = place(segment.begin), place(segment.end)
    title = f"<title>{escape(segment.label)}: {length}</title>"
    return f'<rect class="{segment.kind}" x="{x:.2f}%" y="5" width="{max(0.3, end - x):.2f}%" height="{ROW - 10}">{title}</rect>'


def latency(rows: Sequence[Samples], name: str) -> str:
    """Every sample as a dot on a logarithmic axis, with the median and the 95th percentile of each row."""
    values = [value for row in rows for value in row.samples if value > 0]
    low = 10 ** math.floor(math.log10(min(values)))
    high = 10 ** math.ceil(math.log10(max(values) * 1.0001))
    place = _logarithmic(low, high)
    height = LABELLED_ROW * len(rows)
    shapes = []
    for number, row in enumerate(rows):
        middle = LABELLED_ROW * (number + 1) - 16
        shapes.append(f'<text x="0" y="{middle - 18}">{escape(row.label)}</text>')
        shapes += [_dot(row, place(value), middle, value) for value in row.samples if value > 0]
        for kind, value in (("median", row.median), ("p95", row.p95)):
            x = place(value)
            title = f"<title>{escape(row.label)}, {kind}: {seconds(value)}</title>"
            shapes.append(
                f'<line class="{kind}" x1="{x:.2f}%" x2="{x:.2f}%" y1="{middle - 12}" y2="{middle + 12}">{title}</line>'
            )
    decades = round(math.log10(high / low))
    return _svg(height + AXIS, name, [*_axis(place, [low * 10**i for i in range(decades + 1)], height), *shapes])


def _dot(row: Samples, x: float, y: float, value: float) -> str:
    title = f"<title>{escape(row.label)}: {seconds(value)}</title>"
    return f'<circle class="{row.kind}" cx="{x:.2f}%" cy="{y}" r="5">{title}</circle>'


def bars(rows: Sequence[Bar], name: str) -> str:
    """Amounts as bars from zero, longest across the whole width, each with its words above it."""
    largest = max((row.value for row in rows), default=0) or 1
    shapes = []
    for number, row in enumerate(rows):
        top = 48 * number
        shapes.append(f'<text x="0" y="{top + 15}">{escape(row.label)}</text>')
        shapes.append(f'<text class="value" x="100%" y="{top + 15}">{escape(row.text)}</text>')
        width = max(0.5, 100 * row.value / largest)
        shapes.append(f'<rect class="track" x="0" y="{top + 22}" width="100%" height="14" rx="3"/>')
        shapes.append(f'<rect class="amount" x="0" y="{top + 22}" width="{width:.2f}%" height="14" rx="3"/>')
    return _svg(48 * len(rows), name, shapes)


def _svg(height: float, name: str, shapes: Iterable[str]) -> str:
    drawn = "\n".join(shapes)
    return f'<svg role="img" aria-label="{escape(name)}" width="100%" height="{height:g}">\n{drawn}\n</svg>'


def _axis(place: Callable[[float], float], ticks: Sequence[float], height: float) -> list[str]:
    drawn = []
    for number, tick in enumerate(ticks):
        x = place(tick)
        anchor = "start" if number == 0 else "end" if number == len(ticks) - 1 else "middle"
        drawn.append(f'<line class="grid" x1="{x:.2f}%" x2="{x:.2f}%" y1="0" y2="{height}"/>')
        label = "0" if tick == 0 else seconds(tick).replace(".00", "").replace(".0 ", " ")
        drawn.append(f'<text class="tick" x="{x:.2f}%" y="{height + 16}" text-anchor="{anchor}">{label}</text>')
    return drawn


def _linear(longest: float) -> Callable[[float], float]:
    return lambda value: LEFT + (RIGHT - LEFT) * min(1.0, max(0.0, value / longest))


def _logarithmic(low: float, high: float) -> Callable[[float], float]:
    return lambda value: LEFT + (RIGHT - LEFT) * math.log(max(low, value) / low) / math.log(high / low)


def _ticks(longest: float) -> list[float]:
    """Zero, and up to five round numbers after it, the last of them `longest` if that is one."""
    step = next(s for s in _steps() if longest / s <= 5)
    return [step * i for i in range(math.floor(longest / step + 1e-9) + 1)]


def _steps() -> Iterable[float]:
    decade = 0.01
    while True:
        yield from (decade, decade * 2, decade * 5)
        decade *= 10
