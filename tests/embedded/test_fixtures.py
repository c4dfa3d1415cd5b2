"""The databases that all other tests stand on."""

from __future__ import annotations

import asyncio
from collections.abc import Generator

import asyncpg
import pytest

from postfacta_embedded import EmbeddedPostgres
from tests.kit.pg import create_database, drop_database, execute, fetch_value, fresh_database


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_gets_a_database_without_the_rows_of_another(
    database_dsn: str, turn: int
) -> None:
    execute(database_dsn, "CREATE TABLE note (body text)", f"INSERT INTO note VALUES ('{turn}')")  # noqa: S608 -- an int
    assert fetch_value(database_dsn, "SELECT count(*) FROM note") == 1


async def test_a_fresh_database_can_be_had_on_both_event_loops(database_dsn: str) -> None:
    assert "/test_" in database_dsn


def test_a_database_copied_from_a_template_has_its_rows(postgres_server: EmbeddedPostgres) -> None:
    template = create_database(postgres_server, "rows_template")
    try:
        execute(template, "CREATE TABLE note (body text)", "INSERT INTO note VALUES ('kept')")
        with fresh_database(postgres_server, "rows_template") as dsn:
            assert fetch_value(dsn, "SELECT body FROM note") == "kept"
    finally:
        drop_database(postgres_server, "rows_template")


# What a test may leave, and the next one must not meet.
LEFT = {
    "rows": "INSERT INTO note (body) VALUES ('left')",
    "a table": "CREATE TABLE left_behind (a int)",
    "a view": "CREATE VIEW left_behind AS SELECT 1 AS one",
    "a function": "CREATE FUNCTION left_behind() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "a schema": "CREATE SCHEMA left_behind CREATE TABLE inside (a int)",
    "an enumeration": "CREATE TYPE left_behind AS ENUM ('a')",
}
# What is not taken away, so that the database is lent no more.
CHANGED = {
    "a row of the template": "UPDATE first SET body = 'changed'",
    "a column": "ALTER TABLE note ADD COLUMN more int",
    "a column's default": "ALTER TABLE note ALTER COLUMN body SET DEFAULT 'x'",
    "an index": "CREATE INDEX ON note (body)",
    "a constraint": "ALTER TABLE note ADD CHECK (body <> '')",
    "a trigger": "CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
    " CREATE TRIGGER t BEFORE INSERT ON note FOR EACH ROW EXECUTE FUNCTION t()",
    "a grant": "GRANT SELECT ON note TO public",
    "a right of the schema": "REVOKE USAGE ON SCHEMA public FROM public",
    "a missing table": "DROP TABLE note",
    "a table of another name": "ALTER TABLE note RENAME TO notes",
    "a setting": "ALTER DATABASE {name} SET statement_timeout = 2500",
    "a limit of the database": "ALTER DATABASE {name} CONNECTION LIMIT 7",
}


@pytest.fixture
def template(postgres_server: EmbeddedPostgres) -> Generator[str]:
    name = "kept_template"
    execute(
        create_database(postgres_server, name),
        "CREATE TABLE note (id int GENERATED ALWAYS AS IDENTITY, body text)",
        "CREATE TABLE first (body text)",
        "INSERT INTO first VALUES ('kept')",
    )
    yield name
    drop_database(postgres_server, name)


def state(dsn: str) -> object:
    """Return all that a test can find in its database."""
    return fetch_value(
        dsn,
        "SELECT concat_ws(',', (SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class"
        " WHERE oid >= 16384), (SELECT count(*) FROM pg_proc WHERE oid >= 16384),"
        " (SELECT count(*) FROM pg_type), (SELECT string_agg(nspname, ' ') FROM pg_namespace),"
        " (SELECT count(*) FROM note), (SELECT string_agg(body, ' ') FROM first))",
    )


def test_what_a_test_leaves_is_taken_away(postgres_server: EmbeddedPostgres, template: str) -> None:
    with fresh_database(postgres_server, template) as dsn:
        new = state(dsn)
    for what, statement in LEFT.items():
        with fresh_database(postgres_server, template) as again:
            assert again == dsn, what
            execute(again, statement)
            assert state(again) != new, what
        with fresh_database(postgres_server, template) as again:
            assert again == dsn, what
            assert state(again) == new, what
    with fresh_database(postgres_server, template) as again:
        execute(again, "INSERT INTO note (body) VALUES ('numbered anew')")
        assert fetch_value(again, "SELECT id FROM note") == 1


def test_a_database_that_a_test_changed_is_lent_no_more(
    postgres_server: EmbeddedPostgres, template: str
) -> None:
    for what, statement in CHANGED.items():
        with fresh_database(postgres_server, template) as dsn:
            name = dsn.rpartition("/")[2].partition("?")[0]
            execute(dsn, statement.format(name=name))
        with fresh_database(postgres_server, template) as again:
            assert again != dsn, what
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            fetch_value(dsn, "SELECT 1")


def test_a_connection_that_a_test_left_open_is_ended(postgres_server: EmbeddedPostgres) -> None:
    async def leave(dsn: str) -> asyncpg.Connection[asyncpg.Record]:
        connection = await asyncpg.connect(dsn)
        await connection.execute("BEGIN; CREATE TABLE held ()")
        return connection

    with asyncio.Runner() as runner:
        with fresh_database(postgres_server) as dsn:
            left = runner.run(leave(dsn))
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            runner.run(left.execute("SELECT 1"))
        with fresh_database(postgres_server) as again:
            assert again == dsn


def test_two_databases_at_once_are_two(postgres_server: EmbeddedPostgres) -> None:
    with fresh_database(postgres_server) as one, fresh_database(postgres_server) as other:
        assert one != other


def test_a_template_that_is_made_anew_has_no_copies(postgres_server: EmbeddedPostgres) -> None:
    for turn in ("first", "second"):
        made = create_database(postgres_server, "turning_template")
        try:
            execute(made, "CREATE TABLE note (body text)", f"INSERT INTO note VALUES ('{turn}')")  # noqa: S608 -- one of two
            with fresh_database(postgres_server, "turning_template") as dsn:
                assert fetch_value(dsn, "SELECT body FROM note") == turn
        finally:
            drop_database(postgres_server, "turning_template")
