"""Track database availability through one reserved connection.

1. There is a database if the reserved connection is open: one more than callers may borrow, for this and for `ping`.
2. Without one, it is looked for until it is found, with waits that grow and vary.
3. Code that sees a connection break reports it (`suspect`). Idle ones are then closed, lent ones as they
   come back, and a new connection is tried; callers are refused only if it is not found, for one connection may
   break alone.
4. Until the first attempt to connect has ended nothing is known: callers wait for it, within their own time.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

from postfacta_core.errors import DatabaseUnavailableError

from ._leases import LeaseTable, PooledConnection
from .connecting import Connector, RawConnection, Setup

__all__ = ["ConnectionMonitor"]

# For one sign of life; also for the one new connection that is tried before all are refused.
_LOOK_TIMEOUT = 1.0


class ConnectionMonitor:
    """Whether there is a database, as far as is known.

    Attributes:
        found: Set while there is one.
        when_found: Called when it is found that was lost, or another one is. It must not raise.
    """

    def __init__(
        self,
        setup: Setup,
        connector: Connector,
        table: LeaseTable[RawConnection],
        *,
        when_lost: Callable[[], None],
    ) -> None:
        self.found: anyio.Event = anyio.Event()
        self.when_found: Callable[[], object] = bool
        self._name = setup.name
        self._connector = connector
        self._table = table
        self._options = setup.options
        self._when_lost = when_lost
        self._clock = setup.clock
        self._luck = setup.luck
        self._reserved: PooledConnection[RawConnection] | None = None
        self._doubted = anyio.Event()
        self._has_moved = False
        self._pinging = anyio.Lock()
        self._retry_at = 0.0
        self._looked: anyio.Event | None = None

    @property
    def is_there(self) -> bool:
        """Whether there is one."""
        return self._reserved is not None

    @property
    def is_unknown(self) -> bool:
        """Whether the first attempt to connect is still under way."""
        return self._looked is not None and not self._looked.is_set()

    def begin(self) -> None:
        """Record that `keep` is about to connect."""
        self._looked = anyio.Event()

    async def look(self) -> None:
        """Wait until the first attempt to connect has ended; it has no bound of its own."""
        if self._looked is not None:
            await self._looked.wait()

    def absence(self) -> DatabaseUnavailableError:
        """Return the error for an unavailable database, with the time of the next attempt."""
        return DatabaseUnavailableError(self._name, max(1.0, self._retry_at - self._clock()))

    def suspect(self, pooled: PooledConnection[RawConnection] | None = None, *, moved: bool = False) -> None:
        """Report a suspected loss, so that availability is checked.

        Args:
            pooled: The connection that broke: those that are as old may be broken as well. None if it is only that
                one could not be opened, or did not answer in time.
            moved: Whether the database is known to be elsewhere, as when this one takes no writes.
        """
        if pooled is not None:
            self._has_moved |= moved and pooled.generation == self._table.generation
            self.evict(pooled.generation)
        self._doubted.set()

    def evict(self, generation: int) -> None:
        """Close the idle connections of a generation; its lent ones are not lent again."""
        for pooled in self._table.evict(generation):
            pooled.connection.terminate()

    async def keep(self) -> None:
        """Connect, notice when the database is lost, connect again; until cancelled. It may run again after that."""
        try:
            while True:
                self._reserve(await self._connect_with_backoff())
                self.when_found()
                while await self._still_available():
                    pass
                self._let_go()
                self._lose_all()
        finally:
            self._let_go()
            self._end_look()
            # What was awaited belongs to this event loop; the next run may have another.
            self._doubted, self._pinging, self._looked = anyio.Event(), anyio.Lock(), None

    async def renew_if_old(self) -> None:
        """Replace the reserved connection once it is as old as a connection may be."""
        if self._reserved is not None and self._clock() >= self._reserved.ends_at:
            async with self._pinging:
                await self._finds_another()

    async def ping(self) -> None:
        """Ping the database on the reserved connection, which no load can take.

        Raises:
            DatabaseUnavailableError: If there is none within a second.
        """
        try:
            with anyio.fail_after(_LOOK_TIMEOUT):
                if self.is_unknown:
                    await self.look()
                async with self._pinging:
                    await self._ask(self._reserved)
        except Exception as error:
            raise self.absence() from error

    async def _ask(self, reserved: PooledConnection[RawConnection] | None) -> None:
        if reserved is None:
            raise self.absence()
        try:
            await reserved.connection.fetchval("select 1")
        except BaseException:
            # Also if the caller's own bound ended it: a late answer would be taken for the next one's.
            reserved.connection.terminate()
            self.suspect(reserved)
            raise

    async def _still_available(self) -> bool:
        """Wait for a reported suspicion, and check the database."""
        await self._doubted.wait()
        self._doubted = anyio.Event()
        if self._has_moved:
            self._has_moved = False
            return False
        try:
            await self.ping()
        except DatabaseUnavailableError:
            return await self._finds_another()
        return True

    async def _finds_another(self) -> bool:
        host = self._connector.host
        try:
            connection = await self._connector.find(min(_LOOK_TIMEOUT, self._options.connect_timeout))
        except Exception:  # noqa: BLE001 - whatever it is, an event reported it, and it is tried again
            return False
        has_moved = self._connector.host != host
        if has_moved:
            self._lose_all()
        self._reserve(connection)
        # On the same host it was not lost: connections that break alone, one after the other, are for others to count.
        if has_moved:
            self.when_found()
        return True

    async def _connect_with_backoff(self) -> RawConnection:
        attempt = 0
        while True:
            try:
                connection = await self._connector.find(self._options.connect_timeout)
            except Exception:  # noqa: BLE001 - as above
                attempt += 1
                delay = self._options.reconnect.delay(attempt, self._luck())
                self._retry_at = self._clock() + delay
                self._end_look()
                await anyio.sleep(delay)
                continue
            return connection

    def _lose_all(self) -> None:
        self.evict(self._table.generation)
        self._when_lost()

    def _reserve(self, connection: RawConnection) -> None:
        old, table = self._reserved, self._table
        pooled = table.opened(connection, generation=table.generation, now=self._clock(), luck=self._luck())
        connection.add_termination_listener(
            lambda _: self.suspect(pooled) if pooled is self._reserved else None
        )
        self._reserved = pooled
        self.found.set()
        self._end_look()
        if old is not None:
            old.connection.terminate()

    def _end_look(self) -> None:
        if self._looked is not None:
            self._looked.set()

    def _let_go(self) -> None:
        if self._reserved is not None:
            pooled, self._reserved = self._reserved, None
            pooled.connection.terminate()
        self.found = anyio.Event()
