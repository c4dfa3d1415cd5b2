"""Lend connections to PostgreSQL, while the database is available.

1. Callers wait in FIFO order, and are refused immediately while there is no database, see
   `monitor`.
2. Every wait has a bound, and a request's deadline shortens those that a caller sees.
3. A caller that was cancelled or ran out of time goes at once. Its connection is cleared by a task
   of the pool, which waits until the server has ended the statement.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import anyio
import asyncpg
from anyio.abc import TaskGroup

from postfacta_core import errors, events
from postfacta_core.clock import Clock
from postfacta_core.context import add_wait, current_request, ignore_duration
from postfacta_core.deadlines.present import time_to_wait
from postfacta_core.events import ConnectionAcquired, ConnectionReleased
from postfacta_core.health.holders import Holders

from ._leases import LeaseTable, sizes
from ._watch import Watch
from .connecting import (
    Connector,
    Password,
    PoolOptions,
    RawConnection,
    Setup,
    longest_statement,
)
from .monitor import ConnectionMonitor, Pooled

# Seconds; a quarter of the shortest age that it looks for, if that is less.
_SWEEP_AT_MOST_EVERY = 10.0
# Errors after which the server may still be at work on the connection.
_TIME_IS_UP = (TimeoutError, errors.DeadlineExceededError, errors.OutcomeUnknownError)


@dataclass(slots=True, eq=False)
class _Opening:
    """What a caller waits for: a connection that is opened for it, or that comes back before."""

    generation: int
    since: float
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    ended: anyio.Event = field(default_factory=anyio.Event)
    pooled: Pooled | None = None
    error: Exception | None = None


class Pool:
    """A pool that may exist before its database does.

    Attributes:
        watch: Bounds the statements on its connections, from `open` on.
    """

    watch: Watch

    def __init__(self, setup: Setup, dsn: str, password: Password | None) -> None:
        self.name: str = setup.name
        self.options: PoolOptions = (options := setup.options)
        self.observe: events.Observer = setup.observe
        self.now: Clock = setup.clock
        self._luck = setup.luck
        self.longest_statement: float = longest_statement(options)
        self.connector: Connector = Connector(setup, dsn, password)
        self._table: LeaseTable[RawConnection] = LeaseTable(
            options.max_size,
            options.max_waiting,
            max_lifetime=options.max_lifetime,
            max_idle=options.max_idle,
        )
        self.monitor: ConnectionMonitor = ConnectionMonitor(setup, self.connector, self._table)
        self.monitor.when_lost = self._end_openings
        self._lent: set[Pooled] = set()
        self.holders: Holders = Holders(
            self.name, lambda: self._lent, observe=self.observe, clock=self.now
        )
        self._openings: set[_Opening] = set()
        self._waiting: dict[_Opening, None] = {}  # in order
        self._all_home = anyio.Event()
        self._group: TaskGroup | None = None
        self.observe(events.PolicyCreated(self.name, self.collect))

    def collect(self) -> Iterator[events.Sample]:
        """Return its size, for metrics."""
        table = self._table
        return sizes(
            self.name,
            idle=table.idle,
            used=table.used,
            most=table.size,
            waiting=table.waiting,
            oldest=self.holders.oldest(),
        )

    @property
    def is_lending(self) -> bool:
        """Whether there is a database, and this does not close."""
        return self.monitor.is_there and self._group is not None

    def open(self, group: TaskGroup) -> None:
        """Begin to connect, once more after a `close`.

        It lasts until the group is cancelled, which must come after `close`.
        """
        self._group = group
        self.watch = Watch(asyncio.get_running_loop())
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
            with anyio.move_on_after(self.options.close_timeout, shield=True):
                if self._lent:
                    await self._all_home.wait()
        finally:  # asyncio's own cancellation passes the shield
            for pooled in self._lent:
                pooled.connection.terminate()
            self.watch.close()

    async def _keep_young(self) -> None:
        options = self.options
        pause = min(options.max_lifetime / 4, options.max_idle / 4, _SWEEP_AT_MOST_EVERY)
        while True:
            await anyio.sleep(pause)
            for pooled in self._table.sweep(self.now()):
                pooled.connection.terminate()
            self.monitor.renew_if_old()

    async def lend(self) -> Pooled:
        """Lend a connection, which must come back through `take_back`.

        See `Database.acquire` for what it raises.
        """
        started = self.now()
        patience = time_to_wait(self.options.acquire_timeout)
        error_type = "cancelled"
        try:
            has_slot = self.monitor.looked.is_set() and self._enter(patience)
            pooled = self._take_idle() if has_slot else None
            if pooled is None:
                pooled = await self._wait(started, patience, has_slot=has_slot)
            error_type = ""
        except errors.ResilienceError as error:
            error_type = type(error).__name__
            raise
        finally:
            self.observe(ConnectionAcquired(self.name, self.now() - started, error_type))
        pooled.since = pooled.quiet_since = self.now()
        pooled.request = current_request()
        pooled.is_named = False
        self._lent.add(pooled)
        return pooled

    def _enter(self, patience: float) -> bool:
        """Take a slot if one is free, and there is a database and time."""
        if not self.is_lending:
            raise self.monitor.absence()
        if patience <= 0.0:
            raise self._too_late()
        return self._table.enter()

    async def _wait(self, started: float, patience: float, *, has_slot: bool) -> Pooled:
        """Wait for what is missing: the first attempt to connect, a slot, a connection."""
        is_queueing = False
        try:
            with anyio.move_on_after(patience):
                if not self.monitor.looked.is_set():
                    await self.monitor.looked.wait()
                    has_slot = self._enter(patience)
                if not has_slot:
                    is_queueing = True
                    await self._queue()
                    is_queueing = False
                return self._take_idle() or await self._open()
        finally:
            add_wait(self.now() - started)  # also if it failed
        if patience < self.options.acquire_timeout:
            raise self._too_late()
        # An opening that has time left says nothing about the database, unless the last one failed.
        if is_queueing or (self.monitor.looked.is_set() and not self.connector.is_failing):
            raise errors.PoolTimeoutError(self.name, patience)
        raise self.monitor.absence()

    async def _queue(self) -> None:
        event = anyio.Event()
        if self._table.waiting >= self._table.max_waiting:
            raise errors.PoolTimeoutError(self.name, 1.0)
        turn = self._table.join(event.set)
        try:
            await event.wait()
        except BaseException:
            self._table.give_up(turn)
            raise

    def _take_idle(self) -> Pooled | None:
        while (pooled := self._table.take()) is not None and pooled.connection.is_closed():
            pass
        return pooled

    async def _open(self) -> Pooled:
        """Wait for a new connection, or one that comes back before.

        The slot passes to the task that opens it.

        A caller that leaves does not end the attempt: if no request had the time for one, there
        would never be one.
        """
        opening = _Opening(self._table.generation, self.now())
        group = self._group
        if (
            group is None or not self.monitor.is_there
        ):  # it went while the caller stood in the queue
            self._table.leave()
            raise self.monitor.absence()
        self._waiting[opening] = None
        ignore_duration()
        group.start_soon(self._open_for, opening)
        try:
            await opening.ended.wait()
        except BaseException:
            self._leave(opening)
            raise
        if opening.pooled is not None and self._group is group:  # and not closed meanwhile
            return opening.pooled
        self._leave(opening)
        raise self.monitor.absence() from opening.error

    def _leave(self, opening: _Opening) -> None:
        self._waiting.pop(opening, None)
        if opening.pooled is not None:
            self._settle(opening.pooled)

    async def _open_for(self, opening: _Opening) -> None:
        """Open a connection for a caller, or for the next one if that has left."""
        table = self._table
        pooled = None
        self._openings.add(opening)
        try:
            with opening.scope:
                raw = await self.connector.open(self.options.connect_timeout)
                now = self.now()
                self.monitor.answered_at = now
                pooled = table.opened(
                    raw, generation=opening.generation, now=now, luck=self._luck()
                )
        except Exception as error:  # noqa: BLE001 - whatever it is, an event reported it
            opening.error = error
            self.monitor.suspect()
        finally:
            self._openings.discard(opening)
            if opening in self._waiting:
                self._serve(opening, pooled)
            elif pooled is not None:
                self._settle(pooled)
            if pooled is None:
                table.leave()

    def _end_openings(self, is_silent: bool) -> None:  # noqa: FBT001 - what the monitor calls
        """Refuse those that wait for a new connection.

        Of a silent database a young opening is kept for later callers.
        """
        young_since = self.now() - self.connector.patience if is_silent else math.inf
        for opening in self._openings:
            opening.generation = self._table.generation
            if opening.since <= young_since:
                opening.scope.cancel()
        for opening in tuple(self._waiting):
            self._serve(opening, None)

    def _serve(self, opening: _Opening, pooled: Pooled | None) -> None:
        del self._waiting[opening]
        opening.pooled = pooled
        opening.ended.set()

    def _too_late(self) -> errors.DeadlineExceededError:
        self.observe(events.DeadlineExceeded("pool"))
        return errors.DeadlineExceededError(self.name)

    async def take_back(self, pooled: Pooled, error: BaseException | None) -> None:
        """Reset a returned connection and keep it for the next caller, or close it.

        `error` ended the caller's block.
        """
        self.observe(ConnectionReleased(self.name, self.now() - pooled.since))
        pooled.request = None
        connection = pooled.connection
        is_cut_off = isinstance(error, _TIME_IS_UP) or not isinstance(error, Exception | None)
        try:
            if not connection.is_closed() and not is_cut_off:
                await self._clear(connection)
        except Exception:  # noqa: BLE001 - it is being closed, and no caller waits for it
            self.monitor.suspect(pooled if connection.is_closed() else None)
            connection.terminate()
        except BaseException:
            is_cut_off = True
            raise
        finally:
            if is_cut_off and not connection.is_closed() and self._group is not None:
                self._group.start_soon(self._clear_after_cancellation, pooled)
            else:
                self._settle(pooled)

    async def _clear_after_cancellation(self, pooled: Pooled) -> None:
        connection = pooled.connection
        is_clear = False
        try:
            with suppress(Exception), anyio.move_on_after(self.options.connect_timeout):
                # asyncpg asked the server to cancel; it lets no statement pass before that has been
                # answered.
                with suppress(asyncpg.InFailedSQLTransactionError):
                    await connection.execute("select")
                await self._clear(connection)
                is_clear = True
        finally:
            if not is_clear:
                self.monitor.suspect(pooled if connection.is_closed() else None)
                connection.terminate()
            self._settle(pooled)

    async def _clear(self, connection: RawConnection) -> None:
        # Longer than any healthy reset takes; a connection that needs more is thrown away.
        patience = self.connector.patience
        if connection.is_in_transaction():
            await self.watch.within(patience, connection.execute, "rollback")
        if not self.options.reset or self.options.transaction_pooling:
            return
        has_listeners = getattr(connection, "_listeners", True) or getattr(
            connection, "_log_listeners", True
        )
        if has_listeners or getattr(connection, "_top_xact", True):
            await connection.reset(timeout=patience)
        else:  # All that `reset` does otherwise, without a timeout of asyncio's.
            await self.watch.within(patience, connection.execute, connection.get_reset_query())

    def _settle(self, pooled: Pooled) -> None:
        """Store a connection that was reset, or lend it to the first that waits for a new one.

        A closed one is dropped.
        """
        connection = pooled.connection
        table = self._table
        self._lent.discard(pooled)
        if not connection.is_closed() and (
            self._group is None or not table.keep(pooled, self.now())
        ):
            connection.terminate()
        elif self._waiting and (idle := self._take_idle()) is not None:
            self._serve(next(iter(self._waiting)), idle)  # with its slot
            return
        table.leave()
        if not self._lent and self._group is None:
            self._all_home.set()
