"""The layout of the swim-lane chart: one lane per source, time from left to right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import pairwise
from typing import Final

from ..web.charts import Tick
from ..web.render import span
from .model import Precision, Stretch, moment
from .view import SIGNS, Line, Turn, clock, stamp

# In chart units of at least 0.77 pixels, so that a mark's target has 24 pixels.
_WIDTH: Final = 960.0
_LEFT: Final = 176.0
_RIGHT: Final = 916.0
_LANE: Final = 40.0
_ROW: Final = 18.0
_LETTER: Final = 7.6
_NAME: Final = 19  # Letters of a source's name that fit beside its lane.
_EDGE: Final = 14.0
_BREAK: Final = 96.0  # The width of a cut-out gap.
_APART: Final = 60.0  # Between the centres of two tick labels.
_MOST_CUTS: Final = 3
_MOST_TICKS: Final = 8
_SECOND, _MINUTE, _HOUR, _DAY = 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000
_YEAR: Final = 365 * _DAY
_STEPS: Final = [
    *(_SECOND * it for it in (1, 5, 15, 30)),
    *(_MINUTE * it for it in (1, 2, 5, 10, 15, 30)),
    *(_HOUR * it for it in (1, 2, 3, 6, 12)),
    *(_DAY * it for it in (1, 2, 7, 30, 91)),
    _YEAR,
]
_stamp = partial(stamp, p=Precision.SECOND)
_SHAPES: Final = {
    "change": "M0-8 8 0 0 8-8 0Z",
    "alert": "M0-8 8 6H-8Z",
    "recovery": "M0 8-8-6H8Z",
    "human": "M-7 0a7 7 0 1 0 14 0a7 7 0 1 0-14 0Z",
    "decision": "M-7-7H7V7H-7Z",
    "status": "M-9-3H9V3H-9Z",
    "other": "M-6 0a6 6 0 1 0 12 0a6 6 0 1 0-12 0Z",
}


@dataclass(frozen=True, slots=True)
class Mark:
    """An entry: its outline around a point, and its text label."""

    x: float
    line: Line
    outline: str
    label: str


@dataclass(frozen=True, slots=True)
class Band:
    """The stretches of one sign in a lane, as a path."""

    sign: str
    path: str
    label: str


@dataclass(frozen=True, slots=True)
class Lane:
    """The entries of one source, along a horizontal line; the last may be that of several other ones."""

    name: str
    source: str
    y: float
    marks: Sequence[Mark]
    bands: Sequence[Band] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """A milestone: a vertical line with its name at the top, on its left if `is_left`."""

    x: float
    y: float
    turn: Turn
    is_left: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """The chart; the lanes extend from `top` to `bottom`."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    lanes: Sequence[Lane]
    rules: Sequence[Rule]
    ticks: Sequence[Tick]
    breaks: Sequence[Tick]  # gaps that were cut out around these points, with their lengths
    words: str


def chart(shown: Sequence[Line], turns: Sequence[Turn], stretches: Sequence[Stretch] = ()) -> Chart | None:
    """Lay out the lanes: the entries of the page, and where the whole timeline has any; None if there are none."""
    if not shown:
        return None
    ends = [t for it in stretches for t in (it.start, it.until)]
    scale = _Scale([*ends, *(it.entry.t for it in shown), *(it.t for it in turns)])
    rules, rows = _rules(scale, turns)
    sources = dict.fromkeys(it.lane for it in stretches) or dict.fromkeys(it.entry.source for it in shown)
    if "" in sources:
        sources[""] = sources.pop("")  # The last.
    marks: defaultdict[str, list[Mark]] = defaultdict(list)
    for it in shown:
        marks[it.entry.source if it.entry.source in sources else ""].append(_mark(scale, it))
    top = rows * _ROW + 8
    lanes: list[Lane] = []
    for n, source in enumerate(sources):
        y = top + _LANE * (n + 0.5)
        bands = _bands(scale, [it for it in stretches if it.lane == source], y)
        lanes.append(Lane(_short(source) or "others", source, y, marks[source], bands))
    bottom = top + _LANE * len(lanes)
    return Chart(
        width=_WIDTH, height=bottom + 26, left=_LEFT, right=_RIGHT, top=top, bottom=bottom, lanes=lanes, rules=rules,
        ticks=scale.ticks(), breaks=scale.breaks(), words=_words(shown, stretches, turns, lanes=len(lanes)),
    )  # fmt: skip


def _bands(scale: _Scale, stretches: Sequence[Stretch], y: float) -> list[Band]:
    """Draw each sign of a lane as one path, at a height of its own."""
    bands: list[Band] = []
    for n, name in enumerate(dict.fromkeys(it.name for it in SIGNS.values())):
        own = [it for it in stretches if SIGNS[it.kind].name == name]
        at, count = y + 5 * n - 12.5, sum(it.count for it in own)
        path = "".join(
            f"M{(x := scale.x(it.start)):g} {at:g}h{max(2.0, scale.x(it.until) - x):.4g}" for it in own
        )
        if own:
            ends = f"{_stamp(own[0].start)} to {_stamp(max(it.until for it in own))}"
            bands.append(Band(name, path, f"{SIGNS[own[0].kind].word}: {count:,}, {ends}"))
    return bands


class _Scale:
    """The time axis. Gaps longer than twice the rest are cut out; a single instant gets a minute."""

    def __init__(self, times: Sequence[int]) -> None:
        points = sorted(set(times))
        if len(points) == 1:
            points = [points[0] - _MINUTE // 2, points[0] + _MINUTE // 2]
        self._cuts = _cuts(points)
        ends = [points[0], *(t for cut in self._cuts for t in cut), points[-1]]
        spans = list(zip(ends[::2], ends[1::2], strict=True))
        self._length = sum(end - start for start, end in spans)
        self._unit = (_RIGHT - _LEFT - 2 * _EDGE - _BREAK * len(self._cuts)) / self._length
        self._spans: list[tuple[int, int, float]] = []
        x = _LEFT + _EDGE
        for start, end in spans:
            self._spans.append((start, end, x))
            x += (end - start) * self._unit + _BREAK

    def x(self, t: int) -> float:
        start, end, x = next(it for it in reversed(self._spans) if it[0] <= t)
        return round(x + (min(t, end) - start) * self._unit, 1)

    def ticks(self) -> list[Tick]:
        longer = -(-self._length // (_MOST_TICKS * _YEAR)) * _YEAR
        step = next((it for it in _STEPS if self._length <= it * _MOST_TICKS), longer)
        ticks: list[Tick] = []
        for start, end, x in self._spans:
            if ticks or x > _LEFT + _EDGE:
                ticks.append(Tick(round(x, 1), f"{moment(start):%m-%d %H:%M}"))
            first = -(-start // step) * step
            places = [(self.x(t), _round_time(t, step)) for t in range(first, end + 1, step)]
            ticks += [Tick(at, text) for at, text in places if not ticks or at >= ticks[-1].at + _APART]
        return ticks

    def breaks(self) -> list[Tick]:
        return [
            Tick(self.x(start) + _BREAK / 2, span(timedelta(microseconds=end - start)))
            for start, end in self._cuts
        ]


def _cuts(points: Sequence[int]) -> list[tuple[int, int]]:
    left = points[-1] - points[0]
    cuts: list[tuple[int, int]] = []
    for start, end in sorted(pairwise(points), key=lambda gap: gap[0] - gap[1])[:_MOST_CUTS]:
        left -= end - start
        if left <= 0 or end - start <= 2 * left:
            break
        cuts.append((start, end))
    return sorted(cuts)


def _round_time(t: int, step: int) -> str:
    at = moment(t)
    if step >= _DAY:
        return f"{at:%Y-%m-%d}"
    if t % _DAY == 0:
        return f"{at:%m-%d}"
    return f"{at:%H:%M:%S}" if step < _MINUTE else f"{at:%H:%M}"


def _rules(scale: _Scale, turns: Sequence[Turn]) -> tuple[list[Rule], int]:
    """Place the milestones, each name in the first row where it overlaps no other; also return the number of rows."""
    ends: list[float] = []
    rules: list[Rule] = []
    for turn in sorted(turns, key=lambda it: it.t):
        x, length = scale.x(turn.t), len(turn.name) * _LETTER + 10
        is_left = x + length > _RIGHT
        start = x - length if is_left else x
        row = next((n for n, end in enumerate(ends) if end <= start), len(ends))
        ends[row : row + 1] = [start + length]
        rules.append(Rule(x, (row + 1) * _ROW - 4, turn, is_left))
    return rules, len(ends)


def _mark(scale: _Scale, line: Line) -> Mark:
    entry = line.entry
    label = f"{moment(entry.t):%Y-%m-%d} {clock(entry.t, entry.p)} {line.sign.word}: {entry.title}"
    return Mark(scale.x(entry.t), line, _SHAPES[line.sign.name], label)


def _short(source: str) -> str:
    return source if len(source) <= _NAME else source[: _NAME - 1] + "…"


def _words(shown: Sequence[Line], whole: Sequence[Stretch], turns: Sequence[Turn], *, lanes: int) -> str:
    ends = [f"{moment(it.entry.t):%Y-%m-%d} {clock(it.entry.t, it.entry.p)}" for it in (shown[0], shown[-1])]
    if whole:
        ends = [_stamp(min(it.start for it in whole)), _stamp(max(it.until for it in whole))]
    count = sum(it.count for it in whole) or len(shown)
    given = [
        f"{count:,} {'entry' if count == 1 else 'entries'}",
        f"from {lanes} {'source' if lanes == 1 else 'sources'}",
        f"between {ends[0]} and {ends[1]} UTC.",
    ]
    marked = ", ".join(f"{turn.name.replace('_', ' ')} {turn.clock}" for turn in turns)
    return (
        " ".join(given)
        + (f" Milestones: {marked}." if marked else "")
        + " The timeline below has the same content."
    )
