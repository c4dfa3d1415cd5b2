"""Run statements on PostgreSQL, bounded in time and seen from outside, whether or not it is there."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
import asyncpg

from ..clock import LUCK, MONOTONIC, Clock, Luck
from ..errors import (
    DatabaseUnavailableError,
    DeadlineExceededError,
    LockTimeoutError,
    OutcomeUnknownError,
    ResilienceError,
)
from ..events import DeadlineExceeded, Observer, QueryFinished, fan_out, ignore
from ..policy.deadline import Deadline
from ..policy.pool import refusal_of
from .connecting import Password, PasswordFile, PoolOptions, RawConnection, database_of
from .deadline import current_deadline
from .pool import Loan, Pool

__all__ = ["Connection", "Database", "PasswordFile", "PoolOptions", "translate"]

T = TypeVar("T")

_LOCK_NOT_AVAILABLE = "55P03"
_DURABILITY = (
    "select name, setting from pg_settings where name = any"
    " (array['fsync', 'full_page_writes', 'synchronous_commit']) order by name"
)


def translate(error: BaseException, name: str, *, broken: bool = False) -> ResilienceError | None:
    """Tell which error of this library a driver's error is; None if it is the caller's own affair.

    Args:
        error: What asyncpg or the operating system raised.
        name: The database's name, for the error.
        broken: Whether the connection is closed: then even asyncpg's vague errors mean that.
    """
    state = getattr(error, "sqlstate", None) or ""
    if (refusal := refusal_of(state)) is not None:
        return refusal(name, 1.0)
    if state == _LOCK_NOT_AVAILABLE:
        return LockTimeoutError(name, 1.0)
    # A time-out on this side means that time is up, or a server that answers nothing; 57014 is its statement_timeout.
    if state == "57014" or isinstance(error, TimeoutError):
        return DeadlineExceededError(name)
    # asyncpg is confused when a statement meets the server's parting words, which it has not read to the end.
    if isinstance(error, OSError | asyncpg.InternalClientError) or (
        broken and isinstance(error, asyncpg.InterfaceError | asyncpg.PostgresError)
    ):
        return DatabaseUnavailableError(name, 1.0)
    return None


class Connection:
    """A lent connection whose statements are timed and whose errors are told apart.

    `operation` names a statement in metrics and spans: a word from code, such as `incident_get`; without it, the
    statement's first word. `collection` names the table it is about.

    A statement has what is left of the request's time, a small share for the answer taken off, but no more than
    `statement_timeout`. When that has passed, this side gives up, and asks the server to end the statement.

    Every method raises:
        DatabaseUnavailableError: If the connection breaks.
        LockTimeoutError: If others hold a lock for longer than `lock_timeout`.
        ReadOnlyDatabaseError: If the database takes no writes.
        DeadlineExceededError: If the statement runs out of time, or the request has none left.
        asyncpg.InterfaceError: If the connection was given back.
        asyncpg.PostgresError: For all that is the statement's own fault, such as a broken constraint.
    """

    def __init__(self, loan: Loan, owner: Database) -> None:
        self._loan = loan
        self._owner = owner

    @property
    def raw(self) -> RawConnection:
        """The driver's own connection, for what is missing here; its errors are the driver's, and no event tells of it."""
        return self._loan.kept.connection

    async def fetch(
        self, sql: str, *args: object, operation: str = "", collection: str = ""
    ) -> list[asyncpg.Record]:
        """Run a query and return all its rows."""
        call = self.raw.fetch
        return await self._owner.run(
            self._loan, call, sql, args=args, operation=operation, collection=collection
        )

    async def fetchrow(
        self, sql: str, *args: object, operation: str = "", collection: str = ""
    ) -> asyncpg.Record | None:
        """Run a query and return its first row, or None."""
        call = self.raw.fetchrow
        return await self._owner.run(
            self._loan, call, sql, args=args, operation=operation, collection=collection
        )

    async def fetchval(self, sql: str, *args: object, operation: str = "", collection: str = "") -> Any:
        """Run a query and return the first column of its first row, or None."""
        call = self.raw.fetchval
        return await self._owner.run(
            self._loan, call, sql, args=args, operation=operation, collection=collection
        )

    async def execute(self, sql: str, *args: object, operation: str = "", collection: str = "") -> str:
        """Run a statement and return the server's tag, such as `UPDATE 1`."""
        call = self.raw.execute
        return await self._owner.run(
            self._loan, call, sql, args=args, operation=operation, collection=collection
        )


class Database:
    """A PostgreSQL database that may be away at start, and may go and come back.

    Use it as an async context manager, around all of the service's life, on asyncio. Entering it waits for nothing.

    Args:
        dsn: A `postgresql://` address. No error or event repeats it.
        name: Names it in errors, events and metrics.
        options: Pool size and time limits.
        password: Wins over the one in the address; a function is asked for each new connection.
        observer: Told of connections and statements; see `events`. It may raise.
        clock: Monotonic seconds.
        luck: Spreads the attempts to connect.
    """

    def __init__(
        self,
        dsn: str,
        *,
        name: str = "postgres",
        options: PoolOptions | None = None,
        password: Password | None = None,
        observer: Observer = ignore,
        clock: Clock = MONOTONIC,
        luck: Luck = LUCK,
    ) -> None:
        self.name = name
        self._options = options or PoolOptions()
        self._observe = fan_out([observer])
        self._clock = clock
        self._pool = Pool(
            name, dsn, self._options, password=password, observer=observer, clock=clock, luck=luck
        )
        self._namespace = database_of(dsn)
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"Database({self.name!r})"

    @property
    def is_connected(self) -> bool:
        """Whether there is a database, as far as is known."""
        return self._pool.presence.is_there

    async def __aenter__(self) -> Self:
        group = await self._stack.enter_async_context(anyio.create_task_group())
        self._pool.open(group)
        self._stack.callback(group.cancel_scope.cancel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._pool.close()
        finally:
            await self._stack.aclose()

    async def wait_connected(self) -> None:
        """Wait until there is a database, for scripts and tests; bound it by a timeout of your own."""
        await self._pool.presence.found.wait()

    async def ping(self) -> None:
        """Check that the database answers, on a connection that no load can take.

        Raises:
            DatabaseUnavailableError: If it does not, within a second.
        """
        await self._pool.presence.ping()

    @asynccontextmanager
    async def acquire(self) -> AsyncGenerator[Connection]:
        """Lend a connection for the block.

        Raises:
            DatabaseUnavailableError: At once if there is no database.
            DeadlineExceededError: If the request's time is up before one is free.
            PoolTimeoutError: If all stay lent for `acquire_timeout`, or too many wait for one already.
        """
        async with self._pool.acquire() as loan:
            yield Connection(loan, self)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Connection]:
        """Run the block in one transaction, committed at its end and rolled back if it raises.

        The server ends a statement in it by itself when a request's time runs out: the limit is told in the same
        message as BEGIN, since one of its own would cost a round trip. It is the remaining time at BEGIN, so that
        for later statements this side is earlier, as it is for all outside of a transaction.

        Raises:
            OutcomeUnknownError: If the connection breaks, or time runs out, while the answer to COMMIT is on its way.
            DatabaseUnavailableError: If it breaks before: then nothing was written.
            DeadlineExceededError: If the request's time runs out before COMMIT is sent: nothing was written.
            asyncpg.InFailedSQLTransactionError: If the block swallowed a statement's error: nothing was written.
        """
        async with self._pool.acquire() as loan:
            begin = loan.kept.connection.execute
            await self.run(loan, begin, self._begin(), operation="BEGIN")
            yield Connection(loan, self)
            await self._commit(loan)

    async def fetch(
        self, sql: str, *args: object, operation: str = "", collection: str = ""
    ) -> list[asyncpg.Record]:
        """Run one query on a connection of its own; see `Connection.fetch`."""
        async with self._pool.acquire() as loan:
            call = loan.kept.connection.fetch
            return await self.run(loan, call, sql, args=args, operation=operation, collection=collection)

    async def fetchrow(
        self, sql: str, *args: object, operation: str = "", collection: str = ""
    ) -> asyncpg.Record | None:
        """Run one query on a connection of its own; see `Connection.fetchrow`."""
        async with self._pool.acquire() as loan:
            call = loan.kept.connection.fetchrow
            return await self.run(loan, call, sql, args=args, operation=operation, collection=collection)

    async def fetchval(self, sql: str, *args: object, operation: str = "", collection: str = "") -> Any:
        """Run one query on a connection of its own; see `Connection.fetchval`."""
        async with self._pool.acquire() as loan:
            call = loan.kept.connection.fetchval
            return await self.run(loan, call, sql, args=args, operation=operation, collection=collection)

    async def execute(self, sql: str, *args: object, operation: str = "", collection: str = "") -> str:
        """Run one statement on a connection of its own; see `Connection.execute`."""
        async with self._pool.acquire() as loan:
            call = loan.kept.connection.execute
            return await self.run(loan, call, sql, args=args, operation=operation, collection=collection)

    async def durability_problems(self) -> list[str]:
        """Name the server's settings under which an acknowledged commit may be lost; none is what one wants."""
        rows = await self.fetch(_DURABILITY, operation="durability")
        return [f"{row['name']} = {row['setting']}" for row in rows if row["setting"] in {"off", "local"}]

    async def run(
        self,
        loan: Loan,
        call: Callable[..., Awaitable[T]],
        sql: str,
        *,
        args: Sequence[object] = (),
        operation: str = "",
        collection: str = "",
    ) -> T:
        """Run one statement within its time, and tell its errors apart. For `Connection`, which says what it raises."""
        started = self._clock()
        limit = self._limit(started)
        error_type, sqlstate = "cancelled", ""
        try:
            # Without any time left the driver raises, and sends nothing.
            result = await call(sql, *args, timeout=limit)
            error_type = ""
        except Exception as error:
            known = translate(error, self.name, broken=loan.kept.connection.is_closed())
            error_type, sqlstate = type(known or error).__name__, getattr(error, "sqlstate", None) or ""
            self._take_note(loan, error, limit)
            if known is None:
                raise
            raise known from error
        finally:
            self._observe(
                QueryFinished(
                    self.name,
                    "postgresql",
                    operation or _first_word(sql),
                    collection,
                    self._clock() - started,
                    self._namespace,
                    self._pool.server,
                    sqlstate,
                    error_type,
                )
            )
        return result

    def _limit(self, now: float) -> float | None:
        """Return the seconds that a statement sent now may take; None if the server's own limit is the shorter."""
        deadline = current_deadline()
        left = math.inf if deadline is None else deadline.for_next_hop(now)
        return left if left < self._options.statement_timeout else None

    def _take_note(self, loan: Loan, error: Exception, limit: float | None) -> None:
        kept, presence = loan.kept, self._pool.presence
        is_late = isinstance(error, TimeoutError)
        sqlstate = getattr(error, "sqlstate", None)
        if limit is not None and (is_late or sqlstate == "57014"):
            self._observe(DeadlineExceeded("database"))
            if limit > 0.0:
                presence.suspect()
        elif is_late or isinstance(error, asyncpg.InternalClientError):
            # A server that does not even end a statement at its own limit, or that says what nobody asked.
            kept.connection.terminate()
        moved = sqlstate == "25006"
        if moved or kept.connection.is_closed():
            presence.suspect(kept, moved=moved)

    def _begin(self) -> str:
        limit = self._limit(self._clock())
        settings = self._options.session_settings() if self._options.transaction_pooling else {}
        if limit is not None:
            # A share less than this side waits: then the server is the first to end the statement.
            settings["statement_timeout"] = str(max(1, math.floor(Deadline(limit).for_next_hop(0.0) * 1000)))
        return "; ".join(["begin", *(f"set local {name} = {value}" for name, value in settings.items())])

    async def _commit(self, loan: Loan) -> None:
        connection = loan.kept.connection
        was_open = not connection.is_closed()
        was_sent = False

        async def commit(sql: str, *, timeout: float | None) -> None:  # noqa: ASYNC109 - the driver's own
            nonlocal was_sent
            was_sent = timeout is None or timeout > 0.0
            # asyncpg's own commit hides that the server answers the COMMIT of a failed transaction by ROLLBACK.
            if await connection.execute(sql, timeout=timeout) != "COMMIT":
                raise asyncpg.InFailedSQLTransactionError("a statement had failed, so COMMIT rolled back")

        try:
            await self.run(loan, commit, "commit", operation="COMMIT")
        except Exception as error:
            # The server's own refusal, such as a deferred constraint, is an answer: nothing was written then.
            is_open = not connection.is_closed()
            if was_sent and was_open and (not is_open or isinstance(error.__cause__, TimeoutError)):
                raise OutcomeUnknownError(self.name, 1.0) from error
            raise


def _first_word(sql: str) -> str:
    return sql.split(None, 1)[0].upper() if sql.strip() else ""
