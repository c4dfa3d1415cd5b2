"""Read an OpenSLO v1 file into the model, and refuse anything that the generator would ignore.

1. An object that nothing refers to is refused, as is a key that is not known, with its path.
2. What OpenSLO has no field for is in annotations that begin with `prometheus/`.
3. What it may leave out has a usual value: a service that is only named, the short window of an alert, the intervals
   of the Prometheus.
4. Refused although the specification has them, because no rule could be written from them: calendar windows, months
   and longer units, ready-made ratios (`raw`), several objectives in one SLO.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, cast

from .model import (
    DAY,
    DataSource,
    Model,
    Objective,
    RatioIndicator,
    Selector,
    Service,
    Slices,
    SloError,
    ThresholdIndicator,
    Tier,
)
from .promql import Expression, Query, counted, expression, measured, query, selector
from .reading import Entry, Faults, Registry, Reported, StrictMapping, entry, every, seconds

__all__ = ["read"]

_BUCKET: Final = "_bucket"
# Of a file without a DataSource: Prometheus's own defaults are a minute, but charts of Kubernetes set these.
_USUAL: Final = DataSource(name="prometheus", scrape_interval=30, evaluation_interval=30)
# An SLI is made with its objective, where the value of a threshold stands.
_Indicator = Callable[[StrictMapping], RatioIndicator | ThresholdIndicator]


def read(documents: Iterable[object]) -> Model:
    """Return the objectives in the documents of an OpenSLO file."""
    faults = Faults()
    entries: list[Entry] = []
    documents = list(documents)
    known = [(value, f"document {place}") for place, value in enumerate(documents, 1)]
    for value, place in (*known, *_implied(documents)):
        try:
            entries.append(entry(value, place, faults=faults))
        except SloError as error:
            faults.add(error)
    sources = Registry(entries, "DataSource", _source, faults=faults)
    if len([one for one in entries if one.kind == "DataSource"]) > 1:
        faults.add(SloError("needs one DataSource, the Prometheus that measures, and has several"))
    targets = Registry(entries, "AlertNotificationTarget", _target, faults=faults)
    services = Registry(entries, "Service", partial(_service, targets=targets), faults=faults)
    indicators = Registry(entries, "SLI", _Measures(sources).indicator, faults=faults)
    conditions = Registry(entries, "AlertCondition", _condition, faults=faults)
    policy = partial(_policy, conditions=conditions, targets=targets)
    policies = Registry(entries, "AlertPolicy", policy, faults=faults)
    promises = _Promises(services, indicators, policies, targets)
    objectives = Registry(entries, "SLO", promises.objective, faults=faults)
    # What is broken may refer to the rest.
    if not faults:
        for registry in (services, indicators, policies, conditions, targets):
            registry.end()
    faults.end()
    return Model(source=_only(sources), services=services.all(), objectives=objectives.all())


def _implied(documents: Sequence[object]) -> Iterable[tuple[object, str]]:
    """Make the services that a file only names: OpenSLO lets it leave them out."""
    known = [cast("Mapping[str, Any]", one) for one in documents if isinstance(one, dict)]
    if any(one.get("kind") == "Service" for one in known):
        return
    specs = [one.get("spec") for one in known if one.get("kind") == "SLO"]
    names = [cast("dict[str, Any]", spec).get("service") for spec in specs if isinstance(spec, dict)]
    for name in dict.fromkeys(name for name in names if isinstance(name, str)):
        head = {"apiVersion": "openslo/v1", "kind": "Service", "metadata": {"name": name}, "spec": {}}
        yield head, "what SLOs name as their service"


def _only(sources: Registry[DataSource]) -> DataSource:
    if sources.is_broken:
        raise Reported
    return next(iter(sources.all()), _USUAL)


def _source(one: Entry) -> DataSource:
    if (kind := one.spec.text("type")) != "Prometheus":
        one.spec.wrong("type", f"must be Prometheus, not {kind!r}")
    details = one.spec.child("connectionDetails", optional=True)
    histograms = details.child("histograms", optional=True)
    made = DataSource(
        name=one.name,
        scrape_interval=details.seconds("scrapeInterval", f"{_USUAL.scrape_interval}s"),
        evaluation_interval=details.seconds("evaluationInterval", f"{_USUAL.evaluation_interval}s"),
        histograms=tuple((name, histograms.numbers(name)) for name in histograms.keys),
    )
    details.end()
    return made


def _target(one: Entry) -> str:
    """A target is identified by the severity that it receives."""
    return one.spec.text("target")


def _routed(one: Entry, severity: str, targets: Registry[str]) -> str:
    if not targets.find(severity):
        raise SloError(
            f"{one.path}: severity {severity}: no AlertNotificationTarget has `target: {severity}`"
        )
    return severity


def _usually(one: Entry, note: str, severity: str, *, targets: Registry[str]) -> str:
    """Return the severity of a note; without any target in the file, the usual one is not asked for its."""
    said = one.note(note, "")
    return _routed(one, said or severity, targets) if said or targets.all() else severity


def _service(one: Entry, targets: Registry[str]) -> Service:
    (severity,) = every(one.spec.faults, lambda: _usually(one, "down-severity", "page", targets=targets))
    return Service(
        name=one.name,
        title=one.title,
        description=one.description,
        job=one.note("job", one.name),
        runbook_url=one.note("runbook-url", ""),
        dashboard_url=one.note("dashboard-url", ""),
        down_severity=severity,
        labels=one.labels,
    )


@dataclass(frozen=True, slots=True)
class _Counted:
    """A query for events: the selector that it comes down to, or an expression."""

    text: str
    path: str
    query: Query
    is_rate: bool

    def expression(self, *, counter: bool) -> Expression:
        """Return it as an expression, beside one that is none but this."""
        if isinstance(self.query, Selector):
            text = f"rate({self.query}[{{{{window}}}}])" if counter and not self.is_rate else self.text
            return expression(text, self.path)
        if counter and "[" not in self.query.text:
            raise SloError(
                f"{self.path}: adds up counters, which a restart sets to 0: put rate(...[{{{{window}}}}]) around each, "
                "or write counter: false if they are none"
            )
        return self.query


@dataclass(frozen=True, slots=True)
class _Measures:
    """Reads indicators."""

    sources: Registry[DataSource]

    def indicator(self, one: Entry) -> _Indicator:
        if "ratioMetric" in one.spec:
            return self._ratio(one, one.spec.child("ratioMetric"))
        return self._threshold(one, one.spec.child("thresholdMetric"))

    def _ratio(self, one: Entry, ratio: StrictMapping) -> _Indicator:
        counter = ratio.flag("counter", default=True)
        good, bad, total = every(
            one.spec.faults,
            lambda: self._counted(ratio.child("good")) if "good" in ratio else None,
            lambda: self._counted(ratio.child("bad")) if "bad" in ratio else None,
            lambda: self._counted(ratio.child("total")),
        )
        asked = [part for part in (good, bad, total) if part]
        rates = [part.is_rate for part in asked]
        is_mixed = any(rates) and not (counter or all(rates))
        if is_mixed or any(isinstance(part.query, Expression) for part in asked):
            good, bad, total = (part and part.expression(counter=counter) for part in (good, bad, total))
        else:
            good, bad, total = (part and part.query for part in (good, bad, total))
            counter = counter or all(rates)
        about = {"name": one.name, "description": one.description}
        made = RatioIndicator(**about, good=good, bad=bad, total=total, counter=counter)
        ratio.end()

        def promised(objective: StrictMapping) -> RatioIndicator:
            if (op := objective.text("op", "gte")) not in {"gte", "gt"}:
                objective.wrong("op", f"must be gte or gt, or be left out: a share is to be high; not {op!r}")
            return made

        return promised

    def _threshold(self, one: Entry, threshold: StrictMapping) -> _Indicator:
        spec = self._spec(threshold)
        path = spec.at("query")
        asked = query(spec.text("query"), path)
        series, by, quantile = measured(asked, path)
        if quantile is not None and isinstance(series, Selector) and not self._edges(series):
            series, by, quantile = asked, "", None  # it is not known what its series would be
        if "quantile" in spec and isinstance(asked, Selector):
            by, quantile = "quantile", spec.number("quantile")
        aggregate = by or spec.text("aggregate", "")
        spec.end()
        threshold.end()

        def made(objective: StrictMapping) -> ThresholdIndicator:
            value, op = objective.number("value"), objective.text("op")
            if quantile is not None and not isinstance(series, Expression):
                edges = self._check_edge(series, value, objective.at("value"))
                # Prometheus tells no quantile above the last edge, however much lies beyond it.
                never = {"lte": "missed", "gt": "met"}.get(op)
                if value == edges[-1] and never:
                    why = f"{value:g} is the last bucket edge, so it could never be {never}: take a lower one"
                    raise objective.refuse("value", why)
            return ThresholdIndicator(
                name=one.name,
                description=one.description,
                metric=series,
                # The worst of several series counts.
                aggregate=aggregate or ("max" if op in {"lte", "lt"} else "min"),
                quantile=quantile,
                op=op,
                value=value,
            )

        return made

    def _counted(self, metric: StrictMapping) -> _Counted:
        spec = self._spec(metric)
        path = spec.at("query")
        asked = query(spec.text("query"), path)
        series, is_rate = counted(asked, path)
        spec.end()
        metric.end()
        if isinstance(series, Selector) and series.metric.endswith(_BUCKET):
            self._check_edge(series, series.value_of("le"), path, needed=asked is series)
        return _Counted(str(asked), path, series, is_rate)

    def _spec(self, metric: StrictMapping) -> StrictMapping:
        source = metric.child("metricSource")
        referred = source.text("metricSourceRef", "")
        if referred and self.sources.all():
            self.sources.get(referred, source.at("metricSourceRef"))
        if (kind := source.text("type", "Prometheus" if referred else None)) != "Prometheus":
            source.wrong("type", f"must be Prometheus, not {kind!r}")
            raise Reported
        spec = source.child("spec")
        source.end()
        return spec

    def _edges(self, series: Selector) -> tuple[float, ...] | None:
        return _only(self.sources).edges_of(series.metric.removesuffix(_BUCKET))

    def _check_edge(
        self, series: Selector, edge: float | str | None, path: str, *, needed: bool = True
    ) -> Sequence[float]:
        """Refuse a value that is no bucket's edge: nothing was counted there, so the result would be invented.

        Return all edges; none, if they were not stated and are not needed.
        """
        histogram, edges = series.metric.removesuffix(_BUCKET), self._edges(series)
        if edges is None and not needed:
            return ()
        if edges is None or histogram == series.metric:
            raise SloError(
                f"{path}: is measured by the histogram {histogram}; write its bucket edges below "
                f"connectionDetails.histograms of the DataSource, and ask for {histogram}{_BUCKET}"
            )
        if str(edge) not in {text for one in edges for text in _spellings(one)}:
            known = ", ".join(f"{one:g}" for one in edges)
            asked = "no le" if edge is None else edge
            raise SloError(f"{path}: {asked} is no bucket edge of {histogram}; it has {known}")
        return edges


def _spellings(edge: float) -> tuple[str, ...]:
    """Return how a client may write a bucket's edge: 1 or 1.0, and from a million on 1e+06."""
    short = f"{edge:g}" if float(f"{edge:g}") == edge else f"{edge:.15g}"
    return (short,) if "e" in short else (short, str(edge))


def _condition(one: Entry) -> Tier:
    condition = one.spec.child("condition")
    for key, only in (("kind", "burnrate"), ("op", "gt")):
        if (said := condition.text(key, only)) != only:
            condition.wrong(key, f"must be {only}, not {said!r}")
    long = condition.seconds("lookbackWindow")
    made = Tier(
        policy=one.name,
        name=one.note("tier", one.name),
        severity=one.spec.text("severity"),
        factor=condition.number("threshold"),
        long=long,
        # A twelfth, as in chapter 5 of Google's SRE workbook.
        short=seconds(one.note("short-window", f"{long // 12}s"), one.notes.at("prometheus/short-window")),
        hold=condition.seconds("alertAfter", "0s"),
        min_failures=one.count("min-failures"),
    )
    condition.end()
    return made


def _policy(one: Entry, conditions: Registry[Tier], targets: Registry[str]) -> Tier:
    if not one.spec.flag("alertWhenBreaching", default=False):
        one.spec.wrong("alertWhenBreaching", "must be true: a policy is an alert on the burn rate")
    if one.spec.flag("alertWhenResolved", default=False):
        one.spec.wrong("alertWhenResolved", "would be ignored: Alertmanager's send_resolved says it")
    tier = conditions.refer(*one.spec.only("conditions"), "conditionRef")
    told = {targets.refer(value, path, "targetRef") for value, path in one.spec.items("notificationTargets")}
    if told != {tier.severity}:
        why = f"receive {', '.join(sorted(told)) or 'nothing'}, but the severity is {tier.severity}"
        raise one.spec.refuse("notificationTargets", why)
    return replace(tier, policy=one.name, when_no_data=one.spec.flag("alertWhenNoData", default=False))


@dataclass(frozen=True, slots=True)
class _Promises:
    """Reads objectives."""

    services: Registry[Service]
    indicators: Registry[_Indicator]
    policies: Registry[Tier]
    targets: Registry[str]

    def objective(self, one: Entry) -> Objective:
        spec = one.spec
        terms = StrictMapping(*spec.only("objectives"), spec.faults)
        period, tiers, service, indicator, slices = every(
            spec.faults,
            lambda: _period(spec),
            lambda: self._tiers(one),
            lambda: self.services.get(spec.text("service"), spec.at("service")),
            lambda: self._indicator(spec)(terms),
            lambda: _slices(one, terms),
        )
        made = Objective(
            name=one.name,
            title=terms.text("displayName", one.title),
            description=one.description,
            service=service,
            indicator=indicator,
            target=_target_of(terms),
            period=period,
            slices=slices,
            tiers=tiers,
            exhausted_severity=self._exhausted(one) if tiers and period >= DAY else None,
            labels=one.labels,
        )
        terms.end()
        return made

    def _indicator(self, spec: StrictMapping) -> _Indicator:
        if "indicatorRef" in spec:
            return self.indicators.get(spec.text("indicatorRef"), spec.at("indicatorRef"))
        return self.indicators.refer(spec.raw("indicator"), spec.at("indicator"), "indicatorRef")

    def _tiers(self, one: Entry) -> tuple[Tier, ...]:
        listed = one.spec.items("alertPolicies", optional=True)
        tiers = [self.policies.refer(value, path, "alertPolicyRef") for value, path in listed]
        if tiers and (severity := one.note("severity", "")):
            tiers = [replace(tier, severity=_routed(one, severity, self.targets)) for tier in tiers]
        return tuple(sorted(tiers, key=lambda tier: tier.long))

    def _exhausted(self, one: Entry) -> str:
        return _usually(one, "exhausted-severity", "ticket", targets=self.targets)


def _target_of(terms: StrictMapping) -> float:
    if "targetPercent" in terms:
        return round(terms.number("targetPercent") / 100, 12)
    return terms.number("target")


def _period(spec: StrictMapping) -> int:
    window = StrictMapping(*spec.only("timeWindow"), spec.faults)
    if not window.flag("isRolling"):
        window.wrong("isRolling", "must be true: no rule can be written for a window of the calendar")
    period = window.seconds("duration")
    window.end()
    return period


def _slices(one: Entry, terms: StrictMapping) -> Slices | None:
    method = one.spec.text("budgetingMethod")
    if method == "Occurrences":
        return None
    if method != "Timeslices":
        one.spec.wrong("budgetingMethod", f"must be Occurrences or Timeslices, not {method!r}")
        return None
    probe = one.note("slice-probe", "")
    instance = one.note("slice-needs-instance", "false")
    if instance not in {"true", "false"}:
        why = f'must be "true" or "false", not {instance!r}'
        raise one.notes.refuse("prometheus/slice-needs-instance", why)
    return Slices(
        window=_slice_window(terms),
        target=terms.number("timeSliceTarget"),
        min_requests=one.count("slice-min-requests"),
        probe=selector(probe, one.notes.at("prometheus/slice-probe")) if probe else None,
        needs_instance=instance == "true",
    )


def _slice_window(terms: StrictMapping) -> int:
    value = terms.raw("timeSliceWindow")
    if isinstance(value, int) and not isinstance(value, bool):
        return 60 * value  # OpenSLO: a bare number is minutes
    if not isinstance(value, str):
        raise terms.refuse("timeSliceWindow", "must be a number of minutes, or a duration such as 5m")
    return seconds(value, terms.at("timeSliceWindow"))
