"""Decide when a second try of a call may start beside the first.

After the time in which most calls have answered, a second one costs little and cuts the slowest answers: Dean and
Barroso, "The Tail at Scale", CACM 56(2), 2013, start it at the 95th percentile, for 5 % more calls.
"""

from __future__ import annotations

import math
from bisect import insort
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol, runtime_checkable

from ..validation import validation

# Of fewer latencies a quantile says nothing.
_FEWEST: Final = 5


class HedgeOutcome(StrEnum):
    """The outcome of a call whose first try took longer than the delay; a cancelled call has none.

    A second try ran: `FIRST` or `SECOND` answered, or both `FAILED`. None ran: `BUDGET_REFUSED` found the budget
    empty, `SHADOW` would have started one, but for the mode.
    """

    FIRST = "first"
    SECOND = "second"
    FAILED = "failed"
    BUDGET_REFUSED = "budget_refused"
    SHADOW = "shadow"


@runtime_checkable
class HedgeDelay(Protocol):
    """After how long a second try may start."""

    @property
    def seconds(self) -> float:
        """The present delay."""
        ...

    def record(self, seconds: float, /) -> None:
        """Record the duration of a first try, or a lower bound if it was cut off."""


@dataclass(frozen=True, slots=True)
class FixedDelay:
    """A fixed delay.

    Attributes:
        seconds: From 0 up; 0 starts both at once.
    """

    seconds: float

    def __post_init__(self) -> None:
        validation.number("FixedDelay.seconds", self.seconds, at_least=0, example="0.1")

    def record(self, seconds: float, /) -> None:
        """Ignore it."""


class QuantileDelay:
    """A delay that follows the latency: a quantile of the first tries.

    The latencies are taken in windows. The estimate is that of the last full window, so that it follows a
    dependency that changes; in the first window it is that of what there is, once that is enough to say anything.

    A first try that the second has beaten is recorded with the time it had then, which is less than it would have
    taken. That does no harm: it is beyond the quantile all the same, and only that counts.

    Args:
        quantile: Which share of the first tries has answered by then; the others get a second try.
        initial: Seconds until enough is known.
        minimum: Seconds below which it never goes.
        window: How many latencies make a window.

    Raises:
        ValueError: If the quantile is not between 0 and 1, or a number makes no sense.
    """

    def __init__(
        self, quantile: float = 0.95, *, initial: float = 0.1, minimum: float = 0.001, window: int = 1000
    ) -> None:
        validation.number("QuantileDelay.quantile", quantile, above=0, below=1, example="0.95")
        validation.number("QuantileDelay.minimum", minimum, at_least=0, example="minimum=0.001")
        validation.number("QuantileDelay.initial", initial, at_least=minimum, example="initial=0.1")
        # Two beyond the quantile: with less it would be the maximum.
        self._enough = max(_FEWEST, math.ceil(2 / (1 - quantile)))
        validation.whole("QuantileDelay.window", window, at_least=self._enough, example="window=1000")
        self._quantile = quantile
        self._minimum = minimum
        self._window = window
        self._estimate = initial
        self._has_window = False
        # Those of the present window, sorted.
        self._present: list[float] = []

    @property
    def seconds(self) -> float:
        """The present delay."""
        return max(self._minimum, self._estimate)

    def record(self, seconds: float, /) -> None:
        """Record the duration of a first try."""
        present = self._present
        insort(present, seconds)
        if len(present) >= self._window:
            self._estimate, self._has_window = self._quantile_of(present), True
            self._present = []
        elif not self._has_window and len(present) >= self._enough:
            self._estimate = self._quantile_of(present)

    def _quantile_of(self, latencies: list[float]) -> float:
        return latencies[math.ceil(self._quantile * len(latencies)) - 1]
