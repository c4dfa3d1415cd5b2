"""Decide when a second try of a call may start beside the first.

After the time in which most calls have answered, a second one costs little and cuts the slowest answers: Dean and
Barroso, "The Tail at Scale", CACM 56(2), 2013, start it at the 95th percentile, for 5 % more calls.
"""

from __future__ import annotations

import math
from bisect import insort
from enum import StrEnum
from typing import Final

from ..validation import validation

# Of fewer latencies a quantile says nothing.
_FEWEST: Final = 5
# No delay is shorter: a second try of nearly every call would be of no use.
_LEAST: Final = 0.001


class HedgeOutcome(StrEnum):
    """The outcome of a call whose first try took longer than the delay; a cancelled call has none.

    `FIRST` or `SECOND` answered, or both `FAILED`; or no second try ran, for the budget or the mode.
    """

    FIRST = "first"
    SECOND = "second"
    FAILED = "failed"
    BUDGET_REFUSED = "budget_refused"
    SHADOW = "shadow"


class QuantileDelay:
    """A delay that follows the latency: a quantile of the first tries.

    The estimate is that of the last full window of latencies; in the first window it is that of what there is, once that
    is enough to say anything. A first try that the second has beaten is recorded with the time it had then: that is
    less than it would have taken, but beyond the quantile all the same.

    Args:
        quantile: Which share of the first tries has answered by then; the others get a second try.
        initial: Seconds until enough is known, from 0.001 up, as which no delay is shorter.
        window: How many latencies make a window.

    Raises:
        ValueError: If the quantile is not between 0 and 1, or a number makes no sense.
    """

    def __init__(self, quantile: float = 0.95, *, initial: float = 0.1, window: int = 1000) -> None:
        validation.number("QuantileDelay.quantile", quantile, above=0, below=1, example="0.95")
        validation.number("QuantileDelay.initial", initial, at_least=_LEAST, example="initial=0.1")
        # Two beyond the quantile: with less it would be the maximum.
        self._enough = max(_FEWEST, math.ceil(2 / (1 - quantile)))
        validation.whole("QuantileDelay.window", window, at_least=self._enough, example="window=1000")
        self._quantile = quantile
        self._window = window
        self._estimate = initial
        self._has_window = False
        # Those of the present window, sorted.
        self._present: list[float] = []

    @property
    def seconds(self) -> float:
        """The present delay."""
        return max(_LEAST, self._estimate)

    def record(self, seconds: float) -> None:
        """Record the duration of a first try, or a lower bound if it was cut off."""
        present = self._present
        insort(present, seconds)
        if len(present) >= self._window:
            self._estimate, self._has_window = self._quantile_of(present), True
            self._present = []
        elif not self._has_window and len(present) >= self._enough:
            self._estimate = self._quantile_of(present)

    def _quantile_of(self, latencies: list[float]) -> float:
        return latencies[math.ceil(self._quantile * len(latencies)) - 1]
