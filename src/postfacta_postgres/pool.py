"""Lend connections to PostgreSQL, while the database is available.

1. `_leases` decides who gets a connection, and how long one is kept; `monitor` tracks whether there is a
   database.
2. Callers wait in FIFO order, and are refused immediately while there is no database. Before the first
   attempt to connect has ended that is unknown, so they wait for it.
3. Every wait has a bound: for a connection, to open one, to clear one that comes back, to look, to close. A request's
   deadline shortens those that a caller sees.
4. A caller that was cancelled or ran out of time goes at once. Its connection is cleared by a task of the pool, which
   waits until the server has ended the statement.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import anyio
import asyncpg
from anyio.abc import TaskGroup

from postfacta_core import current_deadline
from postfacta_core.clock import Clock
from postfacta_core.context import add_wait
from postfacta_core.errors import (
    DeadlineExceededError,
    OutcomeUnknownError,
    PoolTimeoutError,
    ResilienceError,
)
from postfacta_core.events import (
    ConnectionAcquired,
    ConnectionReleased,
    DeadlineExceeded,
    PolicyCreated,
    Sample,
)

from ._leases import LeaseTable, PooledConnection, sizes
from .connecting import Connector, Password, RawConnection, Setup
from .monitor import ConnectionMonitor

__all__ = ["Pool"]

# Longer than any healthy reset takes; a connection that needs more is thrown away.
_RELEASE_TIMEOUT = 1.0
_SWEEP_AT_MOST_EVERY = 10.0
# Errors after which the server may still be at work on the connection.
_TIME_IS_UP = (TimeoutError, DeadlineExceededError, OutcomeUnknownError)


@dataclass(slots=True)
class _Patience:
    """How long a caller waits, and whether it is its request that cannot wait longer."""

    until: float
    is_the_requests: bool


@dataclass(slots=True, eq=False)
class _Opening:
    """A connection that is being opened for a caller, which may stop waiting before it is open."""

    ended: anyio.Event
    scope: anyio.CancelScope
    pooled: PooledConnection[RawConnection] | None = None
    error: Exception | None = None
    is_abandoned: bool = False


class Pool:
    """A pool that may exist before its database does."""

    def __init__(self, setup: Setup, dsn: str, password: Password | None) -> None:
        options = setup.options
        self.name: str = setup.name
        self.now: Clock = setup.clock
        self._options = options
        self._observe = setup.observe
        self._luck = setup.luck
        self._connector = Connector(setup, dsn, password)
        self._table: LeaseTable[RawConnection] = LeaseTable(
            setup.name,
            options.max_size,
            options.max_waiting,
            max_lifetime=options.max_lifetime,
            max_idle=options.max_idle,
        )
        self.monitor: ConnectionMonitor = ConnectionMonitor(
            setup, self._connector, self._table, when_lost=self._end_openings
        )
        self._openings: set[_Opening] = set()
        self._lent: set[PooledConnection[RawConnection]] = set()
        self._all_home = anyio.Event()
        self._group: TaskGroup | None = None
        self._observe(PolicyCreated(self.name, self.collect))

    def collect(self) -> Iterator[Sample]:
        """Return its size, for metrics."""
        table = self._table
        return sizes(self.name, idle=table.idle, used=table.used, most=table.size, waiting=table.waiting)

    @property
    def is_lending(self) -> bool:
        """Whether there is a database, as far as is known, and this does not close."""
        return self.monitor.is_there and self._group is not None

    @property
    def server(self) -> str:
        """The host that is the database's now, for spans; empty if its address is not plain."""
        return self._connector.server

    def open(self, group: TaskGroup) -> None:
        """Begin to connect, once more after a `close`; it lasts until the group is cancelled, which must come after that."""
        self._group = group
        self.monitor.begin()
        self._lent.clear()
        self._all_home = anyio.Event()
        group.start_soon(self.monitor.keep)
        group.start_soon(self._keep_young)

    async def close(self) -> None:
        """Wait for the lent connections, but not for long, then end what is left."""
        self._group = None
        self.monitor.evict(self._table.generation)
        try:
            with anyio.move_on_after(self._options.close_timeout, shield=True):
                if self._lent:
                    await self._all_home.wait()
        finally:  # asyncio's own cancellation passes the shield
            for pooled in self._lent:
                pooled.connection.terminate()

    async def _keep_young(self) -> None:
        """Close idle connections that are not needed or too old; until cancelled."""
        options = self._options
        pause = min(options.max_lifetime / 4, options.max_idle / 4, _SWEEP_AT_MOST_EVERY)
        while True:
            await anyio.sleep(pause)
            for pooled in self._table.sweep(self.now()):
                pooled.connection.terminate()
            await self.monitor.renew_if_old()

    async def lend(self) -> PooledConnection[RawConnection]:
        """Lend a connection, which must come back through `take_back`; see `Database.acquire` for what it raises."""
        started = self.now()
        error_type = "cancelled"
        try:
            pooled = await self._lend(started)
            error_type = ""
        except ResilienceError as error:
            error_type = type(error).__name__
            raise
        finally:
            self._observe(ConnectionAcquired(self.name, self.now() - started, error_type))
        return pooled

    async def _lend(self, started: float) -> PooledConnection[RawConnection]:
        if self.monitor.is_unknown and self._group is not None:
            await self._look(self._patience(started))
        if not self.is_lending:
            raise self.monitor.absence()
        deadline = current_deadline()
        if deadline is not None and deadline.for_next_hop(started) <= 0.0:
            raise self._too_late()
        if not self._table.enter():
            try:
                await self._queue(self._patience(started))
            finally:
                add_wait(self.now() - started)  # also if it failed
        pooled = self._take_idle() or await self._open(self._patience(started))
        self._lent.add(pooled)
        return pooled

    async def _look(self, patience: _Patience) -> None:
        """Wait until it is known whether there is a database."""
        with anyio.move_on_after(patience.until - self.now()):
            await self.monitor.look()
        if self.monitor.is_unknown and patience.is_the_requests:
            raise self._too_late()

    def _patience(self, now: float) -> _Patience:
        ours = now + self._options.acquire_timeout
        deadline = current_deadline()
        theirs = math.inf if deadline is None else now + deadline.for_next_hop(now)
        return _Patience(min(ours, theirs), is_the_requests=theirs < ours)

    async def _queue(self, patience: _Patience) -> None:
        event = anyio.Event()
        turn = self._table.queue(event.set)
        try:
            with anyio.move_on_after(patience.until - self.now()):
                await event.wait()
        except BaseException:
            self._table.give_up(turn)
            raise
        if not turn.has_come:
            self._table.give_up(turn)
            if patience.is_the_requests:
                raise self._too_late()
            raise PoolTimeoutError(self.name, self._options.acquire_timeout)

    def _take_idle(self) -> PooledConnection[RawConnection] | None:
        while (pooled := self._table.take()) is not None and pooled.connection.is_closed():
            pass
        return pooled

    async def _open(self, patience: _Patience) -> PooledConnection[RawConnection]:
        """Wait for a new connection; the slot passes to the task that opens it.

        A caller that leaves does not end the attempt: if no request had the time that it takes to open one, there
        would never be one.
        """
        opening, group = _Opening(anyio.Event(), anyio.CancelScope()), self._group
        if group is None or not self.monitor.is_there:  # it went while the caller stood in the queue
            self._table.leave()
            raise self.monitor.absence()
        group.start_soon(self._open_for, opening)
        try:
            with anyio.move_on_after(patience.until - self.now()):
                await opening.ended.wait()
        except BaseException:
            self._abandon(opening)
            raise
        if opening.pooled is not None and self._group is group:  # and not closed meanwhile
            return opening.pooled
        self._abandon(opening)
        if patience.is_the_requests and self.now() >= patience.until:
            raise self._too_late() from opening.error
        self.monitor.suspect()
        raise self.monitor.absence() from opening.error

    def _abandon(self, opening: _Opening) -> None:
        opening.is_abandoned = True
        if opening.pooled is not None:
            self._settle(opening.pooled)

    async def _open_for(self, opening: _Opening) -> None:
        generation = self._table.generation
        self._openings.add(opening)
        try:
            with opening.scope:
                connection = await self._connector.there(self._options.connect_timeout)
                opening.pooled = self._table.opened(
                    connection, generation=generation, now=self.now(), luck=self._luck()
                )
        except Exception as error:  # noqa: BLE001 - whatever it is, an event reported it
            opening.error = error
        finally:
            self._openings.discard(opening)
            opening.ended.set()
            if opening.pooled is None:
                self._table.leave()
        if opening.pooled is not None and opening.is_abandoned:
            self._settle(opening.pooled)

    def _end_openings(self) -> None:
        """Fail the openings to a host that is lost, and free their slots."""
        for opening in self._openings:
            opening.scope.cancel()

    def _too_late(self) -> DeadlineExceededError:
        self._observe(DeadlineExceeded("pool"))
        return DeadlineExceededError(self.name)

    async def take_back(
        self, pooled: PooledConnection[RawConnection], error: BaseException | None, started: float
    ) -> None:
        """Reset a returned connection and keep it for the next caller, or close it; `error` ended the caller's block."""
        is_cut_off = error is not None and (
            isinstance(error, _TIME_IS_UP) or not isinstance(error, Exception)
        )
        self._observe(ConnectionReleased(self.name, self.now() - started))
        if pooled.connection.is_closed():
            self._settle(pooled)
        elif is_cut_off:
            self._clear_later(pooled)
        else:
            try:
                await self._clear(pooled)
            except Exception:  # noqa: BLE001 - it is being closed, and no caller waits for it
                pooled.connection.terminate()
                self.monitor.suspect(pooled)
            except BaseException:
                self._clear_later(pooled)
                raise
            self._settle(pooled)

    def _clear_later(self, pooled: PooledConnection[RawConnection]) -> None:
        if self._group is None:
            pooled.connection.terminate()
            self._settle(pooled)
        else:
            self._group.start_soon(self._clear_after_cancellation, pooled)

    async def _clear_after_cancellation(self, pooled: PooledConnection[RawConnection]) -> None:
        connection = pooled.connection
        is_clear = False
        try:
            with anyio.move_on_after(_RELEASE_TIMEOUT):
                # asyncpg asked the server to cancel; it lets no statement pass before that has been answered.
                with suppress(asyncpg.InFailedSQLTransactionError):
                    await connection.execute("select")
                await self._clear(pooled)
                is_clear = True
        except Exception:  # noqa: BLE001, S110 - as above
            pass
        finally:
            if not is_clear:
                self.monitor.suspect(pooled if connection.is_closed() else None)
                connection.terminate()
            self._settle(pooled)

    async def _clear(self, pooled: PooledConnection[RawConnection]) -> None:
        connection = pooled.connection
        if connection.is_in_transaction():
            await connection.execute("rollback", timeout=_RELEASE_TIMEOUT)
        if not self._options.reset or self._options.transaction_pooling:
            return
        has_listeners = getattr(connection, "_listeners", True) or getattr(connection, "_log_listeners", True)
        if has_listeners or getattr(connection, "_top_xact", True):
            await connection.reset(timeout=_RELEASE_TIMEOUT)
        else:  # All that `reset` does otherwise, without a timeout of asyncio's.
            await connection.execute(connection.get_reset_query(), timeout=_RELEASE_TIMEOUT)

    def _settle(self, pooled: PooledConnection[RawConnection]) -> None:
        """Store a connection that was reset, or drop a closed one."""
        connection = pooled.connection
        if not connection.is_closed() and (self._group is None or not self._table.keep(pooled, self.now())):
            connection.terminate()
        self._lent.discard(pooled)
        self._table.leave()
        if not self._lent and self._group is None:
            self._all_home.set()
