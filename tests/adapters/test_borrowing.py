"""Behind SQLAlchemy and psycopg.

The request's time is the server's, and errors say what was done.
"""

from __future__ import annotations

import time

import anyio
import pytest

from postfacta_adapters.borrowing import limiting
from postfacta_core import CircuitOpenError
from postfacta_core.errors import (
    DatabaseUnavailableError,
    DeadlineExceededError,
    InvalidInputError,
    LockTimeoutError,
    OutcomeTimeoutError,
    OutcomeUnknownError,
    PoolTimeoutError,
    ResilienceError,
)
from postfacta_core.events import (
    CircuitChanged,
    ConnectionAcquired,
    ConnectionReleased,
    DeadlineExceeded,
    Event,
    QueryFinished,
)
from postfacta_core.testing import RecordingObserver
from tests.postgres.postgres import Flapping, request_with_slot, request_within, size_of, watcher

from .borrowers import EACH, Borrower, Opens, fails, kind_of

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])
SETTING = "select current_setting('statement_timeout')"
SLEEP = "select pg_sleep(60)"
INSERT = "insert into orders values ('victim')"


def milliseconds(setting: str) -> int:
    return int(setting.removesuffix("ms"))


@pytest.mark.clock("20 ms in which the server ends the statement")
@EACH
async def test_the_server_ends_a_statement_at_the_requests_limit(
    database_dsn: str, opens: Opens
) -> None:
    seen, started = RecordingObserver(), time.monotonic()
    async with opens(database_dsn, seen) as run:
        with request_within(0.4):
            error = await fails(run(SLEEP))
        assert kind_of(error) is DeadlineExceededError
        assert time.monotonic() - started < 5
        assert [event.stage for event in seen.of(DeadlineExceeded)] == ["database"]
        assert seen.of(QueryFinished)[-1].sqlstate == "57014"
        assert await run(SETTING) == "0"


@EACH
async def test_later_statements_of_a_transaction_have_what_is_left(
    database_dsn: str, opens: Opens
) -> None:
    async with opens(database_dsn, RecordingObserver()) as run:
        with request_within(6.0):
            whole = milliseconds(await run(SETTING))
            rest = milliseconds(await run("select 1", "select pg_sleep(2)", SETTING))
        assert 2000 < whole <= 5_930
        # A standstill during the sleep leaves little of the tests' time to pass.
        assert rest < whole
        assert await run(SETTING) == "0"


@EACH
async def test_a_limit_of_the_databases_own_is_never_lengthened(
    database_dsn: str, opens: Opens
) -> None:
    async with watcher(database_dsn) as other:
        name = await other.fetchval("select current_database()")
        await other.execute(f'alter database "{name}" set statement_timeout = 2500')
    async with opens(database_dsn, RecordingObserver()) as run:
        with request_within(10.0):
            assert await run(SETTING) == "2500ms"
        with request_within(2.0):
            assert milliseconds(await run(SETTING)) < 2000


@EACH
async def test_without_a_transaction_no_limit_stays_in_the_session(
    database_dsn: str, opens: Opens
) -> None:
    async with opens(database_dsn, RecordingObserver()) as run:
        with request_within(5.0):
            assert await run("select 1", SETTING, alone=True) == "0"
            assert await run("vacuum", alone=True) is None


@EACH
async def test_a_transaction_may_begin_with_its_own_settings(
    database_dsn: str, opens: Opens
) -> None:
    async with opens(database_dsn, RecordingObserver()) as run:
        with request_within(5.0):
            isolation = "show transaction isolation level"
            assert (
                await run("set transaction isolation level serializable", isolation)
                == "serializable"
            )


@EACH
async def test_a_request_without_time_sends_nothing(database_dsn: str, opens: Opens) -> None:
    seen = RecordingObserver()
    async with opens(database_dsn, seen) as run:
        with request_within(0.0):
            assert kind_of(await fails(run("select 1"))) is DeadlineExceededError
    assert [event.stage for event in seen.of(DeadlineExceeded)] == ["pool"]
    assert seen.of(QueryFinished) == []


@EACH
async def test_a_lost_answer_says_what_was_done(database_dsn: str, opens: Opens) -> None:
    seen = RecordingObserver()
    async with watcher(database_dsn) as other, Flapping(database_dsn) as relay:
        await other.execute("create table orders (what text)")
        async with opens(relay.dsn(), seen) as run:
            await run("select 1")
            relay.swallows = 1
            assert kind_of(await fails(run(INSERT))) is DatabaseUnavailableError
            assert await other.fetchval("select count(*) from orders") == 0
            relay.swallows = 1
            assert kind_of(await fails(run(INSERT, alone=True))) is OutcomeUnknownError
            # asyncpg sends the text alone first, to be prepared.
            done = await other.fetchval("select count(*) from orders")
            assert done == (0 if "asyncpg" in str(opens) else 1)
            relay.victim, relay.swallows = b"COMMIT", 1
            assert kind_of(await fails(run(INSERT))) is OutcomeUnknownError
            assert await other.fetchval("select count(*) from orders") == done + 1
            await run("select 1")


@EACH
async def test_a_database_that_is_away_is_refused_at_once_by_the_open_circuit(
    database_dsn: str, opens: Opens
) -> None:
    seen = RecordingObserver()
    async with Flapping(database_dsn) as relay, opens(relay.dsn(), seen, touchy=True) as run:
        await run("select 1")
        relay.resets = 3
        for _ in range(3):
            error = await fails(run("select 'victim'"))
            assert isinstance(error, ResilienceError)
        refused = await fails(run("select 1"))
        assert kind_of(refused) is CircuitOpenError
        assert await run_when_closed(run)
    assert [event.new for event in seen.of(CircuitChanged)] == ["open", "half_open", "closed"]


async def run_when_closed(run: Borrower) -> bool:
    with anyio.fail_after(10):
        while True:
            try:
                return bool(await run("select 1") == 1)
            except ResilienceError:
                await anyio.sleep(0.05)


@EACH
async def test_no_server_is_unavailable_with_a_time_to_try_again(
    database_dsn: str, opens: Opens
) -> None:
    seen = RecordingObserver()
    async with Flapping(database_dsn) as relay:
        relay.refuses = True
        async with opens(relay.dsn(), seen) as run:
            error = await fails(run("select 1"))
    assert kind_of(error) is DatabaseUnavailableError
    assert isinstance(error, ResilienceError)
    assert error.retry_after == 1.0
    assert error.__cause__ is not None
    assert seen.of(ConnectionAcquired)[-1].error_type == "DatabaseUnavailableError"


@EACH
async def test_a_kept_connection_that_was_lost_is_unavailable_to_a_request_with_a_deadline(
    database_dsn: str, opens: Opens
) -> None:
    async with Flapping(database_dsn) as relay, opens(relay.dsn(), RecordingObserver()) as run:
        await run("select 1")
        relay.cut()
        with request_within(30):  # so that the first to fail is the statement that sets the limit
            errors = [kind_of(await fails(run("select 1")))]
            assert await run_when_closed(run)
    assert errors == [DatabaseUnavailableError]


@EACH
async def test_a_pool_that_is_all_lent_times_out_without_blame(
    database_dsn: str, opens: Opens
) -> None:
    seen, errors = RecordingObserver(), list[Exception]()
    async with watcher(database_dsn) as other, opens(database_dsn, seen, touchy=True) as run:
        await other.execute("select pg_advisory_lock(1)")
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(run, "select pg_advisory_xact_lock_shared(1)")
            with anyio.fail_after(30):
                while await other.fetchval("select count(*) from pg_locks where not granted") < 2:
                    await anyio.sleep(0.01)
            errors.append(await fails(run("select 1")))
            await other.execute("select pg_advisory_unlock(1)")
        assert await run("select 1") == 1
    assert [kind_of(error) for error in errors] == [PoolTimeoutError]
    assert seen.of(CircuitChanged) == []


@EACH
async def test_what_a_statement_is_at_fault_for_stays_the_drivers(
    database_dsn: str, opens: Opens
) -> None:
    async with opens(database_dsn, RecordingObserver(), touchy=True) as run:
        for _ in range(4):
            error = await fails(run("select 1 / 0"))
            assert not isinstance(error, ResilienceError)
        assert kind_of(await fails(run("select 'x'::int"))) is InvalidInputError
        assert await run("select 1") == 1


@EACH
async def test_a_lock_that_others_hold_is_a_lock_timeout(database_dsn: str, opens: Opens) -> None:
    async with watcher(database_dsn) as other:
        await other.execute("create table t (a int)")
        async with opens(database_dsn, RecordingObserver()) as run, other.transaction():
            await other.execute("lock table t")
            error = await fails(run("set local lock_timeout = 50", "select * from t"))
    assert kind_of(error) is LockTimeoutError


@EACH
async def test_each_connection_and_statement_is_reported(database_dsn: str, opens: Opens) -> None:
    seen, used = RecordingObserver(), list[tuple[float, float]]()

    def observe(event: Event) -> None:
        seen(event)
        if isinstance(event, QueryFinished | ConnectionReleased):
            used.append((size_of(seen).used, size_of(seen).most))

    async with opens(database_dsn, observe) as run:
        await run("select 1", "set local lock_timeout = 50")
    assert [event.error_type for event in seen.of(ConnectionAcquired)] == [""]
    assert len(seen.of(ConnectionReleased)) == 1
    assert used == [(1, 2), (1, 2), (0, 2)]
    assert [(event.operation, event.error_type) for event in seen.of(QueryFinished)] == [
        ("SELECT", ""),
        ("SET", ""),
    ]


@EACH
async def test_a_caller_of_a_new_connection_teaches_the_limiter_nothing(
    database_dsn: str, opens: Opens
) -> None:
    async with opens(database_dsn, RecordingObserver()) as borrow:
        with request_with_slot() as first:
            await borrow("select 1")
        with request_with_slot() as second:
            await borrow("select 1")
    assert (first.is_ignored, second.is_ignored) == (True, False)


@EACH
async def test_a_cancelled_caller_leaves_no_connection_behind(
    database_dsn: str, opens: Opens
) -> None:
    seen = RecordingObserver()
    async with opens(database_dsn, seen) as run:
        for _ in range(3):
            with anyio.move_on_after(0.1):
                await run("select pg_sleep(0.4)")
        with anyio.fail_after(10):
            while size_of(seen).used:
                await anyio.sleep(0.05)
        assert await run("select 1") == 1
    assert seen.of(CircuitChanged) == []


def test_a_limit_is_one_statement_whatever_its_length(anyio_backend: str) -> None:
    assert limiting("$1").count("$1") == 2
    assert issubclass(OutcomeTimeoutError, DeadlineExceededError)
