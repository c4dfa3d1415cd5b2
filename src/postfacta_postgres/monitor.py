"""Track database availability through one reserved connection.

1. There is a database if the reserved connection is open: one more than callers may borrow, for this and for `ping`.
2. Without one, it is looked for until it is found, with waits that grow and vary.
3. Code that sees a connection break reports it (`suspect`). Idle ones are then closed, lent ones as they come back, and
   a new one is tried; callers are refused only if that fails, for one connection may break alone.
4. Until the first attempt to connect has ended nothing is known: callers wait for it, within their own time.
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

# For one sign of life; also for the one new connection that is tried before all are refused.
_LOOK_TIMEOUT = 1.0
# Longer than writes of a service that has any are apart.
_REFUSED_FOR = 30.0


class ConnectionMonitor:
    """Whether there is a database, as far as is known, and whether it takes writes.

    Attributes:
        found: Set while there is one.
        looked: Set unless the first attempt to connect is under way.
        openings: What opens connections; it is cancelled when the database is lost.
        when_found: Called when it is found that was lost, or another one is. It must not raise.
    """

    def __init__(self, setup: Setup, connector: Connector, table: LeaseTable[RawConnection]) -> None:
        self.found: anyio.Event = anyio.Event()
        self.looked: anyio.Event = anyio.Event()
        self.looked.set()
        self.when_found: Callable[[], object] = bool
        self.openings: set[anyio.CancelScope] = set()
        self._setup = setup
        self._connector = connector
        self._table = table
        self._reserved: Pooled | None = None
        self._doubted = anyio.Event()
        self._has_moved = False
        self._pinging = anyio.Lock()
        self._retry_at = 0.0
        self._refused_write: tuple[ResilienceError, float] | None = None

    @property
    def is_there(self) -> bool:
        """Whether there is one."""
        return self._reserved is not None

    def begin(self) -> None:
        """Record that `keep` is about to connect; what is awaited belongs to its event loop."""
        self._doubted, self._pinging, self.looked = anyio.Event(), anyio.Lock(), anyio.Event()

    def absence(self) -> DatabaseUnavailableError:
        """Return the error for an unavailable database, with the time of the next attempt."""
        return DatabaseUnavailableError(self._setup.name, max(1.0, self._retry_at - self._setup.clock()))

    def suspect(self, pooled: Pooled | None = None, *, moved: bool = False) -> None:
        """Report a suspected loss, so that availability is checked.

        If `pooled` broke, those that are as old may be broken too. A database that takes no writes has `moved`.
        """
        if pooled is not None:
            self._has_moved |= moved and pooled.generation == self._table.generation
            self.evict(pooled.generation)
        self._doubted.set()

    def evict(self, generation: int) -> None:
        """Close the idle connections of a generation; its lent ones are not lent again."""
        for pooled in self._table.evict(generation):
            pooled.connection.terminate()

    def refused_write(self, known: ResilienceError) -> None:
        """Record that a write was refused."""
        self._refused_write = known, self._setup.clock() + _REFUSED_FOR

    def check_writes(self) -> None:
        """Raise the error of a recently refused write; see `Database.check_writes`."""
        if self._refused_write is not None:
            error, until = self._refused_write
            if self._setup.clock() < until:
                raise type(error)(error.policy, error.retry_after)
            self._refused_write = None

    async def keep(self) -> None:
        """Connect, notice when the database is lost, connect again; until cancelled. It may run again after that."""
        setup, attempt = self._setup, 0
        try:
            while True:
                if await self._find():
                    attempt = 0
                    await self._come_into_doubt()
                elif self.is_there:
                    self._lose()
                else:
                    attempt += 1
                    delay = setup.options.reconnect.delay(attempt, setup.luck())
                    self._retry_at = setup.clock() + delay
                    self.looked.set()
                    await anyio.sleep(delay)
        finally:
            self._lose()
            self.looked.set()
            self.found = anyio.Event()

    async def renew_if_old(self) -> None:
        """Replace the reserved connection once it is as old as a connection may be."""
        if self._reserved is not None and self._setup.clock() >= self._reserved.ends_at:
            async with self._pinging:
                await self._find()

    async def ping(self) -> None:
        """Ask the database on the reserved connection; raise its absence if it does not answer within a second."""
        reserved: Pooled | None = None
        try:
            with anyio.fail_after(_LOOK_TIMEOUT):
                await self.looked.wait()
                async with self._pinging:
                    reserved = self._reserved
                    if reserved is not None:
                        await reserved.connection.fetchval("select 1")
        except BaseException as error:
            if reserved is not None:
                # Also if the caller's own bound ended it: a late answer would be taken for the next one's.
                reserved.connection.terminate()
                self.suspect(reserved)
            if isinstance(error, Exception):
                raise self.absence() from error
            raise
        if reserved is None:
            raise self.absence()

    async def _come_into_doubt(self) -> None:
        while True:
            await self._doubted.wait()
            self._doubted = anyio.Event()
            if self._has_moved:
                self._has_moved = False
                self._lose()
                return
            try:
                await self.ping()
            except DatabaseUnavailableError:
                return

    async def _find(self) -> bool:
        """Reserve a new connection; return whether there is one in time."""
        setup, table, host = self._setup, self._table, self._connector.host
        timeout = min(setup.options.connect_timeout, _LOOK_TIMEOUT if self.is_there else math.inf)
        try:
            connection = await self._connector.open(timeout, search=True)
        except Exception:  # noqa: BLE001 - whatever it is, an event reported it, and it is tried again
            return False
        # On the same host it was not lost: connections that break alone, one after the other, are for others to count.
        is_new = not self.is_there or self._connector.host != host
        if is_new:
            self._lose()
        old = self._reserved
        pooled = table.opened(connection, generation=table.generation, now=setup.clock(), luck=setup.luck())
        connection.add_termination_listener(
            lambda _: self.suspect(pooled) if pooled is self._reserved else None
        )
        self._reserved = pooled
        self.found.set()
        self.looked.set()
        if old is not None:
            old.connection.terminate()
        if is_new:
            self.when_found()
        return True

    def _lose(self) -> None:
        if self._reserved is not None:
            pooled, self._reserved = self._reserved, None
            self.found = anyio.Event()
            pooled.connection.terminate()
        self.evict(self._table.generation)
        for scope in self.openings:
            scope.cancel()
