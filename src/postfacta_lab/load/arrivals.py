"""Says before a run when each request is to begin, and counts what became of it.

An open loop: the moments come from a schedule, so a slow server gets as many requests as a quick one. A latency
counts from the moment the request was *meant* to begin: a wait in a queue is measured too.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["MOST_ARRIVALS", "Meter", "Sample", "Shape", "constant", "moments", "randomness"]

MOST_ARRIVALS = 500_000
"""A run is bounded: each answer is kept, for percentiles that are exact."""

Shape = Literal["constant", "poisson"]


def constant(rate: float, seconds: float) -> tuple[float, ...]:
    """Space arrivals evenly; give their offsets in seconds from the start."""
    return moments("constant", rate, seconds)


def moments(shape: Shape, rate: float, seconds: float, *, seed: int = 1) -> tuple[float, ...]:
    """Make a schedule; give its offsets in seconds from the start."""
    if not (rate > 0 and 0 < seconds < math.inf):
        raise ValueError(f"a run needs a rate and a length above 0, not {rate:g} a second for {seconds:g} s")
    whole = rate * seconds
    if round(whole) > MOST_ARRIVALS:
        raise ValueError(
            f"{whole:.0f} arrivals are more than {MOST_ARRIVALS}: take a shorter run or a lower rate"
        )
    if shape == "constant":
        return tuple(number / rate for number in range(round(whole)))
    gaps, counts = randomness(seed), list[float]()
    at = gaps.expovariate(1.0)
    while at < whole:
        counts.append(at)
        at += gaps.expovariate(1.0)
    return tuple(count / rate for count in counts)


def randomness(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - a schedule, no secret


@dataclass(frozen=True, slots=True)
class Sample:
    """One request that was sent: its route, when it was to begin, when it did, when it ended, what went wrong.

    Times are seconds of the run's clock; the error is one such as ``503`` or ``TimeoutError``, empty for a good answer.
    """

    route: str
    intended: float
    began: float
    ended: float
    error: str = ""

    @property
    def latency(self) -> float:
        """What a user felt: from the intended start."""
        return self.ended - self.intended


@dataclass(slots=True)
class Meter:
    """Keeps the samples of one run; for one thread, such as an event loop's.

    An arrival above the cap on requests in flight is dropped and counted: a generator that runs out of sockets would
    measure itself.
    """

    cap: int
    samples: list[Sample] = field(default_factory=list[Sample])
    in_flight: int = 0
    dropped: list[float] = field(default_factory=list[float])

    def admit(self, intended: float) -> bool:
        """Accept an arrival, or drop it; each accepted one must come to ``finish``."""
        if self.in_flight >= self.cap:
            self.dropped.append(intended)
            return False
        self.in_flight += 1
        return True

    def finish(self, sample: Sample) -> None:
        self.in_flight -= 1
        self.samples.append(sample)
