"""Decide when a request may skip the one-tick yield that exposes the loop's queue.

1. While the loop's heartbeat is in time there is no queue, and some requests between two beats skip the yield.
2. Where requests cost next to no processor time, all do. To refuse one costs about as much as to serve it, so nothing
   is won; and the heartbeat still shows when the loop is late. What counts is the process's own processor time: the
   length of a request grows when others take the processor, and then nothing is won by refusing either.
3. At first neither is known: no request skips it.
"""

from __future__ import annotations

import math
from typing import Final

_LATE: Final = 0.005
"""Seconds: a beat that comes later than this is no accident of scheduling."""

_WATCHED_FOR: Final = 1.0
"""Seconds: a loop that was late once may be late again soon."""

_HEARD_FOR: Final = 0.25
"""Seconds: five beats of the default heartbeat. A loop without a beat for longer might be late."""

_MOST_SPARED: Final = 16
"""Requests between two beats, so that a sudden burst of CPU-bound handlers does not start before it is seen."""

_CHEAP: Final = 0.0005
"""Seconds of processor time a request; reading and refusing one takes up to half of that."""

_REFUSAL: Final = 0.00015
"""Seconds of processor time a refusal, with its server."""

_FEWEST: Final = 16
"""Requests for a mean of their cost: what the process does besides is shared among them."""


class Calm:
    """The lateness of a loop's last beats, and the cost of its last requests, by the moments of one clock, in order.

    `own` is the share of the loop's lag that is the process's own doing; less if others took the processor.
    """

    __slots__ = ("_began", "_busy", "_cost", "_heard_until", "_refused", "_spared", "_watched_until", "own")

    def __init__(self) -> None:
        self.own: float = 1.0
        self._watched_until = self._heard_until = -math.inf
        self._cost = _LATE
        self._spared = self._began = self._refused = 0
        self._busy = 0.0

    def beat(self, late: float, now: float, busy: float) -> None:
        """Record a beat: the seconds by which it came late, its moment, the processor time used since the last one."""
        self._heard_until = now + _HEARD_FOR
        self._spared = 0
        self._busy += busy
        if self._began >= _FEWEST:
            self._cost = max(0.0, self._busy - self._refused * _REFUSAL) / self._began
            self._busy, self._began, self._refused = 0.0, 0, 0
        own = 1.0
        if late >= _LATE:
            self._watched_until = now + _WATCHED_FOR
            own = min(1.0, busy / late)
        self.own += (own - self.own) / 2

    def refused(self) -> None:
        self._refused += 1

    def spares(self, now: float) -> bool:
        """Return whether a request admitted now may skip the yield; it counts as one between two beats."""
        self._began += 1
        if self._cost < _CHEAP:
            return True
        if self._watched_until < now < self._heard_until and self._spared < _MOST_SPARED:
            self._spared += 1
            return True
        return False
