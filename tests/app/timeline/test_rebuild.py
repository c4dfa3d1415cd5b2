"""Rows that were damaged on purpose are found, named, and written again as the facts give them, while others write."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from postfacta_app.cli import main
from postfacta_app.timeline import rebuild
from postfacta_app.timeline.model import Facts, Op
from postfacta_postgres import Connection, Database
from tests.app.timeline.stored import keep, rows
from tests.app.timeline.test_store import a_world
from tests.app.timeline.worlds import edit
from tests.kit.every import every
from tests.kit.pg import execute, fetch_value

# Each kind of damage, and what is said of it.
DAMAGE = {
    "delete from timeline_entries where id = 'deploy' and {one}": "INC-1: 1 missing",
    "update timeline_entries set title = 'Another', alike = 7 where kind = 'status' and {one}": "INC-1: 1 different",
    'insert into timeline_entries select (jsonb_populate_record(e, \'{{"id": "ghost"}}\')).* from timeline_entries e'
    " where kind = 'note' and {one}": "INC-1: 1 left over",
    "update timeline_entries set t = t - 99 where kind <> 'change' and {one}": "INC-1: 3 different",
    "update timeline_entries set since = 'epoch' where kind = 'note' and {one}": "INC-1: 1 different",
    "update incident_measures set signals = 9, marks = '{{}}' where {one}": "INC-1: 1 measures",
    "update incident_measures set rules = 1 where {one}": "INC-1: 1 measures",
    "delete from incident_measures where {one}": "INC-1: 1 measures",
    "delete from timeline_entries where {one}": "INC-1: 4 missing",
}
ONE = "incident_id = (select id from incidents where number = 1)"
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


def test_damaged_rows_are_named_and_written_again(kept_dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str, code: int) -> str:
        assert main(["rebuild-timeline", *words]) == code
        return capsys.readouterr().out

    before = fetch_value(kept_dsn, KEPT)
    assert run("--verify", code=0) == "2 timelines compared, 0 differ\n"
    with every() as case:
        for damage, told in DAMAGE.items():
            with case(damage):
                execute(kept_dsn, damage.format(one=ONE))
                damaged = fetch_value(kept_dsn, KEPT)
                assert damaged != before
                said = run("--verify", code=1)
                assert said.startswith(told)
                assert said.endswith("\n2 timelines compared, 1 differ\n")
                assert fetch_value(kept_dsn, KEPT) == damaged
                assert run("inc-2", code=0) == "1 timelines compared, 0 written again\n"
                assert run(code=0).startswith(told)
                assert fetch_value(kept_dsn, KEPT) == before


async def test_a_repair_loses_nothing_that_is_written_meanwhile(
    app_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts, incident = a_world(), uuid4()
    late = [
        edit(op, at, uuid4(), source="ci", external_id="deploy", value=value)
        for at, op, value in ((11, Op.SET_TITLE, {"title": "Late"}), (12, Op.PIN, None))
    ]
    await keep(partial(app_database.execute, operation="test"), facts, incident)
    damage = "update timeline_entries set title = 'Another' where kind <> 'note'"
    await app_database.execute(damage, operation="test")
    write, waiting = rebuild._write, list[object]()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - it comes between the comparison and the lock

    async def write_late(connection: Connection, *args: Any) -> None:
        for sql, *values in rows(Facts(edits=late[len(waiting) :][:1]), incident):
            await app_database.execute(sql, *values, operation="test")
        waiting.append(args)
        await write(connection, *args)

    monkeypatch.setattr(rebuild, "_write", write_late)
    monkeypatch.setattr(rebuild, "_STEP", 2)
    (told,) = [it async for it in rebuild.compare(app_database, repair=True)]
    assert (told.faults, told.is_built, len(waiting)) == ({"different": 3}, True, 2)
    titles = 'select title from timeline_entries order by id collate "C"'
    assert [row["title"] for row in await app_database.fetch(titles, operation="test")] == [
        "Paged twice",
        "Late",
        "Declared",
        "Überlast",
    ]
    (told,) = [it async for it in rebuild.compare(app_database, repair=False)]
    assert (told.faults, told.is_built) == ({}, True)


def test_an_unknown_incident_is_named(kept_dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("INC-7", "seven"):
        assert main(["rebuild-timeline", "INC-1", name]) == 1
        assert f"no incident {name.upper()}" in capsys.readouterr().err
