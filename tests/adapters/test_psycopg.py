"""Psycopg's own ways to send statements are watched too; what only it has is passed on."""

from __future__ import annotations

import pickle
from typing import Any

import anyio
import psycopg
import psycopg_pool
import pytest
from psycopg.sql import SQL, Literal

from postfacta_adapters.psycopg import AsyncGuardedPool, GuardedPool
from postfacta_core.errors import (
    DatabaseUnavailableError,
    DeadlineExceededError,
    LockTimeoutError,
    OutcomeUnknownError,
    PoolTimeoutError,
)
from postfacta_core.events import ConnectionAcquired, DeadlineExceeded, PolicyCreated, QueryFinished
from postfacta_core.testing import RecordingObserver
from tests.postgres.postgres import Flapping, request_within, watcher

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])


def a_pool(
    dsn: str, seen: RecordingObserver, *, max_waiting: int = 0
) -> AsyncGuardedPool[psycopg.AsyncConnection[Any]]:
    pool: psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection[Any]] = (
        psycopg_pool.AsyncConnectionPool(
            dsn, open=False, min_size=0, max_size=1, timeout=2.0, max_waiting=max_waiting
        )
    )
    return AsyncGuardedPool(pool, name="db", observer=seen)


async def test_cursors_keep_their_class_and_the_connection_its_factories(database_dsn: str) -> None:
    seen = RecordingObserver()
    async with a_pool(database_dsn, seen) as pool:
        async with pool.connection() as connection:
            connection.cursor_factory = psycopg.AsyncClientCursor
            before = connection.cursor_factory
        async with pool.connection() as connection:
            with request_within(5.0):
                cursor = await connection.execute("select %s", ["it's"])
            assert isinstance(cursor, psycopg.AsyncCursor)
            assert await cursor.fetchone() == ("it's",)
            async with connection.cursor("named") as named:
                await named.execute("select generate_series(1, 3)")
                assert len(await named.fetchall()) == 3
            await connection.cursor().executemany("select %s", [[1], [2]])
            factory = SQL("select {}").format(Literal(1))
            await connection.execute(factory)
        assert before is psycopg.AsyncClientCursor
    assert [event.operation for event in seen.of(QueryFinished)] == ["SELECT"] * 4


async def test_a_commit_in_the_middle_begins_a_new_limit(database_dsn: str) -> None:
    setting = "select current_setting('statement_timeout')"
    async with a_pool(database_dsn, RecordingObserver()) as pool:
        with request_within(5.0):
            async with pool.connection() as connection:
                for _ in range(2):
                    row = await (await connection.execute(setting)).fetchone()
                    assert row is not None
                    assert row[0] != "0"
                    await connection.commit()
                async with connection.transaction():
                    assert await (await connection.execute(setting)).fetchone() != ("0",)


@pytest.mark.parametrize("nested", [True, False])
async def test_a_commit_of_the_blocks_own_whose_answer_is_lost_is_unknown(
    database_dsn: str, *, nested: bool
) -> None:
    async with watcher(database_dsn) as other, Flapping(database_dsn) as relay:
        await other.execute("create table orders (what text)")
        async with a_pool(relay.dsn(), RecordingObserver()) as pool:
            with pytest.raises(OutcomeUnknownError):
                async with pool.connection() as connection:
                    relay.victim, relay.swallows = b"COMMIT", 1
                    if nested:
                        async with connection.transaction():
                            await connection.execute("insert into orders values ('x')")
                    else:
                        await connection.execute("insert into orders values ('x')")
                        await connection.commit()
        assert await other.fetchval("select count(*) from orders") == 1


async def test_an_error_that_the_block_handles_stays_in_it(database_dsn: str) -> None:
    async with a_pool(database_dsn, RecordingObserver()) as pool, pool.connection() as connection:
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            async with connection.transaction():
                await connection.execute("select 'x'::int")
        assert await (await connection.execute("select 1")).fetchone() == (1,)


async def test_too_many_that_wait_are_refused(database_dsn: str) -> None:
    pool = a_pool(database_dsn, RecordingObserver(), max_waiting=1)
    async with pool, anyio.create_task_group() as group, pool.connection():

        async def wait() -> None:
            async with pool.connection():
                pass

        group.start_soon(wait)
        await anyio.sleep(0.1)
        with pytest.raises(PoolTimeoutError):
            async with pool.connection():
                pass
        with request_within(0.1), pytest.raises((PoolTimeoutError, DeadlineExceededError)):
            async with pool.connection():
                pass


async def test_a_closed_pool_is_the_callers_mistake_and_counts_nothing(database_dsn: str) -> None:
    pool = a_pool(database_dsn, RecordingObserver())
    threads = GuardedPool(
        psycopg_pool.ConnectionPool(database_dsn, open=False, min_size=0, max_size=1), observer=None
    )
    with pytest.raises(psycopg_pool.PoolClosed):
        async with pool.connection():
            pass
    with pytest.raises(psycopg_pool.PoolClosed), threads.connection():
        pass
    assert pool.breaker.statistics().calls == threads.breaker.statistics().calls == 0


async def test_a_pool_without_a_limit_is_never_full(anyio_backend: str) -> None:
    seen = RecordingObserver()
    null: psycopg_pool.AsyncNullConnectionPool[psycopg.AsyncConnection[Any]] = (
        psycopg_pool.AsyncNullConnectionPool(NOWHERE, open=False, timeout=0.2)
    )
    async with AsyncGuardedPool(null, name="db", observer=seen) as pool:
        for _ in range(3):
            with pytest.raises(DatabaseUnavailableError):
                async with pool.connection():
                    pass
        assert pool.breaker.statistics().failures == 3
    samples = [sample.metric for event in seen.of(PolicyCreated) for sample in event.tally()]
    assert "db_client_connection_count" in samples
    assert "db_client_connection_max" not in samples


async def test_the_wait_for_a_connection_ends_with_the_request(database_dsn: str) -> None:
    async with a_pool(database_dsn, RecordingObserver()) as pool, pool.connection():
        with request_within(0.1), pytest.raises(DeadlineExceededError):
            async with pool.connection():
                pass


def test_a_pool_of_threads_is_opened_and_closed(database_dsn: str, anyio_backend: str) -> None:
    pool = psycopg_pool.ConnectionPool(database_dsn, open=False, min_size=0, max_size=1)
    with GuardedPool(pool, observer=None) as guarded, guarded.connection() as connection:
        assert connection.execute("select 1").fetchone() == (1,)
        assert guarded.breaker.name == "postgres"
    assert pool.closed


async def test_a_caller_that_leaves_the_queue_counts_nothing(database_dsn: str) -> None:
    seen = RecordingObserver()
    async with a_pool(database_dsn, seen) as pool:
        async with pool.connection():
            with anyio.move_on_after(0.1):
                async with pool.connection():
                    raise AssertionError("there is only one connection")
        async with pool.connection() as connection:
            assert await (await connection.execute("select 1")).fetchone() == (1,)
    assert [event.error_type for event in seen.of(ConnectionAcquired)] == ["", "cancelled", ""]
    assert pool.breaker.statistics().failures == 0


async def test_a_statement_whose_request_is_out_of_time_is_not_sent(database_dsn: str) -> None:
    seen = RecordingObserver()
    async with watcher(database_dsn) as other:
        await other.execute("create table orders (what text)")
        async with a_pool(database_dsn, seen) as pool:
            async with pool.connection():
                """Wait until there is one: to open it may take longer."""
            with request_within(0.2), pytest.raises(DeadlineExceededError):
                async with pool.connection() as connection:
                    await anyio.sleep(0.25)
                    await connection.execute("insert into orders values ('x')")
            assert await other.fetchval("select count(*) from orders") == 0
    assert [event.stage for event in seen.of(DeadlineExceeded)] == ["database"]
    assert seen.of(QueryFinished) == []


async def test_a_full_pool_is_what_psycopg_calls_it_too(database_dsn: str) -> None:
    async with a_pool(database_dsn, RecordingObserver()) as pool, pool.connection():
        with pytest.raises(psycopg_pool.PoolTimeout) as caught:
            async with pool.connection(timeout=0.05):
                pass
    assert isinstance(caught.value, PoolTimeoutError)
    copied = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own
    assert (type(copied), copied.policy, copied.retry_after) == (PoolTimeoutError, "db", 1.0)


async def test_a_lock_that_others_hold_is_an_operational_error_with_its_sqlstate(
    database_dsn: str,
) -> None:
    async with watcher(database_dsn) as other, a_pool(database_dsn, RecordingObserver()) as pool:
        await other.execute("create table orders (what text)")
        async with other.transaction():
            await other.execute("lock table orders")
            with pytest.raises(psycopg.OperationalError) as caught:
                async with pool.connection() as connection:
                    await connection.execute("lock table orders nowait")
    assert isinstance(caught.value, LockTimeoutError)
    assert caught.value.sqlstate == "55P03"
    assert caught.value.diag.message_primary is not None
    assert psycopg.errors.LockNotAvailable not in type(caught.value).__mro__


async def test_the_pools_own_statistics_count_the_usage(database_dsn: str) -> None:
    psycopgs: psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection[Any]] = (
        psycopg_pool.AsyncConnectionPool(database_dsn, open=False, min_size=1, max_size=1)
    )
    async with AsyncGuardedPool(psycopgs, name="db", observer=None) as pool:
        async with pool.connection():
            await anyio.sleep(0.02)
        assert psycopgs.get_stats()["usage_ms"] >= 20


async def test_a_factory_that_the_block_sets_stays_for_the_next(database_dsn: str) -> None:
    async with a_pool(database_dsn, RecordingObserver()) as pool:
        async with pool.connection() as connection:
            connection.cursor_factory = psycopg.AsyncClientCursor
        async with pool.connection() as again:
            assert again is connection
            assert again.cursor_factory is psycopg.AsyncClientCursor
            assert isinstance(again.cursor(), psycopg.AsyncClientCursor)


async def test_a_connection_past_the_guard_is_psycopgs_own(database_dsn: str) -> None:
    seen = RecordingObserver()
    psycopgs: psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection[Any]] = (
        psycopg_pool.AsyncConnectionPool(database_dsn, open=False, min_size=0, max_size=1)
    )
    async with AsyncGuardedPool(psycopgs, name="db", observer=seen) as pool:
        async with pool.connection() as connection:
            await connection.execute("select 1")
        async with psycopgs.connection() as same:
            assert same is connection
            assert type(same).__name__ == "AsyncConnection"
            assert await (await same.execute("select 2")).fetchone() == (2,)
    assert len(seen.of(QueryFinished)) == 1
