"""Draw lines in an SVG that is readable as text, without a library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

__all__ = ["Panel", "write"]

_WIDTH = 360
_HEIGHT = 210
_LEFT = 52
_RIGHT = 12
_TOP = 28
_BOTTOM = 52
# Distinguishable without seeing red or green (Okabe and Ito).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#555555")
_DASHES = ("", "6 3", "2 2", "8 2 2 2", "1 3")

Line = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram.

    Attributes:
        title: What it shows.
        across: What stands below it.
        up: What stands beside it.
        lines: Points of each line, by name; one without points keeps its colour for the panel
            beside it.
        top: The end of the scale; None for the highest point.
        ticks: Marks on the horizontal scale; by default the ends and the middle.
    """

    title: str
    across: str
    up: str
    lines: Mapping[str, Line] = field(default_factory=dict[str, Line])
    top: float | None = None
    ticks: Sequence[float] = ()


def write(path: Path, panels: Sequence[Panel], *, columns: int = 2) -> None:
    """Write panels side by side into one file."""
    rows = -(-len(panels) // columns)
    width = columns * _WIDTH
    height = rows * _HEIGHT
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
            ' font-family="sans-serif">'
        ),
        "<style>text {font-size: 10px}</style>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for number, panel in enumerate(panels):
        x = number % columns * _WIDTH
        y = number // columns * _HEIGHT
        parts += [f'<g transform="translate({x} {y})">', *_drawn(panel), "</g>"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*parts, "</svg>", ""]))


def _drawn(panel: Panel) -> list[str]:
    points = [point for line in panel.lines.values() for point in line]
    first = min(x for x, _ in points)
    last = max(x for x, _ in points)
    top = panel.top or _round_up(max(y for _, y in points))
    right = _WIDTH - _RIGHT
    bottom = _HEIGHT - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - first) / ((last - first) or 1.0) * (right - _LEFT)
        return across, bottom - min(1.0, y / top) * (bottom - _TOP)

    parts = [
        _text(_LEFT, 14, panel.title, 'font-weight="bold"'),
        _text(right, bottom + 26, panel.across, 'text-anchor="end" fill="#555555"'),
        _text(right, 14, panel.up, 'text-anchor="end" fill="#555555"'),
        f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="#555555"/>',
    ]
    for share in (0.0, 0.5, 1.0):
        _, y = place(first, top * share)
        parts.append(_text(_LEFT - 5, y + 3, f"{top * share:.4g}", 'text-anchor="end"'))
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="#dddddd"/>')
    parts += [
        _text(place(tick, 0)[0], bottom + 13, f"{tick:.4g}", 'text-anchor="middle"')
        for tick in panel.ticks or (first, (first + last) / 2, last)
    ]
    for number, (name, line) in enumerate(panel.lines.items()):
        if not line:
            continue
        look = (
            f'stroke="{_COLOURS[number % 5]}" stroke-dasharray="{_DASHES[number % 5]}"'
            ' stroke-width="1.5"'
        )
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line))
        parts.append(f'<polyline points="{path}" fill="none" {look}/>')
        x = _LEFT + number % 3 * 100
        y = _HEIGHT - 14 + number // 3 * 11
        parts.append(f'<path d="M{x} {y - 3}h18" {look}/>')
        parts.append(_text(x + 22, y, name))
    return parts


def _round_up(value: float) -> float:
    step = 10.0 ** math.floor(math.log10(value or 1.0)) / 2
    return math.ceil(value / step) * step or 1.0


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(text)}</text>'
