"""Writes reports: as one HTML file that needs nothing else, or as JUnit does, for CI services."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from xml.sax.saxutils import quoteattr

_GOOD = {"pass", "done", "met"}
_BAD = {"fail", "failed", "error", "deviated", "nothing", "not met"}
_WIDTH = 860
_HEIGHT = 240
_LEFT = 56
_RIGHT = 12
_TOP = 24
_BOTTOM = 34
_TICKS = 6
Points = Sequence[tuple[float, float]]


def machine() -> dict[str, str]:
    """Return the machine and the revision that figures come from."""
    try:
        command = ["git", "describe", "--always", "--dirty"]
        process = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603 - fixed
        revision = process.stdout.strip()
    except OSError:
        revision = ""
    return {
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "revision": revision or "unknown",
    }


def page(
    title: str,
    verdict: str,
    sections: Iterable[str],
    *,
    lead: str = "",
    state: Mapping[str, object] | None = None,
) -> str:
    """Combine sections into a document; by default it names this machine as it is now."""
    about = ", ".join(
        f"{name} {value}" for name, value in (machine() if state is None else state).items()
    )
    style = files("postfacta_lab.engine").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport"'
        f' content="width=device-width, initial-scale=1"><title>{escape(title)}:'
        f" {escape(verdict)}</title><style>{style}</style><body><main><h1>{escape(title)}"
        f" {badge(verdict)}</h1><p>{escape(lead)}</p><p"
        f' class="soft">{escape(about)}</p>{"".join(sections)}</main></body></html>\n'
    )


def section(heading: str, *parts: str, about: str = "") -> str:
    """Head some parts, and say in a sentence what they show."""
    sentence = f'<p class="soft">{escape(about)}</p>' if about else ""
    return f"<section><h2>{escape(heading)}</h2>{sentence}{''.join(parts)}</section>"


def badge(verdict: str, name: str = "") -> str:
    """Show a verdict, perhaps of something, by word and colour."""
    kind = "odd"
    if verdict in _GOOD:
        kind = "good"
    elif verdict in _BAD:
        kind = "bad"
    return f'<span class="badge {kind}">{escape(f"{name} {verdict}".strip())}</span>'


def facts(values: Mapping[str, str]) -> str:
    cards = (
        f"<div><b>{escape(text)}</b><span>{escape(name)}</span></div>"
        for name, text in values.items()
    )
    return f'<div class="facts">{"".join(cards)}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Show rows; numbers stand to the right, and a cell that is a badge stays one."""
    body = [list(row) for row in rows]
    kinds: list[str] = []
    for column in range(len(head)):
        is_numeric = bool(body) and all(_is_number(row[column]) for row in body)
        kinds.append(' class="n"' if is_numeric else "")

    def line(cell: str, texts: Iterable[str]) -> str:
        pairs = zip(kinds, texts, strict=True)
        cells = (f"<{cell}{kind}>{text}</{cell}>" for kind, text in pairs)
        return f"<tr>{''.join(cells)}</tr>"

    lines = [line("th", map(escape, head))]
    lines += [line("td", map(_cell, row)) for row in body]
    # One that is wider than the screen is scrolled, also by keys.
    label = escape(", ".join(head))
    scrolled = f'class="wide" tabindex="0" role="group" aria-label="{label}"'
    return f"<div {scrolled}><table>{''.join(lines)}</table></div>"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object) -> str:
    if _is_number(value):
        return f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"
    text = str(value)
    return text if text.startswith('<span class="badge') else escape(text)


def chart(lines: Mapping[str, Points], *, x: str, y: str, marks: Sequence[float] = ()) -> str:
    """Draw lines over a common x, each in its order; ``marks`` are moments to point at."""
    points = [point for line in lines.values() for point in line]
    if not points:
        return '<p class="soft">nothing to draw</p>'
    widest = max(x_value for x_value, _ in points)
    highest = max(y_value for _, y_value in points)
    across = _ticks(max(widest, *marks, 1e-9))
    upwards = _ticks(max(highest, 1e-9))
    wide = across[-1]
    high = upwards[-1]
    right = _WIDTH - _RIGHT
    bottom = _HEIGHT - _BOTTOM

    def at(point: tuple[float, float]) -> tuple[float, float]:
        left = _LEFT + (right - _LEFT) * point[0] / wide
        return left, bottom - (bottom - _TOP) * point[1] / high

    parts: list[str] = []
    for value in upwards:
        left, height = at((0, value))
        parts.append(_line("grid", (left, height), (right, height)))
        parts.append(_text(f"{value:g}", left - 8, height + 4, anchor="end"))
    for value in across:
        left, _ = at((value, 0))
        parts.append(_text(f"{value:g}", left, _HEIGHT - 16, anchor="middle"))
    parts += [_line("mark", at((mark, 0)), at((mark, high))) for mark in marks]
    for number, (name, line) in enumerate(lines.items(), 1):
        path = " L ".join(f"{left:.1f} {height:.1f}" for left, height in map(at, line))
        parts.append(f'<path class="c{number}" d="M {path}"/>')
        parts.append(_text(name, _LEFT + (number - 1) * 170, 14, kind=f"c{number}"))
    parts.append(_text(x, right, _HEIGHT - 2, anchor="end"))
    parts.append(_text(y, right, 14, anchor="end"))
    label = escape(f"{', '.join(lines)} over {x}")
    box = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}"'
    return f"<svg {box}>{''.join(parts)}</svg>"


def _text(text: str, x: float, y: float, *, anchor: str = "start", kind: str = "") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place}>{escape(text)}</text>'


def _line(kind: str, start: tuple[float, float], end: tuple[float, float]) -> str:
    x1, y1 = start
    x2, y2 = end
    return f'<line class="{kind}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def _ticks(most: float) -> list[float]:
    """Choose round values from 0 to the most, or to what is next above it."""
    unit = 10.0 ** math.floor(math.log10(most))
    step = next(
        unit * factor for factor in (0.2, 0.5, 1.0, 2.0) if most / (unit * factor) <= _TICKS
    )
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]


@dataclass(frozen=True, slots=True)
class Case:
    """One test of a JUnit report.

    `kind` is `failure`, `error` or `skipped`, and empty for one that passed.
    """

    group: str
    name: str
    seconds: float
    kind: str = ""
    text: str = ""

    def __str__(self) -> str:
        inner = f"<system-out>{escape(self.text)}</system-out>" if self.text else ""
        if self.kind:
            inner = f"<{self.kind} message={quoteattr(self.text)}/>"
        place = f"classname={quoteattr(self.group)} name={quoteattr(self.name)}"
        return f'  <testcase {place} time="{self.seconds:.3f}">{inner}</testcase>'


def suite(name: str, cases: Sequence[Case]) -> str:
    counts = {
        kind: sum(case.kind == kind for case in cases) for kind in ("failure", "error", "skipped")
    }
    numbers = (
        f'failures="{counts["failure"]}" errors="{counts["error"]}" skipped="{counts["skipped"]}"'
    )
    head = f'<testsuite name={quoteattr(name)} tests="{len(cases)}" {numbers}>'
    return "\n".join(
        ('<?xml version="1.0" encoding="UTF-8"?>', head, *map(str, cases), "</testsuite>", "")
    )
