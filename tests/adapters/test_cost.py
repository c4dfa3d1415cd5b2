"""What a guarded pool costs this process beside the bare one, in bytecodes, which no busy machine moves."""

from __future__ import annotations

from typing import Any

import psycopg_pool
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from postfacta_adapters.psycopg import AsyncGuardedPool
from postfacta_adapters.sqlalchemy import guard_engine
from tests.kit.bytecodes import usual_bytecodes

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])

# A third of what is added is the circuit, a quarter the limit and the verdict, a tenth the events.
MOST = 1.17
LEAST = 1.02


async def test_a_guarded_pool_of_psycopg_costs_little_more(database_dsn: str) -> None:
    async def ask(pool: Any) -> None:
        async with pool.connection() as connection:
            await (await connection.execute("select 1")).fetchall()

    async with (
        psycopg_pool.AsyncConnectionPool(database_dsn, open=False, min_size=1) as bare,
        AsyncGuardedPool(
            psycopg_pool.AsyncConnectionPool(database_dsn, open=False, min_size=1), observer=None
        ) as guarded,
    ):
        of_bare = await usual_bytecodes(lambda: ask(bare))
        of_ours = await usual_bytecodes(lambda: ask(guarded))
    assert LEAST < of_ours / of_bare <= MOST


async def test_a_guarded_engine_costs_little_more(database_dsn: str) -> None:
    async def ask(engine: Any) -> None:
        async with engine.begin() as connection:
            (await connection.execute(text("select 1"))).all()

    address = database_dsn.replace("postgresql:", "postgresql+asyncpg:", 1)
    bare, guarded = create_async_engine(address), create_async_engine(address)
    guard_engine(guarded, observer=None)
    of_bare = await usual_bytecodes(lambda: ask(bare))
    of_ours = await usual_bytecodes(lambda: ask(guarded))
    assert LEAST < of_ours / of_bare <= MOST
    await bare.dispose()
    await guarded.dispose()
