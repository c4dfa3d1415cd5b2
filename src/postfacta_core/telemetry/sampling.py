"""Decide which log lines are written when there are too many of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from ..clock import LUCK, Luck
from ..events import LogsSuppressed
from ..validation import validation

OTHER: Final = "_OTHER"


class AccessSampler:
    """Returns the number of requests that an ordinary access line represents; 0 if it is left out.

    Up to `most` lines a second all are written. Above that, each is written with the same chance, 1 in N, and says N:
    the sum of all N is then about the number of requests, of each route and caller too. N follows the second before,
    so that about `most` lines a second are written. A sudden crowd of `r` requests a second is noticed at once: in its
    first second about `most * (1 + ln(r / most))` lines are written, which are 560 of 10,000.

    By chance, and not each N-th: else two requests that take turns would look like one.

    It must be called from one thread, or lines may be miscounted.

    Args:
        most: Lines a second, at least 1.
        slow: Seconds; a request that took longer is always written.
        luck: Draws.
    """

    def __init__(self, most: int = 100, *, slow: float = 0.5, luck: Luck = LUCK) -> None:
        validation.whole("AccessSampler.most", most, example="100")
        validation.number("AccessSampler.slow", slow, at_least=0, finite=False, example="slow=0.5")
        self._most = most
        self._slow = slow
        self._luck = luck
        self._every = 1
        self._seen = 0
        self._until = -math.inf

    def weigh(self, seconds: float, now: float) -> int:
        """Return the number of requests that this line represents; a step back of the clock is no new second."""
        if seconds > self._slow:
            return 1
        if now >= self._until:
            self._turn(now)
        every = max(self._every, 1 + self._seen // self._most)
        self._seen += 1
        if every == 1:
            return 1
        return every if self._luck() * every < 1.0 else 0

    def _turn(self, now: float) -> None:
        # After a pause of a second, earlier lines do not count.
        is_fresh = now < self._until + 1.0
        self._every = max(1, math.ceil(self._seen / self._most)) if is_fresh else 1
        self._seen = 0
        self._until = now + 1.0


class EventBudget:
    """Limits the lines of each event by a token bucket of its own, and counts those left out.

    Args:
        rate: Lines a second, of each event.
        burst: Lines at once.
        tell_every: Seconds from the first line left out until it is reported.
        most_events: How many events have buckets of their own; later ones share one, called `_OTHER`.
    """

    def __init__(
        self, *, rate: float = 100.0, burst: int = 200, tell_every: float = 10.0, most_events: int = 500
    ) -> None:
        validation.number("EventBudget.rate", rate, above=0, example="rate=100.0")
        validation.number("EventBudget.burst", burst, at_least=1, example="burst=200")
        validation.seconds("EventBudget.tell_every", tell_every, example="tell_every=10.0")
        validation.whole("EventBudget.most_events", most_events, example="most_events=500")
        self._rate = rate
        self._burst = float(burst)
        self._tell_every = tell_every
        self._most_events = most_events
        self._buckets: dict[str, _Bucket] = {}
        self._tell_at = math.inf

    def admit(self, event: str, now: float) -> bool:
        """Take a token for one line; False if there is none."""
        bucket = self._buckets.get(event) or self._add(event, now)
        bucket.tokens = min(self._burst, bucket.tokens + max(0.0, now - bucket.at) * self._rate)
        bucket.at = now
        if bucket.tokens >= 1.0:
            bucket.tokens -= 1.0
            return True
        bucket.suppressed += 1
        if self._tell_at == math.inf:
            self._tell_at = now + self._tell_every
        return False

    def _add(self, event: str, now: float) -> _Bucket:
        if len(self._buckets) >= self._most_events:
            event = OTHER
        return self._buckets.setdefault(event, _Bucket(self._burst, now))

    def due(self, now: float) -> list[LogsSuppressed]:
        """Return the reports that are due: none, or all that was left out so far."""
        if now < self._tell_at:
            return []
        self._tell_at = math.inf
        told: list[LogsSuppressed] = []
        for event, bucket in self._buckets.items():
            if bucket.suppressed:
                told.append(LogsSuppressed(event, bucket.suppressed))
                bucket.suppressed = 0
        return told


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float
    suppressed: int = 0
