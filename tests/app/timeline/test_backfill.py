"""An upgrade keeps the timelines of older facts, while the program before it goes on writing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID, uuid4

import asyncpg
import pytest

from postfacta_app.db import Reader, Unit
from postfacta_app.migrations import HEAD, apply, migrate
from postfacta_app.principal import ANONYMOUS
from postfacta_app.timeline.kept import KeptTimelines, TimelineQuery
from postfacta_app.timeline.rules import build
from postfacta_app.timeline.verify import facts_in
from postfacta_postgres import Database

pytestmark = pytest.mark.usefixtures("programs")

_INCIDENT = """
insert into incidents (id, title, description, severity, reporter, declared_at, created_by, timeline_at)
values ($1, 'An incident', 'Of the program before', 'LOW', 'test', now(), 'test', clock_timestamp()) returning timeline_at"""
_MOVE = """
insert into status_changes (id, incident_id, from_status, to_status, occurred_at, at, actor) values ($1, $2, $3, $4, now(), $5, 'test')"""
_NOTE = """
insert into annotations (id, root, incident_id, kind, body, occurred_at, author, at) values ($1, $1, $2, 'note', 'Said', now(), 'test', $3)"""
_STAMP = """
update incidents set timeline_at = greatest(clock_timestamp(), timeline_at + interval '1 microsecond')
 where id = $1 returning timeline_at"""
_SIGNALS = """
insert into signals (id, source, external_id, kind, occurred_at, time_basis, title, content_sha256, received_by)
select gen_random_uuid(), 'ci', gen_random_uuid()::text, 'log', now(), 'event', 'An event', sha256('x'), 'test'
  from generate_series(1, 20) returning id"""
_ATTACH = """
insert into edits (id, incident_id, at, op, signal_id, actor)
select gen_random_uuid(), $1, $2, 'attach', s, 'test' from unnest($3::uuid[]) s"""
_CLOCK = """
insert into edits (id, incident_id, at, op, source, value, reason, actor)
values ($1, $2, $3, 'clock_offset', 'ci', '{"ms": 1500}', 'NTP', 'test')"""

UPGRADED = [
    *(f"applied revision {number:04}" for number in range(2, int(HEAD) + 1)),
    "applied the rules of timelines",
]


async def _first(dsn: str) -> None:
    """Upgrade to the schema of the program before."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("create table alembic_version (version_num varchar(32) primary key)")
    await apply(connection, "0001")
    await connection.close()


async def _record(connection: asyncpg.Connection[asyncpg.Record]) -> UUID:
    incident = uuid4()
    async with connection.transaction():
        at = await connection.fetchval(_INCIDENT, incident)
        await connection.execute(_MOVE, uuid4(), incident, None, "OPEN", at)
        await connection.execute(_NOTE, uuid4(), incident, at)
    return incident


async def _write(
    connection: asyncpg.Connection[asyncpg.Record], incident: UUID, *, clock: bool
) -> None:
    """Write what one request does, in the order of the service."""
    async with connection.transaction():
        await connection.execute("select from incidents where id = $1 for update", incident)
        signals = [row["id"] for row in await connection.fetch(_SIGNALS)]
        await connection.execute(
            _ATTACH, incident, await connection.fetchval(_STAMP, incident), signals
        )
        if clock:
            await connection.execute(
                _CLOCK, uuid4(), incident, await connection.fetchval(_STAMP, incident)
            )


async def _differing(dsn: str, incidents: Sequence[UUID]) -> list[UUID]:
    """Return those whose kept timeline is not the one of the rules."""
    found: list[UUID] = []
    async with Database(dsn) as database:
        await database.wait_connected()
        q, kept = Reader(database, ANONYMOUS), KeptTimelines()
        for incident in incidents:
            page = await kept.slice(q, incident, TimelineQuery.model_validate({}))
            async with database.transaction() as connection:
                built = build(await facts_in(Unit(connection, ANONYMOUS, None), incident))
            if page.page.digest != built.digest:
                found.append(incident)
    return found


async def test_the_program_before_goes_on_writing_through_an_upgrade(database_dsn: str) -> None:
    await _first(database_dsn)
    connections = [await asyncpg.connect(database_dsn) for _ in range(4)]
    incidents = [await _record(connections[0]) for _ in range(40)]
    for incident in incidents:
        await _write(connections[0], incident, clock=False)
    is_over, written, said = asyncio.Event(), [0] * len(connections), list[str]()

    async def keep_writing(nth: int) -> None:
        while not is_over.is_set():
            if written[nth] % 5 == 0:
                incidents.append(await _record(connections[nth]))
            incident = incidents[written[nth] * 7 % 40]
            await _write(connections[nth], incident, clock=written[nth] % 3 == 0)
            written[nth] += 1

    try:
        async with asyncio.TaskGroup() as tasks:
            for nth in range(len(connections)):
                tasks.create_task(keep_writing(nth))
            before = sum(written)
            await migrate(database_dsn, progress=said.append)
            during = sum(written) - before
            await asyncio.sleep(0.2)
            is_over.set()
    finally:
        for connection in connections:
            await connection.close()
    assert during > 0
    assert said[:-1] == UPGRADED
    assert said[-1].startswith("kept the timelines of ")
    assert await _differing(database_dsn, incidents) == []


async def test_a_backfill_resumes_where_it_stopped_and_is_done_once(database_dsn: str) -> None:
    await _first(database_dsn)
    connection, said = await asyncpg.connect(database_dsn), list[str]()
    try:
        incidents = [await _record(connection) for _ in range(3)]
        for incident in incidents:
            await _write(connection, incident, clock=True)
        await migrate(database_dsn, progress=said.append)
        await connection.execute(
            "delete from incident_measures where incident_id = $1", incidents[1]
        )
        for _ in range(2):
            await migrate(database_dsn, progress=said.append)
    finally:
        await connection.close()
    kept = ["kept the timelines of 3 incidents", "kept the timelines of 1 incidents"]
    assert said == [*UPGRADED, *kept]
    assert await _differing(database_dsn, incidents) == []
