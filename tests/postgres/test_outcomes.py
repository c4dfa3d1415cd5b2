"""What was sent and not answered may have been done.

The error says so, and no default tries it again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import asyncpg
import pytest

from postfacta_core.clock import MONOTONIC
from postfacta_core.errors import (
    DatabaseUnavailableError,
    DeadlineExceededError,
    InvalidInputError,
    LockTimeoutError,
    OutcomeTimeoutError,
    OutcomeUnknownError,
    RejectedError,
    ResilienceError,
)
from postfacta_core.events import QueryFinished
from postfacta_core.guards.retry import Retry
from postfacta_core.testing import RecordingObserver
from postfacta_postgres import Connection, Database

from .postgres import QUICK, Flapping, opened, request_within, until_answers, watcher

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])  # asyncpg knows no other

INSERT = "insert into orders values ($1)"
Write = Callable[[Database], Awaitable[object]]


@asynccontextmanager
async def relayed(
    dsn: str, seen: RecordingObserver | None = None
) -> AsyncGenerator[tuple[Database, Flapping, asyncpg.Connection[asyncpg.Record]]]:
    """Open a database behind a relay, with a table of orders, and a connection that does not pass by it."""
    async with watcher(dsn) as other, Flapping(dsn) as relay:
        await other.execute("create table orders (what text)")
        async with opened(relay.dsn(), QUICK, seen) as database:
            yield database, relay, other


async def orders(other: asyncpg.Connection[asyncpg.Record]) -> int:
    return int(await other.fetchval("select count(*) from orders"))


async def borrowed(database: Database) -> object:
    async with database.acquire() as connection:
        return await connection.execute(INSERT, "victim")


async def without_arguments(database: Database) -> object:
    return await database.execute("insert into orders values ('victim')")


async def returning(database: Database) -> object:
    return await database.fetchval(f"{INSERT} returning what", "victim")


async def plain(database: Database) -> object:
    return await database.execute(INSERT, "victim")


@pytest.mark.parametrize("write", [plain, borrowed, without_arguments, returning])
async def test_a_default_retry_does_not_double_a_write_whose_answer_was_lost(
    database_dsn: str, write: Write
) -> None:
    async with relayed(database_dsn) as (database, relay, other):
        relay.swallows = 9
        with pytest.raises(OutcomeUnknownError) as lost:
            await Retry("orders", attempts=3).call(write, database)
        assert not isinstance(lost.value, RejectedError)
        assert lost.value.retry_after is None  # a caller would take it for a refusal
        assert relay.swallows == 8
        assert await orders(other) == 1


@pytest.mark.parametrize("write", [plain, borrowed, without_arguments, returning])
async def test_a_write_whose_answer_comes_too_late_is_unknown_and_not_tried_again(
    database_dsn: str, write: Write
) -> None:
    seen = RecordingObserver()
    async with relayed(database_dsn, seen) as (database, relay, other):
        relay.mutes = 9
        with request_within(30) as request, pytest.raises(OutcomeTimeoutError) as late:
            await database.fetchval("select 1")
            request.deadline = MONOTONIC() + 0.3
            await Retry("orders", attempts=3).call(write, database)
        assert isinstance(late.value, DeadlineExceededError)
        assert relay.mutes == 8
        assert await orders(other) == 1
    assert [event.error_type for event in seen.of(QueryFinished)][-1] == "OutcomeTimeoutError"


async def test_a_write_that_never_reached_the_server_is_tried_again_once_it_can_be_known(
    database_dsn: str,
) -> None:
    async with relayed(database_dsn) as (database, _, other):
        async with database.acquire() as connection:
            connection.raw.terminate()
            with pytest.raises(DatabaseUnavailableError):
                await connection.execute(INSERT, "victim")
        await until_answers(database)
        await Retry("orders", attempts=3).call(plain, database)
        assert await orders(other) == 1


async def test_a_statement_that_was_only_prepared_had_no_effect(database_dsn: str) -> None:
    async with relayed(database_dsn) as (database, relay, other):
        relay.resets = 1
        await Retry("orders", attempts=3).call(
            database.execute, "insert into orders select 'victim' where $1 = 1", 1
        )
        assert relay.resets == 0
        assert await orders(other) == 1


async def test_a_request_without_time_sends_nothing_and_its_outcome_is_known(
    database_dsn: str,
) -> None:
    async with relayed(database_dsn) as (database, _, other):
        with request_within(30) as request:
            async with database.acquire() as connection:
                request.deadline = request.started
                with pytest.raises(DeadlineExceededError) as late:
                    await connection.execute(INSERT, "victim")
        assert not isinstance(late.value, OutcomeUnknownError)
        assert await orders(other) == 0


async def test_a_repeatable_statement_is_never_unknown(database_dsn: str) -> None:
    async with relayed(database_dsn) as (database, relay, _):
        relay.swallows = 1
        assert await database.fetchval("select $1::text", "victim", repeatable=True) == "victim"
        relay.swallows = 2
        with pytest.raises(DatabaseUnavailableError):
            await database.execute("select $1::text", "victim", repeatable=True)


async def test_a_lone_read_not_declared_repeatable_is_unknown_too(database_dsn: str) -> None:
    async with relayed(database_dsn) as (database, relay, _):
        for ask in (database.fetch, database.fetchrow, database.fetchval):
            relay.swallows = 1
            with pytest.raises(OutcomeUnknownError):  # it may call a function that writes
                await ask("select $1::text", "victim")


async def test_inside_of_a_transaction_a_lost_answer_means_that_nothing_was_written(
    database_dsn: str,
) -> None:
    async with relayed(database_dsn) as (database, relay, other):
        relay.swallows = 1

        async def place() -> None:
            async with database.transaction() as connection:
                await connection.execute(INSERT, "one")
                await connection.execute(INSERT, "victim")

        await Retry("orders", attempts=3).call(place)
        assert relay.swallows == 0
        assert await orders(other) == 2


@pytest.mark.parametrize(
    "word", ["commit", "END", "/* victim */ ; commit", "select 1; COMMIT; select 2"]
)
async def test_a_commit_of_ones_own_whose_answer_is_lost_is_unknown(
    database_dsn: str, word: str
) -> None:
    async with relayed(database_dsn) as (database, relay, other):
        async with database.acquire() as connection:
            await connection.execute("begin")
            await connection.execute(INSERT, "one")
            relay.swallows = 1
            with pytest.raises(OutcomeUnknownError):
                await connection.execute(f"{word} -- victim")
        assert await orders(other) == 1


async def test_a_refusal_after_a_part_was_committed_is_unknown(database_dsn: str) -> None:
    async with relayed(database_dsn) as (database, _, other):
        await other.execute(
            "create procedure batch() language plpgsql as $$"
            " begin insert into orders values ('one'); commit; raise sqlstate '55P03'; end $$"
        )
        with pytest.raises(OutcomeUnknownError):
            await Retry("orders", attempts=3).call(database.execute, "call batch()")
        assert await orders(other) == 1


@pytest.mark.parametrize(
    ("sqlstate", "error"), [("53100", DatabaseUnavailableError), ("55P03", LockTimeoutError)]
)
async def test_an_error_that_the_server_answers_is_known_to_have_undone_the_statement(
    database_dsn: str, sqlstate: str, error: type[ResilienceError]
) -> None:
    async with relayed(database_dsn) as (database, _, other):
        await other.execute(
            "create function refuse_it() returns trigger language plpgsql as"
            f" $$ begin raise sqlstate '{sqlstate}'; end $$;"
            "create trigger refuse_it before insert on orders for each row execute function refuse_it()"
        )
        with pytest.raises(error):
            await database.execute(INSERT, "one")


async def test_a_backend_that_is_ended_leaves_a_lone_statement_unknown(database_dsn: str) -> None:
    async with relayed(database_dsn) as (database, _, other):

        async def end_it() -> None:
            with anyio.fail_after(10):
                while not await other.fetchval(
                    "select pg_terminate_backend(pid) from pg_stat_activity where query like '%pg_sleep(30)%'"
                    " and pid <> pg_backend_pid() and state = 'active'"
                ):
                    await anyio.sleep(0.01)

        async with anyio.create_task_group() as group:
            group.start_soon(end_it)
            with pytest.raises(OutcomeUnknownError):
                await database.execute("select pg_sleep(30)")


async def test_a_block_that_counts_two_statements_learns_of_the_one_that_failed(
    database_dsn: str,
) -> None:
    async def two(connection: Connection) -> None:
        await connection.execute(INSERT, "one")
        await connection.execute(INSERT, "victim")

    async with relayed(database_dsn) as (database, relay, other):
        relay.swallows = 1
        with pytest.raises(OutcomeUnknownError):
            async with database.acquire() as connection:
                await two(connection)
        assert await orders(other) == 2


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("text", "\0"),
        ("text", "\ud800"),
        ("int", 2**40),
        ("bigint", 2**70),
        ("int", float("nan")),
        ("jsonb", '{"x": NaN}'),
        ("jsonb", '"\\u0000"'),
        ("jsonb", "\0"),
        ("varchar(3)", "abcd"),
        ("numeric(3,1)", 1000),
        ("uuid", "no-uuid"),
    ],
    ids=str,
)
async def test_a_value_that_no_column_takes_is_the_callers_and_not_tried_again(
    database_dsn: str, column: str, value: Any
) -> None:
    async with opened(database_dsn, QUICK) as database:
        await database.execute(f"create table t (a {column})")
        tries = 0

        async def write() -> None:
            nonlocal tries
            tries += 1
            await database.execute("insert into t values ($1)", value)

        with pytest.raises(InvalidInputError) as refused:
            await Retry("t", attempts=3).call(write)
        assert tries == 1
        assert refused.value.args == ("db", None)  # the value stays in the driver's own error
        assert isinstance(refused.value.__cause__, asyncpg.DataError)
        assert await database.fetchval("select count(*) from t") == 0


@pytest.mark.parametrize("value", [5, object()])
async def test_a_value_of_a_wrong_type_is_the_services_own_fault(
    database_dsn: str, value: object
) -> None:
    async with opened(database_dsn, QUICK) as database:
        with pytest.raises(asyncpg.DataError):
            await database.execute("select $1::text", value)
