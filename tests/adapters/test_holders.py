"""Who holds a connection while a response streams, for each pool that there is."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import anyio
import psycopg_pool
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from postfacta_adapters.psycopg import AsyncGuardedPool, GuardedPool
from postfacta_adapters.sqlalchemy import guard_engine
from postfacta_core.context import RequestContext, bind_request, release_request
from postfacta_core.events import ConnectionHeld, PolicyCreated
from postfacta_core.health import holders
from postfacta_core.testing import ManualClock, RecordingObserver
from postfacta_postgres import Database

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@contextmanager
def streaming(request_id: str) -> Generator[None]:
    """Be a request whose response streams."""
    request = RequestContext(request_id, 0.0)
    request.route = "/live/{board}"
    token = bind_request(request)
    try:
        yield
    finally:
        release_request(token)


def oldest(observer: RecordingObserver) -> float:
    (sample,) = [
        sample
        for created in observer.of(PolicyCreated)
        for sample in created.tally()
        if sample.metric == "postfacta_pool_oldest_loan_seconds"
    ]
    return sample.value


def names(clock: ManualClock) -> list[tuple[str, float]]:
    """Return who is named, now and after six seconds without a statement."""
    before = [event for event in holders.look() if event.pool == "held"]
    assert before == []
    clock.advance(6)
    return [(event.request_id, event.seconds) for event in holders.look() if event.pool == "held"]


async def test_a_database_names_who_holds_its_connection(database_dsn: str) -> None:
    clock, observer = ManualClock(), RecordingObserver()
    database = Database(database_dsn, name="held", observer=observer, clock=clock)
    async with database:
        with streaming("r-1"):
            async with database.transaction() as connection:
                await connection.fetchval("select 1")
                assert names(clock) == [("r-1", 6.0)]
                await connection.fetchval("select 1")
                assert names(clock) == [("r-1", 12.0)]
                assert oldest(observer) == 12.0
        assert oldest(observer) == 0.0
        assert names(clock) == []
    assert [event.route for event in observer.of(ConnectionHeld)] == ["/live/{board}"]


async def test_a_guarded_engine_names_who_holds_its_connection(database_dsn: str) -> None:
    clock, observer = ManualClock(), RecordingObserver()
    engine = create_async_engine(database_dsn.replace("postgresql://", "postgresql+asyncpg://"))
    guard_engine(engine, name="held", observer=observer, clock=clock)
    with streaming("r-2"):
        async with engine.connect() as connection:
            await connection.execute(text("select 1"))
            assert names(clock) == [("r-2", 6.0)]
            assert oldest(observer) == 6.0
    assert names(clock) == []
    await engine.dispose()
    assert [event.route for event in observer.of(ConnectionHeld)] == ["/live/{board}"]


async def test_a_pool_of_psycopg_names_who_holds_its_connection(database_dsn: str) -> None:
    clock, observer = ManualClock(), RecordingObserver()
    pool = psycopg_pool.AsyncConnectionPool(database_dsn, open=False, min_size=0, max_size=2)
    guarded = AsyncGuardedPool(pool, name="held", observer=observer, clock=clock)
    async with guarded:
        with streaming("r-3"):
            async with guarded.connection() as connection:
                await connection.execute("select 1")
                assert names(clock) == [("r-3", 6.0)]
        assert names(clock) == []
    assert [event.route for event in observer.of(ConnectionHeld)] == ["/live/{board}"]


async def test_a_pool_in_threads_names_who_holds_its_connection(database_dsn: str) -> None:
    clock, observer = ManualClock(), RecordingObserver()
    pool = psycopg_pool.ConnectionPool(database_dsn, open=False, min_size=0, max_size=2)
    guarded = GuardedPool(pool, name="held", observer=observer, clock=clock)

    def hold() -> None:
        with streaming("r-4"), guarded.connection() as connection:
            connection.execute("select 1")
            assert names(clock) == [("r-4", 6.0)]

    with guarded:
        await anyio.to_thread.run_sync(hold)
        assert names(clock) == []
    assert [event.route for event in observer.of(ConnectionHeld)] == ["/live/{board}"]
