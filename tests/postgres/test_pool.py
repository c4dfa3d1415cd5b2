"""A caller gets a connection in its turn and in time, or an error that tells what it can do.

None is lost.
"""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace

import anyio
import pytest

from postfacta_core.errors import (
    DeadlineExceededError,
    PoolTimeoutError,
)
from postfacta_core.events import ConnectionAcquired, ConnectionOpened, DeadlineExceeded
from postfacta_core.testing import RecordingObserver
from postfacta_postgres import PoolOptions

from .postgres import (
    QUICK,
    SHORT_WAIT,
    opened,
    request_within,
    size_of,
    until_quiet,
    watcher,
)

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])  # asyncpg knows no other


async def test_a_caller_waits_no_longer_than_its_request_can(database_dsn: str) -> None:
    seen = RecordingObserver()
    options = PoolOptions(max_size=1, acquire_timeout=5)
    async with opened(database_dsn, options, seen) as database, database.acquire():
        started = anyio.current_time()
        with request_within(0.2), pytest.raises(DeadlineExceededError):
            await database.fetchval("select 1")
        assert 0.1 < anyio.current_time() - started < 1
        with request_within(0), pytest.raises(DeadlineExceededError):
            await database.fetchval("select 1")
    assert [event.stage for event in seen.of(DeadlineExceeded)] == ["pool", "pool"]
    assert [e.error_type for e in seen.of(ConnectionAcquired)] == [
        "",
        *["DeadlineExceededError"] * 2,
    ]
    first, second = [event.seconds for event in seen.of(ConnectionAcquired)][1:]
    assert second < first  # it did not even queue


async def test_a_request_past_its_deadline_gets_no_connection_even_if_one_is_free(
    database_dsn: str,
) -> None:
    async with opened(database_dsn) as database:
        assert await database.fetchval("select 1") == 1
        with request_within(0), pytest.raises(DeadlineExceededError):
            async with database.acquire():
                pass


async def test_a_request_knows_how_long_it_waited_for_a_connection_even_in_vain(
    database_dsn: str,
) -> None:
    async with opened(database_dsn, replace(SHORT_WAIT, max_size=1)) as database:
        await database.fetchval("select 1")
        with request_within(60) as request:
            await database.fetchval("select 1")
            assert request.waited == 0
            async with database.acquire():
                with pytest.raises(PoolTimeoutError):
                    await database.fetchval("select 1")
            assert request.waited >= 0.9 * SHORT_WAIT.acquire_timeout


async def test_one_more_than_may_wait_is_refused_at_once(database_dsn: str) -> None:
    options = PoolOptions(max_size=1, max_waiting=2, acquire_timeout=10)
    answers: list[object] = []

    async with opened(database_dsn, options) as database, anyio.create_task_group() as group:

        async def ask() -> None:
            answers.append(await database.fetchval("select 1"))

        async with database.acquire():
            for _ in range(2):
                group.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            with anyio.fail_after(1), pytest.raises(PoolTimeoutError) as refused:
                await database.fetchval("select 1")
            assert (refused.value.policy, refused.value.retry_after) == (database.name, 1.0)
    assert answers == [1, 1]


async def test_callers_that_lose_patience_at_any_moment_lose_no_connection(
    database_dsn: str,
) -> None:
    luck = random.Random(11)  # noqa: S311 - a fixed series, no secret
    seen = RecordingObserver()
    options = PoolOptions(max_size=3, max_waiting=20, acquire_timeout=5)
    async with opened(database_dsn, options, seen) as database, watcher(database_dsn) as other:

        async def ask() -> None:
            for _ in range(30):
                with anyio.move_on_after(luck.random() * 0.02), suppress(PoolTimeoutError):
                    await database.fetchval("select pg_sleep(0.002)")
                used.add(size_of(seen).used)

        used = {0.0}
        async with anyio.create_task_group() as group:
            for _ in range(25):
                group.start_soon(ask)
        assert await until_quiet(other, most=4) <= 4
        with anyio.fail_after(5):
            async with database.acquire(), database.acquire(), database.acquire():
                assert size_of(seen).used == 3
                assert size_of(seen).waiting == 0
    assert max(used) <= 3


async def test_a_caller_in_a_hurry_leaves_the_connection_it_began_to_open_to_the_next(
    database_dsn: str,
) -> None:
    seen = RecordingObserver()
    async with opened(database_dsn, replace(QUICK, max_size=1), seen) as database:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await database.fetchval("select 1")
        assert scope.cancelled_caught
        assert await database.fetchval("select 1") == 1
    assert [event.error_type for event in seen.of(ConnectionOpened)] == ["", ""]


async def test_without_a_reset_a_connection_comes_back_as_it_is(database_dsn: str) -> None:
    async with opened(database_dsn, PoolOptions(max_size=1, reset=False)) as database:
        async with database.acquire() as connection:
            await connection.execute("set work_mem = '5MB'")
            await connection.execute("begin")
        async with database.acquire() as connection:
            assert not connection.raw.is_in_transaction()
            assert await connection.fetchval("show work_mem") == "5MB"
