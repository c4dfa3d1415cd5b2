"""All SQL of durations; the database keeps those of each incident with its timeline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from ..db import VISIBLE, Reader, sees
from ..incidents.access import COLUMNS, incident_of, missing, ref_of, where_of
from ..incidents.model import Incident, IncidentFilters, Kind
from ..web.charts import Point
from .model import LEAST, Aggregate, Mark, Phase

PLOTTED: Final = 500
"""The most incidents that are plotted and listed each for itself."""

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
    dots: Sequence[Point]  # the marks of the plot
    newest: Sequence[Point]  # the newest with a known duration, for the table
    weeks: Sequence[tuple[datetime, str, int]]  # monday, severity and number of incidents
    is_private: bool


async def one(q: Reader, ref: UUID | int) -> tuple[Incident, Mapping[str, Mark], bool]:
    """Read the milestones of an incident, and whether it is open."""
    for row in await q.fetch(_ONE, *sees(q.principal), *ref_of(ref), operation="durations"):
        marks = {name: Mark.of(*mark) for name, mark in json.loads(row["marks"]).items()}
        return incident_of(row), marks, row["is_open"]
    raise missing()


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


def _point(row: Sequence[Any]) -> Point:
    """Return the mark of an incident, which may stand for others at its place."""
    number, severity, at, seconds, others = row
    more = f" and {others} more" if others else ""
    return Point(f"INC-{number}{more}", severity, _time(at), seconds)


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
