"""Every metric of the library, made once on a registry that is passed in.

It counts in plain numbers: a step of one is 0.2 microseconds, where prometheus-client takes a lock
or two and 1.5. One thread writes, the event loop's, and any may read: between two steps a sum is
one observation ahead of its count.
"""

from __future__ import annotations

import logging
import math
import platform
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from itertools import accumulate, product
from operator import add
from types import MappingProxyType, SimpleNamespace
from typing import Any, Final, NamedTuple, cast

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Info,
    PlatformCollector,
    ProcessCollector,
    utils,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from ..clock import MONOTONIC, WALL, Clock
from ..context import current_request
from ..events import (
    ConnectionAcquired,
    ConnectionOpened,
    ConnectionReleased,
    DeadlineExceeded,
    Event,
    HealthChecked,
    HttpCallFinished,
    LogsSuppressed,
    LoopLagged,
    PhaseChanged,
    PolicyCreated,
    QueryFinished,
    RequestsOverdue,
    Sample,
    SignalsIntercepted,
    Tally,
    TaskCrashed,
    weakly,
)
from ..validation import validation
from .catalogue import CLOSED, INSTRUMENTS, METHODS, POLICY_METRICS, RUNTIME_METRICS, About
from .exchange import OTHER, PREROUTING, UNMATCHED, Exchange, SocketExchange

_METRICS: Final = {**INSTRUMENTS, **POLICY_METRICS, **RUNTIME_METRICS}
_METHODS: Final = {method: method for method in sorted(METHODS)}
_PHASES: Final = INSTRUMENTS["postfacta_lifecycle_state"].values["state"]
_STAGES: Final = INSTRUMENTS["postfacta_deadline_exceeded_total"].values["stage"]
_POOL_TIMEOUTS: Final = frozenset({"pool_timeout", "PoolTimeoutError"})
_OVERFLOWS: Final = "postfacta_metrics_label_overflow_total"
_DURATIONS: Final = "http_server_request_duration_seconds"
_REQUESTS: Final = "http_server_requests_total"
# A request is recorded once, under the labels of both; they are added up at the scrape.
_OF_DURATIONS: Final = slice(0, 5)
_OF_REQUESTS: Final = slice(2, 7)
_RECORDED: Final = INSTRUMENTS[_DURATIONS]._replace(
    names=f"{INSTRUMENTS[_DURATIONS].names} http_response_status_code error_type"
)
_Key = tuple[str, str, int, str, str, str, bool]
"""Method, route, status, error type, traffic, scheme and whether it is a stream, as seen."""
_SCHEMES: Final = {"http": "http", "https": "https"}
_CLIENT_LEFT: Final = 499
_SERVER_ERROR: Final = 500
_NO_HANDLER: Final = 405
_OPEN: Final = "application/openmetrics-text"
_ESCAPED: Final = ("escaping=dots", "escaping=values")  # Which change the names of metrics.
# It has no types.
_number: Final = cast("Callable[[float], str]", utils.floatToGoString)  # pyright: ignore[reportUnknownMemberType] - see above
_SPECIAL: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_LOG: Final = logging.getLogger("postfacta")
_CLOSE_CODES: Final = frozenset({*range(1000, 1016), 3000, 3003, 3008})


class Exposition(NamedTuple):
    """A rendered scrape."""

    body: bytes
    content_type: str


class HistogramSeries:
    """One series of a histogram; that of a counter has one bucket, and its total is what it counts.

    Attributes:
        bounds: Of its buckets, upwards, without the infinite one.
        counts: The values in each bucket, `total` their sum.
        moment: When the newest of them began, if that is of interest.
        exemplars: The newest value of each bucket whose trace is stored, or None.
    """

    __slots__ = ("bounds", "counts", "exemplars", "moment", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds: Sequence[float] = bounds
        self.counts: list[int] = [0] * (len(bounds) + 1)
        self.total: float = 0.0
        self.moment: float = 0.0
        self.exemplars: list[Exemplar | None] = [None] * len(self.counts)

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add(self, series: HistogramSeries) -> None:
        """Add what another series of the same bounds has counted.

        Of two exemplars the newer stays.
        """
        self.total += series.total
        self.counts = [*map(add, self.counts, series.counts)]
        pairs = zip(self.exemplars, series.exemplars, strict=True)
        self.exemplars = [max(pair, key=_moment) for pair in pairs]


class Family(dict[tuple[str, ...], HistogramSeries]):
    """The series of one counter or histogram.

    Above `cap`, new values become `_OTHER`, except of `CLOSED` labels.
    """

    def __init__(self, about: About, cap: int) -> None:
        super().__init__()
        self.about: About = about
        self.cap: int = cap
        self.overflows: int = 0  # How often that was.

    def __missing__(self, key: tuple[str, ...]) -> HistogramSeries:
        if self.is_full:
            self.overflows += 1
            pairs = zip(self.about.labels, key, strict=True)
            key = tuple(value if label in CLOSED else OTHER for label, value in pairs)
        return self.setdefault(key, HistogramSeries(self.about.buckets))

    @property
    def is_full(self) -> bool:
        return len(self) >= self.cap


class Metrics(Collector):
    """All instruments on one registry.

    A `Recorder` of exchanges, an `Observer` of events, a `Collector` of both.

    A policy that raises, or gives a number that is none, costs its own numbers, and is logged once.
    One above the cap is counted as an overflow: their names are from the code, so that more of them
    are a mistake.

    Args:
        registry: Where they are made, by default one of its own; two applications in one process
            have two.
        version: Of the service, for `postfacta_build_info`.
        revision: The commit it was built from.
        label_cap: The most sets of labels a metric takes before new ones go to `_OTHER`; the most
            policies too.
        clock: Monotonic seconds, for ages.
        wall: Seconds since the epoch, for `http_last_request_received_time` and exemplars.
        with_process: Whether to add what is known of the process, the platform and the garbage
            collector.
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        version: str = "",
        revision: str = "",
        label_cap: int = 1000,
        clock: Clock = MONOTONIC,
        wall: Clock = WALL,
        with_process: bool = True,
    ) -> None:
        registry = CollectorRegistry() if registry is None else registry
        self.registry: CollectorRegistry = validation.instance(
            "Metrics.registry", registry, CollectorRegistry, example="CollectorRegistry()"
        )
        validation.text("Metrics.version", version)
        validation.text("Metrics.revision", revision)
        self._cap = validation.whole("Metrics.label_cap", label_cap, example="label_cap=1000")
        validation.functions("Metrics", clock=clock, wall=wall)
        validation.flag("Metrics.with_process", with_process)
        self._clock = clock
        self._wall = wall
        self._checks: dict[tuple[str, str], tuple[HealthChecked, float]] = {}
        self._phase = _PHASES[0]
        self._overdue = 0
        self._open_sockets = 0
        self._mechanisms: dict[str, bool] = {}
        self._policies: dict[tuple[int, int], tuple[str, Callable[[], Tally | None]]] = {}
        self._left_out = 0
        self._broken: set[tuple[str, str]] = set()
        self._series: dict[_Key, HistogramSeries] = {}
        # Active requests are counted at the scrape, so that each costs no more than a place in a
        # set; a background task after the response is not a request.
        self._under_way: set[Exchange] = set()
        self.begin: Callable[[Exchange], None] = self._under_way.add
        self.answered: Callable[[Exchange], None] = self._under_way.discard
        self._families: dict[str, Family] = {
            name: Family(about, label_cap)
            for name, about in INSTRUMENTS.items()
            if about.buckets or (name.endswith("_total") and name not in {_OVERFLOWS, _REQUESTS})
        }
        self._recorded = self._families[_DURATIONS] = Family(_RECORDED, label_cap)
        self._queries = self._families["db_client_operation_duration_seconds"]
        self._calls = self._families["http_client_request_duration_seconds"]
        self._waits = self._families["db_client_connection_wait_time_seconds"]
        for stage in _STAGES:
            self._families["postfacta_deadline_exceeded_total"][stage,]
        self._counted = self._count_by()
        registry.register(self)
        Info("postfacta_build", "What runs.", registry=registry).info(
            {"version": version, "revision": revision, "python_version": platform.python_version()}
        )
        if with_process:
            for collector in (ProcessCollector, PlatformCollector, GCCollector):
                collector(registry=registry)

    def end(self, exchange: Exchange, /) -> None:
        seconds = exchange.seconds
        key = (
            exchange.method,
            exchange.route,
            exchange.status,
            exchange.error_type,
            exchange.traffic,
            exchange.scheme,
            exchange.is_stream,
        )
        series = self._series.get(key) or self._find(key)
        series.counts[bisect_left(series.bounds, seconds)] += 1
        series.total += seconds
        request = exchange.request
        series.moment = request.started
        # An exemplar must lead to a trace that is stored: the lowest bit says so.
        if request.trace_flags and int(request.trace_flags, 16) & 1:
            ids = {"trace_id": request.trace_id, "span_id": request.span_id}
            exemplar = Exemplar(ids, seconds, self._wall())
            series.exemplars[bisect_left(series.bounds, seconds)] = exemplar
        if exchange.error is not None:
            self._count("postfacta_unhandled_exceptions_total", exchange.error_type)

    def _find(self, key: _Key) -> HistogramSeries:
        raw_method, raw_route, status, error_type, traffic, scheme, is_stream = key
        shown = _SCHEMES.get(scheme, OTHER)
        # What no handler took stands under one method, since a client may send it with any; so does
        # a method that a route does not have.
        route = UNMATCHED if status == _NO_HANDLER else raw_route
        has_handler = route != PREROUTING and (route != UNMATCHED or status // 100 not in {3, 4})
        method = _METHODS.get(raw_method, OTHER) if has_handler else OTHER
        outcome = _outcome(status, error_type, is_stream=is_stream)
        labels = (outcome, shown, method, _route(route), traffic, str(status), error_type)
        series = self._recorded[labels]
        if raw_method in _METHODS and scheme == shown and not self._recorded.is_full:
            self._series[key] = series
        return series

    def connect(self, exchange: SocketExchange, /) -> None:
        pass

    def opened(self, exchange: SocketExchange, /) -> None:
        self._open_sockets += 1

    def closed(self, exchange: SocketExchange, /) -> None:
        if exchange.is_open:
            self._open_sockets -= 1
        # The registry of IANA. What a client makes up is no label.
        code = exchange.close_code
        shown = str(code) if code in _CLOSE_CODES else OTHER if code else ""
        key = (_route(exchange.route), exchange.outcome, shown, exchange.error_type)
        self._families["postfacta_websocket_duration_seconds"][key].observe(exchange.seconds)
        if exchange.error is not None:
            self._count("postfacta_unhandled_exceptions_total", exchange.error_type)

    def __call__(self, event: Event, /) -> None:
        if (count := self._counted.get(type(event))) is not None:
            count(event)

    def _count(self, metric: str, label: str, value: float = 1) -> None:
        self._families[metric][label,].observe(value)

    def _count_by(self) -> dict[type, Callable[[Any], object]]:
        count = self._count
        families = self._families
        lag = families["postfacta_event_loop_lag_seconds"][()]
        uses = families["db_client_connection_use_time_seconds"]
        return {
            QueryFinished: self._query,
            HttpCallFinished: self._call,
            ConnectionAcquired: self._acquired,
            ConnectionReleased: lambda event: uses[event.pool,].observe(event.seconds),
            ConnectionOpened: lambda event: count(
                "db_client_connection_create_time_seconds", event.pool, event.seconds
            ),
            DeadlineExceeded: self._exceeded,
            TaskCrashed: lambda event: count("postfacta_task_crashes_total", event.task),
            HealthChecked: self._check,
            LogsSuppressed: lambda event: count(
                "postfacta_log_records_suppressed_total", event.event, event.count
            ),
            PhaseChanged: lambda event: setattr(self, "_phase", event.new),
            SignalsIntercepted: self._intercepted,
            RequestsOverdue: lambda event: setattr(self, "_overdue", event.count),
            LoopLagged: lambda event: lag.observe(event.seconds),
            PolicyCreated: self._add,
        }

    def _query(self, event: QueryFinished) -> None:
        key = (event.system, event.operation, event.collection, event.sqlstate, event.error_type)
        self._queries[key].observe(event.seconds)

    def _call(self, event: HttpCallFinished) -> None:
        port, status = (str(number) if number else "" for number in (event.port, event.status))
        key = (_METHODS.get(event.method, OTHER), event.address, port, status, event.error_type)
        self._calls[key].observe(event.seconds)

    def _acquired(self, event: ConnectionAcquired) -> None:
        self._waits[event.pool,].observe(event.seconds)
        if event.error_type in _POOL_TIMEOUTS:
            self._count("db_client_connection_timeouts_total", event.pool)

    def _check(self, event: HealthChecked) -> None:
        self._checks[event.check, "true" if event.critical else "false"] = event, self._clock()

    def _intercepted(self, event: SignalsIntercepted) -> None:
        # It may be settled a second time, by a server that came late.
        self._mechanisms = {
            **dict.fromkeys(self._mechanisms, False),
            event.mechanism: event.in_place,
        }

    def _exceeded(self, event: DeadlineExceeded) -> None:
        request = current_request()
        is_callers = request is not None and request.is_out_of_callers_time(request.age())
        self._count("postfacta_deadline_exceeded_total", "caller" if is_callers else event.stage)

    def _add(self, event: PolicyCreated) -> None:
        tally = event.tally
        key = (id(getattr(tally, "__self__", None)), id(getattr(tally, "__func__", tally)))
        if key in self._policies and self._policies[key][1]() is not None:
            return
        if len(self._policies) >= self._cap:
            self._living()  # forgets the dead ones, such as one at whose address this one is
        if len(self._policies) < self._cap:
            self._policies[key] = event.policy, weakly(tally)
        else:
            self._left_out += 1

    def _living(self) -> list[tuple[str, Tally]]:
        living: list[tuple[str, Tally]] = []
        for key, (policy, find) in tuple(self._policies.items()):
            if (tally := find()) is None:
                self._policies.pop(key, None)
            else:
                living.append((policy, tally))
        return living

    def describe(self) -> Iterator[Metric]:
        return map(_empty, _METRICS)

    def collect(self) -> Iterator[Metric]:
        # Ours are shown without a series too, so that a rule's names can be looked up before there
        # is one.
        for name, family in self._histograms():
            yield _histogram(name, family)
        yield from self._plain()

    def _histograms(self) -> Iterator[tuple[str, Family]]:
        durations = Family(INSTRUMENTS[_DURATIONS], self._cap)
        for labels, series in tuple(self._recorded.items()):
            durations[labels[_OF_DURATIONS]].add(series)
        for name, family in {**self._families, _DURATIONS: durations}.items():
            if family.about.buckets:
                yield name, family

    def _plain(self) -> Iterator[Metric]:
        numbers: dict[str, dict[tuple[str, ...], float]] = {
            name: {} for name, about in INSTRUMENTS.items() if not about.buckets
        }
        requests = numbers[_REQUESTS]
        for labels, series in tuple(self._recorded.items()):
            key = labels[_OF_REQUESTS]
            requests[key] = requests.get(key, 0) + sum(series.counts)
        for name, family in self._families.items():
            if not family.about.buckets:
                numbers[name] = {labels: series.total for labels, series in tuple(family.items())}
        for policy, tally in [("metrics", self._gauges), *self._living()]:
            for sample in self._read(policy, tally):
                of_metric = numbers.setdefault(sample.metric, {})
                labels = tuple(sample.labels)
                former = of_metric.get(labels)
                merge = _METRICS[sample.metric].merge
                of_metric[labels] = sample.value if former is None else merge(former, sample.value)
        for name, values in numbers.items():
            shown = _empty(name)
            for labels, value in values.items():
                shown.add_metric(labels, value)
            yield shown

    def _read(self, policy: str, tally: Tally) -> list[Sample]:
        # A policy with a fault of its own must not take the scrape of all others with it.
        try:
            return [_checked(sample) for sample in tally() if sample.metric in _METRICS]
        except Exception as error:  # noqa: BLE001 - a tally is foreign code, and may raise anything
            self._report("policy", policy, repr(error))
            return []

    def _gauges(self) -> Iterator[Sample]:
        for name, family in self._families.items():
            yield Sample(_OVERFLOWS, (name,), family.overflows)
        yield Sample(_OVERFLOWS, ("policies",), self._left_out)
        recorded = tuple(self._recorded.items())
        active = Counter(
            (_METHODS.get(exchange.method, OTHER), _SCHEMES.get(exchange.scheme, OTHER))
            for exchange in tuple(self._under_way)
        )
        schemes = {scheme for _, scheme in active} | {scheme for (_, scheme, *_), _ in recorded}
        for key in product((*_METHODS, OTHER), sorted(schemes)):
            yield Sample("http_server_active_requests", key, active[key])
        latest: dict[tuple[str, ...], float] = {}
        for (_, _, method, route, *_), series in recorded:
            latest[route, method] = max(series.moment, latest.get((route, method), -math.inf))
        # To the millisecond, so that a moment reads the same at each scrape.
        now = self._clock()
        wall = self._wall()
        for labels, moment in latest.items():
            yield Sample("http_last_request_received_time", labels, round(wall - (now - moment), 3))
        yield Sample("postfacta_websocket_open", (), self._open_sockets)
        yield Sample("postfacta_requests_overdue", (), self._overdue)
        for phase in _PHASES:
            yield Sample("postfacta_lifecycle_state", (phase,), phase == self._phase)
        for mechanism, is_in_place in tuple(self._mechanisms.items()):
            yield Sample("postfacta_lifecycle_interception", (mechanism,), is_in_place)
        for labels, (check, at) in tuple(self._checks.items()):
            yield Sample("postfacta_health_check_up", labels, check.up)
            yield Sample("postfacta_health_check_duration_seconds", labels, check.seconds)
            # An age is as old as the scrape that asks for it.
            yield Sample("postfacta_health_check_age_seconds", labels, now - at)

    def render(
        self, accept: str = "", *, labels: Mapping[str, str] = MappingProxyType({})
    ) -> Exposition:
        """Render all metrics in the format of an `Accept` header, with these labels on each series.

        Only OpenMetrics has exemplars. It takes milliseconds, and may run in another thread:
        `asgi.metrics` does so. Of two metrics of one name, the first is shown. A collector that
        fails costs its own series, logged once.
        """
        encode, content_type = choose_encoder(accept)
        pages: dict[str, bytes] = {}
        # The registry reads its collectors in one go, of which the first that raises ends all. It
        # has no public list of them. Were the list elsewhere one day, a test would turn red.
        for collector in tuple(
            cast("dict[Collector, object]", vars(self.registry)["_collector_to_names"])
        ):
            try:
                collected = collector.collect()
                if collector is self and not content_type.endswith(_ESCAPED):
                    collected = self._plain()
                    for name, family in self._histograms():
                        is_open = content_type.startswith(_OPEN)
                        pages.setdefault(name, _text(name, family, labels, is_open=is_open))
                read = [(metric.name, encode(_page(metric, labels))) for metric in collected]
            except Exception as error:  # noqa: BLE001 - a collector is foreign code, and may raise anything
                self._report("collector", type(collector).__qualname__, repr(error))
            else:
                for name, page in read:
                    pages.setdefault(name, page)
        nothing: Any = SimpleNamespace(collect=list)
        end = encode(nothing)
        return Exposition(
            b"".join(page.removesuffix(end) for page in pages.values()) + end, content_type
        )

    def _report(self, kind: str, name: str, why: str) -> None:
        if (kind, name) not in self._broken:
            self._broken.add((kind, name))
            event = f"metrics.{kind}_failed"
            _LOG.error(event, extra={kind: name, "error": why})


def _moment(exemplar: Exemplar | None) -> float:
    return float(exemplar.timestamp or 0) if exemplar is not None else -math.inf


def _route(route: str) -> str:
    # OpenTelemetry leaves the attribute out, which for Prometheus is an empty label.
    return "" if route == UNMATCHED else route


def _outcome(status: int, error_type: str, *, is_stream: bool) -> str:
    if status == _CLIENT_LEFT:
        return "left"
    if status >= _SERVER_ERROR or not error_type:
        return "stream" if is_stream and not error_type else f"{status // 100}xx"
    return "failed"


def _checked(sample: Sample) -> Sample:
    about = _METRICS[sample.metric]
    labels = cast("tuple[object, ...]", sample.labels)
    is_text = len(labels) == len(about.labels) and all(isinstance(label, str) for label in labels)
    if not is_text or about.buckets or not isinstance(cast("object", sample.value), int | float):
        raise TypeError(f"its labels must be texts and its value a number: {sample!r}")
    return sample


def _empty(name: str) -> Any:
    about = _METRICS[name]
    plain = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
    return (HistogramMetricFamily if about.buckets else plain)(
        name, about.text, labels=about.labels
    )


def _histogram(name: str, family: Family) -> Metric:
    shown = _empty(name)
    bounds = [*(repr(float(bound)) for bound in family.about.buckets), "+Inf"]
    for labels, series in tuple(family.items()):
        buckets = [*zip(bounds, accumulate(series.counts), series.exemplars, strict=True)]
        shown.add_metric(labels, buckets, series.total)
    return cast("Metric", shown)


def _text(name: str, family: Family, more: Mapping[str, str], *, is_open: bool) -> bytes:
    """Write a histogram as prometheus-client does, at a sixth of its cost.

    The labels once a series, not a line.
    """
    lines = [f"# HELP {name} {family.about.text}\n# TYPE {name} histogram\n"]
    bounds = [*(repr(float(bound)) for bound in family.about.buckets), "+Inf"]
    for key, series in tuple(family.items()):
        pairs = sorted({**more, **dict(zip(family.about.labels, key, strict=True))}.items())
        shown = [f'{label}="{value.translate(_SPECIAL)}"' for label, value in pairs]
        place = sum(label < "le" for label, _ in pairs)
        before = f'{name}_bucket{{{"".join(f"{pair}," for pair in shown[:place])}le="'
        after = f'"{"".join(f",{pair}" for pair in shown[place:])}}} '
        count = 0
        number = "0.0"
        for bound, in_bucket, exemplar in zip(bounds, series.counts, series.exemplars, strict=True):
            if in_bucket:
                count += in_bucket
                number = _number(count)
            end = _exemplar(exemplar) if is_open and exemplar is not None else "\n"
            lines.append(f"{before}{bound}{after}{number}{end}")
        labels = f"{{{','.join(shown)}}}" if shown else ""
        lines.append(f"{name}_count{labels} {number}\n")
        lines.append(f"{name}_sum{labels} {_number(series.total)}\n")
    return "".join(lines).encode()


def _exemplar(exemplar: Exemplar) -> str:
    labels = ",".join(f'{name}="{value}"' for name, value in sorted(exemplar.labels.items()))
    return f" # {{{labels}}} {_number(exemplar.value)} {exemplar.timestamp}\n"


def _page(metric: Metric, labels: Mapping[str, str]) -> Any:
    if labels:
        # A copy: what never changes, such as the platform, is the collector's own and comes again.
        metric = copy(metric)
        metric.samples = [
            sample._replace(labels={**labels, **sample.labels}) for sample in metric.samples
        ]
    return SimpleNamespace(collect=lambda: [metric])
