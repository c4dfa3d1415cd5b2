"""Milestones and durations as a page shows them; an unknown duration is a dash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from ..timeline.model import Milestone, Precision
from ..timeline.view import Turn
from ..web.render import span
from .model import Basis, Duration, DurationStatus, Mark, Phase, measure

UNKNOWN: Final = "\u2013"
"""A dash, for a length that is not known."""

_ENDS: Final = {
    Phase.DETECT: ("To detect", "impact start → detected"),
    Phase.ACKNOWLEDGE: ("To acknowledge", "detected → acknowledged"),
    Phase.MITIGATE: ("To mitigate", "impact start → mitigated"),
    Phase.RESOLVE: ("To resolve", "impact start → resolved"),
    Phase.OPEN: ("Open for", "declared → resolved"),
}
_WHY: Final = {
    DurationStatus.INVALID_ORDER: "contradictory: it ends before it begins",
    DurationStatus.PENDING: "still open",
    DurationStatus.MISSING: "unknown",
}
_WITHIN: Final = {
    Precision.DAY: "within a day",
    Precision.HOUR: "within an hour",
    Precision.MINUTE: "within a minute",
    Precision.SECOND: "within a second",
}


@dataclass(frozen=True, slots=True)
class Stat:
    """One duration: its name, its length or a dash, its status, and its two ends."""

    name: str
    length: str
    status: str
    ends: str


def strip(measured: Mapping[Phase, Duration]) -> list[Stat]:
    return [_stat(phase, measured[phase]) for phase in Phase]


def turns(found: Mapping[str, Mark]) -> list[Turn]:
    known = sorted(
        ((name, found[name]) for name in Milestone if name in found), key=lambda it: (it[1].t, it[1].p.rank)
    )
    return [
        Turn(mark.t, mark.p, name, _since(known, mark), mark.basis is Basis.DERIVED) for name, mark in known
    ]


def _since(known: Sequence[tuple[str, Mark]], mark: Mark) -> str:
    first = known[0][1]
    if mark is first:
        return ""
    length = measure(first, mark, is_open=False)
    return f"+{_length(length)}" if length.seconds is not None else _within(length)


def _stat(phase: Phase, length: Duration) -> Stat:
    name, ends = _ENDS[phase]
    if length.seconds is not None:
        status = "derived" if length.basis is Basis.DERIVED else "entered manually"
        return Stat(name, _length(length), status, ends)
    if length.status is DurationStatus.IMPRECISE:
        return Stat(name, UNKNOWN, f"{_within(length)}: not known more precisely", ends)
    return Stat(name, UNKNOWN, _WHY[length.status], ends)


def _length(length: Duration) -> str:
    return span(timedelta(seconds=length.seconds or 0))


def _within(length: Duration) -> str:
    return _WITHIN.get(length.precision or Precision.EXACT, "at the same time")
