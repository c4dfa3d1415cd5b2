"""Decide when a pool lends a connection, makes a caller wait, refuses, renews one or evicts all.

1. There are `max_size` slots, one for each lent connection, and a queue for them, see `Turns`.
2. A connection belongs to a generation. When the database is lost or has moved, a new generation
   begins: the idle ones of the old generation are closed, and the lent ones as they come back.
3. Age is looked at when a connection comes back or lies idle, never when it is lent: a caller does
   not wait for a new one because an old one is old.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from postfacta_core.events import Sample
from postfacta_core.guards.bulkhead import Turns

C = TypeVar("C")

# Connections that were opened together must not be renewed together: up to this share of its life
# is taken off each.
_JITTER: Final = 0.2


def sizes(
    pool: str, *, idle: int, used: int, most: int, waiting: int, oldest: float
) -> Iterator[Sample]:
    """Yield the state of a pool for metrics: its connections, the callers that wait.

    `most` is the largest number of connections; 0 is no limit. `oldest` is the age of the oldest
    loan.
    """
    yield Sample("db_client_connection_count", (pool, "idle"), idle)
    yield Sample("db_client_connection_count", (pool, "used"), used)
    if most:
        yield Sample("db_client_connection_max", (pool,), most)
    yield Sample("db_client_connection_pending_requests", (pool,), waiting)
    yield Sample("postfacta_pool_oldest_loan_seconds", (pool,), oldest)


@dataclass(slots=True, eq=False)
class PooledConnection(Generic[C]):
    """A connection of a pool, its age and generation, and when it was last lent or returned.

    The rest is of its loan, see `health.holders`.
    """

    connection: C
    generation: int
    ends_at: float
    since: float = 0.0
    quiet_since: float = math.inf
    request: Any = None  # The context of whose loan it is.
    is_named: bool = False


class LeaseTable(Turns, Generic[C]):
    """The slots of a pool, who waits for one, and the connections that lie idle.

    The thread of its loop is its lock.

    Read `generation` before a connection is opened, since it may change meanwhile.
    """

    def __init__(
        self, max_size: int, max_waiting: int, *, max_lifetime: float, max_idle: float
    ) -> None:
        super().__init__(max_size, max_waiting)
        self._max_lifetime = max_lifetime
        self._max_idle = max_idle
        self.generation: int = 0
        # The last one in is the first one out: those that a quiet hour does not need grow old below
        # it.
        self._idle: list[PooledConnection[C]] = []

    @property
    def idle(self) -> int:
        return len(self._idle)

    def opened(
        self, connection: C, *, generation: int, now: float, luck: float
    ) -> PooledConnection[C]:
        """Add a connection whose opening began in this generation; `luck` is from 0 up to 1."""
        return PooledConnection(
            connection, generation, now + self._max_lifetime * (1.0 - _JITTER * luck)
        )

    def take(self) -> PooledConnection[C] | None:
        """Take the most recently used idle connection; None if one must be opened."""
        return self._idle.pop() if self._idle else None

    def keep(self, pooled: PooledConnection[C], now: float) -> bool:
        """Return a connection to the idle list; False if it must be closed."""
        if pooled.generation != self.generation or now >= pooled.ends_at:
            return False
        pooled.since = now
        self._idle.append(pooled)
        return True

    def evict(self, generation: int) -> list[PooledConnection[C]]:
        """End a generation, unless it has ended; return the idle connections, to be closed."""
        if generation != self.generation:
            return []
        self.generation += 1
        evicted = self._idle
        self._idle = []
        return evicted

    def sweep(self, now: float) -> list[PooledConnection[C]]:
        swept = [
            pooled
            for pooled in self._idle
            if now >= min(pooled.ends_at, pooled.since + self._max_idle)
        ]
        self._idle = [pooled for pooled in self._idle if pooled not in swept]
        return swept
