"""Decide when a second try of a call may start beside the first.

After the time in which most calls have answered, a second one costs little and cuts the slowest answers: Dean and
Barroso, "The Tail at Scale", CACM 56(2), 2013, start it at the 95th percentile, for 5 % more calls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from ..validation import validation

__all__ = ["FixedDelay", "HedgeDelay", "HedgeOutcome", "P2Quantile", "QuantileDelay"]

_MARKERS: Final = 5


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


class HedgeDelay(Protocol):
    """After how long a second try may start."""

    @property
    def seconds(self) -> float:
        """The present delay."""
        ...

    def record(self, seconds: float, /) -> None:
        """Record the duration of a first try, or a lower bound if it was cut off."""
        ...


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
        # Two beyond the quantile, and as many as the estimator has markers: with less it would be the maximum.
        self._enough = max(_MARKERS, math.ceil(2 / (1 - quantile)))
        validation.whole("QuantileDelay.window", window, at_least=self._enough, example="window=1000")
        self._quantile = quantile
        self._minimum = minimum
        self._window = window
        self._estimate = initial
        self._has_window = False
        self._present = P2Quantile(quantile)

    @property
    def seconds(self) -> float:
        """The present delay."""
        return max(self._minimum, self._estimate)

    def record(self, seconds: float, /) -> None:
        """Record the duration of a first try."""
        present = self._present
        present.record(seconds)
        if present.count >= self._window:
            self._estimate, self._has_window = present.value, True
            self._present = P2Quantile(self._quantile)
        elif not self._has_window and present.count >= self._enough:
            self._estimate = present.value


class P2Quantile:
    """Estimates a quantile of a stream with five markers, in constant time and space.

    The P-square algorithm of Jain and Chlamtac, CACM 28(10), 1985. The outer markers are the least and the
    greatest value; the middle one is the quantile. Each new value moves the ranks that the markers should have,
    and a marker that is off by one moves along a parabola through its neighbours.

    Args:
        quantile: Between 0 and 1.

    Attributes:
        count: How many values it has seen.
    """

    __slots__ = ("_heights", "_ranks", "_steps", "_wanted", "count")

    def __init__(self, quantile: float) -> None:
        self.count: int = 0
        self._heights: list[float] = []
        self._ranks = [1.0, 2.0, 3.0, 4.0, 5.0]
        self._steps = (0.0, quantile / 2, quantile, (1 + quantile) / 2, 1.0)
        self._wanted = [1 + (_MARKERS - 1) * step for step in self._steps]

    @property
    def value(self) -> float:
        """The estimate; it means little before there are some ten values beyond it, and is 0 before there is one."""
        if self.count <= _MARKERS:
            rank = math.ceil(self._steps[2] * self.count)
            return self._heights[rank - 1] if self.count else 0.0
        return self._heights[2]

    def record(self, value: float, /) -> None:
        """Add a value."""
        self.count += 1
        heights = self._heights
        if self.count <= _MARKERS:
            heights.append(value)
            heights.sort()
            return
        heights[0], heights[-1] = min(heights[0], value), max(heights[-1], value)
        for marker in range(1, _MARKERS):
            self._ranks[marker] += value < heights[marker] or marker == _MARKERS - 1
            self._wanted[marker] += self._steps[marker]
        for marker in (1, 2, 3):
            self._adjust(marker)

    def _adjust(self, marker: int) -> None:
        ranks, off = self._ranks, self._wanted[marker] - self._ranks[marker]
        ahead, behind = ranks[marker + 1] - ranks[marker], ranks[marker - 1] - ranks[marker]
        if (off >= 1 and ahead > 1) or (off <= -1 and behind < -1):
            step = math.copysign(1.0, off)
            self._heights[marker] = self._moved(marker, step, ahead=ahead, behind=behind)
            ranks[marker] += step

    def _moved(self, marker: int, step: float, *, ahead: float, behind: float) -> float:
        low, here, high = self._heights[marker - 1 : marker + 2]
        up, down = (high - here) / ahead, (low - here) / behind
        parabola = here + step / (ahead - behind) * ((step - behind) * up + (ahead - step) * down)
        if low < parabola < high:
            return parabola
        return here + step * (up if step > 0 else down)
