"""Track database availability through one reserved connection.

1. There is a database if the reserved connection is open: one more than callers may borrow, for
   this and for `ping`.
2. Without one, it is looked for until it is found, with waits that grow and vary.
3. Code that sees a connection break reports it (`suspect`). Idle ones are then closed, lent ones as
   they come back, and a new one is tried; callers are refused only if that fails, for one
   connection may break alone.
4. Any answer on any connection is proof of life: a doubt that began before it refuses no one.
5. Bounds follow from what the last opening took, see `Connector.patience`: a slow link is no
   outage.
6. Until the first attempt to connect has ended nothing is known: callers wait for it, within their
   own time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import anyio

from postfacta_core.errors import DatabaseUnavailableError, ResilienceError

from ._leases import LeaseTable, PooledConnection
from .connecting import Connector, RawConnection, Setup

Pooled: TypeAlias = PooledConnection[RawConnection]

# Seconds, longer than writes of a service that has any are apart.
_REFUSED_FOR = 30.0


class ConnectionMonitor:
    """Whether there is a database, as far as is known, and whether it takes writes.

    Attributes:
        is_there: Whether there is one.
        found: Set while there is one.
        looked: Set unless the first attempt to connect is under way.
        answered_at: When the server last answered, on any connection.
        when_found: Called when it is found that was lost, or another one is. It must not raise.
        when_lost: Called when it is lost, with whether it was silent: then an opening may still
            succeed. It must not raise.
    """

    def __init__(
        self, setup: Setup, connector: Connector, table: LeaseTable[RawConnection]
    ) -> None:
        self.is_there: bool = False
        self.available: anyio.Event = anyio.Event()
        self.looked: anyio.Event = anyio.Event()
        self.looked.set()
        self.answered_at: float = -math.inf
        self.when_found: Callable[[], object] = bool
        self.when_lost: Callable[[bool], object] = bool
        self._setup = setup
        self._connector = connector
        self._table = table
        self._reserved: Pooled | None = None
        self._doubted = anyio.Event()
        self._judged = anyio.Event()
        self._is_judging = False
        self._is_silent = False
        self._has_moved = False
        self._retry_at = 0.0
        self._refused_write: tuple[ResilienceError, float] | None = None

    def begin(self) -> None:
        """Record that `keep` is about to connect; what is awaited belongs to its event loop."""
        self._doubted = anyio.Event()
        self._judged = anyio.Event()
        self.looked = anyio.Event()

    def absence(self) -> DatabaseUnavailableError:
        """Return the error for an unavailable database, with the time of the next attempt."""
        return DatabaseUnavailableError(
            self._setup.name, max(1.0, self._retry_at - self._setup.clock())
        )

    def suspect(self, pooled: Pooled | None = None, *, moved: bool = False) -> None:
        """Report a suspected loss, so that availability is checked.

        If `pooled` broke, those that are as old may be broken too. A database that takes no writes
        has `moved`.
        """
        if pooled is not None:
            self._has_moved |= moved and pooled.generation == self._table.generation
            self.evict(pooled.generation)
        self._doubted.set()

    def evict(self, generation: int) -> None:
        """Close the idle connections of a generation; its lent ones are not lent again."""
        for pooled in self._table.evict(generation):
            pooled.connection.terminate()

    def refused_write(self, meaning: ResilienceError) -> None:
        """Record that a write was refused."""
        self._refused_write = meaning, self._setup.clock() + _REFUSED_FOR

    def check_writes(self) -> None:
        """Raise the error of a recently refused write; see `Database.check_writes`."""
        if self._refused_write is not None:
            error, until = self._refused_write
            if self._setup.clock() < until:
                raise type(error)(error.policy, error.retry_after)
            self._refused_write = None

    async def keep(self) -> None:
        """Connect, notice when the database is lost, connect again, until cancelled.

        It may run again after that.
        """
        setup = self._setup
        attempt = 0
        try:
            while True:
                if not self.is_there:
                    await self._find(setup.options.connect_timeout)
                elif not await self._is_confirmed():
                    self._lose(is_silent=self._is_silent)
                    continue
                if self._reserved is not None:
                    attempt = 0
                    await self._doubted.wait()
                    continue
                attempt += 1
                delay = setup.options.reconnect.delay(attempt, setup.luck())
                self._retry_at = setup.clock() + delay
                self.looked.set()
                await anyio.sleep(delay)
        finally:
            self._lose()
            self.looked.set()
            self.available = anyio.Event()

    def renew_if_old(self) -> None:
        """Have the reserved connection replaced once it is as old as a connection may be."""
        if self._reserved is not None and self._setup.clock() >= self._reserved.ends_at:
            self._doubted.set()

    async def ping(self) -> None:
        """Have the database asked, or join a question that is under way.

        Raise its absence without an answer in time.

        A caller that leaves does not end the question.
        """
        asked_at = self._setup.clock()
        with anyio.move_on_after(self._connector.patience):
            await self.looked.wait()
            if self.is_there:
                if not self._is_judging:
                    self._doubted.set()
                await self._judged.wait()
        if self.answered_at < asked_at:
            raise self.absence()

    async def _is_confirmed(self) -> bool:
        """Resolve a doubt: ask on the reserved connection, else open a new one.

        Any answer on another connection meanwhile will do.
        """
        reserved = self._reserved
        patience = self._connector.patience
        began = self._setup.clock()
        self._doubted = anyio.Event()
        self._is_judging = True
        self._is_silent = False
        try:
            if self._has_moved:
                self._has_moved = False
                return False
            if reserved is None or began >= reserved.ends_at:
                await self._find(patience)
            if (
                reserved is not None
                and self._reserved is reserved
                and not await self._answers(reserved)
            ):
                await self._find(patience)
        finally:
            self._is_judging = False
            self._judged.set()
            self._judged = anyio.Event()
        # A doubt that lasts, since no new one can be opened, is resolved again and again.
        return self.answered_at >= (began if reserved is not None else began - patience)

    async def _answers(self, reserved: Pooled) -> bool:
        """Return whether the reserved connection answers in time; else drop it."""
        began = self._setup.clock()
        try:
            with anyio.fail_after(self._connector.patience):
                await reserved.connection.fetchval("select 1")
        except Exception:  # noqa: BLE001 - whatever it is, a new connection is tried
            self._reserved = None
            reserved.connection.terminate()
            if self.answered_at < began:
                self.evict(reserved.generation)
            return False
        self.answered_at = self._setup.clock()
        return True

    async def _find(self, timeout: float) -> None:  # noqa: ASYNC109 - the hosts share it
        """Reserve a new connection if there is one in time."""
        setup = self._setup
        table = self._table
        host = self._connector.host
        try:
            connection = await self._connector.open(
                min(timeout, setup.options.connect_timeout), search=True
            )
        except Exception as error:  # noqa: BLE001 - an event reported it, and it is tried again
            self._is_silent = isinstance(error, TimeoutError)
            return
        # On the same host it was not lost: connections that break alone, one after the other, are
        # for others to count.
        has_moved = self._connector.host != host
        is_new = not self.is_there or has_moved
        if has_moved:
            self._lose()
        old = self._reserved
        pooled = table.opened(
            connection, generation=table.generation, now=setup.clock(), luck=setup.luck()
        )
        connection.add_termination_listener(
            lambda _: self.suspect(pooled) if pooled is self._reserved else None
        )
        self._reserved = pooled
        self.is_there = True
        self.answered_at = setup.clock()
        self.available.set()
        self.looked.set()
        if old is not None:
            old.connection.terminate()
        if is_new:
            self.when_found()

    def _lose(self, *, is_silent: bool = False) -> None:
        if self.is_there:
            self.is_there = False
            self.available = anyio.Event()
        pooled = self._reserved
        self._reserved = None
        if pooled is not None:
            pooled.connection.terminate()
        self.evict(self._table.generation)
        self.when_lost(is_silent)
