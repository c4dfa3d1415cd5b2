"""Name the requests that hold a connection of a pool while their responses stream.

A dependency with `yield` gives its connection back once the response has ended: that of a live page
never does, so a few open pages take a whole pool, and nothing shows whose they are. A loan without
a statement for 5 s is named once. The thread that looks may be another than those that lend.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from operator import attrgetter
from typing import Final, Protocol
from weakref import WeakValueDictionary

from ..clock import Clock
from ..context import RequestContext
from ..events import ConnectionHeld, Observer

_PATIENCE: Final = 5.0  # Seconds without a statement: no request that works is silent for so long.
_MOST: Final = 20  # Loans in a report.


class Held(Protocol):
    """A loan, as its pool keeps it.

    Attributes:
        since: When it was lent, by the pool's clock.
        quiet_since: When its last statement was answered; infinite while one is under way.
        request: Whose it is; None outside of a request.
        is_named: It was named.
    """

    since: float
    quiet_since: float
    request: RequestContext | None
    is_named: bool


class Holders:
    """The loans of one pool, as long as that lives."""

    def __init__(
        self, pool: str, lent: Callable[[], Collection[Held]], *, observe: Observer, clock: Clock
    ) -> None:
        self.pool: str = pool
        self._lent = lent
        self._observe = observe
        self._clock = clock
        _POOLS[id(self)] = self

    def oldest(self) -> float:
        """Return for how many seconds the oldest loan is held; 0 without one."""
        return max((self._clock() - held.since for held in tuple(self._lent())), default=0.0)

    def look(self) -> Iterator[ConnectionHeld]:
        """Yield the loans that are held for nothing, and report each once."""
        now = self._clock()
        for held in tuple(self._lent()):
            request = held.request
            # A request has a route once its response streams.
            if request is None or not request.route or now - held.quiet_since < _PATIENCE:
                continue
            event = ConnectionHeld(
                self.pool, request.route, request.request_id, round(now - held.since, 3)
            )
            if not held.is_named:
                held.is_named = True
                self._observe(event)
            yield event


_POOLS: Final[WeakValueDictionary[int, Holders]] = WeakValueDictionary()


def look() -> list[ConnectionHeld]:
    """Return what holds connections of any pool for nothing, the oldest first."""
    held: list[ConnectionHeld] = []
    for pool in _POOLS.valuerefs():
        holders = pool()
        if holders is not None:
            held += holders.look()
    return sorted(held, key=attrgetter("seconds"), reverse=True)[:_MOST]


def rows() -> list[dict[str, object]]:
    """Return the same for a page."""
    return [event._asdict() for event in look()]
