"""Only what may run twice is run again.

Reads whose connection broke, and transactions that lost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import anyio
import asyncpg
import pytest

from postfacta_core.errors import (
    CircuitOpenError,
    DatabaseUnavailableError,
    DeadlineExceededError,
    OutcomeUnknownError,
)
from postfacta_core.events import QueryFinished, RetryScheduled
from postfacta_core.guards.budget import RetryBudget
from postfacta_core.testing import RecordingObserver
from postfacta_postgres import Connection, Database, database_circuit
from tests.postgres.guarded import ECHO, IMPATIENT, ONE, counts, guarded, tries

from .postgres import QUICK, Flapping, request_within

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])  # asyncpg knows no other


async def test_a_repeatable_read_whose_connection_broke_is_answered_by_another(
    database_dsn: str,
) -> None:
    seen = RecordingObserver()
    async with (
        Flapping(database_dsn) as relay,
        guarded(relay.dsn(), config=database_circuit(2), seen=seen) as database,
    ):
        for ask in (database.fetch, database.fetchrow, database.fetchval):
            relay.resets = 1
            answer = await ask(ECHO, "victim", operation="probe", repeatable=True)
            assert answer in ([("victim",)], ("victim",), "victim")
        assert counts(database) == {"failure": 3, "success": 3}
    assert tries(seen, "db_read") == {"retried": 3, "recovered": 3}
    assert [event.error_type for event in seen.of(QueryFinished) if event.operation == "probe"] == [
        *("DatabaseUnavailableError", "") * 3
    ]


async def test_a_read_whose_connection_breaks_twice_fails_without_third_try(
    database_dsn: str,
) -> None:
    seen = RecordingObserver()
    async with Flapping(database_dsn) as relay, guarded(relay.dsn(), seen=seen) as database:
        relay.resets = 9
        with pytest.raises(DatabaseUnavailableError) as gone:
            await database.fetchval(ECHO, "victim", repeatable=True)
        assert relay.resets == 7
        assert "no more tries" in gone.value.__notes__[0]
    assert tries(seen, "db_read") == {"retried": 1, "exhausted": 1}


async def test_what_was_not_called_repeatable_is_never_run_twice(database_dsn: str) -> None:
    seen = RecordingObserver()
    async with Flapping(database_dsn) as relay, guarded(relay.dsn(), seen=seen) as database:
        relay.resets = 9
        with pytest.raises(OutcomeUnknownError):
            await database.fetchval(ECHO, "victim")
        with pytest.raises(OutcomeUnknownError):
            await database.execute(ECHO, "victim")
        assert relay.resets == 7
    assert seen.of(RetryScheduled) == []


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("select pg_sleep(60)", DeadlineExceededError),
        ("select 1 / 0", asyncpg.DivisionByZeroError),
        ("do $$ begin raise sqlstate '53100'; end $$", DatabaseUnavailableError),
        ("do $$ begin raise sqlstate '40001'; end $$", asyncpg.SerializationError),
    ],
)
async def test_a_read_that_failed_on_a_connection_that_is_well_is_not_tried_again(
    database_dsn: str, sql: str, error: type[Exception]
) -> None:
    seen = RecordingObserver()
    async with guarded(database_dsn, options=IMPATIENT, seen=seen) as database:
        with pytest.raises(error):
            await database.fetchval(sql, repeatable=True)
    assert tries(seen, "db_read") == {"failure": 1}


async def test_a_read_is_not_tried_again_while_the_database_is_known_to_be_away_or_its_circuit_is_open(
    database_dsn: str,
) -> None:
    seen = RecordingObserver()
    nobody = "postgresql://nobody@127.0.0.1:1/nothing"
    async with Database(nobody, name="away", options=QUICK, observer=seen) as database:
        with pytest.raises(DatabaseUnavailableError):
            await database.fetchval(ONE, repeatable=True)
    async with guarded(database_dsn, seen=seen) as database:
        database.breaker.open()
        with pytest.raises(CircuitOpenError):
            await database.fetchval(ONE, repeatable=True)
    assert seen.of(RetryScheduled) == []


async def test_an_empty_budget_and_a_deadline_end_the_tries(database_dsn: str) -> None:
    seen = RecordingObserver()
    budget = RetryBudget("db", ratio=0.0, floor=1e-9, burst=1)
    async with (
        Flapping(database_dsn) as relay,
        guarded(relay.dsn(), seen=seen, budget=budget) as database,
    ):
        assert database.retry_budget is budget
        relay.mutes = 1
        with request_within(0.2), pytest.raises(DeadlineExceededError):
            await database.fetchval(ECHO, "victim", repeatable=True)
        database.breaker.reset()
        relay.resets = 9
        with pytest.raises(DatabaseUnavailableError):
            await database.fetchval(ECHO, "victim", repeatable=True)
        with pytest.raises(DatabaseUnavailableError) as gone:
            await database.fetchval(ECHO, "victim", repeatable=True)
        assert "budget" in gone.value.__notes__[0]
    assert tries(seen, "db_read")["budget_refused"] == 1


Step = Callable[[Connection], Awaitable[None]]


async def two_that_collide(
    database: Database, isolation: str, *, keys: tuple[int, int] = (1, 1)
) -> list[int]:
    """Run two transactions that are in each other's way the first time; tell how often each ran."""
    runs = [0, 0]
    both = [anyio.Event(), anyio.Event()]

    async def work(number: int) -> None:
        async def add(connection: Connection) -> None:
            runs[number] += 1
            first, second = keys if number == 0 else keys[::-1]
            await connection.fetchval("select a from t where id = $1", first)
            if first != second:
                await connection.execute("update t set a = a + 1 where id = $1", first)
            both[number].set()
            await both[1 - number].wait()
            await connection.execute("update t set a = a + 1 where id = $1", second)

        await database.run_transaction(add, isolation=isolation)  # type: ignore[arg-type] # one of the three

    async with anyio.create_task_group() as group:
        group.start_soon(work, 0)
        group.start_soon(work, 1)
    return runs


async def test_of_two_transactions_that_collide_the_loser_runs_again_from_its_start(
    database_dsn: str,
) -> None:
    seen = RecordingObserver()
    async with guarded(database_dsn, seen=seen) as database:
        await database.execute("create table t (id int primary key, a int)")
        await database.execute("insert into t values (1, 0), (2, 0)")
        assert sorted(await two_that_collide(database, "repeatable read")) == [1, 2]
        assert await database.fetchval("select a from t where id = 1") == 2
        await database.execute("update t set a = 0")
    assert tries(seen, "db_transaction") == {"success": 1, "retried": 1, "recovered": 1}
    assert [event.sqlstate for event in seen.of(QueryFinished) if event.error_type] == ["40001"]


async def test_of_two_transactions_in_a_deadlock_the_victim_runs_again(database_dsn: str) -> None:
    seen = RecordingObserver()
    options = replace(QUICK, lock_timeout=5.0, statement_timeout=5.0)
    async with guarded(database_dsn, options=options, seen=seen) as database:
        await database.execute("create table t (id int primary key, a int)")
        await database.execute("insert into t values (1, 0), (2, 0)")
        runs = await two_that_collide(database, "read committed", keys=(1, 2))
        assert await database.fetchval("select array_agg(a) from t") == [2, 2]
    lost = [event.sqlstate for event in seen.of(QueryFinished) if event.error_type]
    # The victim's next run may take its row again before the other wakes up, and one of them loses
    # once more.
    assert set(lost) == {"40P01"}
    assert sum(runs) == 2 + len(lost)


async def test_a_transaction_that_loses_each_time_gives_up_and_writes_nothing(
    database_dsn: str,
) -> None:
    seen = RecordingObserver()
    async with guarded(database_dsn, seen=seen) as database:
        await database.execute("create table t (a int)")

        async def lose(connection: Connection) -> None:
            await connection.execute("insert into t values (1)")
            await connection.execute("do $$ begin raise sqlstate '40001'; end $$")

        with pytest.raises(DatabaseUnavailableError) as lost:
            await database.run_transaction(lose)
        assert isinstance(lost.value.__cause__, asyncpg.SerializationError)
        assert lost.value.retry_after == 1.0
        assert await database.fetchval("select count(*) from t") == 0
        assert "failure" not in counts(database)
    assert tries(seen, "db_transaction") == {"retried": 2, "exhausted": 1}
    assert all(0 < event.delay <= 0.1 for event in seen.of(RetryScheduled))


async def test_a_conflict_that_the_server_finds_at_commit_is_not_tried_again(
    database_dsn: str,
) -> None:
    seen = RecordingObserver()
    async with guarded(database_dsn, seen=seen) as database:
        await database.execute("create table t (a int)")
        await database.execute(
            "create function lose() returns trigger as $$ begin raise sqlstate '40001'; end $$ language plpgsql"
        )
        await database.execute(
            "create constraint trigger lose after insert on t deferrable initially deferred"
            " for each row execute function lose()"
        )
        runs = 0

        async def add(connection: Connection) -> None:
            nonlocal runs
            runs += 1
            await connection.execute("insert into t values (1)")

        with pytest.raises(asyncpg.SerializationError):
            await database.run_transaction(add)
        assert runs == 1
    assert seen.of(RetryScheduled) == []


@pytest.mark.parametrize(
    "error", [LookupError, asyncpg.UniqueViolationError, DatabaseUnavailableError]
)
async def test_a_transaction_that_fails_by_itself_or_loses_its_connection_is_not_run_again(
    database_dsn: str, error: type[Exception]
) -> None:
    runs = 0
    async with Flapping(database_dsn) as relay, guarded(relay.dsn()) as database:
        await database.execute("create table t (a int primary key)")

        async def work(connection: Connection) -> None:
            nonlocal runs
            runs += 1
            if error is LookupError:
                raise LookupError
            relay.resets = error is DatabaseUnavailableError
            await connection.execute("insert into t values (1), (1) -- victim")

        with pytest.raises(error):
            await database.run_transaction(work)
    assert runs == 1


async def test_a_transaction_returns_what_its_function_does_at_the_isolation_it_asked_for(
    database_dsn: str,
) -> None:
    async with guarded(database_dsn) as database:

        async def level(connection: Connection) -> str:
            return str(await connection.fetchval("show transaction_isolation"))

        assert await database.run_transaction(level) == "read committed"
        assert await database.run_transaction(level, isolation="serializable") == "serializable"
        async with database.transaction(isolation="repeatable read") as connection:
            assert await level(connection) == "repeatable read"
