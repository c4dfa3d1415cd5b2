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

_QUIET: Final = 1_800  # How long all is well, in seconds; halfway the service may go down.
_MINUTE: Final = 60
_SLOW: Final = 300  # Tests of tiers whose short window is this long are evaluated once a minute.


def proofs_of(model: Model, *, slow: bool = False, compress: int = 1) -> dict[str, Any]:
    """Return a file of promtool's tests of the rules of `rules_of`, but for its `rule_files`.

    Each objective is in one of two such files, since a file has one pace. The tests of alerts that
    see no less than five minutes would take hours of samples; with the rules evaluated once a
    minute they take a sixteenth of the time.

    Objectives that `unproved` names are in neither of them.
    """
    source = model.source
    # How many scrapes lie between two evaluations.
    shortest = _MINUTE if slow else 0
    interval = max(shortest, source.evaluation_interval)
    pace = max(1, round(interval / source.scrape_interval))
    tests: list[Test] = []
    if not slow:
        for service in model.services:
            tests += _Service(model, service, every=pace, compress=compress).tests()
    for objective in model.objectives:
        scenario = Scenario(source, objective, pace, compress)
        if _is_slow(objective) is slow and not scenario.why_unproved():
            tests += recording_tests(scenario)
            tests += burn_tests(scenario)
    groups = rules_of(model, compress=compress)["groups"]
    return {
        "evaluation_interval": span(pace * source.scrape_interval, compress),
        # Without it promtool evaluates groups in another order each time.
        "group_eval_order": [group["name"] for group in groups],
        "tests": tests,
    }


def unproved(model: Model) -> dict[str, str]:
    """Return the names of objectives that no test can be written for, and why."""
    reasons: dict[str, str] = {}
    for objective in model.objectives:
        reason = Scenario(model.source, objective).why_unproved()
        if reason:
            reasons[objective.name] = reason
    return reasons


def _is_slow(objective: Objective) -> bool:
    return all(tier.short >= _SLOW for tier in objective.tiers)


class _Service:
    """Makes the tests of a service as a whole.

    It is well, it is down, what it is measured by is gone.
    """

    def __init__(self, model: Model, service: Service, *, every: int, compress: int) -> None:
        self._service = service
        self._unproved: list[Objective] = []
        self._proved: list[Scenario] = []
        for objective in model.of(service):
            scenario = Scenario(model.source, objective, every, compress)
            if scenario.why_unproved():
                self._unproved.append(objective)
            else:
                self._proved.append(scenario)
        # Any scenario does: all see the same scrapes.
        self._scenario = Scenario(model.source, model.objectives[0], every, compress)
        self._fault = self._scenario.scrapes(_QUIET / 2)
        self._end = self._scenario.scrapes(_QUIET)
        self._up = example(service.up, instance="one")
        up = [1] * (self._fault + 1)
        down = [0] * (self._end - self._fault)
        self._falling = notation([*up, *down])
        self._watched = [
            {"metric": metric.metric, "severity": severity}
            for metric, severity in watched(model, service)
        ]
        self._metrics = [metric for metric, _ in watched(model, service)]

    def tests(self) -> list[Test]:
        well = self._healthy(self._end)
        silent = [self._silence()]
        second = example(self._service.up, instance="two")
        half = well | {second: self._falling}
        name = self._service.name
        metrics = dict.fromkeys(selector.metric for selector in self._metrics)
        return [
            self._scenario.written(f"{name}: all is well, and nothing fires", well, silent),
            self._scenario.written(f"{name}: one of two instances is down", half, silent),
            self._down(),
            *map(self._absent, metrics),
        ]

    def _down(self) -> Test:
        """Nothing is left, but for what other jobs export."""
        scraped = _stale(self._healthy(self._fault))
        scraped[self._up] = self._falling
        samples = constant(1, self._end)
        for selector in (self._service.up, *self._metrics):
            for labels in near_misses(selector, selected(selector)):
                scraped[series(selector.metric, labels)] = samples
        checks = self._fires("Down", [{"severity": self._service.down_severity}])
        if self._watched:
            checks += self._fires("SLIMetricAbsent", self._watched)
        return self._scenario.written(f"{self._service.name}: everything is gone", scraped, checks)

    def _absent(self, metric: str) -> Test:
        """The instances answer, and one metric is not there any more."""
        before = self._healthy(self._fault).items()
        gone = {name: samples for name, samples in before if name.partition("{")[0] == metric}
        absent = [labels for labels in self._watched if labels["metric"] == metric]
        checks = self._fires("SLIMetricAbsent", absent, metric=metric)
        silent = self._silence(self._alert("Down"))
        scraped = self._healthy(self._end) | _stale(gone)
        name = f"{self._service.name}: {metric} is gone"
        return self._scenario.written(name, scraped, [*checks, silent])

    def _healthy(self, scrapes: int) -> Scraped:
        well = constant(1, scrapes)
        scraped = {self._up: well}
        for objective in self._unproved:
            for selector in objective.indicator.watched:
                scraped[example(selector.of_job)] = well
        for scenario in self._proved:
            traffic = scenario.traffic(scenario.stretch(scrapes))
            scraped |= scenario.scraped(traffic, never="bad")
            if scenario.probe:
                scraped[scenario.probe] = well
        return scraped

    def _fires(
        self, alert: str, label_sets: list[dict[str, str]], *, metric: str = ""
    ) -> list[Assertion]:
        """Silence just before, and each set of labels as often as it is listed when it is time."""
        first = self._fault + self._scenario.every + self._scenario.scrapes(HOLDS[alert])
        alerts = self._alert(alert)
        if metric:
            alerts += f',metric="{metric}"'
        names = ", ".join(label_sets[0])
        expression = f'count by ({names}) (ALERTS{{alertstate="firing",{alerts}}})'
        values = Counter(series("", labels) for labels in label_sets)
        return [
            Assertion(expression, first - self._scenario.every, {}),
            Assertion(expression, first, values),
        ]

    def _alert(self, kind: str) -> str:
        return f'alertname="{self._service.alert_prefix}{kind}",service="{self._service.name}"'

    def _silence(self, alerts: str = "") -> Assertion:
        # Whatever an expression makes of series that stand still.
        alerts = alerts or f'service="{self._service.name}"'
        if self._unproved:
            names = "|".join(objective.name for objective in self._unproved)
            alerts += f',slo!~"{names}"'
        return self._scenario.silence(self._end, alerts)


def _stale(scraped: Scraped) -> Scraped:
    return {name: f"{samples} stale" for name, samples in scraped.items()}
