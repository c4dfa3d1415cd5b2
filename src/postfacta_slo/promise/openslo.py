"""Read an OpenSLO v1 file into the model, and refuse anything that the generator would ignore.

1. An object that nothing refers to is refused, as is a key that is not known, with its path.
2. What OpenSLO has no field for is in annotations that begin with `prometheus/`.
3. What it may leave out has a usual value: a service that is only named, the short window of an
   alert, the intervals of the Prometheus.
4. Read as something else that rules can be written for, and noted: a window of the calendar as a
   rolling one of its length, and a metric source of type `Any` as Prometheus.
5. Refused although the specification has them, because no rule could be written from them: months
   and longer units of rolling windows, ready-made ratios (`raw`), ratios of slices.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from .model import (
    DAY,
    SCRAPES_IN_A_WINDOW,
    DataSource,
    Indicator,
    Model,
    Objective,
    RatioIndicator,
    Service,
    Slices,
    ThresholdIndicator,
    Tier,
)
from .promql import (
    Expression,
    Query,
    Selector,
    SloError,
    counted,
    expression,
    measured,
    query,
    selector,
)
from .reading import Entry, Faults, ObjectTable, StrictMapping, read_entry, refuse, seconds

_BUCKET: Final = "_bucket"
# Of a file without a DataSource: Prometheus's own defaults are a minute, but charts of Kubernetes
# set these.
_USUAL: Final = DataSource(name="prometheus", scrape_interval=30, evaluation_interval=30)


# Durations of OpenSLO that only the calendar has, and how long a rolling window stands for each. A
# window of the calendar has no minutes, and files write `1m` there for a month.
_CALENDAR: Final[Mapping[str, int]] = {
    "m": 30,
    "M": 30,
    "Q": 90,
    "Y": 365,
}
_CALENDAR_SPAN: Final = re.compile(r"([1-9][0-9]?)([mMQY])")


def read(documents: Iterable[object], *, note: Callable[[str], object] = str) -> Model:
    """Return the objectives in the documents of an OpenSLO file.

    Args:
        documents: What the file holds, as YAML reads it.
        note: Gets a sentence, with its place, for each thing that is served in another way than it
            is written.

    Raises:
        SloError: If anything is wrong, or would be ignored; it names all that is.
    """
    faults: Faults = {}
    entries: list[Entry] = []

    def add(value: object, place: str, kind: str = "") -> None:
        own_faults: Faults = {}
        entry = read_entry(StrictMapping(value, place, own_faults), kind)
        entries.append(entry)
        if not entry.kind:
            faults.update(own_faults)

    for place, document in enumerate(documents, 1):
        add(document, f"document {place}")
    if not any(entry.kind == "Service" for entry in entries):
        # OpenSLO lets a file leave out the services that it names.
        names = [entry.spec.peek("service") for entry in entries if entry.kind == "SLO"]
        for name in dict.fromkeys(name for name in names if isinstance(name, str)):
            service = {"metadata": {"name": name}, "spec": {}}
            add(service, "what SLOs name as their service", "Service")
    file = _File(entries, faults)
    model = file.model()
    for sentence in file.notes:
        note(sentence)
    return model


class _Events(NamedTuple):
    """A query for events."""

    query: Query
    series: Query  # The selector that it comes down to, if it does.
    is_rate: bool
    spec: StrictMapping  # Where it stands.

    def expression(self, *, counter: bool) -> Expression:
        """Return it as an expression, beside one that is none but this."""
        if isinstance(self.series, Expression):
            if counter and "[" not in self.series.text:
                self.spec.wrong(
                    "query",
                    "adds up counters, which a restart sets to 0: put rate(...[{{window}}]) around"
                    " each, or write counter: false if they are none",
                )
            return self.series
        is_bare = counter and not self.is_rate
        if is_bare:
            return expression(f"rate({self.series}[{{{{window}}}}])")
        return expression(str(self.query))


class _File:
    """The objects of a file, of each kind in turn.

    Those that are referred to before those that refer to them.
    """

    def __init__(self, entries: Sequence[Entry], faults: Faults) -> None:
        self._faults = faults
        self.notes: list[str] = []
        self._sources = ObjectTable(entries, "DataSource", _source, faults=faults)
        if len(self._sources) > 1:
            faults["the file"] = (
                "needs one DataSource, the Prometheus that measures, and has several"
            )
        # None if the one that is there is wrong.
        self._source: DataSource | None = _USUAL
        if len(self._sources):
            self._source = next(iter(self._sources.records()), None)
        self._targets = ObjectTable(entries, "AlertNotificationTarget", _target, faults=faults)
        self._services = ObjectTable(entries, "Service", self._service, faults=faults)
        self._indicators: ObjectTable[Indicator] = ObjectTable(
            entries, "SLI", self._indicator, faults=faults
        )
        self._conditions = ObjectTable(entries, "AlertCondition", _condition, faults=faults)
        self._policies = ObjectTable(entries, "AlertPolicy", self._policy, faults=faults)
        self._objectives = ObjectTable(entries, "SLO", self._objectives_of, faults=faults)

    def model(self) -> Model:
        # What is wrong may refer to the rest.
        if not self._faults:
            for kind in (
                self._services,
                self._indicators,
                self._policies,
                self._conditions,
                self._targets,
            ):
                kind.end()
        refuse(self._faults)
        objectives = tuple(objective for group in self._objectives.records() for objective in group)
        source = self._source or _USUAL
        if source is _USUAL:
            source = self._sampled(objectives)
        return Model(source=source, services=self._services.records(), objectives=objectives)

    def _sampled(self, objectives: Iterable[Objective]) -> DataSource:
        """Return the usual source; one that scrapes more often if slices are too short for it."""
        windows = [objective.slices.window for objective in objectives if objective.slices]
        shortest = min(windows, default=SCRAPES_IN_A_WINDOW * _USUAL.scrape_interval)
        interval = max(1, min(shortest // SCRAPES_IN_A_WINDOW, _USUAL.scrape_interval))
        if interval == _USUAL.scrape_interval:
            return _USUAL
        self.notes.append(
            f"the file: has no DataSource: its Prometheus must scrape and evaluate each {interval}"
            f" s, as a slice of {shortest} s needs {SCRAPES_IN_A_WINDOW} samples"
        )
        return replace(_USUAL, scrape_interval=interval, evaluation_interval=interval)

    def _severity(self, entry: Entry, note: str, usual: str) -> str:
        """Return the severity of a note, which a target must receive.

        The usual one too, if the file has targets.
        """
        stated = entry.note(note, "")
        severity = stated or usual
        needs_target = stated or (usual and len(self._targets))
        if needs_target and not self._targets.find(severity):
            reason = f"no AlertNotificationTarget has `target: {severity}`"
            entry.node.faults.setdefault(f"{entry.path}: severity {severity}", reason)
        return severity

    def _service(self, entry: Entry) -> Service | None:
        return entry.build(
            Service,
            name=entry.name,
            title=entry.title,
            description=entry.description,
            job=entry.note("job", entry.name),
            runbook_url=entry.note("runbook-url", ""),
            dashboard_url=entry.note("dashboard-url", ""),
            down_severity=self._severity(entry, "down-severity", "page"),
            labels=entry.labels,
        )

    def _indicator(self, entry: Entry) -> Indicator | None:
        if "ratioMetric" in entry.spec:
            return self._ratio(entry, entry.spec.child("ratioMetric"))
        return self._threshold(entry, entry.spec.child("thresholdMetric"))

    def _ratio(self, entry: Entry, ratio: StrictMapping) -> RatioIndicator | None:
        """Read a ratio: as selectors if all of its parts come down to one, else as expressions."""
        counter = ratio.flag("counter", default=True)
        parts: dict[str, _Events] = {}
        for word in ("good", "bad", "total"):
            if word in ratio or word == "total":
                events = self._events(ratio.child(word))
                if events:
                    parts[word] = events
        ratio.end()
        rates = [events.is_rate for events in parts.values()]
        is_mixed = any(rates) and not (counter or all(rates))
        is_combined = any(isinstance(events.series, Expression) for events in parts.values())
        queries: dict[str, Query | None] = {"good": None, "bad": None}
        for word, events in parts.items():
            if is_mixed or is_combined:
                queries[word] = events.expression(counter=counter)
            else:
                queries[word] = events.series
        if all(rates) and not is_combined:
            counter = True
        return entry.build(
            RatioIndicator,
            name=entry.name,
            description=entry.description,
            **queries,
            counter=counter,
        )

    def _events(self, metric: StrictMapping) -> _Events | None:
        spec, promql = self._query(metric)
        if not promql:
            return None
        spec.end()
        series, is_rate = counted(promql)
        is_stated = promql is series or self._edges(series)
        if isinstance(series, Selector) and series.metric.endswith(_BUCKET) and is_stated:
            self._check_edge(spec, "query", series, edge=series.value_of("le"))
        return _Events(promql, series, is_rate, spec)

    def _threshold(self, entry: Entry, threshold: StrictMapping) -> ThresholdIndicator | None:
        """Read a measured value: as a selector with an aggregate or a quantile where it is one."""
        spec, promql = self._query(threshold)
        if not promql:
            return entry.build(ThresholdIndicator)
        series, by, quantile = measured(promql)
        if quantile is not None and not self._edges(series):
            # It is not known what its series would be.
            series = promql
            by = ""
            quantile = None
        if "quantile" in spec and isinstance(promql, Selector):
            by = "quantile"
            quantile = spec.number("quantile")
        aggregate = by or spec.choice("aggregate", "max", "min", "avg", "sum", default="")
        spec.end()
        return entry.build(
            ThresholdIndicator,
            name=entry.name,
            description=entry.description,
            metric=series,
            aggregate=aggregate,
            quantile=quantile,
        )

    def _query(self, metric: StrictMapping) -> tuple[StrictMapping, Query | None]:
        """Read a query and where it stands.

        None if it is wrong, or for something else than Prometheus.
        """
        source = metric.child("metricSource")
        metric.end()
        is_named = "metricSourceRef" in source
        if is_named and len(self._sources):
            self._sources.named(source, "metricSourceRef")
        source.pass_over("metricSourceRef")
        if source.peek("type") == "Any":
            source.pass_over("type")
            self.notes.append(f"{source.at('type')}: Any is read as Prometheus: write PromQL there")
        elif not source.choice("type", "Prometheus", default="Prometheus" if is_named else None):
            return source, None
        spec = source.child("spec")
        source.end()
        return spec, spec.parsed("query", query)

    def _edges(self, series: Query) -> Sequence[float]:
        """Return the bucket edges of a histogram, if they were stated."""
        source = self._source or _USUAL
        # What combines series is no histogram, and has no edges.
        metric = series.metric if isinstance(series, Selector) else ""
        return source.edges_of(metric.removesuffix(_BUCKET))

    def _check_edge(
        self, node: StrictMapping, key: str, series: Selector, *, edge: float | str | None
    ) -> None:
        """Refuse a value that is no bucket's edge.

        Nothing was counted there, so the result would be invented.
        """
        histogram = series.metric.removesuffix(_BUCKET)
        edges = self._edges(series)
        if self._source is None:
            node.wrong(key, "")
        elif not edges or histogram == series.metric:
            node.wrong(
                key,
                f"is measured by the histogram {histogram}; write its bucket edges below "
                f"connectionDetails.histograms of the DataSource, and ask for {histogram}{_BUCKET}",
            )
        elif not any(str(edge) in _spellings(bound) for bound in edges):
            listed = ", ".join(f"{bound:g}" for bound in edges)
            shown = "no le" if edge is None else edge
            node.wrong(key, f"{shown} is no bucket edge of {histogram}; it has {listed}")

    def _policy(self, entry: Entry) -> Tier | None:
        """Read a policy: the tier of its condition, with a target that receives its severity."""
        spec = entry.spec
        spec.take(
            "alertWhenBreaching",
            "true: a policy is an alert on the burn rate",
            lambda value: value is True,
        )
        if spec.flag("alertWhenResolved", default=False):
            spec.wrong(
                "alertWhenResolved", "would be ignored: Alertmanager's send_resolved says it"
            )
        no_data = spec.flag("alertWhenNoData", default=False)
        tier = self._conditions.referenced_or_inline(spec.only("conditions"), "conditionRef")
        targets = {
            self._targets.referenced_or_inline(node, "targetRef")
            for node in spec.children("notificationTargets")
        }
        severities = [target for target in targets if target]
        if not tier:
            return entry.build(lambda: None)
        if len(severities) == len(targets) and severities != [tier.severity]:
            received = ", ".join(sorted(severities)) or "nothing"
            spec.wrong(
                "notificationTargets",
                f"receive {received}, but the severity is {tier.severity}",
            )
        named_tier = replace(tier, policy=entry.name, when_no_data=no_data)
        return entry.build(lambda: named_tier)

    def _objectives_of(self, entry: Entry) -> tuple[Objective, ...] | None:
        """Read an SLO: an objective for each of its targets."""
        spec = entry.spec
        targets = spec.children("objectives")
        if not targets:
            spec.wrong("objectives", "must have at least one item")
        period = self._period(spec.only("timeWindow"))
        policies = spec.children("alertPolicies", optional=True)
        tiers = [self._policies.referenced_or_inline(node, "alertPolicyRef") for node in policies]
        severity = self._severity(entry, "severity", "") if policies else ""
        exhausted = None
        if policies and period >= DAY:
            exhausted = self._severity(entry, "exhausted-severity", "ticket")
        elif not period:
            entry.notes.pass_over("prometheus/exhausted-severity")
        service = self._services.named(spec, "service")
        if "indicatorRef" in spec:
            indicator = self._indicators.named(spec, "indicatorRef")
        else:
            indicator = self._indicators.referenced_or_inline(
                spec.child("indicator"), "indicatorRef"
            )
        alerts = [replace(tier, severity=severity or tier.severity) for tier in tiers if tier]
        fields: dict[str, Any] = {
            "description": entry.description,
            "service": service,
            "period": period,
            "tiers": tuple(sorted(alerts, key=lambda tier: tier.long)),
            "exhausted_severity": exhausted,
            "labels": entry.labels,
        }
        slices = _slices(entry, targets)
        titles = [terms.text("displayName", "") for terms in targets]
        names = _names(entry.name, titles)
        objectives = [
            self._objective(
                entry, terms, indicator, name=name, title=title, slices=slice_, **fields
            )
            for terms, name, title, slice_ in zip(targets, names, titles, slices, strict=True)
        ]
        return entry.build(lambda: tuple(objective for objective in objectives if objective))

    def _objective(
        self, entry: Entry, terms: StrictMapping, indicator: Indicator | None, **fields: Any
    ) -> Objective | None:
        fields["title"] = fields["title"] or entry.title
        fields["indicator"] = self._promised(indicator, terms)
        if "targetPercent" in terms:
            fields["target"] = round(terms.number("targetPercent") / 100, 12)
        else:
            fields["target"] = terms.number("target")
        terms.end()
        return entry.build(Objective, **fields)

    def _period(self, window: StrictMapping) -> int:
        """Read a time window, in seconds; one of the calendar becomes a rolling one."""
        is_rolling = window.take(
            "isRolling", "true or false", lambda value: isinstance(value, bool)
        )
        if is_rolling is not False:
            period = window.seconds("duration")
            window.end()
            return period
        period = window.parsed("duration", _calendar_seconds) or 0
        # Where the calendar begins decides nothing about a rolling window.
        window.pass_over("calendar")
        window.end()
        reason = (
            f"is measured as a rolling one of {period // DAY} days: no rule begins with the"
            " calendar"
        )
        self.notes.append(f"{window.path}: a window of the calendar {reason}")
        return period

    def _promised(self, sli: Indicator | None, terms: StrictMapping) -> Indicator | None:
        """Return an indicator with what the objective says of it."""
        if sli is None:
            terms.pass_over("op", "value")
            return None
        if isinstance(sli, RatioIndicator):
            terms.choice("op", "gte", "gt", default="gte")  # A share is to be high.
            return sli
        value = terms.number("value")
        op = terms.choice("op", "lte", "gte", "lt", "gt")
        if sli.quantile is not None and isinstance(sli.metric, Selector):
            self._check_edge(terms, "value", sli.metric, edge=value)
            # Prometheus tells no quantile above the last edge, however much lies beyond it.
            never = {"lte": "missed", "gt": "met"}.get(op)
            if never and value in self._edges(sli.metric)[-1:]:
                reason = (
                    f"{value:g} is the last bucket edge, so it could never be {never}: take a"
                    " lower one"
                )
                terms.wrong("value", reason)
        # The worst of several series counts.
        worst = "max" if op in {"lte", "lt"} else "min"
        return replace(sli, aggregate=sli.aggregate or worst, op=op, value=value)


def _source(entry: Entry) -> DataSource | None:
    entry.spec.choice("type", "Prometheus")
    details = entry.spec.child("connectionDetails", optional=True)
    histograms = details.child("histograms", optional=True)
    edges = {name: histograms.listed(name) for name in histograms.keys}
    scrape = details.seconds("scrapeInterval", f"{_USUAL.scrape_interval}s")
    evaluation = details.seconds("evaluationInterval", f"{_USUAL.evaluation_interval}s")
    bounds: dict[str, tuple[float, ...]] = {}
    for name, listed in edges.items():
        bounds[name] = tuple(listed.number(place) for place in listed.keys)
    details.end()
    return entry.build(
        DataSource,
        name=entry.name,
        histograms=tuple(bounds.items()),
        scrape_interval=scrape,
        evaluation_interval=evaluation,
    )


def _target(entry: Entry) -> str | None:
    """A target is identified by the severity that it receives."""
    return entry.build(str, object=entry.spec.text("target"))


def _spellings(edge: float) -> tuple[str, ...]:
    """Return how a client may write a bucket's edge: 1 or 1.0, and from a million on 1e+06."""
    rounded = f"{edge:g}"
    short = rounded if float(rounded) == edge else f"{edge:.15g}"
    if "e" in short:
        return (short,)
    return short, str(edge)


def _condition(entry: Entry) -> Tier | None:
    condition = entry.spec.child("condition")
    for key, only in (("kind", "burnrate"), ("op", "gt")):
        condition.choice(key, only, default=only)
    long = condition.seconds("lookbackWindow")
    factor = condition.number("threshold")
    # A twelfth, as in chapter 5 of Google's SRE workbook.
    short = entry.notes.seconds("prometheus/short-window", f"{long // 12}s")
    hold = condition.seconds("alertAfter", "0s")
    min_failures = entry.count("min-failures")
    condition.end()
    return entry.build(
        Tier,
        policy=entry.name,
        severity=entry.spec.text("severity"),
        name=entry.note("tier", entry.name),
        factor=factor,
        long=long,
        short=short,
        hold=hold,
        min_failures=min_failures,
    )


def _calendar_seconds(text: str) -> int:
    parts = _CALENDAR_SPAN.fullmatch(text)
    if not parts:
        return seconds(text)
    return int(parts[1]) * _CALENDAR[parts[2]] * DAY


def _names(slo: str, titles: Sequence[str]) -> list[str]:
    """Return the names of an SLO's objectives: its own, or of several each with its title."""
    if len(titles) == 1:
        return [slo]
    suffixes: list[str] = []
    for title in titles:
        words = re.sub(r"[^a-z0-9]+", "-", title.lower())
        suffixes.append(words.strip("-"))
    if "" in suffixes or len(set(suffixes)) < len(suffixes):
        suffixes = [str(number) for number in range(1, len(titles) + 1)]
    return [f"{slo}-{suffix}" for suffix in suffixes]


def _slices(entry: Entry, targets: Sequence[StrictMapping]) -> list[Slices | None]:
    """Read how an SLO's slices are judged, for each of its targets."""
    method = entry.spec.choice("budgetingMethod", "Occurrences", "Timeslices")
    if not method:
        # It would say whether these belong here.
        for terms in targets:
            keys = [key for key in terms.keys if key.startswith("timeSlice")]
            terms.pass_over(*keys)
        entry.notes.pass_over(*entry.notes.keys)
    if method != "Timeslices":
        return [None] * len(targets)
    note = "prometheus/slice-needs-instance"
    expected = '"true" or "false"'
    fits = ("true", "false").__contains__
    instance = entry.notes.take(note, expected, fits, default="false")
    min_requests = entry.count("slice-min-requests")
    probe = entry.notes.parsed("prometheus/slice-probe", _probe, "")
    return [
        terms.build(
            Slices,
            window=_slice_window(terms),
            target=terms.number("timeSliceTarget"),
            min_requests=min_requests,
            probe=probe,
            needs_instance=instance == "true",
        )
        for terms in targets
    ]


def _probe(text: str) -> Selector | None:
    return selector(text) if text else None


def _slice_window(terms: StrictMapping) -> int:
    value = terms.raw("timeSliceWindow")
    if type(value) is int:
        return 60 * value  # OpenSLO: a bare number is minutes
    try:
        return seconds(str(value))
    except SloError as error:
        terms.wrong("timeSliceWindow", f"{error}, or a number of minutes")
        return 0
