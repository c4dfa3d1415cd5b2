"""What only an engine has.

`dispose`, sessions, other pools, and databases that are not PostgreSQL.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, NullPool, create_engine, text
from sqlalchemy.exc import DataError, ProgrammingError, TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from postfacta_adapters.sqlalchemy import guard_engine
from postfacta_core import CircuitBreaker, CircuitOpenError
from postfacta_core.errors import (
    DatabaseUnavailableError,
    DeadlineExceededError,
    InvalidInputError,
    PoolTimeoutError,
)
from postfacta_core.events import ConnectionAcquired, ConnectionReleased
from postfacta_core.testing import RecordingObserver
from tests.postgres.postgres import Flapping, request_within, size_of

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])
SETTING = text("select current_setting('statement_timeout')")


def _raise(error: type[Exception]) -> Any:
    raise error


def engine_of(dsn: str, seen: RecordingObserver, **options: Any) -> Engine:
    engine = create_engine(dsn.replace("postgresql:", "postgresql+psycopg:", 1), **options)
    guard_engine(engine, name="db", observer=seen)
    return engine


def test_an_engine_is_guarded_after_dispose_too(database_dsn: str, anyio_backend: str) -> None:
    seen = RecordingObserver()
    engine = engine_of(database_dsn, seen)
    for _ in range(2):
        with engine.connect() as connection:
            assert connection.scalar(text("select 1")) == 1
        engine.dispose()
    assert len(seen.of(ConnectionAcquired)) == len(seen.of(ConnectionReleased)) == 2


def test_an_open_circuit_refuses_before_the_pool(database_dsn: str, anyio_backend: str) -> None:
    engine = create_engine(database_dsn.replace("postgresql:", "postgresql+psycopg:", 1))
    breaker = CircuitBreaker("db", observer=None)
    assert guard_engine(engine, breaker=breaker, observer=None) is breaker
    breaker.force_open()
    with pytest.raises(CircuitOpenError), engine.connect():
        pass
    assert engine.pool.checkedin() == 0  # type: ignore[attr-defined] # of a `QueuePool`
    breaker.reset()
    with engine.connect():
        pass
    engine.dispose()


def test_a_session_has_the_limit_in_each_transaction(database_dsn: str, anyio_backend: str) -> None:
    engine = engine_of(database_dsn, RecordingObserver())
    with request_within(5.0), Session(engine) as session:
        for _ in range(2):
            assert session.scalar(SETTING) != "0"
            session.commit()
        with pytest.raises(ProgrammingError), session.begin_nested():
            session.execute(text("select nothing"))
        assert session.scalar(SETTING) != "0"
    engine.dispose()


async def test_a_stream_of_rows_is_limited_as_well(database_dsn: str) -> None:
    for driver in ("asyncpg", "psycopg"):
        engine = create_async_engine(
            database_dsn.replace("postgresql:", f"postgresql+{driver}:", 1)
        )
        guard_engine(engine, observer=None)
        async with AsyncSession(engine) as session:
            with request_within(60.0):
                rows = await session.stream(text("select generate_series(1, 3)"))
                assert len(await rows.all()) == 3
            with request_within(0.5), pytest.raises(DeadlineExceededError):
                await session.stream(text("select pg_sleep(60)"))
        await engine.dispose()


def test_a_detached_connection_counts_no_more(database_dsn: str, anyio_backend: str) -> None:
    seen = RecordingObserver()
    engine = engine_of(database_dsn, seen, poolclass=NullPool)
    with engine.connect() as connection:
        connection.detach()
        assert size_of(seen).used == 0
        assert connection.scalar(text("select 1")) == 1
    assert len(seen.of(ConnectionReleased)) == 1


async def test_a_pool_without_a_bound_and_one_without_a_server(database_dsn: str) -> None:
    async with Flapping(database_dsn) as relay:
        relay.refuses = True
        address = relay.dsn().replace("postgresql:", "postgresql+asyncpg:", 1)
        engine = create_async_engine(address, max_overflow=-1)
        guard_engine(engine, observer=None)
        with pytest.raises(DatabaseUnavailableError):
            async with engine.connect():
                pass


def test_what_is_no_engine_of_postgresql_is_refused(anyio_backend: str) -> None:
    with pytest.raises(
        ValueError, match=r"guard_engine\.engine must be one of PostgreSQL, not 'sqlite'"
    ):
        guard_engine(create_engine("sqlite://"))
    none: Any = "postgresql://"
    with pytest.raises(ValueError, match=r"guard_engine\.engine"):
        guard_engine(none)


def test_an_error_that_is_not_about_the_database_is_passed_on_uncounted(anyio_backend: str) -> None:
    for error in (LookupError, OSError):
        engine = create_engine("postgresql+psycopg://", creator=partial(_raise, error))
        breaker = guard_engine(engine, observer=None)
        with (
            pytest.raises(LookupError if error is LookupError else DatabaseUnavailableError),
            engine.connect(),
        ):
            pass
        assert breaker.statistics().failures == (error is OSError)


def test_an_error_has_what_sqlalchemys_own_has(database_dsn: str, anyio_backend: str) -> None:
    engine = engine_of(
        database_dsn, RecordingObserver(), pool_size=1, max_overflow=0, pool_timeout=0.05
    )
    with engine.connect() as connection:
        with pytest.raises(PoolTimeout) as full, engine.connect():
            pass
        with pytest.raises(DataError) as wrong:
            connection.execute(text("select cast(:value as int)"), {"value": "x"})
    assert isinstance(full.value, PoolTimeoutError)
    assert isinstance(wrong.value, InvalidInputError)
    assert "cast" in str(wrong.value.statement)
    assert wrong.value.params == {"value": "x"}
    assert isinstance(wrong.value.orig, psycopg.DataError)
    assert not wrong.value.connection_invalidated
    engine.dispose()
