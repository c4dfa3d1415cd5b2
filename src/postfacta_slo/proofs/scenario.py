"""Tests of traffic scenarios as promtool reads them: queries with expected results, in an objective's surroundings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from ..promise.budget import span, windows_of
from ..promise.model import SloError
from .detection import Counting, Slicing, Stretch, Traffic, bad_slices, notation
from .examples import example, near_misses, selected, series
from .observed import Observed, Scraped

__all__ = ["Assertion", "Scenario", "Test", "Verdicts", "firing", "silence", "test"]

Test = dict[str, Any]  # One of promtool's tests, as plain mappings and lists.
# By tier, whether it fires at each evaluation; None where that depends on rounding.
Verdicts = Mapping[str, Sequence[bool | None]]

_HOUR: Final = 3_600
# Waiting longer for a window to fill would only take time: what has not been scraped is no part of it.
_LONGEST: Final = 6 * _HOUR
_DISTURBED: Final = 1_800
_GRACE: Final = 60
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
    found: Mapping[str, float]


def test(name: str, scraped: Scraped, checks: Iterable[Assertion], *, interval: int, compress: int) -> Test:
    return {
        "name": name,
        "interval": span(interval, compress),
        "input_series": [{"series": series, "values": values} for series, values in scraped.items()],
        "promql_expr_test": [
            {
                "expr": check.expression,
                "eval_time": span(check.sample * interval, compress),
                "exp_samples": [
                    {"labels": labels, "value": float(value)} for labels, value in check.found.items()
                ],
            }
            for check in checks
        ],
    }


def silence(alerts: str, sample: int, whole: str) -> Assertion:
    return Assertion(f'count_over_time(ALERTS{{alertstate="firing",{alerts}}}[{whole}])', sample, {})


def firing(alerts: str, said: Verdicts, severities: Mapping[str, str], *, every: int) -> list[Assertion]:
    """Return the checks that just these tiers fire at each turning point."""
    checks: list[Assertion] = []
    for place in _turns(said):
        sure = [tier for tier, verdict in said.items() if verdict[place] is not None]
        some = "" if len(sure) == len(said) else f',burnrate_tier=~"{"|".join(sure)}"'
        if sure:
            expression = f'count by (burnrate_tier, severity) (ALERTS{{alertstate="firing",{alerts}{some}}})'
            fires = {_labels(tier, severities[tier]): 1.0 for tier in sure if said[tier][place]}
            checks.append(Assertion(expression, place * every, fires))
    return checks


def _labels(tier: str, severity: str) -> str:
    known = [("burnrate_tier", tier), ("severity", severity)]
    return "{" + ", ".join(f'{name}="{value}"' for name, value in known if value) + "}"


def _turns(said: Verdicts) -> list[int]:
    """The evaluations just before and at each change, and the last one."""
    found = sorted({place for verdict in said.values() for place in _changes(verdict)})
    last = [len(verdict) - 1 for verdict in said.values()][:1]
    return [*found[:_MOST_TURNS], *(place for place in last if place not in found[:_MOST_TURNS])]


def _changes(verdict: Sequence[bool | None]) -> Iterator[int]:
    known = [place for place, said in enumerate(verdict) if said is not None]
    for one, other in pairwise(known):
        if verdict[one] is not verdict[other]:
            yield one
            yield other


@dataclass(frozen=True, slots=True)
class Scenario(Observed):
    """One objective, its surroundings, and its promtool queries."""

    compress: int = 1  # How many times shorter all times are.

    @property
    def own(self) -> str:
        """Conditions on the labels of what is recorded of the objective, as in a selector."""
        return f'service="{self.objective.service.name}",slo="{self.objective.name}"'

    @property
    def counting(self) -> bool:
        return isinstance(self.by, Counting)

    @property
    def bad_share(self) -> float:
        """A share of failures that makes each slice bad, and overspends the budget."""
        by = self.by
        return (1 + max(self.objective.budget, by.allowed if isinstance(by, Slicing) else 0.0)) / 2

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
        return example(slices.probe) if slices and slices.probe else ""

    def instance(self, name: str) -> str:
        """Return the series that says whether an instance is up, if a slice depends on it."""
        slices = self.objective.slices
        return example(self.objective.service.up, instance=name) if slices and slices.needs_instance else ""

    def history(self) -> int:
        """Return for how long all has been well when a fault begins: an hour fills the windows of the fastest tiers."""
        longs = [tier.long for tier in self.objective.tiers] or [_HOUR]
        longest = max((long for long in longs if long <= _HOUR), default=min(longs[0], _LONGEST))
        return self.scrapes(longest)

    def slice_length(self) -> int:
        """Return for how many scrapes an event stays in a slice that sees it; 0 if there are none."""
        by = self.by
        return by.width + (by.then.width if by.then else 0) if isinstance(by, Slicing) else 0

    def burst(self) -> tuple[int, int]:
        """Return for how many scrapes all must fail until a slice is surely bad, and for how many one then is."""
        by = self.by
        if isinstance(by, Counting):
            return self.every, self.every
        around = self.stretch(self.whole(self.slice_length() + 2 * self.every))
        burst, bad = 0, 0
        while not bad:
            burst = 2 * burst or self.every
            bad = bad_slices(self.traffic(around, self.stretch(burst, 1), around), by, every=self.every)
        return burst, bad * self.every

    def steady(self, scrapes: int, volume: int | None = None) -> Traffic:
        return self.traffic(Stretch(scrapes, self.volume if volume is None else volume))

    def disturbed(self) -> tuple[Traffic, list[int]]:
        """Half an hour of something that is well or not: as traffic of one event a scrape, and as samples."""
        after = self.scrapes((self.objective.tiers[0].short if self.objective.tiers else 0) + _GRACE)
        before, lasts = self.history(), self.scrapes(_DISTURBED)
        traffic = Traffic((Stretch(before, 1), Stretch(lasts, 1, 1), Stretch(after, 1)), counted=False)
        return traffic, [1] * (before + 1) + [0] * lasts + [1] * after

    def all_left_out(self, scrapes: int) -> Scraped:
        """Return all that the objective leaves out, whatever it would look like."""
        return self.left_out(scrapes, failing=True) | self.left_out(scrapes, failing=False)

    def course(
        self,
        name: str,
        traffic: Traffic,
        scraped: Scraped | None = None,
        *,
        others: Scraped | None = None,
        checks: Iterable[Assertion] = (),
    ) -> Test:
        said = self.verdicts(traffic, _PROBED if scraped is not None else None)
        severities = {tier.name: tier.severity for tier in self.objective.tiers}
        alert = self.alert("ErrorBudgetBurn")
        asked = [*checks, *firing(alert, said, severities, every=self.every)]
        never = [tier for tier, verdict in said.items() if set(verdict) == {False}]
        if never:
            asked.append(self.silence(traffic.scrapes, f'{alert},burnrate_tier=~"{"|".join(never)}"'))
        own = self.scraped(traffic) if scraped is None else scraped
        return self.test(name, (others or {}) | own, asked)

    def test(self, name: str, scraped: Scraped, checks: Sequence[Assertion]) -> Test:
        """Return a test whose surroundings are well, but for what the series say. An empty one is not there."""
        around = self._around(max(check.sample for check in checks))
        found = {series: samples for series, samples in (around | scraped).items() if samples}
        name = f"{self.objective.name}: {name}"
        return test(name, found, checks, interval=self.source.scrape_interval, compress=self.compress)

    def _around(self, scrapes: int) -> Scraped:
        """Probe and instance are well; those of others look as if ours were in the opposite state."""
        slices, up = self.objective.slices, self.objective.service.up
        well, ill = notation([1] * (scrapes + 1)), notation([0] * (scrapes + 1))
        found: Scraped = {}
        if slices and slices.probe:
            missed = near_misses(slices.probe, selected(slices.probe))
            found |= {series(slices.probe.metric, labels): ill for labels in missed}
        if slices and slices.needs_instance:
            found |= {series(up.metric, labels): well for labels in near_misses(up, selected(up))}
        return found | {name: well for name in (self.probe, self.instance("one")) if name}

    def alert(self, what: str) -> str:
        return f'alertname="{self.objective.service.alert_prefix}{what}",{self.own}'

    def silence(self, scrapes: int, alerts: str = "") -> Assertion:
        return silence(
            alerts or self.own, scrapes, span((scrapes + 1) * self.source.scrape_interval, self.compress)
        )

    def count(self, expression: str, found: int, at: int) -> Assertion:
        return Assertion(f"count({expression})", at, {"{}": float(found)} if found else {})

    def value(self, name: str, value: float, at: int) -> Assertion:
        return Assertion(f"sum({name}{{{self.own}}})", at, {"{}": float(value)})

    def windows(self, condition: str, at: int, *, none: bool = False) -> Assertion:
        """Return the check that a condition holds for the error share over each window, or over none."""
        shares = f'{{__name__=~"slo:sli_error:ratio_rate.*",{self.own}}}'
        return self.count(condition.format(shares), 0 if none else len(windows_of(self.objective)), at)

    def near(self, share: float) -> str:
        """Return the condition that an error share is this one; of slices, that nearly all were bad."""
        return f"{{}} > {share - _DUST!r} < {share + _DUST!r}" if self.counting else "{} > 0.9"
