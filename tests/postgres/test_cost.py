"""What a transaction costs this process beside the bare driver, in bytecodes, which no busy machine moves."""

from __future__ import annotations

import asyncpg
import pytest

from tests.kit.bytecodes import fewest_bytecodes

from .postgres import opened

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])  # asyncpg knows no other

MOST = 1.05
LEAST = 0.9


async def test_a_transaction_costs_little_more_than_the_bare_drivers(database_dsn: str) -> None:
    async with (
        opened(database_dsn) as database,
        asyncpg.create_pool(database_dsn, min_size=1, max_size=1) as pool,
    ):

        async def bare() -> None:
            async with pool.acquire() as connection, connection.transaction():
                await connection.fetchrow("select 1")
                await connection.execute("select 2")

        async def ours() -> None:
            async with database.transaction() as connection:
                await connection.fetchrow("select 1")
                await connection.execute("select 2")

        ratio = await fewest_bytecodes(ours) / await fewest_bytecodes(bare)
    assert LEAST < ratio <= MOST
