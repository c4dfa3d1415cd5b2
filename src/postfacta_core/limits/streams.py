"""Bound the open streams of a process and of a caller, apart from the limiter.

An open stream is a task and a connection, and mostly no work, which is what the limiter bounds. So
many may be open at once, and some bound has to hold before memory or descriptors run out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ..errors import BulkheadFullError, RateLimitExceededError
from ..events import Observer, PolicyCreated, Sample, ignore
from ..validation import validation

_NAME: Final = "streams"
# Seconds, spread so that those that were refused do not come back together.
_SOONEST: Final = 30.0
_SPREAD: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """How many event streams and WebSockets may be open at once.

    An answer of the type `text/event-stream` counts from its head to the end of its handler, a
    WebSocket from its acceptance. One that is too many is answered in its application's place, and
    its handler is cancelled:

    * One that its client resumes by itself, such as a browser's `EventSource`, which gives up for
      good after any other status: by `200` without an event, and a `retry:` of 30 to 60 seconds.
    * Any other: by `503`, or by `429` if its caller has too many. A GET has a `Retry-After`; what a
      handler of another method has begun may not be done twice.
    * A WebSocket: its handshake is refused.

    Attributes:
        most: Of a process; each takes about 30 kB. None for any number.
        per_caller: Of one client address, as rate limits know it: an IPv6 /64 is one, and all
            clients behind a proxy that is not trusted are one. None for any number.
    """

    most: int | None = 10_000
    per_caller: int | None = None

    def __post_init__(self) -> None:
        for name in ("most", "per_caller"):
            value = getattr(self, name)
            if value is not None:
                validation.whole(f"StreamLimits.{name}", value, example=f"{name}=1000, or None")


class Occupancy:
    """What is open at once, in all and by caller."""

    def __init__(self, most: float, per_caller: float) -> None:
        self.most: float = most
        self.per_caller: float = per_caller
        self.count: int = 0
        self._by_caller: Counter[str] = Counter()

    def is_greedy(self, caller: str) -> bool:
        """Return whether a caller has all that one may have."""
        return self._by_caller[caller] >= self.per_caller

    def has_room(self, caller: str) -> bool:
        """Return whether one more of a caller may be open."""
        return self.count < self.most and not self.is_greedy(caller)

    def enter(self, caller: str) -> None:
        """Count one more."""
        self.count += 1
        self._by_caller[caller] += 1

    def leave(self, caller: str) -> None:
        """Count one less."""
        self.count -= 1
        self._by_caller[caller] -= 1
        if not self._by_caller[caller]:
            del self._by_caller[caller]


class OpenStreams(Occupancy):
    """Those of one process."""

    def __init__(self, limits: StreamLimits, *, observer: Observer = ignore) -> None:
        super().__init__(limits.most or math.inf, limits.per_caller or math.inf)
        self._decisions = Counter({"admitted": 0, "refused": 0})
        observer(PolicyCreated(_NAME, self.tally))

    def admit(self, caller: str, *, luck: float) -> None:
        """Count one more, or raise why it is refused."""
        if not self.has_room(caller):
            self._decisions["refused"] += 1
            # What a caller does is no error of the service, also where no place is left.
            kind = RateLimitExceededError if self.is_greedy(caller) else BulkheadFullError
            raise kind(_NAME, _SOONEST + luck * _SPREAD)
        self.enter(caller)
        self._decisions["admitted"] += 1

    def tally(self) -> Iterable[Sample]:
        """Give numbers for metrics, as a bulkhead's."""
        yield Sample("postfacta_bulkhead_used", (_NAME,), self.count)
        if self.most < math.inf:
            yield Sample("postfacta_bulkhead_slots", (_NAME,), self.most)
        for decision, count in self._decisions.items():
            labels = (_NAME, decision, "enforce")
            yield Sample("postfacta_bulkhead_decisions_total", labels, count)
