"""The series that Prometheus would scrape of one service under some traffic, and the expected alerts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from ..promise.budget import threshold
from ..promise.model import (
    PRESENT,
    DataSource,
    Expression,
    Objective,
    Query,
    RatioIndicator,
    SloError,
    ThresholdIndicator,
    Tier,
)
from ..promise.promql import Selector, number
from .detection import Burn, Counting, Sample, Slicing, Stretch, Traffic, notation, verdicts
from .examples import near_misses, selected, series

__all__ = ["Observed", "Scraped"]

Scraped = dict[str, str]  # The samples of each series, in promtool's notation.

_VOLUME: Final = 300  # Events between two scrapes: 20 a second at 15 s.
_LEFT_OUT: Final = 5  # How many times as many events of each kind that is left out: 100 a second at 15 s.
# A busy week would fill memory with what was scraped: such windows add up what was recorded of five minutes each.
_READ_AT_ONCE: Final = 7_200


@dataclass(frozen=True, slots=True)
class Observed:
    """One objective, seen in scrapes."""

    source: DataSource  # Who scrapes, and how often.
    objective: Objective  # What is watched.
    every: int = 1  # How many scrapes lie between two evaluations of the rules, from 1 up.

    def whole(self, scrapes: float) -> int:
        """This number of scrapes, rounded up to whole evaluations."""
        return math.ceil(scrapes / self.every) * self.every

    def scrapes(self, seconds: float) -> int:
        """The number of scrapes in this many seconds, rounded up to whole evaluations."""
        return self.whole(seconds / self.source.scrape_interval)

    @property
    def counted(self) -> bool:
        indicator = self.objective.indicator
        return indicator.counter if isinstance(indicator, RatioIndicator) else indicator.quantile is not None

    @property
    def volume(self) -> int:
        """Events between two scrapes: enough to be above every bound on small numbers."""
        if not self.counted and isinstance(self.objective.indicator, ThresholdIndicator):
            return 1
        needs = [3 / threshold(self.objective, tier) for tier in self.objective.tiers]
        needs += [
            4 * tier.min_failures / (threshold(self.objective, tier) * self.scrapes(tier.long))
            for tier in self.objective.tiers
        ]
        if slices := self.objective.slices:
            # So that a slice is judged from the first scrape on.
            needs.append(2 * slices.min_requests)
        return max(_VOLUME, math.ceil(max(needs, default=0) / 100) * 100)

    def traffic(self, *stretches: Stretch) -> Traffic:
        return Traffic(stretches, self.counted)

    def stretch(self, scrapes: int, share: float = 0.0) -> Stretch:
        """Return this many scrapes during which this share fails, to the nearest whole event."""
        return Stretch(scrapes, self.volume, round(share * self.volume))

    def burn(self, tier: Tier) -> Burn:
        return Burn(
            tier=tier.name,
            long=round(tier.long / self.source.scrape_interval),
            short=round(tier.short / self.source.scrape_interval),
            hold=math.ceil(tier.hold / self.source.scrape_interval),
            threshold=threshold(self.objective, tier),
            failures=tier.min_failures,
        )

    @property
    def by(self) -> Counting | Slicing:
        indicator, slices = self.objective.indicator, self.objective.slices
        if isinstance(indicator, ThresholdIndicator):
            return self._points(indicator)
        if slices is None:
            return Counting(
                beyond=round(_READ_AT_ONCE / self.source.scrape_interval),
                piece=round(PRESENT / self.source.scrape_interval),
            )
        width = round(slices.window / self.source.scrape_interval)
        return Slicing(width=width, allowed=slices.budget, events=slices.min_requests)

    def _points(self, indicator: ThresholdIndicator) -> Slicing:
        slices = self.objective.slices
        then = (
            None
            if slices is None
            else Slicing(width=round(slices.window / self.source.scrape_interval), allowed=slices.budget)
        )
        if indicator.quantile is None:
            return Slicing(width=0, allowed=0.0, then=then)
        window = min(PRESENT, slices.window) if slices else PRESENT
        slow_is_bad = indicator.op in {"lte", "lt"}
        allowed = 1 - indicator.quantile if slow_is_bad else indicator.quantile
        return Slicing(width=round(window / self.source.scrape_interval), allowed=allowed, then=then)

    def verdicts(self, traffic: Traffic, by: Slicing | None = None) -> dict[str, list[bool | None]]:
        """Return for each tier at each evaluation whether it fires; None where that depends on rounding."""
        return {
            tier.name: verdicts(traffic, self.burn(tier), by or self.by, every=self.every)
            for tier in self.objective.tiers
        }

    def scraped(self, traffic: Traffic, *, good_since: int | None = 0, bad_since: int | None = 0) -> Scraped:
        """Return the objective's own series for some traffic."""
        indicator = self.objective.indicator
        if isinstance(indicator, ThresholdIndicator):
            return self._measured(indicator, traffic, selected(_selector(indicator.metric)))
        goods = _since(good_since, traffic.goods, counted=traffic.counted)
        bads = _since(bad_since, traffic.bads, counted=traffic.counted)
        totals = _since(0, traffic.totals, counted=traffic.counted)
        total, judged = _selector(indicator.total), _selector(indicator.counted)
        if judged.metric != total.metric:
            found = {
                series(total.metric, selected(total)): totals,
                series(judged.metric, selected(judged)): goods if indicator.good else bads,
            }
        else:
            good, bad = _good_and_bad(indicator)
            found = {series(total.metric, good): goods, series(total.metric, bad): bads}
        return {name: notation(samples) for name, samples in found.items() if set(samples) != {None}}

    def left_out(self, scrapes: int, *, failing: bool) -> Scraped:
        """Return series that the objective must leave out: each satisfies all of its conditions but one."""
        indicator = self.objective.indicator
        events = Stretch(scrapes, _LEFT_OUT * self.volume, _LEFT_OUT * self.volume * failing)
        traffic = self.traffic(events)
        if isinstance(indicator, ThresholdIndicator):
            metric = _selector(indicator.metric)
            missed = near_misses(metric, selected(metric))
            return {
                name: samples
                for labels in missed
                for name, samples in self._measured(indicator, traffic, labels, far=1_000).items()
            }
        total, judged = _selector(indicator.total), _selector(indicator.counted)
        if judged.metric == total.metric:
            base, watched = _good_and_bad(indicator)[failing], total
        else:
            # What failed is one more of those that are bad, or of all; what went well, of those that are good, or of all.
            watched = judged if (indicator.bad is not None) == failing else total
            base = selected(watched)
        samples = notation(_since(0, traffic.totals, counted=traffic.counted))
        return {series(watched.metric, labels): samples for labels in near_misses(watched, base)}

    def _measured(
        self, indicator: ThresholdIndicator, traffic: Traffic, labels: dict[str, str], *, far: float = 1
    ) -> Scraped:
        metric = _selector(indicator.metric).metric
        if indicator.quantile is None:
            good, bad = _values(indicator, far)
            bads = [other - one for one, other in pairwise(traffic.bads)]
            return {
                series(metric, labels): notation([bad if failed else good for failed in (bads[0], *bads)])
            }
        edges = self.source.edges_of(metric.removesuffix("_bucket")) or (indicator.value,)
        slow_is_bad = indicator.op in {"lte", "lt"}
        low, high = (traffic.goods, traffic.bads) if slow_is_bad else (traffic.bads, traffic.goods)
        both = [one + other for one, other in zip(low, high, strict=True)]
        none, at = [0] * len(low), indicator.value
        counts = {number(edge): both if edge > at else low if edge == at else none for edge in edges}
        counts["+Inf"] = both
        return {series(metric, {**labels, "le": edge}): notation(count) for edge, count in counts.items()}


def _selector(query: Query) -> Selector:
    if isinstance(query, Expression):
        raise SloError("its query is an expression, and no series can be made up for one")
    return query


def _good_and_bad(indicator: RatioIndicator) -> tuple[dict[str, str], dict[str, str]]:
    judged, total = _selector(indicator.counted), _selector(indicator.total)
    yes, no = selected(total, judged), selected(total, without=judged)
    return (no, yes) if indicator.bad else (yes, no)


def _values(indicator: ThresholdIndicator, far: float) -> tuple[float, float]:
    """A good and a bad value; from 1 up they lie so far from the threshold, and one of them on it at 1."""
    at, step = indicator.value, max(1.0, abs(indicator.value))
    near, beyond = (far - 1) * step, far * step
    return {
        "lte": (at - near, at + beyond),
        "lt": (at - beyond, at + near),
        "gte": (at + near, at - beyond),
        "gt": (at + beyond, at - near),
    }[indicator.op]


def _since(first: int | None, counts: Sequence[int], *, counted: bool) -> list[Sample]:
    """The samples of a series that is there from the first one on; a counter that appears began at 0 just before."""
    if first is None:
        return [None] * len(counts)
    if not counted:
        return [None, *(other - one for one, other in pairwise(counts))]
    base = counts[0] if first else 0
    return [*[None] * first, *(count - base for count in counts[first:])]
