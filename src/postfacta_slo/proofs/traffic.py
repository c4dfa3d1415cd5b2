"""Events between two scrapes: as series for promtool, and as the values of a window over them.

1. Time is counted in scrapes. Sample 0 is there before anything happens; what happened between sample n - 1 and
   sample n is counted in sample n.
2. A fault that begins at scrape n is first seen in sample n + 1: it began just after a scrape, which is the worst
   case for a detection time.
3. Prometheus 2 reads a window with the sample at its very beginning, Prometheus 3 without it. A `Reading` is one of
   the two, and a nudge of the thresholds: what all readings agree on does not depend on the last bit of a float.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Final

__all__ = ["READINGS", "Reading", "Sample", "Stretch", "Sums", "Traffic", "notation", "spread"]

# What a scrape found: a number, None if there was no such series, "stale" where it vanished.
Sample = int | float | str | None

# As if the process had counted for a while: next to 0 Prometheus does not extrapolate a counter to the window's edge.
_COUNTED_BEFORE: Final = 1_000_000
_NUDGE: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Reading:
    """How a window is read."""

    closed: bool  # With the sample at its beginning, as Prometheus 2 does.
    nudge: float  # What each threshold is multiplied by.


READINGS: Final = tuple(
    Reading(closed, nudge) for closed in (True, False) for nudge in (1 - _NUDGE, 1 + _NUDGE)
)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some scrapes in a row with the same traffic."""

    scrapes: int  # How many intervals; 0 is none.
    total: int  # Events in each interval.
    bad: int = 0  # How many of them failed.

    def __post_init__(self) -> None:
        if not (self.scrapes >= 0 and 0 <= self.bad <= self.total):
            msg = f"needs no fewer scrapes than 0, and no more bad events than events: {self}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Sums:
    """What windows come to, window by window."""

    totals: tuple[float, ...]  # Events, extrapolated to the whole window as `increase` does.
    bads: tuple[float, ...]  # Bad ones, likewise.

    @property
    def ratios(self) -> list[float]:
        """The share of bad events; 0 where nothing happened, because no alert may come of that."""
        return [bad / total if total else 0.0 for total, bad in zip(self.totals, self.bads, strict=True)]


@dataclass(frozen=True)
class Traffic:
    """A course of events."""

    stretches: tuple[Stretch, ...]  # What happened, in order.
    # Whether series count on; else each sample is the number of events since the one before.
    counted: bool = True

    @property
    def scrapes(self) -> int:
        """How many intervals there are. There is one sample more."""
        return len(self.totals) - 1

    @cached_property
    def totals(self) -> tuple[int, ...]:
        """The counter of all events, sample by sample."""
        return self._counted([stretch.total for stretch in self.stretches])

    @cached_property
    def bads(self) -> tuple[int, ...]:
        """The counter of bad events, sample by sample."""
        return self._counted([stretch.bad for stretch in self.stretches])

    @cached_property
    def goods(self) -> tuple[int, ...]:
        """The counter of good events, sample by sample."""
        return self._counted([stretch.total - stretch.bad for stretch in self.stretches])

    def _counted(self, each: Sequence[int]) -> tuple[int, ...]:
        steps = (step for step, of in zip(each, self.stretches, strict=True) for _ in range(of.scrapes))
        return tuple(accumulate(steps, initial=_COUNTED_BEFORE))

    def sums(self, width: int, samples: range, *, closed: bool) -> Sums:
        """Sum up the windows that end with some samples; of one that begins before sample 0 only what there is."""
        read = width + 1 if closed else max(1, width)
        # Between n samples there are n - 1 intervals; but a sample that does not count on is an interval itself.
        intervals = read - 1 if self.counted else read
        # A counter is extrapolated over the interval that the window's edge cuts off.
        stretch = width / intervals if self.counted else 1.0
        return Sums(
            tuple((self.totals[at] - self.totals[max(0, at - intervals)]) * stretch for at in samples),
            tuple((self.bads[at] - self.bads[max(0, at - intervals)]) * stretch for at in samples),
        )


def spread(scrapes: int, total: int, bad: int) -> list[Stretch]:
    """Return `total` events spread evenly over `scrapes` scrapes, and the bad ones evenly among them."""
    events = [place * total // scrapes for place in range(scrapes + 1)]
    bads = [event * bad // total if total else 0 for event in events]
    return [Stretch(1, events[at + 1] - events[at], bads[at + 1] - bads[at]) for at in range(scrapes)]


def notation(samples: Iterable[Sample]) -> str:
    """Write samples as promtool reads them: runs of equal steps as `a+bxn`, gaps as `_xn`."""
    return " ".join(_run(start, step, more) for start, step, more in _runs(samples))


def _runs(samples: Iterable[Sample]) -> list[tuple[Sample, int, int]]:
    """Part samples into runs: the first one, the step to each next, and how many more there are."""
    found: list[tuple[Sample, int, int]] = []
    last: Sample = None
    for sample in samples:
        if found:
            start, step, more = found[-1]
            wanted = _step(last, sample)
            if wanted is not None and (not more or wanted == step):
                found[-1] = (start, wanted, more + 1)
                last = sample
                continue
        found.append((sample, 0, 0))
        last = sample
    return found


def _step(one: Sample, other: Sample) -> int | None:
    """How far it is from one sample to the next, None if they cannot stand in one run."""
    if isinstance(one, int) and isinstance(other, int):
        return other - one
    return 0 if one == other and not isinstance(one, str) else None


def _run(start: Sample, step: int, more: int) -> str:
    if start is None:
        return f"_x{more + 1}"
    if not more:
        return str(start)
    return f"{start}{step:+d}x{more}"
