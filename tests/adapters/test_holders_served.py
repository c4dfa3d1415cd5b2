"""A stream that holds a connection is named by the service that serves it, whatever pool it is of."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import psycopg_pool
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from postfacta_adapters.psycopg import AsyncGuardedPool
from postfacta_adapters.sqlalchemy import guard_engine
from postfacta_core.asgi import HardenOptions, Telemetry, harden
from postfacta_core.clock import MONOTONIC, Clock
from postfacta_core.events import ConnectionHeld, Observer, fan_out
from postfacta_core.health import holders
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.testing import RecordingObserver, call_asgi
from postfacta_postgres import Database
from tests.kit.lifespan import running
from tests.kit.waiting import until

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])
Select = Callable[[], AbstractAsyncContextManager[Any]]
"""Lends a connection, and sends one statement."""


class Later:
    """The clock of a pool, which a test sets forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return MONOTONIC() + self.ahead


@asynccontextmanager
async def of_database(dsn: str, observer: Observer, clock: Clock) -> AsyncGenerator[Select]:
    database = Database(dsn, name="held", observer=observer, clock=clock)

    @asynccontextmanager
    async def select() -> AsyncGenerator[None]:
        async with database.acquire() as connection:
            await connection.fetch("select 1")
            yield

    async with database:
        yield select


@asynccontextmanager
async def of_sqlalchemy(dsn: str, observer: Observer, clock: Clock) -> AsyncGenerator[Select]:
    engine = create_async_engine(dsn.replace("postgresql:", "postgresql+asyncpg:", 1))
    guard_engine(engine, name="held", observer=observer, clock=clock)

    @asynccontextmanager
    async def select() -> AsyncGenerator[None]:
        async with engine.connect() as connection:
            await connection.execute(text("select 1"))
            yield

    yield select
    await engine.dispose()


@asynccontextmanager
async def of_psycopg(dsn: str, observer: Observer, clock: Clock) -> AsyncGenerator[Select]:
    pool = psycopg_pool.AsyncConnectionPool(dsn, open=False, min_size=0, max_size=2)
    guarded = AsyncGuardedPool(pool, name="held", observer=observer, clock=clock)

    @asynccontextmanager
    async def select() -> AsyncGenerator[None]:
        async with guarded.connection() as connection:
            await connection.execute("select 1")
            yield

    async with guarded:
        yield select


@pytest.mark.parametrize("opens", [of_database, of_sqlalchemy, of_psycopg])
async def test_a_stream_that_holds_a_connection_is_named_within_six_seconds(
    opens: Callable[[str, Observer, Clock], AbstractAsyncContextManager[Select]], database_dsn: str
) -> None:
    clock = Later()
    seen = RecordingObserver()
    metrics = Metrics(CollectorRegistry(), with_process=False)
    goes_on = anyio.Event()

    async def events(request: Request) -> StreamingResponse:
        async def pieces() -> AsyncGenerator[bytes]:
            async with select():
                yield b"data: 1\n\n"
                await goes_on.wait()

        return StreamingResponse(pieces(), media_type="text/event-stream")

    options = HardenOptions(allow_health_detail=lambda scope: True)
    app = harden(
        Starlette(routes=[Route("/events/{id}", events)]),
        service="x",
        options=options,
        telemetry=Telemetry(metrics=metrics),
    )
    async with (
        opens(database_dsn, fan_out([seen, metrics]), clock) as select,
        running(app),
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(call_asgi, app, "GET", "/events/7")
        await until(
            lambda: (
                metrics.registry.get_sample_value(
                    "postfacta_streams_open", {"http_route": "/events/{id}"}
                )
                == 1
            )
        )
        clock.ahead = 4.0
        holders.look()
        assert seen.of(ConnectionHeld) == []
        clock.ahead = 6.0
        await until(lambda: bool(seen.of(ConnectionHeld)))
        holders.look()
        (held,) = seen.of(ConnectionHeld)
        assert (held.pool, held.route) == ("held", "/events/{id}")
        (row,) = (await call_asgi(app, path="/healthz/deps")).json()["holders"]
        assert row["request_id"] == held.request_id
        labels = {"db_client_connection_pool_name": "held"}
        name = "postfacta_pool_oldest_loan_seconds"
        oldest = metrics.registry.get_sample_value(name, labels)
        assert oldest is not None
        assert oldest >= 6
        goes_on.set()
        await until(lambda: not holders.rows())
        # Once it is cleared for the next caller.
        await until(lambda: metrics.registry.get_sample_value(name, labels) == 0)
