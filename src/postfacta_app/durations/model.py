"""Durations between milestones, and their quantiles; an unknown duration is never a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from pydantic import BaseModel

from ..timeline.model import Micros, Milestone, Precision


class Phase(StrEnum):
    """A span of an incident."""

    DETECT = "detect"
    ACKNOWLEDGE = "acknowledge"
    MITIGATE = "mitigate"
    RESOLVE = "resolve"
    OPEN = "open"


class DurationStatus(StrEnum):
    """The status of a duration."""

    OK = "ok"
    IMPRECISE = "imprecise"
    INVALID_ORDER = "invalid_order"
    PENDING = "pending"
    MISSING = "missing"


class Basis(StrEnum):
    """The basis of a milestone: entered manually, or derived from alerts and status changes."""

    GIVEN = "given"
    DERIVED = "derived"


_ENDS: Final[Mapping[Phase, tuple[str, Milestone]]] = {
    Phase.DETECT: (Milestone.IMPACT_STARTED, Milestone.DETECTED),
    Phase.ACKNOWLEDGE: (Milestone.DETECTED, Milestone.ACKNOWLEDGED),
    Phase.MITIGATE: (Milestone.IMPACT_STARTED, Milestone.MITIGATED),
    Phase.RESOLVE: (Milestone.IMPACT_STARTED, Milestone.RESOLVED),
    Phase.OPEN: ("declared", Milestone.RESOLVED),
}
LEAST: Final = {50: 5, 90: 10}
"""The fewest values for each quantile, by its percentage."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A milestone with where it comes from."""

    t: Micros
    p: Precision
    basis: Basis

    @classmethod
    def of(cls, t: int, rank: int, basis: str) -> Self:
        return cls(t, list(Precision)[rank], Basis(basis))


class Duration(BaseModel):
    """The duration of a phase.

    Attributes:
        seconds: None unless the status is `ok`.
        max_seconds: Of `imprecise`: the coarser precision, which is more than the difference of the ends.
        basis: `derived` if one of its ends is; None if one is unknown.
        precision: The coarser one of its ends.
    """

    seconds: float | None = None
    status: DurationStatus
    basis: Basis | None = None
    precision: Precision | None = None
    max_seconds: float | None = None


class IncidentDurations(BaseModel):
    """The milestones of one incident that are known, and the durations between them."""

    incident: str
    milestones: dict[str, Mark]
    durations: dict[Phase, Duration]


class Point(BaseModel):
    """One incident: when it was declared, and how many seconds the phase took."""

    incident: str
    x: Micros
    y: float


class Aggregate(BaseModel):
    """One phase of many incidents, each counted once; quantiles by nearest rank."""

    n_ok: int
    n_imprecise: int
    n_invalid: int
    n_pending: int
    n_missing: int
    min: float | None
    p50: float | None
    p90: float | None
    max: float | None
    insufficient_data: list[str]
    points: Sequence[Point]


class Aggregates(BaseModel):
    """The phases of all incidents that match the filters."""

    n: int
    durations: dict[Phase, Aggregate]


def durations(found: Mapping[str, Mark], *, is_open: bool) -> dict[Phase, Duration]:
    return {
        phase: measure(found.get(start), found.get(end), is_open=is_open)
        for phase, (start, end) in _ENDS.items()
    }


def measure(start: Mark | None, end: Mark | None, *, is_open: bool) -> Duration:
    """Measure one phase; it is a number only if both ends are known, in order, and far enough apart."""
    if start is None or end is None:
        return Duration(status=DurationStatus.PENDING if is_open and end is None else DurationStatus.MISSING)
    basis = Basis.DERIVED if Basis.DERIVED in {start.basis, end.basis} else Basis.GIVEN
    coarser = min(start.p, end.p, key=lambda precision: precision.rank)
    length = end.t - start.t
    if end.t + end.p.width <= start.t:
        return Duration(status=DurationStatus.INVALID_ORDER, basis=basis, precision=coarser)
    if coarser is not Precision.EXACT and length < coarser.width:
        most = coarser.width / 1e6
        return Duration(status=DurationStatus.IMPRECISE, basis=basis, precision=coarser, max_seconds=most)
    return Duration(status=DurationStatus.OK, basis=basis, precision=coarser, seconds=length / 1e6)
