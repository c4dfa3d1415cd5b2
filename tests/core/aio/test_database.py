"""A database that is away, slow, full, killed or read-only costs errors that say so, and nothing for ever."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import anyio
import asyncpg
import pytest

from postfacta_core.aio.database import Database, PoolOptions, translate
from postfacta_core.clock import MONOTONIC
from postfacta_core.errors import (
    DatabaseUnavailableError,
    DeadlineExceededError,
    LockTimeoutError,
    OutcomeUnknownError,
    PoolTimeoutError,
    ReadOnlyDatabaseError,
)
from postfacta_core.events import (
    ConnectionAcquired,
    ConnectionOpened,
    DeadlineExceeded,
    Event,
    PoolSized,
    QueryFinished,
)
from postfacta_core.testing import RecordingObserver
from postfacta_embedded import EmbeddedPostgres
from tests.pg import open_folder

from .postgres import QUICK, opened, request_within, until_answers, until_quiet, watcher

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
        (asyncpg.InternalClientError("another operation is in progress"), False, DatabaseUnavailableError),
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
def test_an_error_is_told_apart(
    error: Exception, *, broken: bool, expected: type[Exception] | None, anyio_backend: str
) -> None:
    known = translate(error, "db", broken=broken)
    assert type(known) is (expected or type(None))


@pytest.fixture
def own_server() -> Generator[EmbeddedPostgres]:
    """A server that a test may kill."""
    with open_folder() as folder, EmbeddedPostgres(folder / "data") as server:
        yield server


async def is_alive(database: Database) -> bool:
    try:
        await database.ping()
    except DatabaseUnavailableError:
        return False
    return True


@asynccontextmanager
async def asked_all_the_while(database: Database) -> AsyncGenerator[list[int]]:
    """Ask again and again while the block runs, and keep the answers; an error ends the test."""
    answers: list[int] = []
    done = anyio.Event()

    async def ask() -> None:
        while not done.is_set():
            answers.append(await database.fetchval("select 1"))

    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(ask)
        try:
            yield answers
        finally:
            done.set()


async def test_statements_answer_and_are_told_by_operation_and_collection(database_dsn: str) -> None:
    seen = RecordingObserver()
    async with opened(database_dsn, observer=seen) as database:
        assert await database.fetchval("select $1::int + 1", 41) == 42
        assert await database.execute("create table t (a int primary key)") == "CREATE TABLE"
        async with database.transaction() as connection:
            await connection.execute("insert into t values (1)", operation="t_add", collection="t")
            assert tuple(await connection.fetchrow("select a from t") or ()) == (1,)
        assert [row["a"] for row in await database.fetch("select a from t")] == [1]
    told = [(event.operation, event.collection, event.error_type) for event in seen.of(QueryFinished)]
    assert told == [
        *(("SELECT", "", ""), ("CREATE", "", ""), ("BEGIN", "", ""), ("t_add", "t", "")),
        *(("SELECT", "", ""), ("COMMIT", "", ""), ("SELECT", "", "")),
    ]
    assert {event.system for event in seen.of(QueryFinished)} == {"postgresql"}
    assert {event.server for event in seen.of(QueryFinished)} == {"127.0.0.1"}
    assert seen.of(PoolSized)[-1].used == 0
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


async def test_a_block_that_swallows_an_error_is_not_told_that_its_work_was_saved(database_dsn: str) -> None:
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
        for _ in range(QUICK.max_size + 1):  # one that stayed lent each time would leave none for the last
            assert await database.fetchval("select 1") == 1


async def test_the_statements_own_fault_keeps_its_own_error(database_dsn: str) -> None:
    seen = RecordingObserver()
    async with opened(database_dsn, observer=seen) as database:
        await database.execute("create table t (a int unique deferrable initially deferred)")
        with pytest.raises(asyncpg.UndefinedTableError):
            await database.fetch("select * from nowhere")
        with pytest.raises(asyncpg.UniqueViolationError):  # at COMMIT: an answer, so nothing is unknown
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
    async with opened(database_dsn, observer=seen) as database:
        async with database.acquire(), database.acquire():
            with pytest.raises(PoolTimeoutError):
                await database.fetchval("select 1")
            await database.ping()  # on a connection that no load can take
        assert await database.fetchval("select 1") == 1
    assert [e.error_type for e in seen.of(ConnectionAcquired)].count("PoolTimeoutError") == 1
    # It is told as the wait begins: when it has ended, whoever looks at the gauge sees nobody wait.
    assert [event.waiting for event in seen.of(PoolSized)].count(1) == 1
    assert max(event.used for event in seen.of(PoolSized)) == 2


async def test_waiters_are_served_in_the_order_of_their_coming(database_dsn: str) -> None:
    order: list[int] = []
    options = PoolOptions(max_size=1, acquire_timeout=5)
    async with opened(database_dsn, options) as database, anyio.create_task_group() as group:

        async def wait(number: int, started: anyio.Event) -> None:
            started.set()
            async with database.acquire():
                order.append(number)

        async with database.acquire():
            for number in range(5):
                started = anyio.Event()
                group.start_soon(wait, number, started)
                await started.wait()
    assert order == [0, 1, 2, 3, 4]


async def test_a_statement_that_runs_too_long_is_ended_on_the_server(database_dsn: str) -> None:
    options = PoolOptions(statement_timeout=0.1)
    async with opened(database_dsn, options) as database, watcher(database_dsn) as other:
        with pytest.raises(DeadlineExceededError):
            await database.execute("select pg_sleep(60)")
        # The server hears of it by a cancel request, which may arrive just after the caller's error.
        await until_quiet(other, seconds=1)
        assert await database.fetchval("select 1") == 1


@pytest.mark.parametrize("moment", ["acquire", "query", "transaction"])
async def test_a_cancelled_caller_leaves_no_connection_lent(database_dsn: str, moment: str) -> None:
    seen = RecordingObserver()
    options = PoolOptions(max_size=2, acquire_timeout=5)
    async with opened(database_dsn, options, seen) as database:
        for _ in range(5):
            if moment == "acquire":
                async with database.acquire(), database.acquire():
                    with anyio.move_on_after(0.03):
                        await database.fetchval("select 1")
            elif moment == "query":
                with anyio.move_on_after(0.03):
                    await database.execute("select pg_sleep(60)")
            else:
                with anyio.move_on_after(0.03):
                    async with database.transaction() as connection:
                        await connection.execute("select pg_sleep(60)")
        async with database.acquire(), database.acquire():
            pass
        async with watcher(database_dsn) as other:
            busy = "select count(*) from pg_stat_activity where application_name = 'postfacta db' and state <> 'idle'"
            with anyio.fail_after(5):
                while await other.fetchval(busy):
                    await anyio.sleep(0.01)
    assert seen.of(PoolSized)[-1].used == 0


async def test_a_database_that_is_away_at_start_is_no_crash_and_comes_by_itself() -> None:
    seen = RecordingObserver()
    with open_folder() as folder:
        server = EmbeddedPostgres(folder / "data")
        await anyio.to_thread.run_sync(server.start)
        dsn = server.dsn()
        await anyio.to_thread.run_sync(server.stop)
        try:
            async with Database(dsn, name="db", options=QUICK, observer=seen) as database:
                with pytest.raises(DatabaseUnavailableError) as refusal:
                    await database.fetchval("select 1")
                assert refusal.value.retry_after is not None
                with pytest.raises(DatabaseUnavailableError):
                    await database.ping()
                await anyio.to_thread.run_sync(server.start)
                with anyio.fail_after(10):
                    await database.wait_connected()
                assert await database.fetchval("select 1") == 1
        finally:
            await anyio.to_thread.run_sync(server.stop)
    assert next(event.error_type for event in seen.of(ConnectionOpened)) == "ConnectionRefusedError"


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_database_that_is_stopped_or_killed_is_used_again_once_it_is_back(
    own_server: EmbeddedPostgres, how: str
) -> None:
    async with opened(own_server.dsn()) as database:
        await database.fetchval("select 1")
        if how == "kill":
            assert own_server.pid is not None
            os.kill(own_server.pid, signal.SIGKILL)
        await anyio.to_thread.run_sync(own_server.stop)
        with anyio.fail_after(10), pytest.raises(DatabaseUnavailableError):
            while True:
                await database.fetchval("select 1", repeatable=True)
        await anyio.to_thread.run_sync(own_server.start)
        await until_answers(database)
        await database.ping()


async def test_a_connection_killed_in_the_middle_of_a_transaction_writes_nothing(database_dsn: str) -> None:
    async with opened(database_dsn) as database, watcher(database_dsn) as other:
        await database.execute("create table t (a int)")
        with pytest.raises(DatabaseUnavailableError):
            async with database.transaction() as connection:
                await connection.execute("insert into t values (1)")
                await other.execute(
                    "select pg_terminate_backend($1)", await connection.fetchval("select pg_backend_pid()")
                )
                await connection.execute("insert into t values (2)")
        await until_answers(database)
        assert await database.fetchval("select count(*) from t") == 0


async def test_one_connection_that_breaks_fails_nobody_else(database_dsn: str) -> None:
    options = PoolOptions(max_size=4, acquire_timeout=5)
    async with (
        opened(database_dsn, options) as database,
        watcher(database_dsn) as other,
        asked_all_the_while(database) as answers,
    ):
        for _ in range(5):
            with pytest.raises(DatabaseUnavailableError):
                async with database.transaction() as connection:
                    pid = await connection.fetchval("select pg_backend_pid()")
                    await other.execute("select pg_terminate_backend($1)", pid)
                    while True:
                        await connection.execute("select 1")
            before = len(answers)
            with anyio.fail_after(10):
                while len(answers) < before + 20:
                    await anyio.sleep(0.001)


async def test_the_loss_of_the_reserved_connection_alone_fails_nobody_else(database_dsn: str) -> None:
    ours = "select pid from pg_stat_activity where application_name = 'postfacta db' and datname = current_database()"
    seen = RecordingObserver()
    options = PoolOptions(max_size=2, acquire_timeout=5)
    async with opened(database_dsn, options, seen) as database, watcher(database_dsn) as other:
        for _ in range(5):
            async with database.acquire() as lent, database.acquire() as also:  # all but the reserved one
                pids = [await one.fetchval("select pg_backend_pid()") for one in (lent, also)]
            reserved = next(row["pid"] for row in await other.fetch(ours) if row["pid"] not in pids)
            known = len(seen.of(ConnectionOpened))
            async with asked_all_the_while(database):
                await other.execute("select pg_terminate_backend($1)", reserved)
                with anyio.fail_after(10):
                    while len(seen.of(ConnectionOpened)) == known:
                        await anyio.sleep(0.001)
                    while not await is_alive(
                        database
                    ):  # it may be the first to see that its connection is gone
                        await anyio.sleep(0.001)


async def test_signs_of_life_may_be_asked_for_by_several_at_once(database_dsn: str) -> None:
    seen = RecordingObserver()
    async with opened(database_dsn, observer=seen) as database, anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(database.ping)
    assert len(seen.of(ConnectionOpened)) == 1


async def test_a_server_that_finds_no_place_for_one_more_keeps_those_it_has(
    own_server: EmbeddedPostgres,
) -> None:
    seen = RecordingObserver()
    options = PoolOptions(max_size=5)
    async with AsyncExitStack() as others, opened(own_server.dsn(), options, seen) as database:
        async with database.acquire() as lent, database.acquire():
            with pytest.raises(asyncpg.TooManyConnectionsError):
                while True:
                    await others.enter_async_context(watcher(own_server.dsn()))
            with pytest.raises(DatabaseUnavailableError):
                async with database.acquire(), database.acquire():
                    pass
            assert await lent.fetchval("select 1") == 1
        for _ in range(5):
            await database.ping()
            assert await database.fetchval("select 1") == 1
    assert [event.error_type for event in seen.of(ConnectionOpened)].count("") == 3


async def test_a_frozen_server_is_noticed_and_used_again_once_it_goes_on(
    own_server: EmbeddedPostgres,
) -> None:
    options = PoolOptions(acquire_timeout=0.2, connect_timeout=0.5, statement_timeout=0.5, close_timeout=0.5)
    async with opened(own_server.dsn(), options) as database:
        rows = await database.fetch("select pid from pg_stat_activity")
        frozen = [own_server.pid or 0, *(row["pid"] for row in rows)]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            with anyio.fail_after(5), pytest.raises(DeadlineExceededError):
                await database.fetchval("select 1")  # on the idle connection
            with anyio.fail_after(10):
                while database.is_connected:
                    with pytest.raises(DatabaseUnavailableError):
                        await database.fetchval("select 1")
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        await until_answers(database)


async def test_a_sign_of_life_that_is_not_waited_for_is_missed_all_the_same(
    own_server: EmbeddedPostgres,
) -> None:
    async with opened(own_server.dsn()) as database:
        rows = await database.fetch("select pid from pg_stat_activity")
        frozen = [own_server.pid or 0, *(row["pid"] for row in rows)]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            with anyio.move_on_after(0.1) as patience:
                await database.ping()
            assert patience.cancelled_caught
            with anyio.fail_after(0.9), pytest.raises(DatabaseUnavailableError):
                await database.ping()  # at once: it does not wait a second time for the same answer
            with anyio.fail_after(10):
                while database.is_connected:
                    await anyio.sleep(0.01)
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        await until_answers(database)
        await database.ping()


async def test_a_connection_that_breaks_during_commit_leaves_the_outcome_unknown(database_dsn: str) -> None:
    sleeps = "create function slow() returns trigger language plpgsql as 'begin perform pg_sleep(30); return null; end'"
    later = "create constraint trigger slow after insert on t deferrable initially deferred for each row execute function slow()"
    options = PoolOptions(statement_timeout=20)
    async with opened(database_dsn, options) as database, watcher(database_dsn) as other:
        for statement in ("create table t (a int)", sleeps, later):
            await database.execute(statement)

        async def end_it(pid: int) -> None:
            with anyio.fail_after(10):
                while (
                    await other.fetchval("select wait_event from pg_stat_activity where pid = $1", pid)
                    != "PgSleep"
                ):
                    await anyio.sleep(0.01)
            await other.execute("select pg_terminate_backend($1)", pid)

        async with anyio.create_task_group() as group:
            with pytest.raises(OutcomeUnknownError):
                async with database.transaction() as connection:
                    await connection.execute("insert into t values (1)")
                    group.start_soon(end_it, await connection.fetchval("select pg_backend_pid()"))


async def test_a_read_only_database_says_so_and_none_of_its_connections_is_trusted(database_dsn: str) -> None:
    seen = RecordingObserver()
    async with opened(database_dsn, observer=seen) as database:
        with pytest.raises(ReadOnlyDatabaseError):
            async with database.transaction() as connection:
                await connection.execute("set transaction read only")
                await connection.execute("create table t (a int)")
        with anyio.fail_after(10):
            while len(seen.of(ConnectionOpened)) < 4:  # the reserved one and the lent one, each again
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


async def test_no_secret_is_told_in_an_error_an_event_or_a_repr() -> None:
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


async def test_in_a_transaction_the_server_itself_knows_the_requests_limit(database_dsn: str) -> None:
    limit = "select setting::int from pg_settings where name = 'statement_timeout'"
    seen = RecordingObserver()
    async with opened(database_dsn, observer=seen) as database:
        with request_within(0.5):
            async with database.transaction() as connection:
                assert 300 < await connection.fetchval(limit) < 480
        with request_within(60):
            async with database.transaction() as connection:
                assert await connection.fetchval(limit) == 2000
        assert await database.fetchval(limit) == 2000
        with request_within(0.3), pytest.raises(DeadlineExceededError):
            async with database.transaction() as connection:
                await connection.execute("select pg_sleep(60)")
    late = next(event for event in seen.of(QueryFinished) if event.error_type)
    assert late.sqlstate == "57014"  # the server's word, and not this side's
    assert [event.stage for event in seen.of(DeadlineExceeded)] == ["database"]


async def test_a_transaction_whose_request_has_no_time_left_is_not_committed(database_dsn: str) -> None:
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


async def test_a_request_past_its_deadline_does_not_wait_for_a_server_that_is_frozen(
    own_server: EmbeddedPostgres,
) -> None:
    async with opened(own_server.dsn(), PoolOptions(close_timeout=0.5)) as database:
        rows = await database.fetch("select pid from pg_stat_activity")
        frozen = [own_server.pid or 0, *(row["pid"] for row in rows)]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            started = anyio.current_time()
            with request_within(0.5), pytest.raises(DeadlineExceededError):
                async with database.transaction() as connection:
                    await connection.execute("select 1")
            assert anyio.current_time() - started < 0.6
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        await until_answers(database)


async def test_a_database_that_closes_with_a_frozen_server_ends_in_time_and_leaves_nothing_on_it(
    own_server: EmbeddedPostgres,
) -> None:
    async def stuck(database: Database, started: anyio.Event) -> None:
        with suppress(OutcomeUnknownError, DeadlineExceededError):
            async with database.acquire() as connection:
                started.set()
                await connection.execute("select pg_sleep(60)")

    options = PoolOptions(statement_timeout=30, close_timeout=0.3)
    async with watcher(own_server.dsn()) as other:
        frozen: list[int] = []
        closing = anyio.current_time()
        try:
            async with anyio.create_task_group() as group, opened(own_server.dsn(), options) as database:
                started = anyio.Event()
                group.start_soon(stuck, database, started)
                await started.wait()
                with anyio.fail_after(10):
                    while (
                        await other.fetchval(
                            "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
                        )
                        == 0
                    ):
                        await anyio.sleep(0.01)
                rows = await other.fetch(
                    "select pid from pg_stat_activity where application_name = 'postfacta db'"
                )
                frozen += [row["pid"] for row in rows]
                for pid in frozen:
                    os.kill(pid, signal.SIGSTOP)
                closing = anyio.current_time()
            assert anyio.current_time() - closing < 1
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        await until_quiet(other, most=0, seconds=5)  # pg_sleep goes on for a minute, but for nobody


async def test_a_connection_that_was_given_back_is_not_lent_a_second_time(database_dsn: str) -> None:
    async with opened(database_dsn) as database:
        async with database.acquire() as connection:
            pass
        with pytest.raises(asyncpg.InterfaceError, match="given back"):
            await connection.fetchval("select 1")


async def test_what_a_session_keeps_is_cleared_before_the_next_caller(database_dsn: str) -> None:
    async with opened(database_dsn, PoolOptions(max_size=1)) as database:
        async with database.acquire() as connection:
            await connection.execute("set work_mem = '5MB'")
            await connection.execute("begin")
        assert await database.fetchval("show work_mem") != "5MB"
        async with database.acquire() as connection:
            assert not connection.raw.is_in_transaction()
