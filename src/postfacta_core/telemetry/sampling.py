"""Decide which access lines are written, and for how many requests each of them stands."""

from __future__ import annotations

import math
from typing import Final

from ..clock import LUCK, Luck
from ..validation import validation

_SLOW: Final = 0.5  # Seconds from which a request is always written.
_MINUTE: Final = 60.0
# Of a minute: it bounds the memory, and what an attacker with many addresses can write.
_MOST_CLIENTS: Final = 200


class AccessSampler:
    """Returns the number of requests that an ordinary access line represents; 0 if it is left out.

    Up to `most` lines a second all are written. Above that, each is written with the same chance, 1
    in N, and says N: the sum of all N is then about the number of requests, of each route and
    caller too. N follows the second before; in the first second of a sudden crowd of `r` requests,
    about `most * (1 + ln(r / most))` lines are written. By chance, and not each N-th: else two
    requests that take turns would look like one. What took more than half a second is always
    written. It must be called from one thread.
    """

    def __init__(self, most: int = 100, *, luck: Luck = LUCK) -> None:
        self._most = validation.whole("AccessSampler.most", most, example="100")
        self._luck = luck
        self._every = 1
        self._requests = 0
        self._until = -math.inf

    def weigh(self, seconds: float, now: float) -> int:
        """Return the number of requests that this line represents.

        A step back of the clock is no new second.
        """
        if seconds > _SLOW:
            return 1
        if now >= self._until:
            # After a pause of a second, earlier lines do not count.
            is_fresh = now < self._until + 1.0
            self._every = max(1, math.ceil(self._requests / self._most)) if is_fresh else 1
            self._requests = 0
            self._until = now + 1.0
        every = max(self._every, 1 + self._requests // self._most)
        self._requests += 1
        return every if every == 1 or self._luck() * every < 1.0 else 0


class RefusalSampler:
    """Returns the number of refused requests that a line represents; 0 if it is left out.

    The first of each client in a minute is written, of at most 200 clients. Of all others it is
    about one line a second, by chance as with `AccessSampler`: a refusal costs its sender nothing,
    and would else fill the disk.
    """

    def __init__(self) -> None:
        self._sampler = AccessSampler(1)
        self._clients: set[str] = set()
        self._until = -math.inf

    def weigh(self, client: str, now: float) -> int:
        """Return the number of refusals that this line represents."""
        if now >= self._until:
            self._clients.clear()
            self._until = now + _MINUTE
        if client not in self._clients and len(self._clients) < _MOST_CLIENTS:
            self._clients.add(client)
            return 1
        return self._sampler.weigh(0.0, now)
