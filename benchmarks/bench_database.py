"""Measure what a query costs this process.

Through `Database`, through the adapters, and through the bare pools.

Each work borrows a connection, runs one query for one row, and gives the connection back. Rounds of
all take turns; a figure is the median CPU time of this process alone, without PostgreSQL's, and a
ratio is to the bare pool of the same library.

    python -m benchmarks.bench_database [--rounds 15]
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import psycopg_pool
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.rounds import Work, medians
from postfacta_adapters.psycopg import AsyncGuardedPool
from postfacta_adapters.sqlalchemy import guard_engine
from postfacta_embedded import EmbeddedPostgres
from postfacta_postgres import Database, PoolOptions

__all__ = ["figures", "main"]

SQL = "select 1"
_BARE = {"asyncpg": "asyncpg", "sqlalchemy": "sqlalchemy", "psycopg": "psycopg"}


def _repeated(query: Callable[[], Awaitable[object]]) -> Work:
    async def work(repeats: int) -> None:
        for _ in range(repeats):
            await query()

    return work


@asynccontextmanager
async def _works(dsn: str) -> AsyncGenerator[dict[str, Work]]:
    address = dsn.replace("postgresql:", "postgresql+asyncpg:", 1)
    plain = create_async_engine(address)
    guarded = create_async_engine(address)
    guard_engine(guarded, name="guarded", observer=None)
    async with (
        asyncpg.create_pool(dsn, min_size=1, max_size=10) as bare,
        Database(dsn, name="default", observer=None) as database,
        Database(dsn, name="unreset", options=PoolOptions(reset=False), observer=None) as unreset,
        psycopg_pool.AsyncConnectionPool(dsn, open=False, min_size=1) as pool,
        AsyncGuardedPool(
            psycopg_pool.AsyncConnectionPool(dsn, open=False, min_size=1),
            name="pool",
            observer=None,
        ) as guarded_pool,
    ):
        await database.wait_connected()
        await unreset.wait_connected()

        async def by_engine(engine: Any) -> None:
            async with engine.begin() as connection:
                (await connection.execute(text(SQL))).all()

        async def by_psycopg(connections: Any) -> None:
            async with connections.connection() as connection:
                await (await connection.execute(SQL)).fetchall()

        yield {
            "asyncpg": _repeated(lambda: bare.fetch(SQL)),
            "Database": _repeated(lambda: database.fetch(SQL)),
            "Database, reset=False": _repeated(lambda: unreset.fetch(SQL)),
            "sqlalchemy": _repeated(lambda: by_engine(plain)),
            "guard_engine": _repeated(lambda: by_engine(guarded)),
            "psycopg": _repeated(lambda: by_psycopg(pool)),
            "AsyncGuardedPool": _repeated(lambda: by_psycopg(guarded_pool)),
        }
    for engine in (plain, guarded):
        await engine.dispose()


async def figures(dsn: str, rounds: int, seconds: float) -> dict[str, float]:
    """Return the CPU seconds of one query by each way."""
    async with _works(dsn) as works:
        return await medians(works, rounds, seconds=seconds)


def _table(spent: dict[str, float]) -> str:
    lines = ["| way | µs of CPU a query | ratio |", "|---|---:|---:|"]
    bare = 0.0
    for name, each in spent.items():
        bare = each if name in _BARE else bare
        lines.append(f"| {name} | {each * 1e6:.1f} | {each / bare:.2f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--seconds", type=float, default=0.2, help="of each way in each round, about"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="postfacta-bench-") as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)  # PostgreSQL may run as another user.
        with EmbeddedPostgres(folder / "data") as server:
            print(_table(asyncio.run(figures(server.dsn(), options.rounds, options.seconds))))  # noqa: T201 - its job


if __name__ == "__main__":
    main()
