"""A failing database is not called, short deadlines do not open its circuit, and only what may run twice does."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

import anyio
import asyncpg
import pytest

from postfacta_core.clock import MONOTONIC
from postfacta_core.errors import (
    CircuitOpenError,
    DatabaseUnavailableError,
    DeadlineExceededError,
    LockTimeoutError,
    OutcomeUnknownError,
    PoolTimeoutError,
    ReadOnlyDatabaseError,
    ResilienceError,
)
from postfacta_core.events import CircuitChanged, Mode, PolicyCreated
from postfacta_core.guards._circuit import Circuit, CircuitState, Classification
from postfacta_core.testing import RecordingObserver
from postfacta_embedded import EmbeddedPostgres
from postfacta_postgres import Connection, Database, database_circuit
from tests.kit.garbage import garbage
from tests.postgres.guarded import (
    ECHO,
    IMPATIENT,
    ONE,
    TOUCHY,
    SkippingClock,
    counts,
    guarded,
    time_out,
    tries,
)

from .postgres import QUICK, Flapping, request_with_slot, request_within, until_quiet, watcher

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])  # asyncpg knows no other


def test_the_default_circuit_opens_for_five_seconds_and_never_for_longer(
    anyio_backend: str,
) -> None:
    waits = {database_circuit(10).wait(opening, 0.0) for opening in (1, 2, 9)}
    assert waits == {5.0}
    database = Database("postgresql://nobody@127.0.0.1:1/nothing", name="ledger")
    assert database.breaker.name == database.retry_budget.name == "ledger"


@pytest.mark.parametrize("max_size", [1, 2, 10, 500, 10_000])
def test_a_blow_that_breaks_all_lent_connections_at_once_opens_no_circuit(
    max_size: int, anyio_backend: str
) -> None:
    moves: list[CircuitChanged] = []
    circuit = Circuit("db", database_circuit(max_size), 0.0, moved=moves.append)
    broken = min(max_size, 2400)  # a window has an end
    for number in range(broken * 10):
        outcome: Classification = "failure" if number < broken else "success"
        circuit.leave(circuit.enter(0.0), outcome, started=0.0, now=0.0, luck=0.0)
    assert moves == []
    for _ in range(broken * 4 + 20):  # but all that follow are more than a blow
        circuit.leave(circuit.enter(0.0), "failure", started=0.0, now=0.0, luck=0.0)
    assert [move.new for move in moves] == ["open"]


async def test_statements_that_all_time_out_open_the_circuit_and_the_next_caller_waits_for_nothing(
    database_dsn: str,
) -> None:
    clock = SkippingClock()
    seen = RecordingObserver()
    async with guarded(database_dsn, options=IMPATIENT, seen=seen, clock=clock) as database:
        for _ in range(3):
            await time_out(database)
        started = anyio.current_time()
        with pytest.raises(CircuitOpenError) as refused:
            await database.fetchval(ONE)
        assert anyio.current_time() - started < 0.05
        assert 0 < (refused.value.retry_after or 0) <= 0.5
        assert refused.value.policy == database.name
        assert counts(database) == {"failure": 3, "rejected": 1}
        await database.ping()  # whoever looks whether it is there is not kept out
        clock.skip(0.55)
        assert await database.fetchval(ONE) == 1
        assert database.breaker.statistics().state is CircuitState.CLOSED
    assert [(event.breaker, event.new) for event in seen.of(CircuitChanged)] == [
        ("db", "open"),
        ("db", "half_open"),
        ("db", "closed"),
    ]


async def test_connections_that_flap_open_the_circuit_and_it_closes_when_they_stop(
    database_dsn: str,
) -> None:
    clock = SkippingClock()
    seen = RecordingObserver()
    config = replace(
        TOUCHY, minimum_number_of_calls=10, permitted_number_of_calls_in_half_open_state=3
    )
    async with (
        Flapping(database_dsn) as relay,
        guarded(relay.dsn(), config=config, seen=seen, clock=clock) as database,
    ):
        refused = 0
        for number in range(40):
            relay.resets = number % 2
            try:
                await database.fetchval(ECHO, "victim")
            except CircuitOpenError:
                refused += 1
            except OutcomeUnknownError:
                pass
        assert refused >= 25  # half of ten is enough to open it
        assert counts(database)["failure"] == 5
        relay.resets = 0
        clock.skip(0.55)
        for _ in range(3):
            assert await database.fetchval(ONE) == 1
        assert database.breaker.statistics().state is CircuitState.CLOSED


async def test_while_half_open_one_transaction_at_a_time_tries_and_none_is_cut_in_its_middle(
    database_dsn: str,
) -> None:
    clock = SkippingClock()
    config = replace(TOUCHY, permitted_number_of_calls_in_half_open_state=2)
    async with guarded(database_dsn, config=config, options=IMPATIENT, clock=clock) as database:
        database.breaker.open()
        clock.skip(0.55)
        async with database.transaction() as connection:
            assert await connection.fetchval(ONE) == 1
            for _ in range(5):
                with pytest.raises(CircuitOpenError):
                    await database.fetchval(ONE)
            assert await connection.fetchval(ONE) == 1
        assert counts(database) == {"success": 1, "rejected": 5}
        assert database.breaker.statistics().state is CircuitState.HALF_OPEN
        assert await database.fetchval(ONE) == 1
        assert database.breaker.statistics().state is CircuitState.CLOSED


async def test_a_transaction_that_began_before_the_circuit_opened_runs_to_its_end(
    database_dsn: str,
) -> None:
    async with guarded(database_dsn) as database:
        await database.execute("create table t (a int)")
        async with database.transaction() as connection:
            await connection.execute("insert into t values (1)")
            database.breaker.open()
            await connection.execute("insert into t values (2)")
        database.breaker.reset()
        assert await database.fetchval("select count(*) from t") == 2


async def test_one_failure_in_a_transaction_is_one_failure_even_if_its_error_was_swallowed(
    database_dsn: str,
) -> None:
    async with guarded(database_dsn, options=IMPATIENT) as database:
        with pytest.raises(asyncpg.InFailedSQLTransactionError):
            async with database.transaction() as connection:
                with suppress(DeadlineExceededError):
                    await connection.execute("select pg_sleep(60)")
                assert counts(database) == {"failure": 1}  # known at once, and not only at the end
        async with database.acquire() as connection:
            with suppress(DeadlineExceededError):
                await connection.execute("select pg_sleep(60)")
            assert await connection.fetchval(ONE) == 1
        assert counts(database) == {"failure": 2}


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("insert into t values (1)", asyncpg.UniqueViolationError),
        ("insert into t values (null)", asyncpg.NotNullViolationError),
        ("select 1 / 0", asyncpg.DivisionByZeroError),
        ("select * from nowhere", asyncpg.UndefinedTableError),
        ("insert into r select 1", ReadOnlyDatabaseError),
        ("do $$ begin raise sqlstate '53100'; end $$", DatabaseUnavailableError),  # disk full
        ("do $$ begin raise sqlstate '40001'; end $$", asyncpg.SerializationError),
        ("select * from held", LockTimeoutError),
    ],
)
async def test_an_unwanted_answer_is_still_an_answer(
    database_dsn: str, sql: str, error: type[Exception]
) -> None:
    options = replace(QUICK, lock_timeout=0.05)
    async with guarded(database_dsn, options=options) as database, watcher(database_dsn) as other:
        await other.execute(
            "create table t (a int primary key); create table held (); create table r (a int)"
        )
        await other.execute("insert into t values (1)")
        before = counts(database)
        async with other.transaction():
            await other.execute("lock table held")
            for _ in range(6):
                with pytest.raises(error):
                    async with database.transaction() as connection:
                        if error is ReadOnlyDatabaseError:
                            await connection.execute("set transaction read only")
                        await connection.execute(sql)
                with anyio.fail_after(
                    5
                ):  # a write that is refused as read-only has others look where the database is
                    await database.wait_connected()
        assert counts(database).keys() - before.keys() <= {"success"}
        assert database.breaker.statistics().state is CircuitState.CLOSED
        assert counts(database)["success"] == 6


async def test_what_the_driver_refuses_by_itself_says_nothing_of_the_database(
    database_dsn: str,
) -> None:
    async with guarded(database_dsn) as database:
        for _ in range(4):
            with pytest.raises(asyncpg.InterfaceError):
                await database.fetch("select $1::int", "no number", 2)
        assert counts(database) == {"ignored": 4}


async def test_a_full_pool_is_no_failure_of_the_database(database_dsn: str) -> None:
    options = replace(QUICK, acquire_timeout=0.4)
    async with guarded(database_dsn, options=options) as database:
        async with database.acquire(), database.acquire():
            for _ in range(4):
                with pytest.raises(PoolTimeoutError):
                    await database.fetchval(ONE)
        assert counts(database) == {"ignored": 6}
        assert database.breaker.statistics().state is CircuitState.CLOSED


@pytest.mark.parametrize("how", ["statement", "transaction", "pool"])
async def test_a_client_that_asks_for_no_time_at_all_cannot_open_the_circuit(
    database_dsn: str, how: str
) -> None:
    async with guarded(database_dsn) as database:

        async def ask() -> None:
            if how == "transaction":
                async with database.transaction() as connection:
                    await connection.execute("select pg_sleep(60)")
            else:
                await database.execute("select pg_sleep(60)")

        async with database.acquire(), anyio.create_task_group() as group:
            if how == "pool":
                await group.start(_hold, database)
            for seconds in (0.01, 0.05, 0.1, 1.4) if how != "pool" else (0.01, 0.05, 0.1, 0.1):
                with request_within(seconds) as request, pytest.raises(DeadlineExceededError):
                    request.caller_timeout = seconds
                    await ask()
            group.cancel_scope.cancel()
        assert "failure" not in counts(database)
        assert database.breaker.statistics().state is CircuitState.CLOSED


async def _hold(database: Database, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    async with database.acquire():
        task_status.started()
        await anyio.sleep_forever()


async def test_a_deadline_that_the_service_set_counts_if_the_statement_had_a_fair_time(
    database_dsn: str,
) -> None:
    async with guarded(database_dsn) as database:
        for seconds in (0.1, 1.4):
            with request_within(seconds), pytest.raises(DeadlineExceededError):
                await database.execute("select pg_sleep(60)")
        assert counts(database) == {"ignored": 1, "failure": 1}
        with request_within(0.0), pytest.raises(DeadlineExceededError):
            await database.execute(ONE)
        assert counts(database) == {"ignored": 2, "failure": 1}


async def test_cancelled_callers_are_no_outcome_and_leave_no_trial_out(database_dsn: str) -> None:
    clock = SkippingClock()
    config = replace(TOUCHY, permitted_number_of_calls_in_half_open_state=3)
    async with (
        guarded(database_dsn, config=config, clock=clock) as database,
        watcher(database_dsn) as other,
    ):
        for state in (CircuitState.CLOSED, CircuitState.HALF_OPEN):
            for _ in range(4):
                with anyio.move_on_after(0.03):
                    async with database.transaction() as connection:
                        await connection.execute("select pg_sleep(60)")
                await until_quiet(other)
            assert database.breaker.statistics().state is state
            if state is CircuitState.CLOSED:
                assert counts(database) == {"ignored": 4}
                database.breaker.open()
                clock.skip(0.55)
        assert counts(database) == {"ignored": 8}
        for _ in range(3):
            assert await database.fetchval(ONE) == 1
        assert database.breaker.statistics().state is CircuitState.CLOSED


async def test_a_caller_cancelled_while_a_connection_is_opened_leaves_no_trial_out(
    database_dsn: str,
) -> None:
    clock = SkippingClock()
    async with guarded(database_dsn, clock=clock) as database:
        database.breaker.open()
        clock.skip(0.55)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await database.fetchval(ONE)
        assert counts(database) == {"ignored": 1}
        assert await database.fetchval(ONE) == 1


async def test_connections_that_cannot_be_opened_count(database_dsn: str) -> None:
    async with Flapping(database_dsn) as relay, guarded(relay.dsn()) as database:
        relay.refuses = True  # the one that is reserved lives on
        for _ in range(3):
            with pytest.raises(DatabaseUnavailableError):
                await database.fetchval(ONE)
        with pytest.raises(CircuitOpenError):
            await database.fetchval(ONE)
        assert database.is_connected
        assert counts(database) == {"failure": 3, "rejected": 1}


async def test_a_commit_whose_answer_was_lost_counts(database_dsn: str) -> None:
    async with Flapping(database_dsn) as relay, guarded(relay.dsn()) as database:
        await database.execute("create table t (a int)")
        with pytest.raises(OutcomeUnknownError):
            async with database.transaction() as connection:
                await connection.execute(
                    "create function slow() returns trigger as $$ begin perform pg_sleep(60); return null; end $$"
                    " language plpgsql; create constraint trigger slow after insert on t"
                    " deferrable initially deferred for each row execute function slow()"
                )
                await connection.execute("insert into t values (1)")
                asyncio.get_running_loop().call_later(0.1, connection.raw.terminate)
        assert counts(database) == {"success": 1, "failure": 1}


@pytest.mark.usefixtures("programs")
async def test_a_database_that_is_back_is_not_kept_waiting_for_by_its_circuit(
    own_server: EmbeddedPostgres,
) -> None:
    seen = RecordingObserver()
    config = replace(TOUCHY, wait_duration_in_open_state=60.0, max_wait_duration_in_open_state=60.0)
    async with guarded(own_server.dsn(), config=config, seen=seen) as database:
        assert await database.fetchval(ONE) == 1
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(_suffer, database)
            await anyio.sleep(0.2)
            await anyio.to_thread.run_sync(own_server.kill)
        with anyio.fail_after(5):
            while database.is_connected:
                await anyio.sleep(0.01)
        database.breaker.open()
        before = counts(database)
        for _ in range(
            20
        ):  # it is known to be away: nobody asks it, and so nothing is learned of it
            with pytest.raises(DatabaseUnavailableError) as refused:
                await database.fetchval(ONE)
            assert (refused.value.retry_after or 0) < 5
        assert counts(database) == before
        await anyio.to_thread.run_sync(own_server.start)
        with anyio.fail_after(10):
            await database.wait_connected()
        assert (
            await database.fetchval(ONE) == 1
        )  # at once: the circuit was to stay open for a minute
        assert database.breaker.statistics().failures == 0


async def _suffer(database: Database) -> None:
    with pytest.raises(OutcomeUnknownError):
        await database.execute("select pg_sleep(60)")


async def test_a_circuit_that_was_forced_open_stays_so_when_the_database_is_found(
    database_dsn: str,
) -> None:
    async with Flapping(database_dsn) as relay, guarded(relay.dsn()) as database:
        database.breaker.force_open()
        await _vanish_and_return(relay, database)
        assert database.breaker.statistics().state is CircuitState.FORCED_OPEN


async def test_what_was_counted_before_an_outage_is_forgotten_after_it(database_dsn: str) -> None:
    async with Flapping(database_dsn) as relay, guarded(relay.dsn(), options=IMPATIENT) as database:
        for _ in range(2):
            await time_out(database)
        await _vanish_and_return(relay, database)
        await time_out(database)
        statistics = database.breaker.statistics()
        assert (statistics.state, statistics.failures) == (CircuitState.CLOSED, 1)


async def _is_alive(database: Database) -> bool:
    try:
        await database.ping()
    except DatabaseUnavailableError:
        return False
    return True


async def _vanish_and_return(relay: Flapping, database: Database) -> None:
    relay.refuses = True
    relay.cut()
    with anyio.fail_after(5):
        while database.is_connected:
            await anyio.sleep(0.01)
        relay.refuses = False
        await database.wait_connected()


async def test_the_reserved_connection_alone_breaking_forgives_nothing(database_dsn: str) -> None:
    """Else a network that flaps would keep its own circuit closed."""
    async with Flapping(database_dsn) as relay, guarded(relay.dsn(), options=IMPATIENT) as database:
        for _ in range(2):
            await time_out(database)
        before = relay.accepted
        relay.cut(most=1)  # the first that was opened
        with anyio.fail_after(5):
            while relay.accepted == before or not await _is_alive(database):
                await anyio.sleep(0.01)
        assert database.breaker.statistics().failures == 2


async def test_modes_of_the_breaker_hold_for_the_database(database_dsn: str) -> None:
    async with guarded(database_dsn) as database:
        database.breaker.open()
        database.breaker.mode = Mode.SHADOW
        assert await database.fetchval(ONE) == 1
        database.breaker.mode = Mode.OFF
        assert await database.fetchval(ONE) == 1
        database.breaker.mode = Mode.ENFORCE
        with pytest.raises(CircuitOpenError):
            await database.fetchval(ONE)


async def test_a_transaction_may_end_in_another_task_than_it_began_in(database_dsn: str) -> None:
    async with guarded(database_dsn) as database:
        block = database.transaction()

        async def begin() -> None:
            connection = await block.__aenter__()
            assert await connection.fetchval(ONE) == 1

        async def end() -> None:
            await block.__aexit__(None, None, None)

        for step in (begin, end):
            async with anyio.create_task_group() as group:
                group.start_soon(step)
        assert counts(database) == {"success": 1}


async def test_a_database_that_closes_tells_its_circuit_nothing(database_dsn: str) -> None:
    closing = anyio.Event()

    async def hold(database: Database, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with database.acquire() as connection:
            task_status.started()
            await closing.wait()
            for _ in range(4):
                await anyio.sleep(0.01)
                assert database.is_connected
                with pytest.raises(DatabaseUnavailableError):
                    await database.fetchval(ONE)
            assert await connection.fetchval(ONE) == 1

    async with anyio.create_task_group() as group, guarded(database_dsn) as database:
        await group.start(hold, database)
        closing.set()
    assert counts(database) == {"ignored": 4, "success": 1}


async def test_its_circuit_its_retries_and_its_budget_show_their_numbers(database_dsn: str) -> None:
    seen = RecordingObserver()
    async with Database(database_dsn, name="db", options=QUICK, observer=seen) as database:
        await database.wait_connected()
        assert await database.fetchval(ONE, repeatable=True) == 1
    samples = {s.metric: s for event in seen.of(PolicyCreated) for s in event.tally()}
    assert samples.keys() == {
        "db_client_connection_count",
        "db_client_connection_max",
        "db_client_connection_pending_requests",
        "postfacta_pool_oldest_loan_seconds",
        "postfacta_breaker_state",
        "postfacta_breaker_calls_total",
        "postfacta_retry_attempts_total",
        "postfacta_retry_budget_tokens",
    }
    assert {event.policy for event in seen.of(PolicyCreated)} == {"db", "db_read", "db_transaction"}
    assert counts(database) == {"success": 1}
    assert tries(seen, "db_read") == {"success": 1}


async def test_a_request_whose_statement_is_prepared_first_teaches_the_limiter_nothing(
    database_dsn: str,
) -> None:
    async with Database(database_dsn, options=replace(QUICK, max_size=1)) as database:

        async def teaches(sql: str, *args: object) -> bool:
            with request_with_slot() as slot:
                if args:
                    await database.execute(sql, *args)
                else:
                    await database.fetchval(sql)
            return not slot.is_ignored

        await database.execute(
            "select 1"
        )  # without arguments nothing is prepared, so this prepares nothing for later
        assert not await teaches("select 1")
        assert await teaches("select 1")
        assert not await teaches("select $1::int", 1)
        assert await teaches("select $1::int", 2)
        with request_with_slot() as slot:
            await database.execute("select 1")
        assert not slot.is_ignored
        # A service that has a new text for each request is seen, too.
        assert [await teaches(f"select {n}") for n in range(1000, 1100)] == [False] * 98 + [
            True
        ] * 2
    pooler = replace(QUICK, transaction_pooling=True)
    async with Database(database_dsn, options=pooler) as database:
        await database.execute("select 1")
        with request_with_slot() as slot:
            await database.fetchval("select 1")
        assert not slot.is_ignored


async def test_statements_leave_no_garbage_for_the_cyclic_collector(database_dsn: str) -> None:
    async with Flapping(database_dsn) as relay, guarded(relay.dsn()) as database:

        async def each(connection: Connection) -> None:
            await connection.fetchval(ONE)

        async def all_of_them() -> None:
            for _ in range(20):
                await database.fetchval(ONE)
                await database.fetchval(ONE, repeatable=True)
                await database.run_transaction(each)
            database.breaker.open()
            for _ in range(20):
                with suppress(CircuitOpenError):
                    await database.fetchval(ONE)
            database.breaker.reset()

        assert await garbage(all_of_them, 1) == 0


@pytest.mark.parametrize(
    ("state", "error"), [("53100", DatabaseUnavailableError), ("25006", ReadOnlyDatabaseError)]
)
async def test_a_write_that_was_refused_is_reported_for_half_a_minute(
    database_dsn: str, state: str, error: type[ResilienceError]
) -> None:
    later = 0.0
    async with Database(
        database_dsn, name="db", options=QUICK, clock=lambda: MONOTONIC() + later
    ) as database:
        await database.check_writes()
        with pytest.raises(error):
            await database.execute(f"do $$ begin raise sqlstate '{state}'; end $$", repeatable=True)
        for _ in range(2):
            with pytest.raises(error):
                await database.check_writes()
        later = 31.0
        await database.check_writes()
        later = 0.0
        await database.check_writes()
