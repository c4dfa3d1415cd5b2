"""Durations between milestones: their model, SQL, API and page.

An unknown duration is never a number.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import log
from typing import Annotated, Final
from urllib.parse import urlencode

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from .db import VISIBLE, Reader, sees
from .incidents.access import COLUMNS, Ref, Share, incident_of, missing, ref_of, where_of
from .incidents.api import filter_form, filters_of, page_query
from .incidents.model import IncidentFilters, IncidentKind, Severity, Visibility
from .principal import Access
from .signals.model import PRECISIONS, Precision
from .timeline.model import Instant, Milestone
from .timeline.view import Turn
from .web.body import Time
from .web.render import span
from .web.routes import RouteClass
from .web.slices import Page, Routes

PLOTTED: Final = 500  # the most incidents that are plotted and listed: the newest
LEAST: Final = {50: 5, 90: 10}  # the fewest values for each quantile, by its percentage
routes: Final = Routes("incident")


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


@dataclass(frozen=True, slots=True)
class Mark(Instant):
    """A milestone with where it comes from."""

    basis: Basis


class Duration(BaseModel):
    """The duration of a phase.

    Attributes:
        seconds: None unless the status is `ok`.
        max_seconds: Of `imprecise`: the coarser precision, which is more than the difference of the
            ends.
        basis: `derived` if one of its ends is; None if one is unknown.
        precision: The coarser one of its ends.
    """

    seconds: float | None = None
    status: DurationStatus
    basis: Basis | None = None
    precision: Precision | None = None
    max_seconds: float | None = None

    @property
    def words(self) -> str:
        """Its length, or between ends too close together, what it lies within."""
        if self.seconds is not None:
            return span(self.seconds)
        if self.precision in (None, Precision.EXACT):
            return "at the same time"
        return f"within {'an' if self.precision is Precision.HOUR else 'a'} {self.precision}"


class IncidentDurations(BaseModel):
    """The milestones of one incident that are known, and the durations between them."""

    incident: str
    milestones: dict[str, Mark]
    durations: dict[Phase, Duration]


class Point(BaseModel):
    """One incident: when it was declared, and how many seconds the phase took."""

    incident: str
    x: Time
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


def marks(stored: Mapping[str, tuple[int, int, str]]) -> dict[str, Mark]:
    """Return milestones as the database keeps them: time, rank of the precision, basis."""
    return {
        name: Mark(t, PRECISIONS[rank], Basis(basis)) for name, (t, rank, basis) in stored.items()
    }


def durations(milestones: Mapping[str, Mark], *, is_open: bool) -> dict[Phase, Duration]:
    """Measure each phase of an incident."""
    return {
        phase: measure(milestones.get(start), milestones.get(end), is_open=is_open)
        for phase, (start, end) in _ENDS.items()
    }


def measure(start: Mark | None, end: Mark | None, *, is_open: bool) -> Duration:
    """Measure one phase.

    It is a number only if both ends are known, in order, and far enough apart.
    """
    if start is None or end is None:
        is_pending = is_open and end is None
        return Duration(status=DurationStatus.PENDING if is_pending else DurationStatus.MISSING)
    basis = Basis.DERIVED if Basis.DERIVED in {start.basis, end.basis} else Basis.GIVEN
    coarser = min(start.p, end.p, key=lambda precision: precision.rank)
    length = end.t - start.t
    if end.t + end.p.width <= start.t:
        return Duration(status=DurationStatus.INVALID_ORDER, basis=basis, precision=coarser)
    if coarser is not Precision.EXACT and length < coarser.width:
        most = coarser.width / 1e6
        return Duration(
            status=DurationStatus.IMPRECISE, basis=basis, precision=coarser, max_seconds=most
        )
    return Duration(status=DurationStatus.OK, basis=basis, precision=coarser, seconds=length / 1e6)


_STATEMENT: Final = f"""
select {COLUMNS},
       m.marks::text,
       m.is_open
  from incidents i
  join incident_measures m on m.incident_id = i.id
 where {VISIBLE}
   and (i.id = $3::uuid or i.number = $4::bigint)"""  # noqa: S608 - only constants of our modules
_COUNTED: Final = f"""
           'n_ok', count(*) filter (where status = 'ok'),
      'n_imprecise', count(*) filter (where status = 'imprecise'),
      'n_invalid', count(*) filter (where status = 'invalid_order'),
      'n_pending', count(*) filter (where status = 'pending'),
      'n_missing', count(*) filter (where status = 'missing'),
      'min', min(seconds),
      'p50', case
        when count(seconds) >= {LEAST[50]}
        then percentile_disc(0.5) within group (order by seconds)
      end,
      'p90', case
        when count(seconds) >= {LEAST[90]}
        then percentile_disc(0.9) within group (order by seconds)
      end,
      'max', max(seconds),
      'insufficient_data', array_remove(
        array[
          case when count(seconds) < {LEAST[50]} then 'p50' end,
          case when count(seconds) < {LEAST[90]} then 'p90' end],
        null)"""
_ALL: Final = f"""
with fit as materialized (
  select i.id,
         i.number,
         i.declared_at,
         i.visibility,
         coalesce(m.status, array_fill('missing'::text, array[5])) as status,
         coalesce(m.seconds, array_fill(null::float8, array[5])) as seconds
    from incidents i
    left join incident_measures m on m.incident_id = i.id
   where {{where}}),
phases as (
  select p.phase,
         p.status,
         p.seconds,
         fit.number,
         fit.declared_at,
         fit.id
    from fit
   cross join lateral
         unnest({{every}}::text[], fit.status, fit.seconds) p(phase, status, seconds)),
counted as (
  select phase,
         nth,
         json_build_object({_COUNTED},
           'points', coalesce(
             json_agg(
               json_build_object(
                 'incident', 'INC-' || number,
                 'x', to_char(declared_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                 'y', seconds)
               order by declared_at desc, id desc) filter (where status = 'ok'),
             '[]')) as aggregate
    from unnest({{phases}}::text[]) with ordinality p(phase, nth)
    left join phases using (phase)
   group by phase, nth)
select json_build_object(
         'n', (select count(*) from fit),
         'durations', (select json_object_agg(phase, aggregate order by nth) from counted)
       )::text as answer,
       array(select distinct visibility from fit) as shown"""  # noqa: S608 - only constants
# The counts of Mondays, by severity: at most 53 weeks, at least four, up to the last with an
# incident; `earlier` are not shown.
_WEEKS: Final = """
with counted as materialized (
  select date_trunc('week', i.declared_at at time zone 'UTC')::date as monday,
         i.severity,
         count(*)::int as n
    from incidents i
   where {where}
   group by 1, 2),
ends as (
  select greatest(least(min(monday), max(monday) - 7 * 3), max(monday) - 7 * 52) as first,
         max(monday) as last
    from counted)
select first + 7 * week as monday,
       array(
         select coalesce(n, 0)
           from unnest({severities}::text[]) with ordinality s(name, nth)
           left join counted on severity = name and monday = first + 7 * week
          order by nth) as counts,
       (select max(n) from counted where monday >= first) as most,
       (select coalesce(sum(n), 0) from counted where monday < first) as earlier
  from ends, generate_series(0, (last - first) / 7) week
 order by week"""


async def aggregate(
    q: Reader, filters: IncidentFilters, *phases: Phase
) -> tuple[str, Sequence[Visibility]]:
    """Aggregate these phases, by default all, of the incidents that match.

    Return the aggregates as JSON, and which visibilities the incidents have.
    """
    where = where_of(q.principal, filters, [IncidentKind.INCIDENT])
    every_phase = where.bind(list(Phase))
    selected = where.bind(phases or list(Phase))
    sql = _ALL.format(where=where, every=every_phase, phases=selected)
    rows = await q.fetch(sql, *where.args, operation="durations_all")
    return rows[0]["answer"], rows[0]["shown"]


@routes.api(
    "GET /api/v1/incidents/{ref}/durations",
    Access.READ,
    "Read the durations of an incident",
    stale=True,
)
async def read(q: Reader, ref: Ref, *, share: Share) -> IncidentDurations:
    for row in await q.fetch(_STATEMENT, *sees(q.principal), *ref_of(ref), operation="durations"):
        incident = incident_of(row)
        milestones = marks(json.loads(row["marks"]))
        share(incident.visibility)
        measured = durations(milestones, is_open=row["is_open"])
        return IncidentDurations(incident=incident.ref, milestones=milestones, durations=measured)
    raise missing()


@routes.api(
    "GET /api/v1/durations",
    Access.READ,
    "Read aggregated durations of incidents",
    kind=RouteClass.SEARCH,
    status=200,
    stale=True,
)
async def all_of(
    q: Reader, filters: IncidentFilters, *, share: Share
) -> Annotated[Response, Aggregates]:
    text, shown = await aggregate(q, filters)
    share(*shown)
    return Response(text, media_type="application/json")


# The page of all


class InsightQuery(IncidentFilters, frozen=True):
    """Which incidents, and which of their phases."""

    phase: Phase = Phase.OPEN


@routes.page("/insights", Access.READ, kind=RouteClass.SEARCH, stale=True)
async def show(q: Reader, *, request: Request, share: Share) -> Page:
    query, errors = page_query(request, InsightQuery)
    text, shown = await aggregate(q, query, query.phase)
    where = where_of(q.principal, query, [IncidentKind.INCIDENT])
    sql = _WEEKS.format(where=where, severities=where.bind(list(Severity)[::-1]))
    weeks = await q.fetch(sql, *where.args, operation="durations_weeks")
    share(*shown)

    def draw() -> Mapping[str, object]:
        of_phase = Aggregates.model_validate_json(text).durations[query.phase]
        points = of_phase.points[:PLOTTED]
        filters = [(name, value) for name, value in filters_of(request) if name != "phase"]
        links = [(phase, f"/insights?{urlencode([*filters, ('phase', phase)])}") for phase in Phase]
        return {
            **filter_form(request, errors),
            "weeks": weeks,
            "plot": plot(points, of_phase.p50),
            "points": points,
            "plotted": PLOTTED,
            "of_phase": of_phase,
            "phase": query.phase,
            "phases": links,
            "has_kind": bool(query.kind),
        }

    return Page("insights.html", {}, status=400 if errors else 200, size=len(text), more=draw)


# The charts

_MINUTE = 60.0
_HOUR = 3600.0
_DAY = 86400.0
_LENGTHS: Final = (
    (1.0, "1 s"),
    (10.0, "10 s"),
    (_MINUTE, "1 min"),
    (10 * _MINUTE, "10 min"),
    (_HOUR, "1 h"),
    (6 * _HOUR, "6 h"),
    (_DAY, "1 d"),
    (7 * _DAY, "1 week"),
    (30 * _DAY, "30 d"),
    (365 * _DAY, "1 year"),
    (3650 * _DAY, "10 years"),
    (36500 * _DAY, "100 years"),
    (3652500 * _DAY, "10,000 years"),
)


@dataclass(frozen=True, slots=True)
class Plot:
    """Points by declaration and, on a logarithmic scale, duration.

    Each at its place from 0 to 1, rightward and upward.
    """

    dots: Sequence[tuple[float, float, Point]]
    lengths: Sequence[tuple[float, str]]
    median: float | None


def plot(points: Sequence[Point], median: float | None) -> Plot | None:
    """Place points, newest first; a median may lie above or below them."""
    if not points:
        return None
    steps = [seconds for seconds, _ in _LENGTHS]
    values = [point.y for point in points]
    if median is not None:
        values.append(median)
    low = max(0, bisect_right(steps, min(values)) - 1)
    high = min(len(steps) - 1, bisect_left(steps, max(values)))
    if low >= high:  # At least one interval between two steps.
        low = max(0, high - 1)
        high = max(1, high)
    begin = points[-1].x
    width = points[0].x - points[-1].x

    def up(seconds: float) -> float:
        return log(max(seconds, steps[low]) / steps[low]) / log(steps[high] / steps[low])

    def right(point: Point) -> float:
        return (point.x - begin) / width if width else 0.5

    dots = [(right(point), up(point.y), point) for point in points]
    lengths = [(up(seconds), words) for seconds, words in _LENGTHS[low : high + 1]]
    return Plot(dots, lengths, None if median is None else up(median))


# The milestones of one


def turns(milestones: Mapping[str, Mark]) -> list[Turn]:
    """Return the milestones in order, each with the time since the first in words."""
    in_order = [(name, milestones[name]) for name in Milestone if name in milestones]
    in_order.sort(key=lambda milestone: (milestone[1].t, milestone[1].p.rank))
    shown: list[Turn] = []
    for name, mark in in_order:
        since = measure(in_order[0][1], mark, is_open=False)
        words = since.words if since.seconds is None else f"+{since.words}"
        is_derived = mark.basis is Basis.DERIVED
        shown.append(Turn(mark.t, mark.p, name, words if shown else "", is_derived))
    return shown
