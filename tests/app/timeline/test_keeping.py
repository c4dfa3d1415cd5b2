"""Keeping timelines costs each write what it touches, however many signals there are."""

from __future__ import annotations

import os
from collections.abc import Iterator

import anyio
import asyncpg
import pytest

from postfacta_app.db import Reader, new_id
from postfacta_app.principal import ANONYMOUS
from postfacta_app.timeline.kept import KeptTimelines, TimelineQuery
from postfacta_embedded import EmbeddedPostgres
from postfacta_postgres import Database, PoolOptions
from tests.kit.pg import create_database, drop_database

pytestmark = pytest.mark.usefixtures("programs")

_OTHERS = """
insert into incidents (id, title, description, severity, reporter, declared_at, created_by, timeline_at)
 select gen_random_uuid(), 'Outage ' || n, 'One of many others', 'LOW', 'test', now(), 'test', now() from generate_series(1, 8) n;
insert into signals (id, source, external_id, kind, occurred_at, time_basis, title, content_sha256, received_by)
 select gen_random_uuid(), 'old/' || n % 12, n::text, 'log', now(), 'event', 'An event', sha256('x'), 'test'
   from generate_series(1, {count}) n;
insert into edits (id, incident_id, at, op, signal_id, actor)
 select gen_random_uuid(), i.id, now(), 'attach', s.id, 'test' from signals s join incidents i on i.number = 1 + s.external_id::int % 8;
analyze"""
_INCIDENT = """
insert into incidents (id, title, description, severity, reporter, declared_at, created_by, timeline_at)
values (gen_random_uuid(), 'Storm', 'It is a new one', 'LOW', 'test', now(), 'test', now()) returning id"""
_SIGNALS = """
insert into signals (id, source, external_id, kind, occurred_at, time_basis, title, content_sha256, received_by)
select gen_random_uuid(), 'new/' || n % 12, $1::int || '-' || n, 'log', now() + ($1 * 500 + n) * interval '7 ms', 'event', 'An event', sha256('x'), 'test'
  from generate_series(1, 500) n returning id"""
_ATTACH = """
insert into edits (id, incident_id, at, op, signal_id, actor)
select gen_random_uuid(), $1, now(), 'attach', s, 'test' from unnest($2::uuid[]) s"""
_READ = """
select sum(pg_stat_get_xact_blocks_fetched(oid))::int from pg_class
 where relnamespace = 'public'::regnamespace and relkind in ('r', 'i')"""


@pytest.mark.parametrize("count", [20_000, pytest.param(1_000_000, marks=pytest.mark.long)])
async def test_a_batch_reads_only_what_it_touches(app_database_dsn: str, count: int) -> None:
    connection = await asyncpg.connect(app_database_dsn)
    try:
        await connection.execute("set session_replication_role = replica")
        await connection.execute(_OTHERS.format(count=count))
        await connection.execute("set session_replication_role = origin")
        took: list[int] = []
        async with connection.transaction():
            incident = await connection.fetchval(_INCIDENT)
            for batch in range(10):  # The statistics do not know it, however large it grows.
                signals = [row["id"] for row in await connection.fetch(_SIGNALS, batch)]
                before = await connection.fetchval(_READ)
                await connection.execute(_ATTACH, incident, signals)
                took.append(await connection.fetchval(_READ) - before)
    finally:
        await connection.close()
    # With the six indexes of the two rows that each writes, some 60 for a signal. A plan that reads
    # what the incident has already, once for each signal, reads a thousand times as much.
    assert max(took) < 40_000, took


def test_ids_of_a_batch_stand_together() -> None:
    made = [new_id() for _ in range(100)]
    assert {it.version for it in made} == {7}
    assert len(set(made)) == 100
    milliseconds = [it.int >> 80 for it in made]
    assert milliseconds == sorted(milliseconds)


_DECLARE = """
insert into status_changes (id, incident_id, to_status, occurred_at, at, actor) values (gen_random_uuid(), $1, 'OPEN', now(), now(), 'test')"""


_BLOCKS = """
select pg_stat_force_next_flush(),
       sum(heap_blks_hit + heap_blks_read + coalesce(idx_blks_hit + idx_blks_read, 0)) as blocks
  from pg_statio_user_tables"""


@pytest.fixture
def unmeasured_dsn(postgres_server: EmbeddedPostgres, app_template: str) -> Iterator[str]:
    """Give the address of a new database: one that is lent has statistics of a test before."""
    name = f"unmeasured_{os.getpid()}"
    yield create_database(postgres_server, name, app_template)
    drop_database(postgres_server, name)


async def test_reads_stay_small_while_an_incident_grows(unmeasured_dsn: str) -> None:
    """A plan made for small tables would be used for large ones, and read each row many times.

    No statistics are taken meanwhile.
    """
    # As the app sets it; without `plan_each_time` the last slice reads 420,000 blocks.
    options = PoolOptions(max_size=1, acquire_timeout=30, statement_timeout=30, plan_each_time=True)
    async with Database(unmeasured_dsn, options=options) as database:

        async def count_blocks() -> int:
            await database.fetchrow(_BLOCKS, operation="test")  # Asks that this session reports.
            row = await database.fetchrow(_BLOCKS, operation="test")
            assert row is not None
            return int(row["blocks"])

        with anyio.fail_after(30):
            await database.wait_connected()
        for table in ("signals", "edits", "timeline_entries", "incident_measures", "incidents"):
            await database.execute(
                f"alter table {table} set (autovacuum_enabled = off)", operation="test"
            )
        incident = await database.fetchval(_INCIDENT, operation="test")
        await database.execute(_DECLARE, incident, operation="test")
        kept, reader = KeptTimelines(), Reader(database, ANONYMOUS)
        for batch in range(13):
            signals = [row["id"] for row in await database.fetch(_SIGNALS, batch, operation="test")]
            await database.execute(_ATTACH, incident, signals, operation="test")
            await database.execute(
                "update incidents set timeline_at = clock_timestamp()", operation="test"
            )
            for limit in (500, 500, 500, 2000):
                query = TimelineQuery.model_validate({"limit": limit})
                before = await count_blocks()
                page = await kept.slice(reader, incident, query)
                blocks = await count_blocks() - before
                assert len(page.page.items) == min(limit, 500 * (batch + 1) + 1)
                # While all is small, one plan is as good as the other. From there on, 22,000 at most.
                assert batch < 8 or blocks < 50_000, (batch, limit)
