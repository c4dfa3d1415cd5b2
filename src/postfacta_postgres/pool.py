"""Lend connections to PostgreSQL, while the database is available.

1. `_leases` decides who gets a connection, and how long one is kept; `presence` tracks whether there is a
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
from contextlib import suppress
from dataclasses import dataclass

import anyio
import asyncpg
from anyio.abc import TaskGroup

from postfacta_core import current_deadline
from postfacta_core.clock import LUCK, MONOTONIC, Clock, Luck
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
    Observer,
    PoolSized,
    ignore,
)

from ._leases import Kept, Lending, Lifetimes
from .connecting import Connector, Password, PoolOptions, RawConnection
from .presence import Presence

__all__ = ["Loan", "Password", "Pool", "PoolOptions", "RawConnection"]

# Longer than any healthy reset takes; a connection that needs more is thrown away.
_RELEASE_TIMEOUT = 1.0
# What `reset` undoes on this side.
_KEPT_BY_DRIVER = ("_listeners", "_log_listeners", "_top_xact")
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
    kept: Kept[RawConnection] | None = None
    error: Exception | None = None
    is_abandoned: bool = False


class Loan:
    """A connection that is lent; `GuardedLoan` lends it for the length of an `async with` block."""

    __slots__ = ("_kept", "_pool", "_started")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._kept: Kept[RawConnection] | None = None
        self._started = 0.0

    @property
    def kept(self) -> Kept[RawConnection]:
        """What is lent.

        Raises:
            asyncpg.InterfaceError: If it was given back: it is another's now.
        """
        if self._kept is None:
            raise asyncpg.InterfaceError("the connection was given back to the pool")
        return self._kept


class Pool:
    """A pool that may exist before its database does.

    Args:
        name: Names it in errors, events and metrics.
        dsn: A `postgresql://` address. It is kept to itself: no error or event repeats it.
        options: The bounds.
        password: Wins over the one in the address.
        observer: Receives each connection opened, lent and returned. It may raise.
        clock: Monotonic seconds; it must be the clock of the request contexts.
        luck: Spreads the attempts to connect, and the ends of connections.
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
        self.now: Clock = clock
        self._options = options
        self._observe = observer
        self._luck = luck
        self._connector = Connector(
            name, dsn, options, password=password, observer=self._observe, clock=clock
        )
        lifetimes = Lifetimes(lifetime=options.max_lifetime, idle=options.max_idle)
        self._lending: Lending[RawConnection] = Lending(
            name, options.max_size, options.max_waiting, lifetimes=lifetimes
        )
        self.presence: Presence = Presence(
            name,
            self._connector,
            self._lending,
            options=options,
            when_lost=self._end_openings,
            clock=clock,
            luck=luck,
        )
        self._openings: set[_Opening] = set()
        self._lent: set[Kept[RawConnection]] = set()
        self._all_home = anyio.Event()
        self._group: TaskGroup | None = None

    @property
    def server(self) -> str:
        """The host that is the database's now, for spans; empty if its address is not plain."""
        return self._connector.server

    def open(self, group: TaskGroup) -> None:
        """Begin to connect, once more after a `close`; it lasts until the group is cancelled, which must come after that."""
        self._group = group
        self.presence.begin()
        self._lent.clear()
        self._all_home = anyio.Event()
        group.start_soon(self.presence.keep)
        group.start_soon(self._keep_young)

    async def close(self) -> None:
        """Wait for the lent connections, but not for long, then end what is left."""
        self._group = None
        self.presence.evict(self._lending.era)
        try:
            with anyio.move_on_after(self._options.close_timeout, shield=True):
                if self._lent:
                    await self._all_home.wait()
        finally:  # asyncio's own cancellation passes the shield
            for kept in self._lent:
                kept.connection.terminate()

    async def _keep_young(self) -> None:
        """Close idle connections that are not needed or too old; until cancelled."""
        options = self._options
        pause = min(options.max_lifetime / 4, options.max_idle / 4, _SWEEP_AT_MOST_EVERY)
        while True:
            await anyio.sleep(pause)
            for kept in self._lending.sweep(self.now()):
                kept.connection.terminate()
            await self.presence.renew_if_old()

    async def lend(self) -> Kept[RawConnection]:
        """Lend a connection, which must come back through `take_back`.

        Raises:
            DatabaseUnavailableError: At once if there is no database; or if none could be opened in time, the first
                one of all included.
            DeadlineExceededError: If the request's time is up, or does not last until one is free.
            PoolTimeoutError: If all stayed lent for `acquire_timeout`, or too many wait already.
        """
        started = self.now()
        error_type = "cancelled"
        try:
            kept = await self._lend(started)
            error_type = ""
        except ResilienceError as error:
            error_type = type(error).__name__
            raise
        finally:
            self._observe(ConnectionAcquired(self.name, self.now() - started, error_type))
            self._tell_size()
        return kept

    async def _lend(self, started: float) -> Kept[RawConnection]:
        if self.presence.is_unknown and self._group is not None:
            await self._look(self._patience(started))
        if not self.presence.is_there or self._group is None:
            raise self.presence.absence()
        deadline = current_deadline()
        if deadline is not None and deadline.for_next_hop(started) <= 0.0:
            raise self._too_late()
        if not self._lending.enter():
            try:
                await self._queue(self._patience(started))
            finally:
                add_wait(self.now() - started)  # also if it failed
        kept = self._take_idle() or await self._open(self._patience(started))
        self._lent.add(kept)
        return kept

    async def _look(self, patience: _Patience) -> None:
        """Wait until it is known whether there is a database."""
        with anyio.move_on_after(patience.until - self.now()):
            await self.presence.look()
        if self.presence.is_unknown and patience.is_the_requests:
            raise self._too_late()

    def _patience(self, now: float) -> _Patience:
        ours = now + self._options.acquire_timeout
        deadline = current_deadline()
        theirs = math.inf if deadline is None else now + deadline.for_next_hop(now)
        return _Patience(min(ours, theirs), is_the_requests=theirs < ours)

    async def _queue(self, patience: _Patience) -> None:
        event = anyio.Event()
        turn = self._lending.queue(event.set)
        self._tell_size()
        try:
            with anyio.move_on_after(patience.until - self.now()):
                await event.wait()
        except BaseException:
            self._lending.give_up(turn)
            raise
        if not turn.has_come:
            self._lending.give_up(turn)
            if patience.is_the_requests:
                raise self._too_late()
            raise PoolTimeoutError(self.name, self._options.acquire_timeout)

    def _take_idle(self) -> Kept[RawConnection] | None:
        while (kept := self._lending.take()) is not None and kept.connection.is_closed():
            pass
        return kept

    async def _open(self, patience: _Patience) -> Kept[RawConnection]:
        """Wait for a new connection; the slot passes to the task that opens it.

        A caller that leaves does not end the attempt: if no request had the time that it takes to open one, there
        would never be one.
        """
        opening, group = _Opening(anyio.Event(), anyio.CancelScope()), self._group
        if group is None or not self.presence.is_there:  # it went while the caller stood in the queue
            self._lending.leave()
            raise self.presence.absence()
        group.start_soon(self._open_for, opening)
        try:
            with anyio.move_on_after(patience.until - self.now()):
                await opening.ended.wait()
        except BaseException:
            self._abandon(opening)
            raise
        if opening.kept is not None and self._group is group:  # and not closed meanwhile
            return opening.kept
        self._abandon(opening)
        if patience.is_the_requests and self.now() >= patience.until:
            raise self._too_late() from opening.error
        self.presence.suspect()
        raise self.presence.absence() from opening.error

    def _abandon(self, opening: _Opening) -> None:
        opening.is_abandoned = True
        if opening.kept is not None:
            self._settle(opening.kept)

    async def _open_for(self, opening: _Opening) -> None:
        era = self._lending.era
        self._openings.add(opening)
        try:
            with opening.scope:
                connection = await self._connector.there(self._options.connect_timeout)
                opening.kept = self._lending.opened(connection, era=era, now=self.now(), luck=self._luck())
        except Exception as error:  # noqa: BLE001 - whatever it is, an event reported it
            opening.error = error
        finally:
            self._openings.discard(opening)
            opening.ended.set()
            if opening.kept is None:
                self._lending.leave()
        if opening.kept is not None and opening.is_abandoned:
            self._settle(opening.kept)

    def _end_openings(self) -> None:
        """Fail the openings to a host that is lost, and free their slots."""
        for opening in self._openings:
            opening.scope.cancel()

    def _too_late(self) -> DeadlineExceededError:
        self._observe(DeadlineExceeded("pool"))
        return DeadlineExceededError(self.name)

    async def take_back(self, kept: Kept[RawConnection], error: BaseException | None, started: float) -> None:
        """Reset a returned connection and keep it for the next caller, or close it.

        Args:
            kept: What was lent.
            error: What ended the caller's block, if it did not end by itself.
            started: When it was lent.
        """
        is_cut_off = error is not None and (
            isinstance(error, _TIME_IS_UP) or not isinstance(error, Exception)
        )
        self._observe(ConnectionReleased(self.name, self.now() - started))
        if kept.connection.is_closed():
            self._settle(kept)
        elif is_cut_off:
            self._clear_later(kept)
        else:
            try:
                await self._clear(kept)
            except Exception:  # noqa: BLE001 - it is being closed, and no caller waits for it
                kept.connection.terminate()
                self.presence.suspect(kept)
            except BaseException:
                self._clear_later(kept)
                raise
            self._settle(kept)

    def _clear_later(self, kept: Kept[RawConnection]) -> None:
        if self._group is None:
            kept.connection.terminate()
            self._settle(kept)
        else:
            self._group.start_soon(self._clear_after_cancellation, kept)

    async def _clear_after_cancellation(self, kept: Kept[RawConnection]) -> None:
        connection = kept.connection
        is_clear = False
        try:
            with anyio.move_on_after(_RELEASE_TIMEOUT):
                # asyncpg asked the server to cancel; it lets no statement pass before that has been answered.
                with suppress(asyncpg.InFailedSQLTransactionError):
                    await connection.execute("select")
                await self._clear(kept)
                is_clear = True
        except Exception:  # noqa: BLE001, S110 - as above
            pass
        finally:
            if not is_clear:
                self.presence.suspect(kept if connection.is_closed() else None)
                connection.terminate()
            self._settle(kept)

    async def _clear(self, kept: Kept[RawConnection]) -> None:
        connection = kept.connection
        if connection.is_in_transaction():
            await connection.execute("rollback", timeout=_RELEASE_TIMEOUT)
        if not self._options.reset or self._options.transaction_pooling:
            return
        if any(getattr(connection, each, True) for each in _KEPT_BY_DRIVER):
            await connection.reset(timeout=_RELEASE_TIMEOUT)
        else:  # What `reset` does otherwise, but for a timeout of asyncio, which costs as much as the rest.
            await connection.execute(connection.get_reset_query(), timeout=_RELEASE_TIMEOUT)

    def _settle(self, kept: Kept[RawConnection]) -> None:
        """Store a connection that was reset, or drop a closed one."""
        connection = kept.connection
        if not connection.is_closed() and (self._group is None or not self._lending.keep(kept, self.now())):
            connection.terminate()
        self._lent.discard(kept)
        self._lending.leave()
        self._tell_size()
        if not self._lent and self._group is None:
            self._all_home.set()

    def _tell_size(self) -> None:
        lending = self._lending
        self._observe(PoolSized(self.name, lending.idle, lending.used, lending.max_size, 0, lending.waiting))
