"""Services that have an engine or a pool of their own, guarded from outside, as their owners write them."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path

import httpx2
import pytest

from tests.strangers.kit import Environments, Served
from tests.strangers.network import PATIENCE, LossyNetwork
from tests.strangers.orders import count, until_ready

ALCHEMY = """
    import os
    from contextlib import asynccontextmanager

    from fastapi import FastAPI
    from pydantic import BaseModel
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
    from sqlalchemy.ext.asyncio import AsyncSession

    from postfacta_core.asgi import harden, problem_handler
    from postfacta_core.errors import ResilienceError
    from postfacta_adapters.sqlalchemy import guard_engine

    engine = create_async_engine(os.environ["DSN"].replace("postgresql:", "postgresql+asyncpg:", 1), pool_timeout=2)
    guard_engine(engine, name="orders")


    class Base(DeclarativeBase):
        pass


    class Row(Base):
        __tablename__ = "orders"
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str]


    @asynccontextmanager
    async def lifespan(app):
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        yield
        await engine.dispose()


    api = FastAPI(lifespan=lifespan, exception_handlers={ResilienceError: problem_handler})


    class Order(BaseModel):
        title: str


    @api.post("/orders", status_code=201)
    async def place(order: Order):
        async with AsyncSession(engine) as session, session.begin():
            session.add(Row(title=order.title))


    @api.get("/orders")
    async def count():
        async with AsyncSession(engine) as session:
            return await session.scalar(text("select count(*) from orders"))


    @api.get("/slow")
    async def slow():
        async with AsyncSession(engine) as session:
            await session.execute(text("select pg_sleep(30)"))


    async def ping():
        async with engine.connect() as connection:
            await connection.execute(text("select 1"))


    app = harden(api, service="orders")
    app.health.add("database", ping)
"""
PSYCOPG = """
    import os
    from contextlib import asynccontextmanager

    import anyio
    from fastapi import FastAPI
    from psycopg_pool import ConnectionPool
    from pydantic import BaseModel

    from postfacta_core.asgi import harden, problem_handler
    from postfacta_core.errors import ResilienceError
    from postfacta_adapters.psycopg import GuardedPool

    database = GuardedPool(ConnectionPool(os.environ["DSN"], open=False, timeout=2), name="orders")


    @asynccontextmanager
    async def lifespan(app):
        with database:
            with database.connection() as connection:
                connection.execute("create table if not exists orders (title text)")
            yield


    api = FastAPI(lifespan=lifespan, exception_handlers={ResilienceError: problem_handler})


    class Order(BaseModel):
        title: str


    @api.post("/orders", status_code=201)
    def place(order: Order):
        with database.connection() as connection:
            connection.execute("insert into orders values (%s)", [order.title])


    @api.get("/orders")
    def count():
        with database.connection() as connection:
            return connection.execute("select count(*) from orders").fetchone()[0]


    @api.get("/slow")
    def slow():
        with database.connection() as connection:
            connection.execute("select pg_sleep(30)")


    def ask():
        with database.connection() as connection:
            connection.execute("select 1")


    async def ping():
        await anyio.to_thread.run_sync(ask)


    app = harden(api, service="orders")
    app.health.add("database", ping)
"""
SERVICES = {
    "sqlalchemy": (ALCHEMY, ("fastapi", "uvicorn", "asyncpg", "greenlet")),
    "psycopg": (PSYCOPG, ("fastapi", "uvicorn", "psycopg[binary]")),
}


@pytest.fixture
def network(database_dsn: str) -> Generator[LossyNetwork]:
    """Stand between the service and its database."""
    with LossyNetwork(database_dsn) as network:
        yield network


@pytest.fixture(params=SERVICES)
def served(
    request: pytest.FixtureRequest,
    environments: Environments,
    network: LossyNetwork,
    tmp_path: Path,
) -> Generator[Served]:
    """Serve each by uvicorn, from the wheel, with no extra but its own."""
    code, packages = SERVICES[request.param]
    environment = environments(*packages, extras=[request.param])
    with environment.serve(code, cwd=tmp_path, environment={"DSN": network.dsn}) as served:
        until_ready(served, 200)
        yield served


def place(served: Served) -> httpx2.Response:
    return httpx2.post(f"{served.url}/orders", json={"title": "victim"}, timeout=PATIENCE)


def test_the_answer_says_whether_a_write_is_there(served: Served, network: LossyNetwork) -> None:
    network.losses = 1
    answer = place(served)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    assert count(served) == 0
    network.victim, network.losses = b"COMMIT", 1
    answer = place(served)
    assert (answer.status_code, answer.json()["code"]) == (503, "outcome-unknown")
    assert "retry-after" not in answer.headers
    assert count(served) == 1
    assert "Traceback" not in served.log


def test_a_slow_statement_ends_with_its_request(served: Served) -> None:
    started = time.monotonic()
    for _ in range(7):  # more than the pool has connections, if one were left behind
        answer = httpx2.get(
            f"{served.url}/slow", headers={"x-request-timeout": "0.5"}, timeout=PATIENCE
        )
        assert answer.status_code == 504
    assert count(served) == 0
    assert time.monotonic() - started < 20
    metrics = httpx2.get(f"{served.url}/metrics", timeout=PATIENCE).text
    assert "db_client_connection_count{" in metrics
    assert 'postfacta_breaker_state{breaker="orders",state="closed"} 1.0' in metrics


def test_a_database_that_is_away_is_503_until_it_is_back(
    served: Served, network: LossyNetwork
) -> None:
    network.is_down = True
    network.cut()
    until_ready(served, 503)
    answer = place(served)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    network.is_down = False
    until_ready(served, 200)
    assert place(served).status_code == 201
    assert count(served) == 1
    assert "Traceback" not in served.log
