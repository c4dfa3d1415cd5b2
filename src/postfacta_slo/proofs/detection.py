"""Compute when a burn-rate alert must fire for some traffic, and when not: arithmetic alone, no Prometheus.

This computes the result of the generated rules a second time, independently of how they are written. What both
agree on is proved; `proofs` generates the tests that compare them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from .traffic import READINGS, Reading, Sums, Traffic

__all__ = ["Burn", "Counting", "Slicing", "bad_slices", "verdicts"]


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


def verdicts(traffic: Traffic, burn: Burn, by: Counting | Slicing, *, every: int = 1) -> list[bool | None]:
    """Return for each evaluation whether the alert fires; None where that depends on how a window is read."""
    hold = -(-burn.hold // every)
    readings = [
        _firing(_holds(traffic, burn, by, reading=reading, every=every), hold) for reading in READINGS
    ]
    return [said[0] if len(set(said)) == 1 else None for said in zip(*readings, strict=True)]


def bad_slices(traffic: Traffic, slicing: Slicing, *, every: int = 1) -> int:
    """Return at how many evaluations a slice is bad: the fewest over all ways to read a window."""
    samples = range(0, traffic.scrapes + 1, every)
    return min(sum(_slices(traffic, slicing, reading=reading, samples=samples)) for reading in READINGS)


def _holds(
    traffic: Traffic, burn: Burn, by: Counting | Slicing, *, reading: Reading, every: int
) -> list[bool]:
    """Whether the alert's condition holds, evaluation by evaluation."""
    threshold, floor = burn.threshold * reading.nudge, burn.failures * reading.nudge
    samples = range(0, traffic.scrapes + 1, every)
    if isinstance(by, Slicing):
        slices = _slices(traffic, by, reading=reading, samples=samples)
        long, short = (_means(slices, width / every, reading) for width in (burn.long, burn.short))
    else:
        long, short = (
            _ratios(traffic, width, by, reading=reading, samples=samples) for width in (burn.long, burn.short)
        )
    failures = (
        traffic.sums(burn.long, samples, closed=reading.closed).bads if burn.failures else [floor] * len(long)
    )
    return [
        one > threshold and other > threshold and failed >= floor
        for one, other, failed in zip(long, short, failures, strict=True)
    ]


def _ratios(traffic: Traffic, width: int, by: Counting, *, reading: Reading, samples: range) -> list[float]:
    """The share of bad events in the window that ends with each evaluation."""
    if width <= by.beyond:
        return traffic.sums(width, samples, closed=reading.closed).ratios
    pieces = traffic.sums(by.piece, samples, closed=reading.closed)
    # Both are sums of as many pieces, so that their means have the same ratio.
    totals, bads = (_means(values, width / samples.step, reading) for values in (pieces.totals, pieces.bads))
    return Sums(tuple(totals), tuple(bads)).ratios


def _slices(traffic: Traffic, by: Slicing, *, reading: Reading, samples: range) -> list[bool]:
    """Whether the slice that ends with each evaluation is bad."""
    sums = traffic.sums(by.width, samples, closed=reading.closed)
    allowed, events = by.allowed * reading.nudge, by.events * reading.nudge
    slices = [
        total >= events and ratio > allowed for total, ratio in zip(sums.totals, sums.ratios, strict=True)
    ]
    if by.then is None:
        return slices
    shares = _means(slices, by.then.width / samples.step, reading)
    return [share > by.then.allowed * reading.nudge for share in shares]


def _means(values: Sequence[float], width: float, reading: Reading) -> list[float]:
    """The mean over the window that ends with each evaluation, of as many values as there are."""
    sums = list(accumulate(values, initial=0.0))
    most = math.floor(width) + 1 if reading.closed else math.ceil(width)
    return [(sums[end] - sums[max(0, end - most)]) / min(end, most) for end in range(1, len(values) + 1)]


def _firing(holds: Sequence[bool], hold: int) -> list[bool]:
    """Whether the alert fires at each evaluation: once its condition has held for its `for` without a break."""
    firing: list[bool] = []
    since: int | None = None
    for place, held in enumerate(holds):
        since = (place if since is None else since) if held else None
        firing.append(since is not None and place - since >= hold)
    return firing
