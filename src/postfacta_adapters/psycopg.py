"""Guard the pools of psycopg 3: `connection()` behind a circuit, within the request's time, with the core's errors.

Inside the block all is psycopg's, its errors too. What leaves the block is of this library if it is
about the database: then `harden` and `problem_handler` answer it by 503, 504 or 422.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import cache, partialmethod
from typing import Any, Final, Generic, Self, TypeVar, cast

from postfacta_core import CircuitBreaker
from postfacta_core.clock import MONOTONIC, Clock
from postfacta_core.events import Observer, process_observer
from postfacta_core.installation import missing_extra
from postfacta_core.validation import validation

try:
    import psycopg
    import psycopg_pool
    from psycopg.sql import Composable
except ModuleNotFoundError as _error:
    raise missing_extra(__name__, "psycopg", _error) from _error

from .borrowing import Borrowed, Lender, limiting

__all__ = ["AsyncGuardedPool", "GuardedPool"]

_LIMITING: Final = limiting("%(limit)s").encode()
C = TypeVar("C", bound=psycopg.Connection[Any])
PsycopgPool = TypeVar("PsycopgPool")
A = TypeVar("A", bound=psycopg.AsyncConnection[Any])


class _Guarded(Generic[PsycopgPool]):
    """A pool behind a circuit."""

    _kind: type[Any]

    def __init__(
        self,
        pool: PsycopgPool,
        *,
        name: str = "postgres",
        breaker: CircuitBreaker | None = None,
        observer: Observer | None = process_observer,
        clock: Clock = MONOTONIC,
    ) -> None:
        owner = type(self).__name__
        foreign = cast("Any", pool)
        validation.instance(
            f"{owner}.pool", pool, self._kind, example=f"{self._kind.__name__}(..., open=False)"
        )

        def is_idle() -> tuple[int, int]:
            stats = foreign.get_stats()
            return stats["pool_available"], stats["requests_waiting"]

        shared: Any = {"breaker": breaker, "observer": observer, "clock": clock}
        self._pool: PsycopgPool = pool
        self._lender = Lender(owner, name, max_size=foreign.max_size, is_idle=is_idle, **shared)
        self.breaker: CircuitBreaker = self._lender.breaker


class GuardedPool(_Guarded[psycopg_pool.ConnectionPool[C]], Generic[C]):
    """A `ConnectionPool` of psycopg, for threads.

    Use `connection()` as the pool's own. As a context manager it opens the pool, and closes it.

    Args:
        pool: The pool. Its `timeout` is the longest wait for a connection, which a request's
            deadline shortens.
        name: Names the database in errors, events and metrics.
        breaker: Refuses to lend connections while too many break or time out; by default one of
            this name, with `database_circuit`. What a failure is, is decided here: leave its `on`
            alone.
        observer: Receives events of connections and statements. It may raise.
        clock: Monotonic seconds.

    Attributes:
        breaker: Its circuit.
    """

    _kind = psycopg_pool.ConnectionPool

    def __enter__(self) -> Self:
        self._pool.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    @contextmanager
    def connection(self, timeout: float | None = None) -> Generator[C]:
        """Lend a connection for the block, which is one transaction unless the connection commits by itself.

        Args:
            timeout: The longest wait for it, in seconds; None is the pool's own.

        Raises:
            CircuitOpenError: At once if too many connections broke or timed out recently.
            DatabaseUnavailableError: If none could be opened in time, or it broke before anything
                was committed.
            PoolTimeoutError: If all stay lent.
            psycopg_pool.PoolClosed: If the pool is not open.
            DeadlineExceededError: If the request's time is up.
            OutcomeUnknownError: If the connection breaks while a COMMIT, or a statement outside of
                a transaction, is under way.
            psycopg.Error: For all that is the statement's own fault, such as a broken constraint.
        """
        loan = Borrowed(self._lender)
        try:
            connection = self._pool.getconn(
                loan.patience(self._pool.timeout if timeout is None else timeout)
            )
        except psycopg_pool.PoolClosed:  # That is about the service, and not the database.
            loan.dropped()
            raise
        except psycopg.Error as error:
            raise loan.not_lent(is_full=_is_full(self._lender, error)) from error
        except BaseException:
            loan.dropped()
            raise
        loan.lent(is_new=_is_new(connection))
        try:
            with _judging(connection, loan), connection:
                yield connection
                loan.commits()
        finally:
            self._pool.putconn(connection)
            loan.returned()


class AsyncGuardedPool(_Guarded[psycopg_pool.AsyncConnectionPool[A]], Generic[A]):
    """An `AsyncConnectionPool` of psycopg; see `GuardedPool`.

    As an async context manager it opens the pool, made with `open=False`, and closes it, so it may
    stand in `harden(resources=[...])`.
    """

    _kind = psycopg_pool.AsyncConnectionPool

    async def __aenter__(self) -> Self:
        await self._pool.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.close()

    @asynccontextmanager
    async def connection(self, timeout: float | None = None) -> AsyncGenerator[A]:  # noqa: ASYNC109 - psycopg's own
        """Lend a connection for the block; see `GuardedPool.connection`."""
        loan = Borrowed(self._lender)
        patience = loan.patience(self._pool.timeout if timeout is None else timeout)
        try:
            connection = await self._pool.getconn(patience)
        except psycopg_pool.PoolClosed:  # That is about the service, and not the database.
            loan.dropped()
            raise
        except psycopg.Error as error:
            raise loan.not_lent(is_full=_is_full(self._lender, error)) from error
        except BaseException:
            loan.dropped()
            raise
        loan.lent(is_new=_is_new(connection))
        try:
            with _judging(connection, loan):
                async with connection:
                    yield connection
                    loan.commits()
        finally:
            await self._pool.putconn(connection)
            loan.returned()


def _is_full(lender: Lender, error: psycopg.Error) -> bool:
    return isinstance(error, psycopg_pool.TooManyRequests) or lender.is_exhausted


def _is_new(connection: Any) -> bool:
    """Return whether this is the first to have the connection."""
    was_lent = getattr(connection, "_was_lent", False)
    connection._was_lent = True  # noqa: SLF001 - ours, on an object of theirs
    return not was_lent


@contextmanager
def _judging(
    connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], loan: Borrowed
) -> Generator[None]:
    """Watch the statements of a connection, and raise the errors of this library at the end of the block."""
    foreign: Any = connection
    factories = foreign.cursor_factory, foreign.server_cursor_factory
    foreign.cursor_factory, foreign.server_cursor_factory = (
        _watched_cursors(factory, loan) for factory in factories
    )
    foreign.wait = _watched_wait(foreign, loan)
    try:
        yield
    except psycopg.Error as error:
        known = loan.verdict(error, is_closed=connection.closed)
        if known is None:
            raise
        raise known from error
    finally:
        foreign.cursor_factory, foreign.server_cursor_factory = factories
        del foreign.wait


def _watched_wait(connection: Any, loan: Borrowed) -> Any:
    """Notice the end of each transaction, by whatever means: with it the server's limit ends."""
    wait = connection.wait
    info = connection.info

    def notice() -> None:
        if info.transaction_status is psycopg.pq.TransactionStatus.IDLE:
            loan.begins()

    def watched(*args: Any, **options: Any) -> Any:
        answer = wait(*args, **options)
        notice()
        return answer

    async def watched_async(*args: Any, **options: Any) -> Any:
        answer = await wait(*args, **options)
        notice()
        return answer

    return watched_async if isinstance(connection, psycopg.AsyncConnection) else watched


def _watched_cursors(factory: Any, loan: Borrowed) -> Any:
    watched = _watched(factory)

    def make(*args: Any, **options: Any) -> Any:
        cursor = watched(*args, **options)
        cursor.loan = loan
        return cursor

    return make


@cache
def _watched(factory: type[Any]) -> Any:
    is_async = issubclass(factory, psycopg.AsyncCursor)
    return type(factory.__name__, (_AsyncStatements if is_async else _Statements, factory), {})


class _Statements:
    """What a cursor does around each statement that it sends."""

    loan: Borrowed
    connection: Any

    def _send(self, method: str, query: Any, *args: Any, **options: Any) -> Any:
        limit = _announce(self, query)
        try:
            if limit:
                psycopg.Cursor[Any](self.connection).execute(_LIMITING, {"limit": limit})
            answer = getattr(super(), method)(query, *args, **options)
        except psycopg.Error as error:
            self.loan.failed(error, is_closed=self.connection.closed)
            raise
        self.loan.answered()
        return answer

    execute = partialmethod(_send, "execute")
    executemany = partialmethod(_send, "executemany")


class _AsyncStatements:
    """The same, on an event loop."""

    loan: Borrowed
    connection: Any

    async def _send(self, method: str, query: Any, *args: Any, **options: Any) -> Any:
        limit = _announce(self, query)
        try:
            if limit:
                await psycopg.AsyncCursor[Any](self.connection).execute(_LIMITING, {"limit": limit})
            answer = await getattr(super(), method)(query, *args, **options)
        except psycopg.Error as error:
            self.loan.failed(error, is_closed=self.connection.closed)
            raise
        self.loan.answered()
        return answer

    execute = partialmethod(_send, "execute")
    executemany = partialmethod(_send, "executemany")


def _announce(cursor: _Statements | _AsyncStatements, query: Any) -> str:
    connection = cursor.connection
    loan = cursor.loan
    if isinstance(query, Composable):
        query = query.as_string(connection)
    elif isinstance(query, bytes):
        query = query.decode(errors="replace")
    is_idle = connection.info.transaction_status is psycopg.pq.TransactionStatus.IDLE
    is_inside = not (is_idle and connection.autocommit)
    return loan.sends(query if isinstance(query, str) else "", is_inside=is_inside)
