"""Decide whether a request may be spared a turn of the event loop, which it takes to see the queue inside of it.

1. While the loop's heartbeat is in time there is no queue to be seen, and some requests between two beats are spared.
2. Where requests take next to no time, all are spared. To refuse one costs about as much as to serve it, so there is
   nothing to be won; and the heartbeat still tells when the loop is late.
3. At first it is not known how long requests take, nor whether the loop is in time: nobody is spared.
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["Calm"]

_LATE: Final = 0.005
"""Seconds: a beat that comes later than this is no accident of scheduling."""

_WATCHED_FOR: Final = 1.0
"""Seconds: a loop that was late once may be late again soon."""

_HEARD_FOR: Final = 0.25
"""Seconds: five beats of the default heartbeat. A loop of which nobody has heard for so long might be late."""

_MOST_SPARED: Final = 16
"""Between two beats, lest a sudden crowd of handlers that keep the processor busy runs before it is seen."""

_CHEAP: Final = 0.0005
"""Seconds from admission to the response's first piece; reading and refusing a request takes up to half of that."""

_WEIGHT: Final = 1 / 16
"""Of the latest request in the mean: one of 15 ms among cheap ones is felt by the next ten or so."""


class Calm:
    """How late a loop's last beats came, and how long its last requests took.

    Whoever owns it gives it the moments of one clock, in order.
    """

    __slots__ = ("_heard_until", "_mean", "_spared", "_watched_until")

    def __init__(self) -> None:
        self._watched_until = self._heard_until = -math.inf
        self._spared = 0
        self._mean = _LATE

    def beat(self, late: float, now: float) -> None:
        """Hear a beat that came so many seconds late."""
        self._heard_until = now + _HEARD_FOR
        self._spared = 0
        if late >= _LATE:
            self._watched_until = now + _WATCHED_FOR

    def took(self, seconds: float) -> None:
        """Hear how long a request took."""
        self._mean += (seconds - self._mean) * _WEIGHT

    def spares(self, now: float) -> bool:
        """Tell whether a request that is admitted now may go on at once; it counts as one of those between two beats."""
        if self._mean < _CHEAP:
            return True
        if self._watched_until < now < self._heard_until and self._spared < _MOST_SPARED:
            self._spared += 1
            return True
        return False
