"""A database that is away, slow, full, killed or read-only costs errors that say so, and nothing for ever."""

from __future__ import annotations

from contextlib import suppress

import anyio
import asyncpg
import pytest

from postfacta_core.errors import (
    DatabaseUnavailableError,
    DeadlineExceededError,
    LockTimeoutError,
    OutcomeUnknownError,
    PoolTimeoutError,
    ReadOnlyDatabaseError,
    RejectedError,
)
from postfacta_core.events import ConnectionAcquired, ConnectionOpened, Event, QueryFinished
from postfacta_core.testing import RecordingObserver
from postfacta_embedded import EmbeddedPostgres
from postfacta_postgres import Database, PoolOptions
from postfacta_postgres.guarded import translate

from .postgres import QUICK, SHORT_WAIT, opened, size_of, until_answers, until_pinged, watcher

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])  # asyncpg knows no other


@pytest.mark.parametrize(
    ("error", "broken", "expected"),
    [
        (asyncpg.ConnectionDoesNotExistError("gone"), False, DatabaseUnavailableError),
        (asyncpg.AdminShutdownError("bye"), False, DatabaseUnavailableError),
        (asyncpg.CrashShutdownError("bye"), False, DatabaseUnavailableError),
        (asyncpg.CannotConnectNowError("starting up"), False, DatabaseUnavailableError),
        (asyncpg.TooManyConnectionsError("full"), False, DatabaseUnavailableError),
        (asyncpg.DiskFullError("full"), False, DatabaseUnavailableError),
        (asyncpg.OutOfMemoryError("full"), False, DatabaseUnavailableError),
        (ConnectionResetError(), False, DatabaseUnavailableError),
        (
            asyncpg.InternalClientError("another operation is in progress"),
            False,
            DatabaseUnavailableError,
        ),
        (asyncpg.InterfaceError("connection is closed"), True, DatabaseUnavailableError),
        (asyncpg.InterfaceError("the query has 1 parameter"), False, None),
        (asyncpg.ReadOnlySQLTransactionError("standby"), False, ReadOnlyDatabaseError),
        (asyncpg.QueryCanceledError("statement timeout"), False, DeadlineExceededError),
        (TimeoutError(), False, DeadlineExceededError),
        (asyncpg.UniqueViolationError("twice"), False, None),
        (asyncpg.DeadlockDetectedError("both"), False, None),
        (asyncpg.LockNotAvailableError("busy"), False, LockTimeoutError),
        (ValueError("not ours"), True, None),
    ],
)
def test_an_error_is_classified(
    error: Exception, *, broken: bool, expected: type[Exception] | None, anyio_backend: str
) -> None:
    known = translate(error, "db", broken=broken)
    assert type(known) is (expected or type(None))
    assert getattr(known, "retry_after", None) == (
        1.0 if isinstance(known, RejectedError) else None
    )


async def test_statements_answer_and_are_reported_by_operation_and_collection(
    database_dsn: str,
) -> None:
    seen = RecordingObserver()
    async with opened(database_dsn, observer=seen) as database:
        assert await database.fetchval("select $1::int + 1", 41) == 42
        assert await database.execute("create table t (a int primary key)") == "CREATE TABLE"
        async with database.transaction() as connection:
            await connection.execute("insert into t values (1)", operation="t_add", collection="t")
            assert tuple(await connection.fetchrow("select a from t") or ()) == (1,)
        assert [row["a"] for row in await database.fetch("select a from t")] == [1]
    told = [
        (event.operation, event.collection, event.error_type) for event in seen.of(QueryFinished)
    ]
    assert told == [
        *(("SELECT", "", ""), ("CREATE", "", ""), ("BEGIN", "", ""), ("t_add", "t", "")),
        *(("SELECT", "", ""), ("COMMIT", "", ""), ("SELECT", "", "")),
    ]
    assert {event.system for event in seen.of(QueryFinished)} == {"postgresql"}
    assert {event.server for event in seen.of(QueryFinished)} == {"127.0.0.1"}
    assert size_of(seen).used == 0
    assert all(event.seconds > 0 for event in seen.of(ConnectionOpened))


async def test_a_block_that_raises_leaves_nothing_behind(
    database_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(database_dsn) as database:
        await database.execute("create table t (a int)")
        with pytest.raises(LookupError):
            async with database.transaction() as connection:
                await connection.execute("insert into t values (1)")
                raise LookupError
        assert await database.fetchval("select count(*) from t") == 0
    assert caplog.messages == []  # asyncpg complains if a connection comes back in a transaction


async def test_a_block_that_swallows_an_error_is_not_saved(database_dsn: str) -> None:
    seen = RecordingObserver()
    async with opened(database_dsn, observer=seen) as database:
        await database.execute("create table t (a int)")
        with pytest.raises(asyncpg.InFailedSQLTransactionError):
            async with database.transaction() as connection:
                await connection.execute("insert into t values (1)")
                with suppress(asyncpg.DivisionByZeroError):
                    await connection.execute("select 1 / 0")
        assert await database.fetchval("select count(*) from t") == 0
    commit = next(event for event in seen.of(QueryFinished) if event.operation == "COMMIT")
    assert (commit.error_type, commit.sqlstate) == ("InFailedSQLTransactionError", "25P02")


async def test_an_observer_that_raises_costs_nothing(database_dsn: str) -> None:
    def broken(event: Event, /) -> None:
        raise LookupError(event)

    async with Database(database_dsn, name="db", options=QUICK, observer=broken) as database:
        with anyio.fail_after(10):
            await database.wait_connected()
        for _ in range(
            QUICK.max_size + 1
        ):  # one that stayed lent each time would leave none for the last
            assert await database.fetchval("select 1") == 1


async def test_the_statements_own_fault_keeps_its_own_error(database_dsn: str) -> None:
    seen = RecordingObserver()
    async with opened(database_dsn, observer=seen) as database:
        await database.execute("create table t (a int unique deferrable initially deferred)")
        with pytest.raises(asyncpg.UndefinedTableError):
            await database.fetch("select * from nowhere")
        with pytest.raises(
            asyncpg.UniqueViolationError
        ):  # at COMMIT: an answer, so nothing is unknown
            async with database.transaction() as connection:
                await connection.execute("insert into t values (1), (1)")
        with pytest.raises(asyncpg.InterfaceError):
            await database.fetch("select $1::int", 1, 2)
    failed = [event for event in seen.of(QueryFinished) if event.error_type]
    assert [(event.error_type, event.sqlstate) for event in failed] == [
        ("UndefinedTableError", "42P01"),
        ("UniqueViolationError", "23505"),
        ("InterfaceError", ""),
    ]


async def test_a_full_pool_refuses_after_the_bound_and_in_turn(database_dsn: str) -> None:
    seen = RecordingObserver()
    async with opened(database_dsn, SHORT_WAIT, seen) as database:
        async with database.acquire(), database.acquire():
            with pytest.raises(PoolTimeoutError):
                await database.fetchval("select 1")
            await until_pinged(database)  # on a connection that no load can take
            assert size_of(seen).used == 2
        assert await database.fetchval("select 1") == 1
    assert [e.error_type for e in seen.of(ConnectionAcquired)].count("PoolTimeoutError") == 1


async def test_a_connection_killed_in_the_middle_of_a_transaction_writes_nothing(
    database_dsn: str,
) -> None:
    async with opened(database_dsn) as database, watcher(database_dsn) as other:
        await database.execute("create table t (a int)")
        with pytest.raises(DatabaseUnavailableError):
            async with database.transaction() as connection:
                await connection.execute("insert into t values (1)")
                await other.execute(
                    "select pg_terminate_backend($1)",
                    await connection.fetchval("select pg_backend_pid()"),
                )
                await connection.execute("insert into t values (2)")
        await until_answers(database)
        assert await database.fetchval("select count(*) from t") == 0


async def test_a_read_only_database_says_so_and_none_of_its_connections_is_trusted(
    database_dsn: str,
) -> None:
    seen = RecordingObserver()
    async with opened(database_dsn, observer=seen) as database:
        with pytest.raises(ReadOnlyDatabaseError):
            async with database.transaction() as connection:
                await connection.execute("set transaction read only")
                await connection.execute("create table t (a int)")
        with anyio.fail_after(10):
            while (
                len(seen.of(ConnectionOpened)) < 4
            ):  # the reserved one and the lent one, each again
                await until_answers(database)


async def test_closing_ends_a_stuck_query_within_its_bound(database_dsn: str) -> None:
    ended: list[type[Exception]] = []

    async def stuck(database: Database, started: anyio.Event) -> None:
        try:
            async with database.acquire() as connection:
                started.set()
                await connection.execute("select pg_sleep(60)")
        except Exception as error:  # noqa: BLE001 - what it is, is the question
            ended.append(type(error))

    options = PoolOptions(statement_timeout=30, close_timeout=0.2)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group, opened(database_dsn, options) as database:
            started = anyio.Event()
            group.start_soon(stuck, database, started)
            await started.wait()
    assert ended == [OutcomeUnknownError]


async def test_unsafe_settings_of_the_server_are_named(
    database_dsn: str, own_server: EmbeddedPostgres
) -> None:
    async with opened(own_server.dsn()) as safe, opened(database_dsn) as unsafe:
        assert await safe.durability_problems() == []
        assert "fsync = off" in await unsafe.durability_problems()


async def test_no_secret_is_in_errors_events_or_reprs() -> None:
    seen = RecordingObserver()
    dsn = "postgresql://someone:canary-secret@127.0.0.1:1/nowhere"
    async with Database(dsn, name="db", options=QUICK, observer=seen) as database:
        with anyio.fail_after(5):
            while not seen.of(ConnectionOpened):
                await anyio.sleep(0.01)
        with pytest.raises(DatabaseUnavailableError) as refusal:
            await database.fetch("select 1")
        told = f"{refusal.value!r} {refusal.value.__cause__!r} {database!r} {seen.events!r}"
    assert "canary" not in told


async def test_what_a_session_keeps_is_cleared_before_the_next_caller(database_dsn: str) -> None:
    async with opened(database_dsn, PoolOptions(max_size=1)) as database:
        async with database.acquire() as connection:
            await connection.execute("set work_mem = '5MB'")
            await connection.execute("begin")
        assert await database.fetchval("show work_mem") != "5MB"
        async with database.acquire() as connection:
            assert not connection.raw.is_in_transaction()


@pytest.mark.parametrize(("plan_each_time", "mode"), [(False, "auto"), (True, "force_custom_plan")])
async def test_statements_are_planned_for_each_call_if_asked(
    database_dsn: str, *, plan_each_time: bool, mode: str
) -> None:
    async with Database(
        database_dsn, options=PoolOptions(plan_each_time=plan_each_time)
    ) as database:
        with anyio.fail_after(10):
            await database.wait_connected()
        assert await database.fetchval("show plan_cache_mode", operation="test") == mode


async def test_two_open_databases_of_one_name_are_refused(anyio_backend: str) -> None:
    seen, others = RecordingObserver(), RecordingObserver()
    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    first, second = (Database(nowhere, observer=seen) for _ in range(2))
    apart = Database(nowhere, name="reports", observer=seen)
    elsewhere = Database(nowhere, observer=others)
    async with first, apart, elsewhere:
        with pytest.raises(ValueError, match=r"Database\.name .*'postgres'.*name=\"reports\""):
            await second.__aenter__()
        with pytest.raises(ValueError, match="postgres"):
            await first.__aenter__()
    async with second:
        pass
    async with first:
        pass
