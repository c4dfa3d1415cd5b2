"""Run statements on PostgreSQL, bounded in time and seen from outside, whether or not it is there."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import anyio
import asyncpg

from ..clock import LUCK, MONOTONIC, Clock, Luck
from ..errors import OutcomeUnknownError
from ..events import Observer, QueryFinished, fan_out, ignore
from .pool import Password, Pool, PoolOptions, RawConnection, is_broken, terminate, translate

__all__ = ["Connection", "Database", "PoolOptions"]

_ROLLBACK_TIMEOUT = 1.0
_DURABILITY = (
    "select name, setting from pg_settings where name = any"
    " (array['fsync', 'full_page_writes', 'synchronous_commit']) order by name"
)


class Connection:
    """A lent connection whose statements are timed and whose errors are told apart.

    `operation` names a statement in metrics and spans: a word from code, such as `incident_get`; without it, the
    statement's first word. `collection` names the table it is about.

    Every method raises:
        DatabaseUnavailableError: If the connection breaks.
        ReadOnlyDatabaseError: If the database takes no writes.
        DeadlineExceededError: If the statement runs out of time.
        asyncpg.PostgresError: For all that is the statement's own fault, such as a broken constraint.
    """

    def __init__(self, raw: RawConnection, owner: Database) -> None:
        self.raw = raw
        self._owner = owner

    async def fetch(
        self, sql: str, *args: object, operation: str = "", collection: str = ""
    ) -> list[asyncpg.Record]:
        """Run a query and return all its rows."""
        async with self._owner.observed(self.raw, operation or _first_word(sql), collection):
            return await self.raw.fetch(sql, *args)

    async def fetchrow(
        self, sql: str, *args: object, operation: str = "", collection: str = ""
    ) -> asyncpg.Record | None:
        """Run a query and return its first row, or None."""
        async with self._owner.observed(self.raw, operation or _first_word(sql), collection):
            return await self.raw.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: object, operation: str = "", collection: str = "") -> Any:
        """Run a query and return the first column of its first row, or None."""
        async with self._owner.observed(self.raw, operation or _first_word(sql), collection):
            return await self.raw.fetchval(sql, *args)

    async def execute(self, sql: str, *args: object, operation: str = "", collection: str = "") -> str:
        """Run a statement and return the server's tag, such as `UPDATE 1`."""
        async with self._owner.observed(self.raw, operation or _first_word(sql), collection):
            return await self.raw.execute(sql, *args)


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
        self._observe = fan_out([observer])
        self._clock = clock
        self._pool = Pool(
            name, dsn, options or PoolOptions(), password=password, observer=observer, clock=clock, luck=luck
        )
        self._server, self._namespace = _where(dsn)
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"Database({self.name!r})"

    @property
    def is_connected(self) -> bool:
        """Whether there is a database, as far as is known."""
        return self._pool.is_connected

    async def __aenter__(self) -> Self:
        await self._pool.open()
        group = await self._stack.enter_async_context(anyio.create_task_group())
        group.start_soon(self._pool.keep_connected)
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
        await self._pool.connected.wait()

    async def ping(self) -> None:
        """Check that the database answers, on a connection that no load can take.

        Raises:
            DatabaseUnavailableError: If it does not, within a second.
        """
        await self._pool.ping()

    @asynccontextmanager
    async def acquire(self) -> AsyncGenerator[Connection]:
        """Lend a connection for the block.

        Raises:
            DatabaseUnavailableError: At once if there is no database.
            PoolTimeoutError: If all stay lent for `acquire_timeout`.
        """
        async with self._pool.acquire() as raw:
            yield Connection(raw, self)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Connection]:
        """Run the block in one transaction, committed at its end and rolled back if it raises.

        Raises:
            OutcomeUnknownError: If the connection breaks while the answer to COMMIT is on its way.
            DatabaseUnavailableError: If it breaks before: then nothing was written.
            asyncpg.InFailedSQLTransactionError: If the block swallowed a statement's error: nothing was written.
        """
        async with self._pool.acquire() as raw:
            try:
                async with self.observed(raw, "BEGIN", ""):
                    await raw.execute("begin")
                yield Connection(raw, self)
            except BaseException:
                await self._roll_back(raw)
                raise
            await self._commit(raw)

    async def fetch(
        self, sql: str, *args: object, operation: str = "", collection: str = ""
    ) -> list[asyncpg.Record]:
        """Run one query on a connection of its own; see `Connection.fetch`."""
        async with self.acquire() as connection:
            return await connection.fetch(sql, *args, operation=operation, collection=collection)

    async def fetchrow(
        self, sql: str, *args: object, operation: str = "", collection: str = ""
    ) -> asyncpg.Record | None:
        """Run one query on a connection of its own; see `Connection.fetchrow`."""
        async with self.acquire() as connection:
            return await connection.fetchrow(sql, *args, operation=operation, collection=collection)

    async def fetchval(self, sql: str, *args: object, operation: str = "", collection: str = "") -> Any:
        """Run one query on a connection of its own; see `Connection.fetchval`."""
        async with self.acquire() as connection:
            return await connection.fetchval(sql, *args, operation=operation, collection=collection)

    async def execute(self, sql: str, *args: object, operation: str = "", collection: str = "") -> str:
        """Run one statement on a connection of its own; see `Connection.execute`."""
        async with self.acquire() as connection:
            return await connection.execute(sql, *args, operation=operation, collection=collection)

    async def durability_problems(self) -> list[str]:
        """Name the server's settings under which an acknowledged commit may be lost; none is what one wants."""
        rows = await self.fetch(_DURABILITY, operation="durability")
        return [f"{row['name']} = {row['setting']}" for row in rows if row["setting"] in {"off", "local"}]

    @asynccontextmanager
    async def observed(self, raw: RawConnection, operation: str, collection: str) -> AsyncGenerator[None]:
        """Time one statement, and tell its errors apart. For `Connection`; a statement goes through that."""
        started = self._clock()
        error_type, sqlstate = "cancelled", ""
        try:
            yield
            error_type = ""
        except Exception as error:
            known = translate(error, self.name, broken=is_broken(raw))
            error_type, sqlstate = type(known or error).__name__, getattr(error, "sqlstate", None) or ""
            self._let_go_if_sick(raw, error)
            if known is None:
                raise
            raise known from error
        finally:
            self._observe(
                QueryFinished(
                    self.name,
                    "postgresql",
                    operation,
                    collection,
                    self._clock() - started,
                    self._namespace,
                    self._server,
                    sqlstate,
                    error_type,
                )
            )

    def _let_go_if_sick(self, raw: RawConnection, error: Exception) -> None:
        # A server that did not answer in time may answer the next statement with this one's rows.
        if isinstance(error, TimeoutError | asyncpg.InternalClientError):
            terminate(raw)
        moved = getattr(error, "sqlstate", None) == "25006"
        if moved or is_broken(raw):
            self._pool.suspect(moved=moved)

    async def _commit(self, raw: RawConnection) -> None:
        was_open = not is_broken(raw)
        try:
            async with self.observed(raw, "COMMIT", ""):
                await _send_commit(raw)
        except Exception as error:
            # The server's own refusal, such as a deferred constraint, is an answer: nothing was written then.
            if was_open and (is_broken(raw) or isinstance(error.__cause__, TimeoutError)):
                raise OutcomeUnknownError(self.name, 1.0) from error
            raise

    async def _roll_back(self, raw: RawConnection) -> None:
        with anyio.move_on_after(_ROLLBACK_TIMEOUT, shield=True):
            try:
                await raw.execute("rollback")
            except Exception:  # noqa: BLE001 - the block's own error is the one to tell; the connection goes
                terminate(raw)
            return
        terminate(raw)


async def _send_commit(raw: RawConnection) -> None:
    # asyncpg's own commit hides that the server answers the COMMIT of a failed transaction by ROLLBACK.
    if await raw.execute("commit") != "COMMIT":
        raise asyncpg.InFailedSQLTransactionError("a statement had failed, so COMMIT rolled back")


def _first_word(sql: str) -> str:
    return sql.split(None, 1)[0].upper() if sql.strip() else ""


def _where(dsn: str) -> tuple[str, str]:
    """Name the server and the database of an address, for spans; empty where it is not plain."""
    try:
        parts = urlsplit(dsn)
        server = parts.hostname or ""
    except ValueError:  # The driver will say so too, at each attempt to connect.
        return "", ""
    return "" if "," in parts.netloc else server, parts.path.removeprefix("/")
