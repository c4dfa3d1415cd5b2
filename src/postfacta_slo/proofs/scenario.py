"""Traffic scenarios of one objective.

The series that Prometheus would scrape, and the alerts that are expected.

A scenario is written as promtool reads it: series, and queries with their expected results.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from ..promise.model import (
    PRESENT,
    DataSource,
    Objective,
    RatioIndicator,
    ThresholdIndicator,
    Tier,
    span,
)
from ..promise.promql import Expression, Query, Selector, SloError, number
from .detection import Burn, Counting, Slicing, Stretch, Traffic, bad_slices, verdicts
from .examples import example, near_misses, selected, series

# What a scrape found: a number, None if there was no such series, "stale" where it vanished.
Sample = int | float | str | None

Scraped = dict[str, str]  # The samples of each series, in promtool's notation.
Test = dict[str, Any]  # One of promtool's tests, as plain mappings and lists.
# By tier, whether it fires at each evaluation; None where that depends on rounding.
Verdicts = Mapping[str, Sequence[bool | None]]

_VOLUME: Final = 300  # Events between two scrapes: 20 a second at 15 s.
# How many times as many events of each kind that is left out: 100 a second at 15 s.
_LEFT_OUT: Final = 5
# A busy week would fill memory with what was scraped: such windows add up what was recorded of five
# minutes each.
_READ_AT_ONCE: Final = 7_200  # Seconds; the limit that `rules.recording` has.
_HOUR: Final = 3_600
# Waiting longer for a window to fill would only take time: what has not been scraped is no part of
# it.
_LONGEST: Final = 6 * _HOUR
_DISTURBED: Final = 1_800  # Seconds that a probe or an instance is not well.
_GRACE: Final = 60  # Seconds, beyond the short window, in which an alert must stop.
# What sums of floats may be off by.
_DUST: Final = 1e-9
# One probe, or one instance, that says each time whether it is well.
_PROBED: Final = Slicing(width=0, allowed=0.0)

# Enough to see an alert flap; more would only repeat it.
_MOST_TURNS: Final = 24


@dataclass(frozen=True, slots=True)
class Assertion:
    """A query and its expected result."""

    expression: str  # The query.
    sample: int  # At which sample it is asked.
    # The values by label set, as Prometheus writes it; nothing may be found if it is empty.
    values: Mapping[str, float]


def firing(
    alerts: str, outcomes: Verdicts, severities: Mapping[str, str], *, every: int
) -> list[Assertion]:
    """Return the checks that just these tiers fire at each turning point."""
    checks: list[Assertion] = []
    for place in _turns(outcomes):
        sure = [tier for tier, verdict in outcomes.items() if verdict[place] is not None]
        if not sure:
            continue
        conditions = alerts
        if len(sure) < len(outcomes):
            conditions += f',burnrate_tier=~"{"|".join(sure)}"'
        expression = (
            f'count by (burnrate_tier, severity) (ALERTS{{alertstate="firing",{conditions}}})'
        )
        values: dict[str, float] = {}
        for tier in sure:
            if outcomes[tier][place]:
                label = f'burnrate_tier="{tier}", ' if tier else ""
                values[f'{{{label}severity="{severities[tier]}"}}'] = 1.0
        checks.append(Assertion(expression, place * every, values))
    return checks


def _turns(outcomes: Verdicts) -> list[int]:
    """The evaluations just before and at each change, and the last one."""
    turns: set[int] = set()
    for verdict in outcomes.values():
        decided = [place for place, fires in enumerate(verdict) if fires is not None]
        for before, after in pairwise(decided):
            if verdict[before] is not verdict[after]:
                turns |= {before, after}
    last = [len(verdict) - 1 for verdict in outcomes.values()][:1]
    first = sorted(turns)[:_MOST_TURNS]
    return list(dict.fromkeys([*first, *last]))


@dataclass(frozen=True, slots=True)
class Scenario:
    """One objective and its surroundings, seen in scrapes."""

    source: DataSource  # Who scrapes, and how often.
    objective: Objective  # What is watched.
    every: int = 1  # How many scrapes lie between two evaluations of the rules, from 1 up.
    compress: int = 1  # How many times shorter all times are.

    def whole(self, scrapes: float) -> int:
        """This number of scrapes, rounded up to whole evaluations."""
        return math.ceil(scrapes / self.every) * self.every

    def scrapes(self, seconds: float) -> int:
        """The number of scrapes in this many seconds, rounded up to whole evaluations."""
        return self.whole(seconds / self.source.scrape_interval)

    @property
    def counted(self) -> bool:
        indicator = self.objective.indicator
        if isinstance(indicator, RatioIndicator):
            return indicator.counter
        return indicator.quantile is not None

    @property
    def volume(self) -> int:
        """Events between two scrapes: enough to be above every bound on small numbers."""
        if not self.counted and isinstance(self.objective.indicator, ThresholdIndicator):
            return 1
        needs: list[float] = []
        for tier in self.objective.tiers:
            threshold = self.objective.threshold(tier)
            needs.append(3 / threshold)
            needs.append(4 * tier.min_failures / (threshold * self.scrapes(tier.long)))
        if slices := self.objective.slices:
            # So that a slice is judged from the first scrape on.
            needs.append(2 * slices.min_requests)
        # In whole hundreds.
        needed = math.ceil(max(needs, default=0) / 100) * 100
        return max(_VOLUME, needed)

    def traffic(self, *stretches: Stretch) -> Traffic:
        return Traffic(stretches, self.counted)

    def stretch(self, scrapes: int, share: float = 0.0) -> Stretch:
        """Return this many scrapes during which this share fails, to the nearest whole event."""
        return Stretch(scrapes, self.volume, round(share * self.volume))

    def burn(self, tier: Tier) -> Burn:
        return Burn(
            tier=tier.name,
            long=self._intervals(tier.long),
            short=self._intervals(tier.short),
            hold=math.ceil(tier.hold / self.source.scrape_interval),
            threshold=self.objective.threshold(tier),
            failures=tier.min_failures,
        )

    def _intervals(self, seconds: int) -> int:
        return round(seconds / self.source.scrape_interval)

    @property
    def by(self) -> Counting | Slicing:
        indicator = self.objective.indicator
        slices = self.objective.slices
        judged = None
        if slices:
            judged = Slicing(
                width=self._intervals(slices.window),
                allowed=slices.budget,
                events=slices.min_requests,
            )
        if isinstance(indicator, RatioIndicator):
            if judged:
                return judged
            return Counting(
                beyond=self._intervals(_READ_AT_ONCE),
                piece=self._intervals(PRESENT),
            )
        if indicator.quantile is None:
            return Slicing(width=0, allowed=0.0, then=judged)
        window = min(PRESENT, slices.window) if slices else PRESENT
        allowed = indicator.quantile
        if indicator.op in {"lte", "lt"}:
            allowed = 1 - allowed
        return Slicing(
            width=self._intervals(window),
            allowed=allowed,
            then=judged,
        )

    def verdicts(self, traffic: Traffic, by: Slicing | None = None) -> dict[str, list[bool | None]]:
        """Return for each tier at each evaluation whether it fires.

        None where that depends on rounding.
        """
        return {
            tier.name: verdicts(traffic, self.burn(tier), by or self.by, every=self.every)
            for tier in self.objective.tiers
        }

    def scraped(self, traffic: Traffic, *, never: str = "") -> Scraped:
        """Return the objective's own series for some traffic.

        The good or the bad ones may never have been seen.
        """
        indicator = self.objective.indicator
        if isinstance(indicator, ThresholdIndicator):
            return self._measured(indicator, traffic, selected(_selector(indicator.metric)))
        total = _selector(indicator.total)
        judged = _selector(indicator.counted)
        goods = ("good", traffic.goods)
        bads = ("bad", traffic.bads)
        if judged.metric == total.metric:
            good, bad = _good_and_bad(indicator)
            counts_by_series = {
                series(total.metric, good): goods,
                series(total.metric, bad): bads,
            }
        else:
            counts_by_series = {
                series(total.metric, selected(total)): ("all", traffic.totals),
                series(judged.metric, selected(judged)): goods if indicator.good else bads,
            }
        return {
            name: _samples(traffic, counts)
            for name, (kind, counts) in counts_by_series.items()
            if kind != never
        }

    def left_out(self, scrapes: int, *, failing: bool) -> Scraped:
        """Return series that the objective must leave out.

        Each satisfies all of its conditions but one.
        """
        indicator = self.objective.indicator
        events = _LEFT_OUT * self.volume
        traffic = self.traffic(Stretch(scrapes, events, bad=events * failing))
        if isinstance(indicator, ThresholdIndicator):
            metric = _selector(indicator.metric)
            missed: Scraped = {}
            for labels in near_misses(metric, selected(metric)):
                missed |= self._measured(indicator, traffic, labels, far=1_000)
            return missed
        total = _selector(indicator.total)
        judged = _selector(indicator.counted)
        if judged.metric == total.metric:
            base = _good_and_bad(indicator)[failing]
            watched = total
        else:
            # What failed is one more of those that are bad, or of all; what went well, of those
            # that are good, or of all.
            watched = judged if (indicator.bad is not None) == failing else total
            base = selected(watched)
        samples = _samples(traffic, traffic.totals)
        return {series(watched.metric, labels): samples for labels in near_misses(watched, base)}

    def _measured(
        self,
        indicator: ThresholdIndicator,
        traffic: Traffic,
        labels: dict[str, str],
        *,
        far: float = 1,
    ) -> Scraped:
        """Return the series of a measured value, bad where an event of the traffic is bad.

        A gauge has one value at each scrape; a histogram has the low values at the threshold, and
        the high ones above it.
        """
        metric = _selector(indicator.metric).metric
        if indicator.quantile is None:
            good, bad = _values(indicator, far)
            bads = [after - before for before, after in pairwise(traffic.bads)]
            samples = [bad if failed else good for failed in (bads[0], *bads)]
            return {series(metric, labels): notation(samples)}
        histogram = metric.removesuffix("_bucket")
        edges = self.source.edges_of(histogram) or (indicator.value,)
        low = traffic.bads
        high = traffic.goods
        if indicator.op in {"lte", "lt"}:
            low = traffic.goods
            high = traffic.bads
        # Buckets are cumulative: the threshold's has the low values, and each above it has all.
        all_values = [lows + highs for lows, highs in zip(low, high, strict=True)]
        none = [0] * len(low)
        buckets: dict[str, Sequence[int]] = {}
        for edge in edges:
            buckets[number(edge)] = none if edge < indicator.value else all_values
            if edge == indicator.value:
                buckets[number(edge)] = low
        buckets["+Inf"] = all_values
        return {
            series(metric, {**labels, "le": edge}): notation(counts)
            for edge, counts in buckets.items()
        }

    @property
    def matchers(self) -> str:
        """Conditions on the labels of what is recorded of the objective, as in a selector."""
        return f'service="{self.objective.service.name}",slo="{self.objective.name}"'

    @property
    def counting(self) -> bool:
        return isinstance(self.by, Counting)

    @property
    def bad_share(self) -> float:
        """A share of failures that makes each slice bad, and overspends the budget."""
        by = self.by
        allowed = by.allowed if isinstance(by, Slicing) else 0.0
        # Halfway between what is allowed and all.
        return (1 + max(self.objective.budget, allowed)) / 2

    def why_unproved(self) -> str:
        """Return why no series can be made up that measure the objective; empty if they can."""
        try:
            self.scraped(self.steady(1))
            self.all_left_out(1)
            self._around(1)
        except SloError as error:
            return str(error)
        return ""

    @property
    def probe(self) -> str:
        """The probe's series, if a slice depends on one."""
        slices = self.objective.slices
        if not slices or not slices.probe:
            return ""
        return example(slices.probe)

    def instance(self, name: str) -> str:
        """Return the series that says whether an instance is up, if a slice depends on it."""
        slices = self.objective.slices
        if not slices or not slices.needs_instance:
            return ""
        return example(self.objective.service.up, instance=name)

    def history(self) -> int:
        """Return for how long all has been well when a fault begins.

        An hour fills the windows of the fastest tiers.
        """
        longs = [tier.long for tier in self.objective.tiers] or [_HOUR]
        within_an_hour = [long for long in longs if long <= _HOUR]
        longest = max(within_an_hour, default=min(longs[0], _LONGEST))
        return self.scrapes(longest)

    def slice_length(self) -> int:
        """Return for how many scrapes an event stays in a slice that sees it.

        0 if there are none.
        """
        by = self.by
        if not isinstance(by, Slicing):
            return 0
        return by.width + (by.then.width if by.then else 0)

    def burst(self) -> tuple[int, int]:
        """Return how many scrapes must fail until a slice is surely bad, and its length."""
        by = self.by
        if isinstance(by, Counting):
            return self.every, self.every
        unaffected = self.slice_length() + 2 * self.every
        around = self.stretch(self.whole(unaffected))
        burst = 0
        bad = 0
        while not bad:
            burst = 2 * burst or self.every
            traffic = self.traffic(around, self.stretch(burst, 1), around)
            bad = bad_slices(traffic, by, every=self.every)
        return burst, bad * self.every

    def steady(self, scrapes: int, volume: int | None = None) -> Traffic:
        return self.traffic(Stretch(scrapes, self.volume if volume is None else volume))

    def disturbed(self) -> tuple[Traffic, list[int]]:
        """Half an hour of something that is well or not.

        As traffic of one event a scrape, and as samples.
        """
        shortest = self.objective.tiers[0].short if self.objective.tiers else 0
        after = self.scrapes(shortest + _GRACE)
        before = self.history()
        lasts = self.scrapes(_DISTURBED)
        stretches = (
            Stretch(before, total=1),
            Stretch(lasts, total=1, bad=1),
            Stretch(after, total=1),
        )
        samples = [1] * (before + 1) + [0] * lasts + [1] * after
        return Traffic(stretches, counted=False), samples

    def all_left_out(self, scrapes: int) -> Scraped:
        """Return all that the objective leaves out, whatever it would look like."""
        return self.left_out(scrapes, failing=True) | self.left_out(scrapes, failing=False)

    def course(
        self,
        name: str,
        traffic: Traffic,
        scraped: Scraped | None = None,
        *,
        left_out: Scraped | None = None,
        checks: Iterable[Assertion] = (),
    ) -> Test:
        """Return a test of some traffic: at each turning point just these tiers fire."""
        outcomes = self.verdicts(traffic, _PROBED if scraped is not None else None)
        severities = {tier.name: tier.severity for tier in self.objective.tiers}
        alert = self.alert("ErrorBudgetBurn")
        assertions = [*checks, *firing(alert, outcomes, severities, every=self.every)]
        never = [tier for tier, verdict in outcomes.items() if set(verdict) == {False}]
        if never:
            silent = f'{alert},burnrate_tier=~"{"|".join(never)}"'
            assertions.append(self.silence(traffic.scrapes, silent))
        own_series = self.scraped(traffic) if scraped is None else scraped
        return self.test(name, (left_out or {}) | own_series, assertions)

    def test(self, name: str, scraped: Scraped, checks: Sequence[Assertion]) -> Test:
        """Return a test whose surroundings are well, but for what the series say.

        An empty one is not there.
        """
        end = max(check.sample for check in checks)
        all_series = self._around(end) | scraped
        present = {series: samples for series, samples in all_series.items() if samples}
        return self.written(f"{self.objective.name}: {name}", present, checks)

    def written(self, name: str, scraped: Scraped, checks: Iterable[Assertion]) -> Test:
        """Return a test of these series and no others."""
        interval = self.source.scrape_interval
        queries = [
            {
                "expr": check.expression,
                "eval_time": span(check.sample * interval, self.compress),
                "exp_samples": [
                    {"labels": labels, "value": float(value)}
                    for labels, value in check.values.items()
                ],
            }
            for check in checks
        ]
        return {
            "name": name,
            "interval": span(interval, self.compress),
            "input_series": [
                {"series": series, "values": values} for series, values in scraped.items()
            ],
            "promql_expr_test": queries,
        }

    def _around(self, scrapes: int) -> Scraped:
        """Probe and instance are well.

        Those of others look as if ours were in the opposite state.
        """
        slices = self.objective.slices
        up = self.objective.service.up
        opposites: list[tuple[Selector, int]] = []
        if slices and slices.probe:
            opposites.append((slices.probe, 0))
        if slices and slices.needs_instance:
            opposites.append((up, 1))
        around: Scraped = {}
        for selector, value in opposites:
            for labels in near_misses(selector, selected(selector)):
                around[series(selector.metric, labels)] = constant(value, scrapes)
        for name in (self.probe, self.instance("one")):
            if name:
                around[name] = constant(1, scrapes)
        return around

    def alert(self, kind: str) -> str:
        return f'alertname="{self.objective.service.alert_prefix}{kind}",{self.matchers}'

    def silence(self, scrapes: int, alerts: str = "") -> Assertion:
        window = span((scrapes + 1) * self.source.scrape_interval, self.compress)
        alerts = alerts or self.matchers
        firing_samples = f'count_over_time(ALERTS{{alertstate="firing",{alerts}}}[{window}])'
        return Assertion(firing_samples, scrapes, {})

    def count(self, expression: str, series_count: int, at: int) -> Assertion:
        return Assertion(
            f"count({expression})", at, {"{}": float(series_count)} if series_count else {}
        )

    def value(self, name: str, value: float, at: int) -> Assertion:
        return Assertion(f"sum({name}{{{self.matchers}}})", at, {"{}": float(value)})

    def windows(self, condition: str, at: int, *, none: bool = False) -> Assertion:
        """Return the check of a condition on the error share over each window, or over none."""
        shares = f'{{__name__=~"slo:sli_error:ratio_rate.*",{self.matchers}}}'
        windows = 0 if none else len(self.objective.windows)
        return self.count(condition.format(shares), windows, at)

    def near(self, share: float) -> str:
        """Return the condition that an error share is this one.

        Of slices, that nearly all were bad.
        """
        return f"{{}} > {share - _DUST!r} < {share + _DUST!r}" if self.counting else "{} > 0.9"


def _selector(query: Query) -> Selector:
    if isinstance(query, Expression):
        raise SloError("its query is an expression, and no series can be made up for one")
    return query


def _good_and_bad(indicator: RatioIndicator) -> tuple[dict[str, str], dict[str, str]]:
    judged = _selector(indicator.counted)
    total = _selector(indicator.total)
    included = selected(total, judged)
    excluded = selected(total, without=judged)
    return (excluded, included) if indicator.bad else (included, excluded)


def _values(indicator: ThresholdIndicator, far: float) -> tuple[float, float]:
    """A good and a bad value.

    From 1 up they lie so far from the threshold, and one of them on it at 1.
    """
    at = indicator.value
    step = max(1.0, abs(indicator.value))
    near = (far - 1) * step
    beyond = far * step
    return {
        "lte": (at - near, at + beyond),
        "lt": (at - beyond, at + near),
        "gte": (at + near, at - beyond),
        "gt": (at + beyond, at - near),
    }[indicator.op]


def _samples(traffic: Traffic, counts: Sequence[int]) -> str:
    if traffic.counted:
        return notation(counts)
    return notation([None, *(after - before for before, after in pairwise(counts))])


def notation(samples: Iterable[Sample]) -> str:
    """Write samples as promtool reads them: runs of equal steps as `a+bxn`, gaps as `_xn`."""
    # Each run: the first sample, the step to each next, and how many more there are.
    runs: list[tuple[Sample, int, int]] = []
    last: Sample = None
    for sample in samples:
        step = _step(last, sample)
        last = sample
        if runs and step is not None:
            start, run_step, more = runs[-1]
            if not more or run_step == step:
                runs[-1] = (start, step, more + 1)
                continue
        runs.append((sample, 0, 0))
    return " ".join(_run(*run) for run in runs)


def constant(value: int, scrapes: int) -> str:
    return notation([value] * (scrapes + 1))


def _step(before: Sample, after: Sample) -> int | None:
    if isinstance(before, int) and isinstance(after, int):
        return after - before
    return 0 if before == after and not isinstance(before, str) else None


def _run(start: Sample, step: int, more: int) -> str:
    if start is None:
        return f"_x{more + 1}"
    return f"{start}{step:+d}x{more}" if more else str(start)
