"""The layout of charts, which the templates render as SVG."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from math import log
from typing import ClassVar, Final

from .render import span

_WIDTH: Final = 480.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 78.0, 472.0, 14.0, 26.0
_LANE: Final = 56.0
_PLOT: Final = 240.0
_EDGE: Final = 8.0  # Keeps dots off the frame.
_MOST_WEEKS: Final = 53
_WEEK: Final = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Tick:
    """A labelled position on an axis."""

    at: float
    label: str
    anchor: str = "middle"


# Frequency


@dataclass(frozen=True, slots=True)
class Bar:
    """The count of one week: a bar on its lane's line."""

    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True, slots=True)
class Lane:
    """The weeks of one severity, on a line at `y`."""

    name: str
    y: float
    bars: Sequence[Bar]
    total: int


class _Frame:
    width: ClassVar[float] = _WIDTH
    left: ClassVar[float] = _LEFT
    right: ClassVar[float] = _RIGHT


@dataclass(frozen=True)
class WeekChart(_Frame):
    """A lane of bars for each severity, on a common scale."""

    height: float
    lanes: Sequence[Lane]
    ticks: Sequence[Tick]
    rows: Sequence[
        tuple[date, Sequence[int]]
    ]  # the Monday of each week, with its counts in the order of the lanes
    most: int  # the highest count, which fills the height of a lane
    earlier: int  # how many are before the first week shown


def week_chart(incidents: Sequence[tuple[datetime, str]], lanes: Sequence[str]) -> WeekChart | None:
    """Count incidents, each a time and a severity, by week, Monday to Sunday in UTC, and severity.

    There are at most 53 weeks, up to the last with an incident, and at least four; `lanes` are the severities
    from top to bottom.
    """
    if not incidents:
        return None
    counts = Counter((_monday(at), severity) for at, severity in incidents)
    mondays = [monday for monday, _ in counts]
    last = max(mondays)
    # At least four, which limits the width of a bar.
    first = max(min(*mondays, last - 3 * _WEEK), last - (_MOST_WEEKS - 1) * _WEEK)
    weeks = [first + at * _WEEK for at in range((last - first).days // 7 + 1)]
    most = max(count for (monday, _), count in counts.items() if monday >= first)
    step = (_RIGHT - _LEFT) / len(weeks)

    def bar(at: int, severity: str, base: float) -> Bar:
        count = counts[weeks[at], severity]
        height = (_LANE - 20) * count / most
        label = f"{count} {severity.lower()} in the week of {weeks[at]}"
        return Bar(_LEFT + (at + 0.1) * step, base - height, 0.8 * step, height, label)

    shown: list[Lane] = []
    for place, severity in enumerate(lanes, 1):
        base = _TOP + place * _LANE
        bars = [bar(at, severity, base) for at, monday in enumerate(weeks) if counts[monday, severity]]
        total = sum(counts[monday, severity] for monday in weeks)
        shown.append(Lane(severity, base, bars, total))
    return WeekChart(
        height=_TOP + len(lanes) * _LANE + _BOTTOM,
        lanes=shown,
        ticks=[Tick(_LEFT, f"{first}", "start"), Tick(_RIGHT, f"{last}", "end")],
        rows=[(monday, [counts[monday, severity] for severity in lanes]) for monday in weeks],
        most=most,
        earlier=sum(count for (monday, _), count in counts.items() if monday < first),
    )


def _monday(at: datetime) -> date:
    day = at.astimezone(UTC).date()
    # The year 1 begins with a Monday, so every day has one.
    return day - timedelta(days=day.weekday())


# Durations


@dataclass(frozen=True, slots=True)
class Point:
    """One incident: its reference, severity, declaration time, and a duration of 0 seconds or more."""

    name: str
    severity: str
    declared_at: datetime
    seconds: float


@dataclass(frozen=True, slots=True)
class Dot:
    """A point with its coordinates."""

    x: float
    y: float
    severity: str
    label: str


@dataclass(frozen=True)
class DotPlot(_Frame):
    """A dot for each incident, by declaration time and duration."""

    height: float
    bottom: float
    dots: Sequence[Dot]
    times: Sequence[Tick]
    lengths: Sequence[Tick]
    median: Tick | None  # the position of its line, with its length in words; None if there are too few


_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0
_LENGTHS: Final = (
    (1.0, "1 s"), (10.0, "10 s"), (_MINUTE, "1 min"), (10 * _MINUTE, "10 min"), (_HOUR, "1 h"), (6 * _HOUR, "6 h"),
    (_DAY, "1 d"), (7 * _DAY, "1 week"), (30 * _DAY, "30 d"), (365 * _DAY, "1 year"), (3650 * _DAY, "10 years"),
    (36500 * _DAY, "100 years"), (3652500 * _DAY, "10,000 years"),
)  # fmt: skip


def dot_plot(points: Sequence[Point], median: float | None) -> DotPlot | None:
    """Place the points: time to the right, duration upward on a logarithmic scale from one second."""
    if not points:
        return None
    steps = [length for length, _ in _LENGTHS]
    low = max(0, bisect_right(steps, min(point.seconds for point in points)) - 1)
    high = min(len(steps) - 1, bisect_left(steps, max(point.seconds for point in points)))
    low, high = (low, high) if low < high else (max(0, high - 1), max(1, high))
    top, bottom = _TOP, _TOP + _PLOT
    begin, end = (pick(point.declared_at for point in points) for pick in (min, max))
    wide = (end - begin).total_seconds()

    def x(at: datetime) -> float:
        share = (at - begin).total_seconds() / wide if wide else 0.5
        return _LEFT + _EDGE + share * (_RIGHT - _LEFT - 2 * _EDGE)

    def y(seconds: float) -> float:
        share = log(max(seconds, steps[low]) / steps[low]) / log(steps[high] / steps[low])
        return bottom - _EDGE - share * (bottom - top - 2 * _EDGE)

    return DotPlot(
        height=bottom + _BOTTOM,
        bottom=bottom,
        dots=[
            Dot(x(it.declared_at), y(it.seconds), it.severity, f"{it.name}: {length(it.seconds)}")
            for it in points
        ],
        times=_ends(Tick(x(begin), f"{begin:%Y-%m-%d}", "start"), Tick(x(end), f"{end:%Y-%m-%d}", "end")),
        lengths=[Tick(y(seconds), label, "end") for seconds, label in _LENGTHS[low : high + 1]],
        median=None if median is None else Tick(y(median), length(median), "end"),
    )


def _ends(first: Tick, last: Tick) -> list[Tick]:
    return [first, last] if first.label != last.label else [Tick((first.at + last.at) / 2, first.label)]


def length(seconds: float) -> str:
    return span(timedelta(seconds=seconds)) if seconds >= 1 else "under 1 s"
