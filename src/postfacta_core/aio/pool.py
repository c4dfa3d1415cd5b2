"""Lend connections of an asyncpg pool, as long as there is a database behind it.

1. The pool is connected if its reserved connection is: one more than `max_size`, kept for this and for `ping`.
2. While it is not connected, a caller is refused at once; a background task tries to connect for ever.
3. Whoever sees a connection break says so (`suspect`). All idle ones are then renewed before they are lent, and
   the database is looked for; the others are refused only if it is not found, for one connection may break alone.
4. Every wait has a bound: for a connection, to open one, to give one back, to look, to close.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import anyio
import asyncpg

from ..clock import LUCK, MONOTONIC, Clock, Luck
from ..errors import (
    DatabaseUnavailableError,
    DeadlineExceededError,
    PoolTimeoutError,
    ReadOnlyDatabaseError,
    ResilienceError,
)
from ..events import (
    ConnectionAcquired,
    ConnectionOpened,
    ConnectionReleased,
    Observer,
    PoolSized,
    fan_out,
    ignore,
)
from ..policy.retry import Backoff

__all__ = ["Password", "Pool", "PoolOptions", "RawConnection", "is_broken", "terminate", "translate"]

RawConnection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
Password = str | Callable[[], str] | Callable[[], Awaitable[str]]
"""A password, or a function that reads it anew for each connection, so that a rotation needs no restart."""

_LOOK_TIMEOUT = (
    1.0  # For one sign of life; also for the one new connection that is tried before all are refused.
)
_RELEASE_TIMEOUT = 1.0  # Longer than any healthy reset takes; a connection that needs more is thrown away.
_NOT_THERE = ("08", "57P01", "57P02", "57P03", "53300", "53100", "53200")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """Bounds of a pool. Times are seconds.

    Attributes:
        max_size: Connections lent at once; one more is reserved for health.
        acquire_timeout: Longest wait for one.
        connect_timeout: Longest time to open one.
        statement_timeout: Longest run of a statement; the server ends it, and a second later this side does.
        lock_timeout: Longest wait of a statement for a lock.
        idle_in_transaction_timeout: After it the server ends a transaction that does nothing.
        close_timeout: Longest wait for lent connections when the pool closes.
        reconnect: The waits between attempts while there is no database.
    """

    max_size: int = 10
    acquire_timeout: float = 1.0
    connect_timeout: float = 3.0
    statement_timeout: float = 5.0
    lock_timeout: float = 1.0
    idle_in_transaction_timeout: float = 15.0
    close_timeout: float = 5.0
    reconnect: Backoff = field(default_factory=lambda: Backoff(base=0.1, cap=2.0))

    def __post_init__(self) -> None:
        times = (self.acquire_timeout, self.connect_timeout, self.statement_timeout, self.lock_timeout)
        if self.max_size < 1 or min(*times, self.idle_in_transaction_timeout, self.close_timeout) <= 0:
            msg = f"needs at least one connection, and times above 0: {self}"
            raise ValueError(msg)


def translate(error: BaseException, name: str, *, broken: bool = False) -> ResilienceError | None:
    """Tell which error of this library a driver's error is; None if it is the caller's own affair.

    Args:
        error: What asyncpg or the operating system raised.
        name: The database's name, for the error.
        broken: Whether the connection is closed: then even asyncpg's vague errors mean that.
    """
    state = getattr(error, "sqlstate", None) or ""
    if state.startswith(_NOT_THERE):
        return DatabaseUnavailableError(name, 1.0)
    if state == "25006":
        return ReadOnlyDatabaseError(name, 1.0)
    # A time-out on this side means a server that answers nothing; 57014 is its own statement_timeout.
    if state == "57014" or isinstance(error, TimeoutError):
        return DeadlineExceededError(name)
    # asyncpg is confused when a statement meets the server's parting words, which it has not read to the end.
    if isinstance(error, OSError | asyncpg.InternalClientError) or (
        broken and isinstance(error, asyncpg.InterfaceError | asyncpg.PostgresError)
    ):
        return DatabaseUnavailableError(name, 1.0)
    return None


def is_broken(connection: RawConnection) -> bool:
    """Tell whether a lent connection is closed: the driver then takes it from the borrower."""
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:
        return True


def terminate(connection: RawConnection) -> None:
    """End a lent connection without a word to the server; again changes nothing."""
    if not is_broken(connection):
        connection.terminate()


class Pool:
    """An asyncpg pool that may exist before its database does.

    Args:
        name: Names it in errors, events and metrics.
        dsn: A `postgresql://` address. It is kept to itself: no error or event repeats it.
        options: The bounds.
        password: Wins over the one in the address.
        observer: Told of each connection opened, lent and given back. It may raise.
        clock: Monotonic seconds.
        luck: Spreads the attempts to connect.
    """

    def __init__(
        self,
        name: str,
        dsn: str,
        options: PoolOptions,
        *,
        password: Password | None = None,
        observer: Observer = ignore,
        clock: Clock = MONOTONIC,
        luck: Luck = LUCK,
    ) -> None:
        self.name = name
        self.connected: anyio.Event = anyio.Event()
        self._options = options
        self._observe = fan_out([observer])
        self._clock = clock
        self._luck = luck
        self._arguments: dict[str, Any] = {
            "dsn": dsn,
            "timeout": options.connect_timeout,
            "command_timeout": options.statement_timeout + 1.0,
            "server_settings": {
                "application_name": f"postfacta {name}",
                "timezone": "UTC",
                "statement_timeout": _milliseconds(options.statement_timeout),
                "lock_timeout": _milliseconds(options.lock_timeout),
                "idle_in_transaction_session_timeout": _milliseconds(options.idle_in_transaction_timeout),
            },
        }
        if password is not None:
            self._arguments["password"] = password
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._reserved: asyncpg.Connection[asyncpg.Record] | None = None
        self._doubted = anyio.Event()
        self._has_moved = False
        self._must_renew = False
        self._pinging = anyio.Lock()
        self._retry_at = 0.0
        self._lent = 0
        self._waiting = 0

    @property
    def is_connected(self) -> bool:
        """Whether there is a database, as far as is known."""
        return self._reserved is not None

    async def open(self) -> None:
        """Make the pool; no connection is opened for that."""
        self._pool = await asyncpg.create_pool(
            min_size=0, max_size=self._options.max_size, connect=self._connect, **self._arguments
        )

    async def close(self) -> None:
        """Wait for the lent connections, but not for long, then end what is left."""
        if self._pool is None:
            return
        pool, self._pool = self._pool, None
        with anyio.move_on_after(self._options.close_timeout, shield=True):
            await pool.close()
        pool.terminate()

    async def keep_connected(self) -> None:
        """Connect, notice when the database is lost, connect again; until cancelled."""
        try:
            while True:
                self._reserve(await self._connect_somehow())
                while await self._outlives_a_doubt():
                    pass
                self._let_go()
                await self._renew_idle()
        finally:
            self._let_go()

    def _reserve(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        connection.add_termination_listener(lambda dead: self.suspect() if dead is self._reserved else None)
        self._reserved = connection
        self.connected.set()

    async def _outlives_a_doubt(self) -> bool:
        """Wait until somebody doubts that the database is there, and look."""
        await self._doubted.wait()
        self._doubted = anyio.Event()
        if self._must_renew:
            await self._renew_idle()
        if self._has_moved:
            self._has_moved = False
            return False
        try:
            await self.ping()
        except DatabaseUnavailableError:
            return await self._finds_another()
        return True

    async def _renew_idle(self) -> None:
        self._must_renew = False
        if self._pool is not None:
            await self._pool.expire_connections()

    async def _finds_another(self) -> bool:
        try:
            connection = await self._connect(
                **self._arguments | {"timeout": min(_LOOK_TIMEOUT, self._options.connect_timeout)}
            )
        except Exception:  # noqa: BLE001 - whatever it is, it was told as an event, and will be tried again
            return False
        self._reserve(connection)
        return True

    def suspect(self, *, renew: bool = True, moved: bool = False) -> None:
        """Say that something is wrong: the pool looks whether the database is still there.

        Args:
            renew: Whether idle connections may be broken as well; false if only opening one failed.
            moved: Whether the database is known to be elsewhere, as when this one takes no writes.
        """
        self._must_renew |= renew
        self._has_moved |= moved
        self._doubted.set()

    async def ping(self) -> None:
        """Ask the database for a sign of life, on the reserved connection, which no load can take.

        Raises:
            DatabaseUnavailableError: If there is none within a second.
        """
        try:
            with anyio.fail_after(_LOOK_TIMEOUT):
                async with self._pinging:
                    await self._ask(self._reserved)
        except Exception as error:
            raise self._unavailable() from error

    async def _ask(self, reserved: asyncpg.Connection[asyncpg.Record] | None) -> None:
        if reserved is None:
            raise self._unavailable()
        try:
            await reserved.fetchval("select 1")
        except BaseException:
            # Also if the caller's own bound ended it: a late answer would be taken for the next one's.
            reserved.terminate()
            self.suspect()
            raise

    @asynccontextmanager
    async def acquire(self) -> AsyncGenerator[RawConnection]:
        """Lend a connection for the block.

        Raises:
            DatabaseUnavailableError: At once if there is no database; or if none could be opened in time.
            PoolTimeoutError: If all stayed lent for `acquire_timeout`.
        """
        if self._pool is None or self._reserved is None:
            raise self._unavailable()
        pool = self._pool
        connection = await self._wait(pool)
        started = self._clock()
        try:
            yield connection
        finally:
            with anyio.CancelScope(shield=True):
                await self._give_back(pool, connection)
            self._lent -= 1
            self._observe(ConnectionReleased(self.name, self._clock() - started))
            self._tell_size(pool)

    async def _wait(self, pool: asyncpg.Pool[asyncpg.Record]) -> RawConnection:
        started = self._clock()
        error_type = "cancelled"
        self._waiting += 1
        if self._is_busy():
            self._tell_size(pool)
        try:
            connection = await pool.acquire(timeout=self._options.acquire_timeout)
            error_type = ""
            self._lent += 1
        except Exception as error:
            refusal = self._refusal(error)
            error_type = type(refusal).__name__
            raise refusal from error
        finally:
            self._waiting -= 1
            self._observe(ConnectionAcquired(self.name, self._clock() - started, error_type))
            self._tell_size(pool)
        return connection

    def _is_busy(self) -> bool:
        return self._lent >= self._options.max_size

    def _refusal(self, error: Exception) -> Exception:
        if isinstance(error, TimeoutError) and self._is_busy():
            return PoolTimeoutError(self.name, self._options.acquire_timeout)
        self.suspect(renew=False)
        return self._unavailable()

    async def _give_back(self, pool: asyncpg.Pool[asyncpg.Record], connection: RawConnection) -> None:
        try:
            await pool.release(connection, timeout=_RELEASE_TIMEOUT)
        except Exception:  # noqa: BLE001 - it is on its way out; asyncpg has ended it, and nobody waits for it
            self.suspect()

    async def _connect_somehow(self) -> asyncpg.Connection[asyncpg.Record]:
        attempt = 0
        while True:
            try:
                connection = await self._connect(**self._arguments)
            except Exception:  # noqa: BLE001 - whatever it is, it is told as an event, and tried again
                attempt += 1
                delay = self._options.reconnect.delay(attempt, self._luck())
                self._retry_at = self._clock() + delay
                await anyio.sleep(delay)
                continue
            return connection

    async def _connect(self, *args: object, **kwargs: Any) -> asyncpg.Connection[asyncpg.Record]:
        started = self._clock()
        error_type = "cancelled"
        try:
            # The pool hands on what it was given, so the overloads do not help here.
            connect = cast("Callable[..., Awaitable[asyncpg.Connection[asyncpg.Record]]]", asyncpg.connect)
            connection = await connect(*args, **kwargs)
            error_type = ""
        except Exception as error:
            error_type = type(error).__name__
            raise
        finally:
            self._observe(ConnectionOpened(self.name, self._clock() - started, error_type))
        return connection

    def _let_go(self) -> None:
        if self._reserved is not None:
            self._reserved.terminate()
            self._reserved = None
            self.connected = anyio.Event()

    def _unavailable(self) -> DatabaseUnavailableError:
        return DatabaseUnavailableError(self.name, max(1.0, self._retry_at - self._clock()))

    def _tell_size(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        idle = pool.get_idle_size()
        self._observe(PoolSized(self.name, idle, self._lent, self._options.max_size, 0, self._waiting))


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))
