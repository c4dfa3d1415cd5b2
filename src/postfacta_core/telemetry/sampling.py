"""Decide which log lines are written when there are too many of them."""

from __future__ import annotations

import math

from ..clock import LUCK, Luck
from ..validation import validation


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
