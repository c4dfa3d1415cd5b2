"""The databases that all other tests stand on."""

from __future__ import annotations

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


def test_a_dropped_database_is_gone(postgres_server: EmbeddedPostgres) -> None:
    with fresh_database(postgres_server) as dsn:
        pass
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        fetch_value(dsn, "SELECT 1")
