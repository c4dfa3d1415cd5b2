"""Compute when a burn-rate alert must fire for some traffic, and when not.

Arithmetic alone, no Prometheus.

This computes the result of the generated rules a second time, independently of how they are
written. What both agree on is proved; `files` generates the tests that compare them.

1. Time is counted in scrapes. Sample 0 is there before anything happens; what happened between
   sample n - 1 and sample n is counted in sample n.
2. A fault that begins at scrape n is first seen in sample n + 1: it began just after a scrape,
   which is the worst case for a detection time.
3. Prometheus 2 reads a window with the sample at its very beginning, Prometheus 3 without it. A
   `_Reading` is one of the two, and a nudge of the thresholds: what all readings agree on does not
   depend on the last bit of a float.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Final

# As if the process had counted for a while: next to 0 Prometheus does not extrapolate a counter to
# the window's edge.
_COUNTED_BEFORE: Final = 1_000_000
# Above what adding up floats may be off by, and far below what any scenario depends on.
_NUDGE: Final = 1e-6


@dataclass(frozen=True, slots=True)
class _Reading:
    """How a window is read."""

    closed: bool  # With the sample at its beginning, as Prometheus 2 does.
    nudge: float  # What each threshold is multiplied by.


_READINGS: Final = tuple(
    _Reading(closed, nudge)  # Each way to read a window, with both nudges.
    for closed in (True, False)
    for nudge in (1 - _NUDGE, 1 + _NUDGE)
)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some scrapes in a row with the same traffic."""

    scrapes: int  # How many intervals; 0 is none.
    total: int  # Events in each interval.
    bad: int = 0  # How many of them failed.


@dataclass(frozen=True, slots=True)
class Sums:
    """What windows come to, one for each evaluation."""

    totals: Sequence[float]  # Events, extrapolated to the whole window as `increase` does.
    bads: Sequence[float]  # Bad ones, likewise.

    @property
    def ratios(self) -> list[float]:
        """The share of bad events; 0 where nothing happened, because no alert may come of that."""
        pairs = zip(self.totals, self.bads, strict=True)
        return [bad / total if total else 0.0 for total, bad in pairs]


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
        return self._counted([stretch.total for stretch in self.stretches])

    @cached_property
    def bads(self) -> tuple[int, ...]:
        return self._counted([stretch.bad for stretch in self.stretches])

    @cached_property
    def goods(self) -> tuple[int, ...]:
        return self._counted([stretch.total - stretch.bad for stretch in self.stretches])

    def _counted(self, counts: Sequence[int]) -> tuple[int, ...]:
        steps = (
            step
            for step, stretch in zip(counts, self.stretches, strict=True)
            for _ in range(stretch.scrapes)
        )
        return tuple(accumulate(steps, initial=_COUNTED_BEFORE))

    def sums(self, width: int, samples: range, *, closed: bool) -> Sums:
        """Sum up the windows that end with some samples.

        Of one that begins before sample 0 only what there is.
        """
        read = width + 1 if closed else max(1, width)
        # Between n samples there are n - 1 intervals; but a sample that does not count on is an
        # interval itself.
        intervals = read - 1 if self.counted else read
        # A counter is extrapolated over the interval that the window's edge cuts off.
        stretch = width / intervals if self.counted else 1.0

        def sum_up(counts: Sequence[int]) -> tuple[float, ...]:
            starts = [max(0, end - intervals) for end in samples]
            return tuple(
                (counts[end] - counts[start]) * stretch
                for start, end in zip(starts, samples, strict=True)
            )

        return Sums(sum_up(self.totals), sum_up(self.bads))


def spread(scrapes: int, total: int, bad: int) -> list[Stretch]:
    """Return `total` events spread evenly over `scrapes`, and the bad ones evenly among them."""
    events = [place * total // scrapes for place in range(scrapes + 1)]
    bads = [event * bad // total if total else 0 for event in events]
    steps = zip(pairwise(events), pairwise(bads), strict=True)
    return [
        Stretch(1, event_after - event_before, bad_after - bad_before)
        for (event_before, event_after), (bad_before, bad_after) in steps
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Burn:
    """One tier of a burn-rate alert. All lengths are in scrapes."""

    tier: str  # Its name.
    long: int  # The long window.
    short: int  # The short window.
    hold: int  # For how long both must be above the threshold: the alert's `for`.
    threshold: float  # The share of the events, or of the slices, above which a window burns.
    failures: int = 0  # The fewest bad events in the long window; 0 asks for none.


@dataclass(frozen=True, slots=True, kw_only=True)
class Counting:
    """Events are counted, each for one."""

    beyond: int  # A window longer than this many scrapes adds up pieces, one for each evaluation.
    piece: int  # How long a piece is, in scrapes.


@dataclass(frozen=True, slots=True, kw_only=True)
class Slicing:
    """Time is counted, in slices that are good or bad."""

    width: int  # The window that a slice looks at, in scrapes.
    allowed: float  # The share of bad events up to which a slice is good.
    events: int = 0  # The fewest events in it; a slice with fewer counts as good.
    # How these slices become longer ones: bad with more than the allowed share of bad ones.
    then: Slicing | None = None


def verdicts(
    traffic: Traffic, burn: Burn, by: Counting | Slicing, *, every: int = 1
) -> list[bool | None]:
    """Return for each evaluation whether the alert fires.

    None where that depends on how a window is read.
    """
    hold = -(-burn.hold // every)
    readings = [
        _firing(_holds(traffic, burn, by, reading=reading, every=every), hold)
        for reading in _READINGS
    ]
    verdicts: list[bool | None] = []
    for outcomes in zip(*readings, strict=True):
        is_unanimous = len(set(outcomes)) == 1
        verdicts.append(outcomes[0] if is_unanimous else None)
    return verdicts


def bad_slices(traffic: Traffic, slicing: Slicing, *, every: int = 1) -> int:
    """Return at how many evaluations a slice is bad: the fewest over all ways to read a window."""
    samples = range(0, traffic.scrapes + 1, every)
    counts: list[int] = []
    for reading in _READINGS:
        slices = _slices(traffic, slicing, reading, samples=samples)
        counts.append(sum(slices))
    return min(counts)


def _holds(
    traffic: Traffic, burn: Burn, by: Counting | Slicing, *, reading: _Reading, every: int
) -> list[bool]:
    """Return for each evaluation whether both windows burn, with failures enough."""
    samples = range(0, traffic.scrapes + 1, every)
    limit = burn.threshold * reading.nudge
    if isinstance(by, Slicing):
        slices = _slices(traffic, by, reading, samples=samples)
        long = _means(slices, burn.long / every, reading)
        short = _means(slices, burn.short / every, reading)
    else:
        long = _ratios(traffic, burn.long, by, reading=reading, samples=samples)
        short = _ratios(traffic, burn.short, by, reading=reading, samples=samples)
    burning = [
        long_share > limit and short_share > limit
        for long_share, short_share in zip(long, short, strict=True)
    ]
    if not burn.failures:
        return burning
    failures = traffic.sums(burn.long, samples, closed=reading.closed).bads
    return [
        burns and failed >= burn.failures * reading.nudge
        for burns, failed in zip(burning, failures, strict=True)
    ]


def _ratios(
    traffic: Traffic, width: int, by: Counting, *, reading: _Reading, samples: range
) -> list[float]:
    if width <= by.beyond:
        return traffic.sums(width, samples, closed=reading.closed).ratios
    pieces = traffic.sums(by.piece, samples, closed=reading.closed)
    # Both are sums of as many pieces, so that their means have the same ratio.
    width_in_pieces = width / samples.step
    totals = _means(pieces.totals, width_in_pieces, reading)
    bads = _means(pieces.bads, width_in_pieces, reading)
    return Sums(totals, bads).ratios


def _slices(traffic: Traffic, by: Slicing, reading: _Reading, *, samples: range) -> list[bool]:
    sums = traffic.sums(by.width, samples, closed=reading.closed)
    allowed = by.allowed * reading.nudge
    events = by.events * reading.nudge
    slices = [
        total >= events and ratio > allowed
        for total, ratio in zip(sums.totals, sums.ratios, strict=True)
    ]
    if by.then is None:
        return slices
    shares = _means(slices, by.then.width / samples.step, reading)
    return [share > by.then.allowed * reading.nudge for share in shares]


def _means(values: Sequence[float], width: float, reading: _Reading) -> list[float]:
    sums = list(accumulate(values, initial=0.0))
    longest = math.floor(width) + 1 if reading.closed else math.ceil(width)
    means: list[float] = []
    for end in range(1, len(sums)):
        # At the beginning there are fewer samples than the window has room for.
        samples = min(end, longest)
        means.append((sums[end] - sums[end - samples]) / samples)
    return means


def _firing(holds: Sequence[bool], hold: int) -> list[bool]:
    """Whether the alert fires at each evaluation.

    Once its condition has held for its `for` without a break.
    """
    firing: list[bool] = []
    since: int | None = None
    for place, holding in enumerate(holds):
        if not holding:
            since = None
        elif since is None:
            since = place
        firing.append(since is not None and place - since >= hold)
    return firing
