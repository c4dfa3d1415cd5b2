"""Promtool's unit tests for a model: each alert fires in time, stops in time, and is silent when it should be.

1. A test is a traffic scenario, and the alerts that must fire at its turning points: just before an alert fires and
   when it does, just before it stops and when its short window must be clear. The times come from `detection`.
2. A turning point that depends on the last bit of a float, or on how a Prometheus reads a window, is not tested.
3. Silence is tested over the whole scenario, not at one moment.
4. What an objective excludes is there in abundance, once failing and once well: so each condition on a label has a
   test that fails without it.
5. A fault begins just after a scrape: that is the worst case.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from ..promise.budget import span
from ..promise.model import Model, Objective, Service
from ..rules.alerts import ABSENT_FOR, DOWN_FOR, watched
from ..rules.groups import rules_of
from .burn_tests import burn_tests
from .detection import notation
from .examples import example, near_misses, selected, series
from .observed import Observed, Scraped
from .recording_tests import recording_tests
from .scenario import Assertion, Scenario, Test, silence, test

__all__ = ["proofs_of", "unproved"]

_QUIET: Final = 1_800
_MINUTE: Final = 60
_SLOW: Final = 300


def proofs_of(model: Model, *, slow: bool = False, compress: int = 1) -> dict[str, Any]:
    """Return the content of a file of promtool's tests of the rules of `rules_of`, but for its `rule_files`.

    Each objective is in one of two such files, since a file has one pace. The tests of alerts that see no less than
    five minutes would take hours of samples; with the rules evaluated once a minute they take a sixteenth of the time.

    Objectives that `unproved` names are in neither of them.
    """
    source = model.source
    pace = max(1, round(max(_MINUTE if slow else 0, source.evaluation_interval) / source.scrape_interval))
    left_out = unproved(model)
    scenarios = [
        Scenario(source, one, pace, compress=compress)
        for one in model.objectives
        if _is_slow(one) is slow and one.name not in left_out
    ]
    tests = [one for scenario in scenarios for one in (*recording_tests(scenario), *burn_tests(scenario))]
    if not slow:
        of_services = [
            one
            for service in model.services
            for one in _Service(model, service, every=pace, compress=compress).tests()
        ]
        tests = of_services + tests
    return {
        "evaluation_interval": span(pace * source.scrape_interval, compress),
        # Without it promtool evaluates groups in another order each time.
        "group_eval_order": [group["name"] for group in rules_of(model, compress=compress)["groups"]],
        "tests": tests,
    }


def unproved(model: Model) -> dict[str, str]:
    """Return the names of objectives that no test can be written for, and why."""
    reasons = {one.name: Scenario(model.source, one).why_unproved() for one in model.objectives}
    return {name: why for name, why in reasons.items() if why}


def _is_slow(objective: Objective) -> bool:
    return all(tier.short >= _SLOW for tier in objective.tiers)


class _Service:
    """Makes the tests of a service as a whole: it is well, it is down, what it is measured by is gone."""

    def __init__(self, model: Model, service: Service, *, every: int, compress: int) -> None:
        unknown = unproved(model)
        self._source, self._service, self._compress = model.source, service, compress
        self._unproved = [one for one in model.of(service) if one.name in unknown]
        self._observed = [
            Observed(model.source, one, every) for one in model.of(service) if one.name not in unknown
        ]
        # Any observed does: all see the same scrapes.
        self._one = Observed(model.source, model.objectives[0], every)
        self._fault, self._end = self._one.scrapes(_QUIET / 2), self._one.scrapes(_QUIET)
        self._up = example(service.up, instance="one")
        self._falling = notation([1] * (self._fault + 1) + [0] * (self._end - self._fault))
        self._watched = watched(model, service)

    def tests(self) -> list[Test]:
        well, silent = self._healthy(self._end), [self._silence()]
        half = {example(self._service.up, instance="two"): self._falling}
        return [
            self._test("all is well, and nothing fires", well, silent),
            self._test("one of two instances is down", well | half, silent),
            self._down(),
            *(self._absent(metric) for metric in dict.fromkeys(one.metric for one, _ in self._watched)),
        ]

    def _down(self) -> Test:
        """Nothing is left, but for what other jobs export."""
        scraped = _stale(self._healthy(self._fault)) | {self._up: self._falling}
        for asked in (self._service.up, *(metric.of_job for metric, _ in self._watched)):
            for labels in near_misses(asked, selected(asked)):
                scraped[series(asked.metric, labels)] = _constant(1, self._end)
        checks = self._fires("Down", [{"severity": self._service.down_severity}], hold=DOWN_FOR)
        if self._watched:
            checks += self._fires("SLIMetricAbsent", self._absences(), hold=ABSENT_FOR)
        return self._test("everything is gone", scraped, checks)

    def _absent(self, metric: str) -> Test:
        """The instances answer, and one metric is not there any more."""
        before = self._healthy(self._fault).items()
        gone = {name: samples for name, samples in before if name.partition("{")[0] == metric}
        absent = [one for one in self._absences() if one["metric"] == metric]
        checks = self._fires("SLIMetricAbsent", absent, hold=ABSENT_FOR, metric=metric)
        alerts = f'alertname="{self._service.alert_prefix}Down",service="{self._service.name}"'
        scraped = self._healthy(self._end) | _stale(gone)
        return self._test(f"{metric} is gone", scraped, [*checks, self._silence(alerts)])

    def _absences(self) -> list[dict[str, str]]:
        return [{"metric": one.metric, "severity": severity} for one, severity in self._watched]

    def _healthy(self, scrapes: int) -> Scraped:
        scraped = {self._up: _constant(1, scrapes)}
        for one in self._unproved:
            unmeasured = (example(metric.of_job) for metric in one.indicator.watched)
            scraped |= dict.fromkeys(unmeasured, _constant(1, scrapes))
        for observed in self._observed:
            slices = observed.objective.slices
            scraped |= observed.scraped(observed.traffic(observed.stretch(scrapes)), bad_since=None)
            if slices and slices.probe:
                scraped[example(slices.probe)] = _constant(1, scrapes)
        return scraped

    def _fires(self, what: str, by: list[dict[str, str]], *, hold: int, metric: str = "") -> list[Assertion]:
        """Silence just before, and each set of labels as often as it is listed when it is time."""
        every = self._one.every
        first = self._fault + every + self._one.scrapes(hold)
        chosen = f',metric="{metric}"' if metric else ""
        alerts = f'alertname="{self._service.alert_prefix}{what}",service="{self._service.name}"{chosen}'
        expression = f'count by ({", ".join(by[0])}) (ALERTS{{alertstate="firing",{alerts}}})'
        return [
            Assertion(expression, first - every, {}),
            Assertion(expression, first, Counter(series("", one) for one in by)),
        ]

    def _silence(self, alerts: str = "") -> Assertion:
        whole = span((self._end + 1) * self._source.scrape_interval, self._compress)
        # Whatever an expression makes of series that stand still.
        unknown = f',slo!~"{"|".join(one.name for one in self._unproved)}"' if self._unproved else ""
        return silence((alerts or f'service="{self._service.name}"') + unknown, self._end, whole)

    def _test(self, name: str, scraped: Scraped, checks: list[Assertion]) -> Test:
        name, interval = f"{self._service.name}: {name}", self._source.scrape_interval
        return test(name, scraped, checks, interval=interval, compress=self._compress)


def _constant(value: int, scrapes: int) -> str:
    return notation([value] * (scrapes + 1))


def _stale(scraped: Scraped) -> Scraped:
    return {name: f"{samples} stale" for name, samples in scraped.items()}
