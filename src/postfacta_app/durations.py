"""Durations between milestones: their model, SQL, API and page; an unknown duration is never a number."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from .db import VISIBLE, Reader, sees
from .incidents.access import COLUMNS, Ref, Share, incident_of, missing, ref_of, where_of
from .incidents.model import IncidentFilters, Kind, Severity
from .incidents.pages import asked, filter_form, tidied
from .principal import Access
from .signals.model import PRECISIONS, Precision
from .timeline.model import Micros, Milestone
from .timeline.view import Turn
from .web import charts
from .web.render import span
from .web.routes import RouteClass
from .web.slices import Page, Routes
from .web.stale import allow_stale

PLOTTED: Final = 500
"""The most incidents that are plotted and listed each for itself."""
LEAST: Final = {50: 5, 90: 10}
"""The fewest values for each quantile, by its percentage."""
UNKNOWN: Final = "\u2013"
"""A dash, for a length that is not known."""
_SEVERITIES: Final = list(Severity)[::-1]
routes: Final = Routes("incident")


# Model


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


# The ends of each phase, its name, and its ends in words.
_PHASES: Final[Mapping[Phase, tuple[str, Milestone, str, str]]] = {
    Phase.DETECT: (Milestone.IMPACT_STARTED, Milestone.DETECTED, "To detect", "impact start → detected"),
    Phase.ACKNOWLEDGE: (
        Milestone.DETECTED,
        Milestone.ACKNOWLEDGED,
        "To acknowledge",
        "detected → acknowledged",
    ),
    Phase.MITIGATE: (
        Milestone.IMPACT_STARTED,
        Milestone.MITIGATED,
        "To mitigate",
        "impact start → mitigated",
    ),
    Phase.RESOLVE: (Milestone.IMPACT_STARTED, Milestone.RESOLVED, "To resolve", "impact start → resolved"),
    Phase.OPEN: ("declared", Milestone.RESOLVED, "Open for", "declared → resolved"),
}


@dataclass(frozen=True, slots=True)
class Mark:
    """A milestone with where it comes from."""

    t: Micros
    p: Precision
    basis: Basis


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


def marks(stored: Mapping[str, tuple[int, int, str]]) -> dict[str, Mark]:
    """Return milestones as the database keeps them: time, rank of the precision, basis."""
    return {name: Mark(t, PRECISIONS[rank], Basis(basis)) for name, (t, rank, basis) in stored.items()}


def durations(found: Mapping[str, Mark], *, is_open: bool) -> dict[Phase, Duration]:
    return {
        phase: measure(found.get(start), found.get(end), is_open=is_open)
        for phase, (start, end, *_) in _PHASES.items()
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


# SQL

_ONE: Final = f"""
select {COLUMNS}, m.marks::text, m.is_open from incidents i join incident_measures m on m.incident_id = i.id
 where {VISIBLE} and (i.id = $3::uuid or i.number = $4::bigint)"""  # noqa: S608 - only constants of our modules
_FIT: Final = """
with fit as materialized (
  select i.id, i.number, i.declared_at, i.severity, i.visibility, coalesce(m.status, array_fill('missing'::text, array[5])) as status,
    coalesce(m.seconds, array_fill(null::float8, array[5])) as seconds
    from incidents i left join incident_measures m on m.incident_id = i.id where {where}),
phases as (
  select p.phase, p.nth, p.status, p.seconds, fit.number, fit.declared_at, fit.id, fit.severity
    from fit cross join lateral unnest({phases}::text[], fit.status, fit.seconds) with ordinality p(phase, status, seconds, nth))"""
_COUNTED: Final = f"""
    'n_ok', count(*) filter (where status = 'ok'), 'n_imprecise', count(*) filter (where status = 'imprecise'),
    'n_invalid', count(*) filter (where status = 'invalid_order'), 'n_pending', count(*) filter (where status = 'pending'),
    'n_missing', count(*) filter (where status = 'missing'), 'min', min(seconds),
    'p50', case when count(seconds) >= {LEAST[50]} then percentile_disc(0.5) within group (order by seconds) end,
    'p90', case when count(seconds) >= {LEAST[90]} then percentile_disc(0.9) within group (order by seconds) end, 'max', max(seconds),
    'insufficient_data', array_remove(array[case when count(seconds) < {LEAST[50]} then 'p50' end,
      case when count(seconds) < {LEAST[90]} then 'p90' end], null)"""
_ALL: Final = f"""{_FIT}, counted as (
  select phase, nth, json_build_object({_COUNTED}, 'points', coalesce(json_agg(json_build_object('incident', 'INC-' || number,
      'x', to_char(declared_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'y', seconds)
      order by declared_at desc, id desc) filter (where status = 'ok'), '[]')) as aggregate
    from unnest({{phases}}::text[]) with ordinality p(phase, nth) left join phases using (phase, nth) group by phase, nth)
select json_build_object('n', (select count(*) from fit), 'durations', (select json_object_agg(phase, aggregate order by nth) from counted))::text as answer,
  coalesce((select bool_or(visibility = 'private') from fit), false) as is_private"""  # noqa: S608 - only constants of this module
# Above the bound, near incidents share a mark, which is the newest of the worst severity.
_INSIGHTS: Final = f"""{_FIT}, own as (select * from phases where phase = {{phase}}),
known as (select *, count(*) over () as total, min(declared_at) over () as first, max(declared_at) over () as last from own where status = 'ok'),
placed as (select k.*, case when total <= {PLOTTED} then id::text else width_bucket(extract(epoch from declared_at),
      extract(epoch from first), extract(epoch from last) + 1, 48) || '/' || floor(ln(greatest(seconds, 1)) * 2) end as place from known k),
marked as (select *, count(*) over (partition by place) as near, row_number() over (partition by place
    order by array_position(array['CRITICAL', 'HIGH', 'MEDIUM', 'LOW'], severity), declared_at desc, id desc) as nth_there from placed),
weeks as (select date_trunc('week', declared_at at time zone 'UTC') at time zone 'UTC' as week, severity, count(*) as n from fit group by 1, 2)
select (select json_build_object({_COUNTED}, 'points', array[]::text[]) from own)::text as aggregate,
  (select json_agg(json_build_array(number, severity, extract(epoch from declared_at), seconds, near - 1)
     order by declared_at desc, id desc)::text from marked where nth_there = 1) as dots,
  (select json_agg(json_build_array(number, severity, extract(epoch from declared_at), seconds, 0) order by declared_at desc, id desc)::text
     from (select * from known order by declared_at desc, id desc limit {PLOTTED}) k) as newest,
  (select json_agg(json_build_array(extract(epoch from week), severity, n))::text from weeks) as weeks,
  coalesce((select bool_or(visibility = 'private') from fit), false) as is_private"""  # noqa: S608 - only constants of this module


@dataclass(frozen=True, slots=True)
class Insights:
    """What the page shows of the matching incidents."""

    of_phase: Aggregate
    dots: Sequence[charts.Point]  # the marks of the plot
    newest: Sequence[charts.Point]  # the newest with a known duration, for the table
    weeks: Sequence[tuple[datetime, str, int]]  # monday, severity and number of incidents
    is_private: bool


async def every(q: Reader, filters: IncidentFilters) -> tuple[str, bool]:
    """Return the aggregates of all matching incidents as JSON, and whether one of them is private."""
    row = await _row(q, _ALL, filters)
    return row["answer"], row["is_private"]


async def insights(q: Reader, filters: IncidentFilters, phase: Phase) -> Insights:
    row = await _row(q, _INSIGHTS, filters, phase=phase)
    dots, newest, weeks = (json.loads(row[name] or "[]") for name in ("dots", "newest", "weeks"))
    return Insights(
        Aggregate.model_validate_json(row["aggregate"]),
        [*map(_point, dots)],
        [*map(_point, newest)],
        [(_time(at), severity, count) for at, severity, count in weeks],
        row["is_private"],
    )


async def _row(q: Reader, sql: str, filters: IncidentFilters, **more: object) -> Any:
    """Read; without a kind, near misses and exercises do not match."""
    if not filters.kind:
        filters = filters.model_copy(update={"kind": [Kind.INCIDENT]})
    where = where_of(q.principal, filters)
    given = {name: where.bind(value) for name, value in {"phases": list(Phase), **more}.items()}
    return (await q.fetch(sql.format(where=where, **given), *where.args, operation="durations_all"))[0]


def _point(row: Sequence[Any]) -> charts.Point:
    """Return the mark of an incident, which may stand for others at its place."""
    number, severity, at, seconds, others = row
    more = f" and {others} more" if others else ""
    return charts.Point(f"INC-{number}{more}", severity, _time(at), seconds)


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


# API


@routes.api(
    "GET /api/v1/incidents/{ref}/durations", Access.READ, "Read the durations of an incident", stale=True
)  # fmt: skip
async def one(q: Reader, ref: Ref, *, share: Share) -> IncidentDurations:
    for row in await q.fetch(_ONE, *sees(q.principal), *ref_of(ref), operation="durations"):
        incident, known = incident_of(row), marks(json.loads(row["marks"]))
        share(incident.visibility)
        measured = durations(known, is_open=row["is_open"])
        return IncidentDurations(incident=incident.ref, milestones=known, durations=measured)
    raise missing()


@routes.api(
    "GET /api/v1/durations", Access.READ, "Read aggregated durations of incidents",
    kind=RouteClass.SEARCH, status=200, stale=True,
)  # fmt: skip
async def all_of(q: Reader, filters: IncidentFilters, *, request: Request) -> Annotated[Response, Aggregates]:
    text, is_private = await every(q, filters)
    if not is_private:
        allow_stale(request)
    return Response(text, media_type="application/json")


# The page of all


class InsightQuery(IncidentFilters, frozen=True):
    """Which incidents, and which of their phases."""

    phase: Phase = Phase.OPEN


@routes.page("/insights", Access.READ, kind=RouteClass.SEARCH, stale=True)
async def show(q: Reader, *, request: Request) -> Page | str:
    if (target := tidied(request)) is not None:
        return target
    query, errors = asked(request, InsightQuery)
    found = await insights(q, query, query.phase)
    if not found.is_private:
        allow_stale(request)

    def draw() -> Mapping[str, object]:
        of_phase = found.of_phase
        counted = [(at, severity) for at, severity, count in found.weeks for _ in range(count)]
        given = [(name, text) for name, text in request.query_params.multi_items() if name != "phase"]
        return {
            **filter_form(request, errors),
            "here": "insights",
            "weeks": charts.week_chart(counted, _SEVERITIES),
            "plot": charts.dot_plot(found.dots, of_phase.p50),
            "points": found.newest,
            "plotted": PLOTTED,
            "caption": caption(of_phase),
            "without": _without(of_phase),
            "of_phase": of_phase,
            "phase": query.phase,
            "phases": [(phase, f"/insights?{urlencode([*given, ('phase', phase)])}") for phase in Phase],
            "length": charts.length,
            "has_kind": bool(query.kind),
        }

    size = 200 * (len(found.dots) + len(found.newest))
    return Page("insights.html", {}, status=400 if errors else 200, size=size, more=draw)


def caption(phase: Aggregate) -> str:
    unknown = phase.n_missing + phase.n_pending + phase.n_imprecise
    return f"n = {phase.n_ok}, {unknown} unknown, {phase.n_invalid} contradictory"


def _without(phase: Aggregate) -> list[str]:
    reasons = {
        "still open": phase.n_pending,
        "without a recorded milestone": phase.n_missing,
        "shorter than the precision of their times": phase.n_imprecise,
        "ending before they begin": phase.n_invalid,
    }
    return [f"{count} {why}" for why, count in reasons.items() if count]


# What the page of one shows

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
    *_, name, ends = _PHASES[phase]
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
