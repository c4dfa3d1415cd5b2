"""The pools of other libraries, guarded, each behind the same function that runs a block of statements."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Protocol

import anyio
import psycopg
import psycopg_pool
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from postfacta_adapters.psycopg import AsyncGuardedPool, GuardedPool
from postfacta_adapters.sqlalchemy import guard_engine
from postfacta_core import CircuitBreaker, ResilienceError, errors
from postfacta_core.events import Observer
from postfacta_postgres import database_circuit
from tests.postgres.guarded import TOUCHY

__all__ = ["EACH", "PSYCOPG", "Borrower", "Opens", "fails", "kind_of"]


class Borrower(Protocol):
    """Runs statements in one block: a transaction, or each alone.

    The last one's first value is the result.
    """

    async def __call__(self, first: str, *more: str, alone: bool = False) -> Any: ...


class Opens(Protocol):
    """Opens a guarded pool of at most two connections."""

    def __call__(
        self, dsn: str, seen: Observer, *, touchy: bool = False
    ) -> AbstractAsyncContextManager[Borrower]: ...


def _breaker(seen: Observer, *, touchy: bool) -> CircuitBreaker:
    return CircuitBreaker("db", config=TOUCHY if touchy else database_circuit(2), observer=seen)


@asynccontextmanager
async def _psycopg_async(
    dsn: str, seen: Observer, *, touchy: bool = False
) -> AsyncGenerator[Borrower]:
    pool = psycopg_pool.AsyncConnectionPool(
        dsn, open=False, min_size=0, max_size=2, timeout=1.0, kwargs={"prepare_threshold": None}
    )
    guarded = AsyncGuardedPool(
        pool, name="db", breaker=_breaker(seen, touchy=touchy), observer=seen
    )

    async def run(first: str, *more: str, alone: bool = False) -> Any:
        async with guarded.connection() as connection:
            await connection.set_autocommit(alone)
            try:
                cursor = await connection.execute(first.encode())
                for statement in more:
                    cursor = await connection.execute(statement.encode())
                row = await cursor.fetchone() if cursor.description else None
                return row and row[0]
            finally:
                if alone and not connection.closed:
                    await connection.set_autocommit(False)

    async with guarded:
        yield run


@asynccontextmanager
async def _psycopg_sync(
    dsn: str, seen: Observer, *, touchy: bool = False
) -> AsyncGenerator[Borrower]:
    pool = psycopg_pool.ConnectionPool(
        dsn, open=False, min_size=0, max_size=2, timeout=1.0, kwargs={"prepare_threshold": None}
    )
    guarded = GuardedPool(pool, name="db", breaker=_breaker(seen, touchy=touchy), observer=seen)

    def run(first: str, *more: str, alone: bool = False) -> Any:
        with guarded.connection() as connection:
            connection.autocommit = alone
            try:
                cursor = connection.execute(first.encode())
                for statement in more:
                    cursor = connection.execute(statement.encode())
                row = cursor.fetchone() if cursor.description else None
                return row and row[0]
            finally:
                if alone and not connection.closed:
                    connection.autocommit = False

    async with _in_threads(run) as threaded:
        with guarded:
            yield threaded


@asynccontextmanager
async def _alchemy_async(
    dsn: str, seen: Observer, *, touchy: bool = False, driver: str
) -> AsyncGenerator[Borrower]:
    address = dsn.replace("postgresql:", f"postgresql+{driver}:", 1)
    engine = create_async_engine(address, pool_size=2, max_overflow=0, pool_timeout=1.0)
    guard_engine(engine, name="db", breaker=_breaker(seen, touchy=touchy), observer=seen)

    async def run(first: str, *more: str, alone: bool = False) -> Any:
        used = engine.execution_options(isolation_level="AUTOCOMMIT") if alone else engine
        async with used.begin() as connection:
            result = await connection.execute(text(first))
            for statement in more:
                result = await connection.execute(text(statement))
            return result.scalar() if result.returns_rows else None

    yield run
    await engine.dispose()


@asynccontextmanager
async def _alchemy_sync(
    dsn: str, seen: Observer, *, touchy: bool = False, driver: str
) -> AsyncGenerator[Borrower]:
    address = dsn.replace("postgresql:", f"postgresql+{driver}:", 1)
    engine = create_engine(address, pool_size=2, max_overflow=0, pool_timeout=1.0)
    guard_engine(engine, name="db", breaker=_breaker(seen, touchy=touchy), observer=seen)

    def run(first: str, *more: str, alone: bool = False) -> Any:
        used = engine.execution_options(isolation_level="AUTOCOMMIT") if alone else engine
        with used.begin() as connection:
            result = connection.execute(text(first))
            for statement in more:
                result = connection.execute(text(statement))
            return result.scalar() if result.returns_rows else None

    async with _in_threads(run) as threaded:
        yield threaded
    engine.dispose()


@asynccontextmanager
async def _in_threads(run: Callable[..., Any]) -> AsyncGenerator[Borrower]:
    async def threaded(first: str, *more: str, alone: bool = False) -> Any:
        return await anyio.to_thread.run_sync(
            partial(run, first, *more, alone=alone), abandon_on_cancel=True
        )

    yield threaded


_OPENS: dict[str, Opens] = {
    "psycopg-async": _psycopg_async,
    "psycopg-threads": _psycopg_sync,
    "sqlalchemy-asyncpg": partial(_alchemy_async, driver="asyncpg"),
    "sqlalchemy-psycopg": partial(_alchemy_async, driver="psycopg"),
    "sqlalchemy-psycopg-threads": partial(_alchemy_sync, driver="psycopg"),
    "sqlalchemy-psycopg2-threads": partial(_alchemy_sync, driver="psycopg2"),
}
EACH = pytest.mark.parametrize("opens", _OPENS.values(), ids=_OPENS)
PSYCOPG = pytest.mark.parametrize(
    "opens", [_psycopg_async, _psycopg_sync], ids=["async", "threads"]
)


async def fails(call: Coroutine[Any, Any, object]) -> Exception:
    """Return what a call raises."""
    try:
        await call
    except Exception as error:  # noqa: BLE001 - it is the result
        return error
    raise AssertionError("it was expected to fail")


def kind_of(error: Exception) -> type[Exception]:
    """Return which error of this library it is; the library that was guarded must know it, too."""
    if isinstance(error, ResilienceError):
        assert isinstance(error, psycopg.Error | SQLAlchemyError), type(error).__mro__
    return next(
        kind for kind in type(error).__mro__ if getattr(errors, kind.__name__, kind) is kind
    )
