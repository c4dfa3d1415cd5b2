"""Guard the pools of psycopg 3: a circuit, the request's time, the core's errors.

A connection that is lent is of a subclass of its class, which is made once; so are its cursors.
They report each statement, and each end of a transaction, to the loan that the connection has.

Inside the block all is psycopg's, its errors too. What leaves the block is of this library if it is
about the database: then `harden` and `problem_handler` answer it by 503, 504 or 422.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from typing import Any, Final, Generic, Self, TypeVar, cast

from postfacta_core import CircuitBreaker
from postfacta_core.clock import MONOTONIC, Clock
from postfacta_core.errors import ResilienceError
from postfacta_core.events import Observer, process_observer
from postfacta_core.installation import missing_extra
from postfacta_core.validation import validation

try:
    import psycopg
    import psycopg_pool
    from psycopg.sql import Composable
except ModuleNotFoundError as _error:
    raise missing_extra(__name__, "psycopg", _error) from _error

from ._errors import common
from .borrowing import Borrowed, Lender, limiting

__all__ = ["AsyncGuardedPool", "GuardedPool"]

_LIMITING: Final = limiting("%(limit)s").encode()
_IDLE: Final = psycopg.pq.TransactionStatus.IDLE
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
        """Lend a connection for the block.

        The block is one transaction, unless the connection commits by itself.

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
        pool = self._pool
        loan = _borrow(self._lender)
        try:
            connection = pool.getconn(loan.patience(pool.timeout if timeout is None else timeout))
        except psycopg_pool.PoolClosed:  # That is about the service, and not the database.
            loan.dropped()
            raise
        except psycopg.Error as error:
            raise _not_lent(loan, error) from error
        except BaseException:
            loan.dropped()
            raise
        _watch(connection, loan)
        try:
            with connection:
                yield connection
                loan.commits()
        except psycopg.Error as error:
            _raise_meaning(loan, error, is_closed=connection.closed)
            raise
        finally:
            _leave(connection)
            pool.putconn(connection)
            _count_usage(pool, loan.returned())


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
        pool = self._pool
        loan = _borrow(self._lender)
        patience = loan.patience(pool.timeout if timeout is None else timeout)
        try:
            connection = await pool.getconn(patience)
        except psycopg_pool.PoolClosed:  # That is about the service, and not the database.
            loan.dropped()
            raise
        except psycopg.Error as error:
            raise _not_lent(loan, error) from error
        except BaseException:
            loan.dropped()
            raise
        _watch(connection, loan)
        try:
            async with connection:
                yield connection
                loan.commits()
        except psycopg.Error as error:
            _raise_meaning(loan, error, is_closed=connection.closed)
            raise
        finally:
            _leave(connection)
            await pool.putconn(connection)
            _count_usage(pool, loan.returned())


def _borrow(lender: Lender) -> Borrowed:
    """Ask the circuit; what it refuses is an OperationalError, too."""
    try:
        return Borrowed(lender)
    except ResilienceError as error:
        raise common(error, psycopg.OperationalError) from None


def _not_lent(loan: Borrowed, error: psycopg.Error) -> ResilienceError:
    is_full = isinstance(error, psycopg_pool.TooManyRequests) or loan.lender.is_exhausted
    return _common(loan.not_lent(is_full=is_full), error)


def _raise_meaning(loan: Borrowed, error: psycopg.Error, *, is_closed: bool) -> None:
    """Raise this library's error for one that ends a block, unless it is about the statement."""
    if not isinstance(error, ResilienceError):
        meaning = loan.verdict(error, is_closed=is_closed)
        if meaning is not None:
            raise _common(meaning, error) from error


def _common(meaning: ResilienceError, error: psycopg.Error) -> ResilienceError:
    # The errors of the pool, and the classes that DB-API has; not those of a single SQLSTATE.
    kind = next(
        base for base in type(error).__mro__ if base.__module__ in {"psycopg", "psycopg_pool"}
    )
    return common(meaning, kind, sqlstate=error.sqlstate, **vars(error))


def _count_usage(pool: Any, seconds: float) -> None:
    """Add to `usage_ms` in the statistics of a pool, as its own `connection()` does."""
    stats = getattr(pool, "_stats", None)
    if stats is not None:
        stats[pool._USAGE_MS] += int(1000 * seconds)  # noqa: SLF001 - there is no other way


def _watch(connection: Any, loan: Borrowed) -> None:
    """Have a loan notice the statements on a connection, until `_leave`."""
    is_new = not hasattr(connection, "postfacta_loan")
    if is_new:
        # No wrapper that refers to the connection: it would keep a closed one alive.
        connection.__class__ = _watched_connections(connection.__class__)
    connection.postfacta_loan = loan
    loan.lent(is_new=is_new)


def _leave(connection: Any) -> None:
    connection.postfacta_loan = None


@cache
def _watched_connections(kind: Any) -> Any:
    """Return the subclass of a class of connections that a loan watches.

    Its loan notices the end of each transaction, by whatever means: the limit ends with it.
    """
    is_async = issubclass(kind, psycopg.AsyncConnection)
    watched_cursors = _watched_async_cursors if is_async else _watched_cursors

    def cursor(self: Any, name: str = "", **options: Any) -> Any:
        factory = "server_cursor_factory" if name else "cursor_factory"
        plain = getattr(self, factory)
        setattr(self, factory, watched_cursors(plain))
        try:
            return kind.cursor(self, name, **options)
        finally:
            setattr(self, factory, plain)

    def wait(self: Any, *args: Any, **options: Any) -> Any:
        answer = kind.wait(self, *args, **options)
        if self.postfacta_loan is not None and self.pgconn.transaction_status == _IDLE:
            self.postfacta_loan.begins()
        return answer

    async def wait_async(self: Any, *args: Any, **options: Any) -> Any:
        answer = await kind.wait(self, *args, **options)
        if self.postfacta_loan is not None and self.pgconn.transaction_status == _IDLE:
            self.postfacta_loan.begins()
        return answer

    return _subclass(
        kind, postfacta_loan=None, cursor=cursor, wait=wait_async if is_async else wait
    )


@cache
def _watched_cursors(kind: Any) -> Any:
    """Return the subclass of a class of cursors whose statements a loan notices."""

    def watched(send: Any) -> Any:
        def watched_send(self: Any, query: Any, *args: Any, **options: Any) -> Any:
            loan: Borrowed | None = self.connection.postfacta_loan
            if loan is None:
                return send(self, query, *args, **options)
            limit = _announce(loan, self.connection, query)
            try:
                if limit:
                    psycopg.Cursor[Any](self.connection).execute(_LIMITING, {"limit": limit})
                answer = send(self, query, *args, **options)
            except psycopg.Error as error:
                loan.failed(error, is_closed=self.connection.closed)
                raise
            loan.answered()
            return answer

        return watched_send

    return _subclass(kind, execute=watched(kind.execute), executemany=watched(kind.executemany))


@cache
def _watched_async_cursors(kind: Any) -> Any:
    """Return the same of cursors on an event loop."""

    def watched(send: Any) -> Any:
        async def watched_send(self: Any, query: Any, *args: Any, **options: Any) -> Any:
            loan: Borrowed | None = self.connection.postfacta_loan
            if loan is None:
                return await send(self, query, *args, **options)
            limit = _announce(loan, self.connection, query)
            try:
                if limit:
                    plain = psycopg.AsyncCursor[Any](self.connection)
                    await plain.execute(_LIMITING, {"limit": limit})
                answer = await send(self, query, *args, **options)
            except psycopg.Error as error:
                loan.failed(error, is_closed=self.connection.closed)
                raise
            loan.answered()
            return answer

        return watched_send

    return _subclass(kind, execute=watched(kind.execute), executemany=watched(kind.executemany))


def _subclass(kind: Any, **names: Any) -> Any:
    """Return a subclass that shows itself as the class of the library."""
    shown = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), {**shown, **names})


def _announce(loan: Borrowed, connection: Any, query: Any) -> str:
    """Report a statement to the loan; return the limit to set before it, or an empty text."""
    if isinstance(query, Composable):
        query = query.as_string(connection)
    elif isinstance(query, bytes):
        query = query.decode(errors="replace")
    is_idle = connection.pgconn.transaction_status == _IDLE
    is_inside = not (is_idle and connection.autocommit)
    try:
        return loan.sends(query if isinstance(query, str) else "", is_inside=is_inside)
    except ResilienceError as error:
        raise common(error, psycopg.OperationalError) from None
