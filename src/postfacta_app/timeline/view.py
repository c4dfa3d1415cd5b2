"""A timeline as a page shows it.

Days, moments, gaps, milestones, and above them the lanes of its chart.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate, groupby, pairwise
from typing import Any, Final
from uuid import UUID

from ..signals.model import Precision
from ..web.render import span
from .model import UNDOES, Entry, Instant, Op, Repeats, ShownAnnotation, ShownEdit, moment

_SECOND = 1_000_000
_MINUTE = 60_000_000
_DAY = 86_400_000_000
_SILENCE: Final = 600_000_000  # Ten minutes; longer gaps are shown.


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """An entry with its annotations and edits."""

    entry: Entry
    anchor: str  # its id on the page
    sign: str  # its kind, or that of the annotation that it is
    learned_at: str = ""  # when people learned of it, if later
    late: str = ""  # when a person recorded it, if more than five minutes later
    shift: str = ""  # the clock offset of its source, such as `+2 min`
    was: str = ""  # the original time, if it was corrected
    remark: ShownAnnotation | None = None  # its annotation, if the entry is one
    reason: str | None = None  # the reason of a status change, if the entry is one
    beneath: Sequence[ShownAnnotation] = ()  # the annotations on it, oldest first
    decided: Sequence[ShownEdit] = ()  # its effective edits, with their reasons
    content: Mapping[str, Any] | None = None  # the text and payload of its signal
    repeats: Repeats | None = None  # the signals that the line stands for, if there are several

    @property
    def until(self) -> int:
        return self.repeats.until if self.repeats else self.entry.t

    @property
    def title(self) -> str:
        """The title, or what the titles of several signals have in common."""
        varies = self.repeats and self.repeats.distinct > 1
        return self.repeats.pattern if self.repeats and varies else self.entry.title

    @property
    def last(self) -> str:
        """That time, to the precision of the first."""
        return _within(self.until, self.entry.p, self.entry.t)

    @property
    def text(self) -> str:
        """The full text, if it is longer than the title."""
        body: str | None = self.content["body"] if self.content else None
        text = self.remark.body if self.remark else (self.reason or body or "")
        title, _, paragraphs = text.strip().partition("\n")
        return paragraphs.strip() if title == self.entry.title else text


@dataclass(frozen=True, slots=True)
class Turn(Instant):
    """A milestone across the timeline.

    `since` is the time after the first one, in words, or empty.
    """

    name: str
    since: str = ""
    is_derived: bool = False


def lines(
    entries: Sequence[Entry],
    *,
    edits: Sequence[ShownEdit] = (),
    remarks: Sequence[ShownAnnotation] = (),
    reasons: Mapping[str, str | None] | None = None,
    contents: Mapping[UUID, Mapping[str, Any]] | None = None,
    repeats: Sequence[Repeats] = (),
) -> list[Line]:
    """Combine each entry, in the given order, with its edits and annotations, oldest first."""
    last = {_target(edit): edit for edit in edits}
    by_entry_id = {f"annotation:{remark.id}": remark for remark in remarks}
    folded = {repeat.item: repeat for repeat in repeats}
    beneath: dict[tuple[str, str], list[ShownAnnotation]] = defaultdict(list)
    for annotation in remarks:
        if annotation.entry is not None:
            beneath[annotation.entry.source, annotation.entry.id].append(annotation)
    shown: list[Line] = []
    for n, entry in enumerate(entries):
        decided = _decided(entry, last)
        original = entry.original_precision
        is_corrected = any(edit.op is Op.SET_TIME for edit in decided)
        was = _within(original.floor(entry.occurred_at), original, entry.t)
        remark = by_entry_id.get(entry.id) if entry.source == "human" else None
        change = entry.id.removeprefix("status:") if entry.source == "postfacta" else ""
        is_of_people = entry.source in {"human", "postfacta"} or entry.source.startswith("manual/")
        shown.append(
            Line(
                entry=entry,
                anchor=anchor(entry.source, entry.id),
                sign=remark.kind if remark is not None else entry.kind,
                learned_at=_later(entry, entry.known_at, _MINUTE),
                late=_later(entry, entry.received_at, 5 * _MINUTE) if is_of_people else "",
                shift="" if is_corrected else _shift(entry),
                was=was if is_corrected else "",
                remark=remark,
                reason=(reasons or {}).get(change),
                beneath=beneath[entry.source, entry.id],
                decided=decided,
                content=(contents or {}).get(entry.signal_id) if entry.signal_id else None,
                repeats=folded.get(n),
            )
        )
    return shown


def days(
    shown: Sequence[Line], turns: Sequence[Turn]
) -> list[tuple[datetime, Sequence[list[Line] | Turn | str]]]:
    """Group lines by day, in UTC, and time; at equal times a milestone comes first.

    A text is a silence.
    """
    by_time = groupby(shown, key=lambda line: (line.entry.t, line.entry.p))
    at_once = [[*group] for _, group in by_time]
    ends = accumulate((max(line.until for line in group) for group in at_once), max)
    placed: list[tuple[int, int, list[Line] | Turn | str]] = [(turn.t, 0, turn) for turn in turns]
    placed += [(group[0].entry.t, 1, group) for group in at_once]
    for [before, *_], end, [after, *_] in zip(at_once, ends, at_once[1:], strict=False):
        gap = after.entry.t - end
        # No silence beside a time that is only known to the hour or day.
        if gap > _SILENCE and min(before.entry.p.rank, after.entry.p.rank) >= Precision.MINUTE.rank:
            placed.append((before.entry.t, 2, span(gap / _SECOND)))
    placed.sort(key=lambda place: place[:2])
    by_day = groupby(placed, key=lambda place: place[0] // _DAY)
    return [(moment(day * _DAY), [item for _, _, item in items]) for day, items in by_day]


def anchor(source: str, identity: str) -> str:
    return "e-" + hashlib.sha256(f"{len(source)} {source} {identity}".encode()).hexdigest()[:12]


# How a time of day is shown, and how a whole time is typed.
_CLOCKS: Final = {Precision.DAY: "that day", Precision.HOUR: "≈%H h", Precision.MINUTE: "≈%H:%M"}
_STAMPS: Final = {Precision.DAY: "", Precision.SECOND: " %H:%M:%S", Precision.EXACT: " %H:%M:%S.%f"}


def clock(t: int, p: Precision) -> str:
    return format(moment(t), _CLOCKS.get(p, "%H:%M:%S"))


def stamp(t: int, p: Precision) -> str:
    return format(moment(t), "%Y-%m-%d" + _STAMPS.get(p, " %H:%M"))


def _target(edit: ShownEdit) -> tuple[str, str, str]:
    op = UNDOES.get(edit.op, edit.op)
    entry = edit.entry
    return (op, entry.source, entry.id) if entry else (op, edit.source or "", "")


def _decided(entry: Entry, last: Mapping[tuple[str, str, str], ShownEdit]) -> list[ShownEdit]:
    """Return the edits that changed the entry, which are shown with author and reason."""
    effective = {
        op: last.get((op, entry.source, entry.id)) for op in (Op.SET_TIME, Op.SET_TITLE, Op.HIDE)
    }
    corrected = effective[Op.SET_TIME]
    if not (corrected and corrected.value):
        effective[Op.SET_TIME] = last.get((Op.CLOCK_OFFSET, entry.source, ""))
    was = (entry.original_precision.floor(entry.occurred_at), entry.original_precision)
    is_changed = ((entry.t, entry.p) != was, entry.title != entry.original_title, entry.hidden)
    pairs = zip(effective.values(), is_changed, strict=True)
    return [edit for edit, applies in pairs if applies and edit]


def _shift(entry: Entry) -> str:
    by = entry.t - entry.original_precision.floor(entry.occurred_at)
    if by == 0:
        return ""
    sign = "+" if by > 0 else "\N{MINUS SIGN}"
    if abs(by) < _SECOND:
        return f"{sign}{abs(by) // 1000} ms"
    minutes, micros = divmod(abs(by), _MINUTE)
    parts = {"h": minutes // 60, "min": minutes % 60, "s": micros / 1e6}
    return sign + " ".join(f"{count:g} {unit}" for unit, count in parts.items() if count)


def _within(t: int, p: Precision, of: int) -> str:
    """Return a time beside another, with its day if that is another one."""
    return clock(t, p) if t // _DAY == of // _DAY else f"{moment(t):%Y-%m-%d} {clock(t, p)}"


def _later(entry: Entry, at: int | None, least: int) -> str:
    """Return a time that is later than the entry by its precision, and this much at least."""
    if at is None or at < entry.t + max(entry.p.width, least):
        return ""
    is_same_day = at // _DAY == entry.t // _DAY
    return f"{moment(at):%H:%M}" if is_same_day else f"{moment(at):%Y-%m-%d %H:%M}"


# The chart: a lane for each source, time from left to right. Lengths are in units of the drawing.

_LEFT: Final = 190.0  # Beside the names of the lanes.
_RIGHT: Final = 902.0
_BREAK: Final = 96.0  # The width of a cut-out gap.
_APART: Final = 96.0  # Between two labels of times.
_MOST_CUTS: Final = 3


@dataclass(frozen=True, slots=True)
class Chart:
    """What the template draws, each at its place from left to right."""

    lanes: Mapping[str, Sequence[tuple[float, Line]]]  # the entries of each source
    rules: Sequence[tuple[float, Turn]]  # the milestones
    ticks: Sequence[tuple[float, str]]
    breaks: Sequence[tuple[float, str]]  # the middle of gaps that were cut out, with their lengths


def chart(shown: Sequence[Line], turns: Sequence[Turn]) -> Chart | None:
    """Lay out the entries of a page and its milestones; None if there are no entries.

    Gaps longer than twice the rest are cut out; a single instant gets a minute.
    """
    if not shown:
        return None
    points = sorted({*(line.entry.t for line in shown), *(turn.t for turn in turns)})
    if len(points) == 1:
        points = [points[0] - _MINUTE // 2, points[0] + _MINUTE // 2]
    cuts = _cuts(points)
    ends = [points[0], *(t for cut in cuts for t in cut), points[-1]]
    spans = list(zip(ends[::2], ends[1::2], strict=True))
    unit = (_RIGHT - _LEFT - _BREAK * len(cuts)) / sum(end - start for start, end in spans)

    def x(t: int) -> float:
        before = [(start, min(t, end)) for start, end in spans if start <= t]
        passed = sum(end - start for start, end in before)
        return round(_LEFT + passed * unit + _BREAK * (len(before) - 1), 1)

    lanes: defaultdict[str, list[tuple[float, Line]]] = defaultdict(list)
    for line in shown:
        lanes[line.entry.source].append((x(line.entry.t), line))
    ticks: list[tuple[float, str]] = []
    for t in ends:
        if not ticks or x(t) >= ticks[-1][0] + _APART:
            ticks.append((x(t), f"{moment(t):%m-%d %H:%M}"))
    breaks = [(x(start) + _BREAK / 2, span((end - start) / _SECOND)) for start, end in cuts]
    rules = [(x(turn.t), turn) for turn in sorted(turns, key=lambda turn: turn.t)]
    return Chart(lanes, rules, ticks, breaks)


def _cuts(points: Sequence[int]) -> list[tuple[int, int]]:
    """Return the longest gaps, at most three, each longer than twice all that is left."""
    left = points[-1] - points[0]
    cuts: list[tuple[int, int]] = []
    for start, end in sorted(pairwise(points), key=lambda gap: gap[0] - gap[1])[:_MOST_CUTS]:
        left -= end - start
        if left <= 0 or end - start <= 2 * left:
            break
        cuts.append((start, end))
    return sorted(cuts)
