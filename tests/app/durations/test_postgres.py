"""An aggregate counts every incident once, and its quantiles are values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from postfacta_app.db import Reader
from postfacta_app.durations import DurationStatus as Status, Phase, aggregate
from postfacta_app.incidents.model import IncidentFilters
from postfacta_app.principal import ANONYMOUS
from postfacta_postgres import Database

pytestmark = pytest.mark.usefixtures("programs")

_INCIDENTS = """
with made as (
  insert into incidents (id, title, description, severity, reporter, services, declared_at, created_by, timeline_at)
  select gen_random_uuid(), 'One of many', 'Made by a test', (array['LOW', 'HIGH'])[1 + n % 2], 'test', array[$1],
      timestamptz '2026-02-07' + n * interval '1 hour', 'test', now()
    from generate_series(1, cardinality($2::text[])) n returning id, declared_at)
insert into incident_measures (incident_id, rules, status, seconds)
select m.id, 2, array_fill(p.status, array[5]), array_fill(p.seconds, array[5])
  from (select id, row_number() over (order by declared_at) as nth from made) m
  join unnest($2::text[], $3::float8[]) with ordinality p(status, seconds, nth) using (nth)"""

Rows = Sequence[tuple[Status, float | None]]


async def measured(database: Database, rows: Rows) -> tuple[dict[str, Any], IncidentFilters]:
    """Write an incident with each of these in all phases; give the answer about them."""
    name = f"s-{uuid4().hex}"
    args = (name, [it for it, _ in rows], [seconds for _, seconds in rows])
    await database.execute(_INCIDENTS, *args, operation="test")
    filters = IncidentFilters.model_validate({"service": [name]})
    answer, _ = await aggregate(Reader(database, ANONYMOUS), filters)
    return json.loads(answer), filters


def _ok(*seconds: float) -> Rows:
    return [(Status.OK, it) for it in seconds]


@settings(
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.tuples(st.sampled_from(Status), st.floats(0, 1e6)), max_size=30))
async def test_every_incident_is_counted_once_and_quantiles_are_values(
    app_database: Database, given_rows: list[tuple[Status, float]]
) -> None:
    rows = [(status, seconds if status is Status.OK else None) for status, seconds in given_rows]
    answer, _ = await measured(app_database, rows)
    assert (answer["n"], [*answer["durations"]]) == (len(rows), [*Phase])
    for told in answer["durations"].values():
        assert [told[f"n_{it}"] for it in ("ok", "imprecise", "invalid", "pending", "missing")] == [
            sum(status is it for status, _ in rows)
            for it in (
                Status.OK,
                Status.IMPRECISE,
                Status.INVALID_ORDER,
                Status.PENDING,
                Status.MISSING,
            )
        ]
        values = [seconds for _, seconds in rows if seconds is not None]
        assert [point["y"] for point in told["points"]] == values[::-1]
        for name, least in (("p50", 5), ("p90", 10)):
            assert (
                (told[name] is None) == (len(values) < least) == (name in told["insufficient_data"])
            )
            assert told[name] is None or told[name] in values
        assert (told["min"], told["max"]) == (min(values, default=None), max(values, default=None))


async def test_quantiles_are_by_nearest_rank(app_database: Database) -> None:
    async def quantiles(*seconds: float) -> tuple[float | None, float | None]:
        told = (await measured(app_database, _ok(*seconds)))[0]["durations"]["open"]
        return told["p50"], told["p90"]

    values = [float(n) for n in range(1, 12)]
    assert await quantiles(*values[:10]) == (5.0, 9.0)
    assert await quantiles(*values[:5]) == (3.0, None)
    assert (await quantiles(*values))[1] == 10.0
    assert await quantiles(*values[:4]) == (None, None)
    assert (await quantiles(*values[:9]))[1] is None


async def test_one_phase_is_counted_as_among_all(app_database: Database) -> None:
    answer, filters = await measured(app_database, _ok(1.0, 2.0))
    text, _ = await aggregate(Reader(app_database, ANONYMOUS), filters, Phase.MITIGATE)
    assert json.loads(text) == {"n": 2, "durations": {"mitigate": answer["durations"]["mitigate"]}}
