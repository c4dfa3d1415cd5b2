"""A statement ends with its request, on the server too."""

from __future__ import annotations

import random
from contextlib import suppress

import anyio
import pytest

from postfacta_core.clock import MONOTONIC
from postfacta_core.errors import DeadlineExceededError, OutcomeUnknownError
from postfacta_core.events import ConnectionOpened, DeadlineExceeded, QueryFinished
from postfacta_core.testing import RecordingObserver
from postfacta_postgres import PoolOptions

from .postgres import opened, request_within, until_quiet, watcher

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])  # asyncpg knows no other


async def test_a_statement_that_runs_too_long_is_ended_on_the_server(database_dsn: str) -> None:
    options = PoolOptions(statement_timeout=0.1)
    async with opened(database_dsn, options) as database, watcher(database_dsn) as other:
        with pytest.raises(DeadlineExceededError):
            await database.execute("select pg_sleep(60)")
        # The server hears of it by a cancel request, which may arrive just after the caller's
        # error.
        await until_quiet(other, seconds=1)
        assert await database.fetchval("select 1") == 1


async def test_a_statement_has_no_more_than_the_request_has_left_and_is_ended_on_the_server(
    database_dsn: str,
) -> None:
    seen = RecordingObserver()
    options = PoolOptions(max_size=1, acquire_timeout=5)
    async with opened(database_dsn, options, seen) as database, watcher(database_dsn) as other:
        started = anyio.current_time()
        with request_within(0.3), pytest.raises(DeadlineExceededError):
            await database.execute("select pg_sleep(60)")
        assert 0.2 < anyio.current_time() - started < 1
        await until_quiet(other, most=2, seconds=1)
        assert [event.stage for event in seen.of(DeadlineExceeded)] == ["database"]
        assert len(seen.of(ConnectionOpened)) == 2
        assert await database.fetchval("select 1") == 1
        assert len(seen.of(ConnectionOpened)) == 2  # the connection was cleared and kept
    told = [(event.operation, event.error_type) for event in seen.of(QueryFinished)]
    assert told[0] == ("SELECT", "OutcomeTimeoutError")


async def test_in_a_transaction_the_server_itself_knows_the_requests_limit(
    database_dsn: str,
) -> None:
    limit = "select setting::int from pg_settings where name = 'statement_timeout'"
    async with opened(database_dsn) as database:
        with request_within(4.9):
            async with database.transaction() as connection:
                assert 0 < await connection.fetchval(limit) < 4900
        with request_within(60):
            async with database.transaction() as connection:
                assert await connection.fetchval(limit) == 5000
        assert await database.fetchval(limit) == 5000


@pytest.mark.clock("20 ms in which the server ends the statement")
async def test_in_a_transaction_the_server_ends_what_the_request_cannot_wait_for(
    database_dsn: str,
) -> None:
    seen = RecordingObserver()
    async with opened(database_dsn, observer=seen) as database:
        with request_within(0.3), pytest.raises(DeadlineExceededError):
            async with database.transaction() as connection:
                await connection.execute("select pg_sleep(60)")
    late = next(event for event in seen.of(QueryFinished) if event.error_type)
    assert late.sqlstate == "57014"  # the server's word, and not this side's
    assert [event.stage for event in seen.of(DeadlineExceeded)] == ["database"]


async def test_a_transaction_whose_request_has_no_time_left_is_not_committed(
    database_dsn: str,
) -> None:
    async with opened(database_dsn) as database:
        await database.execute("create table t (a int)")
        with request_within(60) as request, pytest.raises(DeadlineExceededError):
            async with database.transaction() as connection:
                await connection.execute("insert into t values (1)")
                request.deadline = request.started
        assert await database.fetchval("select count(*) from t") == 0


async def test_a_commit_that_takes_longer_than_the_request_has_leaves_the_outcome_unknown(
    database_dsn: str,
) -> None:
    sleeps = "create function slow() returns trigger language plpgsql as 'begin perform pg_sleep(30); return null; end'"
    later = "create constraint trigger slow after insert on t deferrable initially deferred for each row execute function slow()"
    async with opened(database_dsn) as database, watcher(database_dsn) as other:
        for statement in ("create table t (a int)", sleeps, later):
            await database.execute(statement)
        with request_within(60) as request, pytest.raises(OutcomeUnknownError):
            async with database.transaction() as connection:
                await connection.execute("insert into t values (1)")
                request.deadline = MONOTONIC() + 0.3
        await until_quiet(other, seconds=3)
        assert await database.fetchval("select count(*) from t") == 0


async def test_statements_that_are_cancelled_again_and_again_leave_nothing_on_the_server(
    database_dsn: str,
) -> None:
    options = PoolOptions(max_size=3, acquire_timeout=5)
    luck = random.Random(7)  # noqa: S311 - a fixed series, no secret
    async with opened(database_dsn, options) as database, watcher(database_dsn) as other:

        async def ask() -> None:
            for _ in range(15):
                patience, seconds = luck.random() * 0.1, luck.random() * 0.2
                with (
                    anyio.move_on_after(patience),
                    suppress(DeadlineExceededError),
                    request_within(seconds),
                ):
                    async with database.transaction() as connection:
                        await connection.execute("select pg_sleep(60)")

        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(ask)
        assert await until_quiet(other, most=4, seconds=3) <= 4
        locks = "select count(*) from pg_locks l join pg_database d on d.oid = l.database where pid <> pg_backend_pid() and datname = current_database()"
        assert await other.fetchval(locks) == 0
        async with database.acquire(), database.acquire(), database.acquire():
            pass
