"""Rows that were damaged on purpose are found, and written again as the facts give them."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import asyncpg
import pytest

from postfacta_app.cli import main
from postfacta_app.timeline.model import Facts
from tests.app.timeline.stored import keep
from tests.app.timeline.test_store import a_world
from tests.kit.every import every
from tests.kit.pg import execute, fetch_value

DAMAGE = (
    "delete from timeline_entries where id = 'deploy' and {one}",
    "update timeline_entries set title = 'Another', alike = 7 where kind = 'status' and {one}",
    "insert into timeline_entries select (jsonb_populate_record(e, '{{\"id\": \"ghost\"}}')).* from timeline_entries e where kind = 'note' and {one}",
    "update timeline_entries set t = t - 99 where kind <> 'change' and {one}",
    "delete from timeline_entries where {one}",
)
ONE = "incident_id = (select id from incidents where number = 1)"
REPAIR = "select timeline_rebuild(id) from (select id from incidents where number = 1 for no key update) i"
KEPT = """
select json_build_array((select json_agg(e order by incident_id, source, id) from timeline_entries e),
  (select json_agg(m order by incident_id) from incident_measures m))::text"""


@pytest.fixture
def kept_dsn(migrated: str) -> str:
    """Give a database that keeps the timelines of two incidents."""

    async def fill() -> None:
        connection = await asyncpg.connect(migrated, timeout=10)
        try:
            for facts in (a_world(), Facts(changes=a_world().changes)):
                await keep(connection.execute, facts, uuid4())
        finally:
            await connection.close()

    asyncio.run(fill())
    return migrated


def test_damage_is_found_and_the_named_statement_repairs_it(
    kept_dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POSTFACTA_DATABASE_DSN", kept_dsn)
    before = fetch_value(kept_dsn, KEPT)
    assert main(["verify"]) == 0
    assert not capsys.readouterr().err
    with every() as case:
        for damage in DAMAGE:
            with case(damage):
                execute(kept_dsn, damage.format(one=ONE))
                damaged = fetch_value(kept_dsn, KEPT)
                assert damaged != before
                assert main(["verify"]) == 1
                told = capsys.readouterr().err
                assert told.startswith("INC-1: the kept timeline is not that of the facts")
                assert told.endswith(f": {REPAIR}\n")
                assert fetch_value(kept_dsn, KEPT) == damaged
                execute(kept_dsn, REPAIR)
                assert fetch_value(kept_dsn, KEPT) == before
