"""Says before a run when each request is to begin, and counts what became of it.

An open loop: the moments come from a schedule, so a slow server gets as many requests as a quick one. A latency
counts from the moment the request was *meant* to begin: a wait in a queue is measured too.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

__all__ = ["MOST_ARRIVALS", "Meter", "Sample", "constant", "luck", "poisson"]

MOST_ARRIVALS = 500_000
"""A run is bounded: each answer is kept, for percentiles that are exact."""


def constant(rate: float, seconds: float) -> tuple[float, ...]:
    """Space arrivals evenly; give their offsets in seconds from the start."""
    count = _bounded(rate, seconds)
    return tuple(number / rate for number in range(count))


def poisson(rate: float, seconds: float, *, seed: int) -> tuple[float, ...]:
    """Space arrivals at random (Poisson); the same seed gives the same moments."""
    _bounded(rate, seconds)
    gaps = luck(seed)
    moments: list[float] = []
    at = gaps.expovariate(rate)
    while at < seconds and len(moments) < MOST_ARRIVALS:
        moments.append(at)
        at += gaps.expovariate(rate)
    return tuple(moments)


def luck(seed: int) -> random.Random:
    """Return a seeded generator of random numbers."""
    return random.Random(seed)  # noqa: S311 - a schedule, no secret


def _bounded(rate: float, seconds: float) -> int:
    if rate <= 0 or seconds <= 0:
        raise ValueError(f"a run needs a rate and a length above 0, not {rate:g} a second for {seconds:g} s")
    count = round(rate * seconds)
    if count > MOST_ARRIVALS:
        raise ValueError(
            f"{count} arrivals are more than {MOST_ARRIVALS}: take a shorter run or a lower rate"
        )
    return count


@dataclass(frozen=True, slots=True)
class Sample:
    """One request that was sent.

    Attributes:
        route: What was asked for, as a template.
        intended: When it was to begin; all times are seconds from the start of the run.
        began: When it did begin.
        ended: When its answer was complete, or it failed.
        error: What went wrong, such as ``503`` or ``TimeoutError``; empty for a good answer.
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
    """Keeps the samples of one run, and drops what would pile up; for one thread, such as an event loop's.

    Attributes:
        cap: Requests in flight at most. An arrival above it is dropped and counted: a generator that runs out
            of sockets would measure itself.
    """

    cap: int
    samples: list[Sample] = field(default_factory=list[Sample])
    in_flight: int = 0
    admitted: int = 0
    dropped: list[float] = field(default_factory=list[float])

    def admit(self, intended: float) -> bool:
        """Accept an arrival, or drop it; each accepted one must come to ``finish``."""
        if self.in_flight >= self.cap:
            self.dropped.append(intended)
            return False
        self.in_flight += 1
        self.admitted += 1
        return True

    def finish(self, sample: Sample) -> None:
        """Record how an admitted one ended."""
        self.in_flight -= 1
        self.samples.append(sample)
