"""Promtool's unit tests for a model.

Each alert fires in time, stops in time, and is silent when it should be.

1. A test is a traffic scenario, and the alerts that must fire at its turning points: just before an
   alert fires and when it does, just before it stops and when its short window must be clear. The
   times come from `detection`.
2. A turning point that depends on the last bit of a float, or on how a Prometheus reads a window,
   is not tested.
3. Silence is tested over the whole scenario, not at one moment.
4. What an objective excludes is there in abundance, once failing and once well: so each condition
   on a label has a test that fails without it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from ..promise.model import Model, Objective, Service, span
from ..rules.alerts import HOLDS, rules_of, watched
from .burn_tests import burn_tests
from .examples import example, near_misses, selected, series
from .recording_tests import recording_tests
from .scenario import Assertion, Scenario, Scraped, Test, constant, notation

_QUIET: Final = 1_800
_MINUTE: Final = 60
_SLOW: Final = 300


def proofs_of(model: Model, *, slow: bool = False, compress: int = 1) -> dict[str, Any]:
    """Return a file of promtool's tests of the rules of `rules_of`, but for its `rule_files`.

    Each objective is in one of two such files, since a file has one pace. The tests of alerts that
    see no less than five minutes would take hours of samples; with the rules evaluated once a
    minute they take a sixteenth of the time.

    Objectives that `unproved` names are in neither of them.
    """
    source = model.source
    pace = max(
        1, round(max(_MINUTE if slow else 0, source.evaluation_interval) / source.scrape_interval)
    )
    tests: list[Test] = []
    if not slow:
        for service in model.services:
            tests += _Service(model, service, every=pace, compress=compress).tests()
    for one in model.objectives:
        scenario = Scenario(source, one, pace, compress)
        if _is_slow(one) is slow and not scenario.why_unproved():
            tests += [*recording_tests(scenario), *burn_tests(scenario)]
    return {
        "evaluation_interval": span(pace * source.scrape_interval, compress),
        # Without it promtool evaluates groups in another order each time.
        "group_eval_order": [
            group["name"] for group in rules_of(model, compress=compress)["groups"]
        ],
        "tests": tests,
    }


def unproved(model: Model) -> dict[str, str]:
    """Return the names of objectives that no test can be written for, and why."""
    reasons = {one.name: Scenario(model.source, one).why_unproved() for one in model.objectives}
    return {name: why for name, why in reasons.items() if why}


def _is_slow(objective: Objective) -> bool:
    return all(tier.short >= _SLOW for tier in objective.tiers)


class _Service:
    """Makes the tests of a service as a whole.

    It is well, it is down, what it is measured by is gone.
    """

    def __init__(self, model: Model, service: Service, *, every: int, compress: int) -> None:
        scenarios = [Scenario(model.source, one, every, compress) for one in model.of(service)]
        self._service = service
        self._unproved = [one.objective for one in scenarios if one.why_unproved()]
        self._proved = [one for one in scenarios if one.objective not in self._unproved]
        # Any scenario does: all see the same scrapes.
        self._one = Scenario(model.source, model.objectives[0], every, compress)
        self._fault, self._end = self._one.scrapes(_QUIET / 2), self._one.scrapes(_QUIET)
        self._up = example(service.up, instance="one")
        self._falling = notation([1] * (self._fault + 1) + [0] * (self._end - self._fault))
        self._watched = [
            {"metric": one.metric, "severity": loud} for one, loud in watched(model, service)
        ]
        self._metrics = [metric for metric, _ in watched(model, service)]

    def tests(self) -> list[Test]:
        well = self._healthy(self._end)
        silent = [self._silence()]
        half = {example(self._service.up, instance="two"): self._falling}
        return [
            self._one.written(
                f"{self._service.name}: all is well, and nothing fires", well, silent
            ),
            self._one.written(
                f"{self._service.name}: one of two instances is down", well | half, silent
            ),
            self._down(),
            *(
                self._absent(metric)
                for metric in dict.fromkeys(one.metric for one in self._metrics)
            ),
        ]

    def _down(self) -> Test:
        """Nothing is left, but for what other jobs export."""
        scraped = _stale(self._healthy(self._fault)) | {self._up: self._falling}
        for asked in (self._service.up, *self._metrics):
            for labels in near_misses(asked, selected(asked)):
                scraped[series(asked.metric, labels)] = constant(1, self._end)
        checks = self._fires("Down", [{"severity": self._service.down_severity}])
        if self._watched:
            checks += self._fires("SLIMetricAbsent", self._watched)
        return self._one.written(f"{self._service.name}: everything is gone", scraped, checks)

    def _absent(self, metric: str) -> Test:
        """The instances answer, and one metric is not there any more."""
        before = self._healthy(self._fault).items()
        gone = {name: samples for name, samples in before if name.partition("{")[0] == metric}
        absent = [one for one in self._watched if one["metric"] == metric]
        checks = self._fires("SLIMetricAbsent", absent, metric=metric)
        silent = self._silence(self._alert("Down"))
        scraped = self._healthy(self._end) | _stale(gone)
        name = f"{self._service.name}: {metric} is gone"
        return self._one.written(name, scraped, [*checks, silent])

    def _healthy(self, scrapes: int) -> Scraped:
        well = constant(1, scrapes)
        scraped = {self._up: well}
        for one in self._unproved:
            scraped |= {example(metric.of_job): well for metric in one.indicator.watched}
        for scenario in self._proved:
            scraped |= scenario.scraped(scenario.traffic(scenario.stretch(scrapes)), never="bad")
            scraped |= {scenario.probe: well} if scenario.probe else {}
        return scraped

    def _fires(self, what: str, by: list[dict[str, str]], *, metric: str = "") -> list[Assertion]:
        """Silence just before, and each set of labels as often as it is listed when it is time."""
        first = self._fault + self._one.every + self._one.scrapes(HOLDS[what])
        alerts = self._alert(what) + (f',metric="{metric}"' if metric else "")
        expression = f'count by ({", ".join(by[0])}) (ALERTS{{alertstate="firing",{alerts}}})'
        return [
            Assertion(expression, first - self._one.every, {}),
            Assertion(expression, first, Counter(series("", one) for one in by)),
        ]

    def _alert(self, what: str) -> str:
        return f'alertname="{self._service.alert_prefix}{what}",service="{self._service.name}"'

    def _silence(self, alerts: str = "") -> Assertion:
        # Whatever an expression makes of series that stand still.
        unknown = (
            f',slo!~"{"|".join(one.name for one in self._unproved)}"' if self._unproved else ""
        )
        return self._one.silence(self._end, (alerts or f'service="{self._service.name}"') + unknown)


def _stale(scraped: Scraped) -> Scraped:
    return {name: f"{samples} stale" for name, samples in scraped.items()}
