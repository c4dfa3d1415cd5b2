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
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from types import MappingProxyType, SimpleNamespace
from typing import Any, Final, NamedTuple, cast

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Info,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import Metric
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
    LoopBlocked,
    LoopLagged,
    PhaseChanged,
    PolicyCreated,
    QueryFinished,
    RequestsOverdue,
    Sample,
    SignalsIntercepted,
    StreamFinished,
    Tally,
    TaskCrashed,
    weakly,
)
from ..validation import validation
from ._exposition import METRICS, empty_metric, histogram_metric, histogram_text, page_of
from .catalogue import INSTRUMENTS, METHODS
from .exchange import OTHER, PREROUTING, UNMATCHED, Exchange, SocketExchange
from .families import Family, HistogramSeries

_METHODS: Final = {method: method for method in sorted(METHODS)}
_PHASES: Final = INSTRUMENTS["postfacta_lifecycle_state"].values["state"]
_STAGES: Final = INSTRUMENTS["postfacta_deadline_exceeded_total"].values["stage"]
_POOL_TIMEOUTS: Final = frozenset({"pool_timeout", "PoolTimeoutError"})
_OVERFLOWS: Final = "postfacta_metrics_label_overflow_total"
_DURATIONS: Final = "http_server_request_duration_seconds"
_REQUESTS: Final = "http_server_requests_total"
_FIRST_BYTES: Final = "http_server_response_first_byte_seconds"
_STREAMS: Final = "postfacta_stream_duration_seconds"
# A request is recorded once, under the labels of both; they are added up at the scrape.
_OF_DURATIONS: Final = slice(0, 5)
_OF_REQUESTS: Final = slice(2, 7)
_OF_FIRST_BYTES: Final = slice(3, 5)
_FINE: Final = frozenset({"2xx", "3xx"})
_RECORDED: Final = INSTRUMENTS[_DURATIONS]._replace(
    names=f"{INSTRUMENTS[_DURATIONS].names} http_response_status_code error_type"
)
_Key = tuple[str, str, int, str, str, str, bool]
"""Method, route, status, error type, traffic, scheme and whether it is a stream, as seen."""
_Numbers = dict[tuple[str, ...], float]
"""The numbers of a counter or gauge by their labels."""
_SCHEMES: Final = {"http": "http", "https": "https"}
_CLIENT_LEFT: Final = 499
_CLIENT_ERROR: Final = 400
_SERVER_ERROR: Final = 500
_NO_HANDLER: Final = 405
_OPEN: Final = "application/openmetrics-text"
_ESCAPED: Final = ("escaping=dots", "escaping=values")  # Which change the names of metrics.
_LOG: Final = logging.getLogger("postfacta")
# The registry of IANA.
_CLOSE_CODES: Final = frozenset({*range(1000, 1016), 3000, 3003, 3008})


class Exposition(NamedTuple):
    """A rendered scrape."""

    body: bytes
    content_type: str


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
        self._families: dict[str, Family] = {}
        for name, about in INSTRUMENTS.items():
            is_counted = name.endswith("_total") and name not in {_OVERFLOWS, _REQUESTS}
            if about.buckets or is_counted:
                self._families[name] = Family(about, label_cap)
        self._recorded = self._families[_DURATIONS] = Family(_RECORDED, label_cap)
        self._queries = self._families["db_client_operation_duration_seconds"]
        self._calls = self._families["http_client_request_duration_seconds"]
        self._waits = self._families["db_client_connection_wait_time_seconds"]
        for stage in _STAGES:
            self._families["postfacta_deadline_exceeded_total"][stage,]
        self._counted = self._count_by()
        registry.register(self)
        build = {
            "version": version,
            "revision": revision,
            "python_version": platform.python_version(),
        }
        Info("postfacta_build", "What runs.", registry=registry).info(build)
        if with_process:
            for collector in (ProcessCollector, PlatformCollector, GCCollector):
                collector(registry=registry)

    def streaming(self, exchange: Exchange, /) -> None:
        # Here and not at its end, which may be hours away.
        if exchange.status < _CLIENT_ERROR:
            key = (_route(exchange.route), exchange.traffic)
            self._families[_FIRST_BYTES][key].observe(exchange.first_byte)

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
        series = self._series.get(key) or self._find(key, exchange)
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

    def _find(self, key: _Key, exchange: Exchange) -> HistogramSeries:
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
        if is_stream:
            # It comes here each time, so that no other request looks whether it is one.
            stream = self._families[_STREAMS][_route(route), exchange.stream_outcome]
            stream.observe(exchange.seconds)
        elif raw_method in _METHODS and scheme == shown and not self._recorded.is_full:
            self._series[key] = series
        return series

    def connect(self, exchange: SocketExchange, /) -> None:
        pass

    def opened(self, exchange: SocketExchange, /) -> None:
        self._open_sockets += 1

    def closed(self, exchange: SocketExchange, /) -> None:
        if exchange.is_open:
            self._open_sockets -= 1
        code = _close_code(exchange.close_code)
        key = (_route(exchange.route), exchange.outcome, code, exchange.error_type)
        self._families["postfacta_websocket_duration_seconds"][key].observe(exchange.seconds)
        if exchange.error is not None:
            self._count("postfacta_unhandled_exceptions_total", exchange.error_type)

    def __call__(self, event: Event, /) -> None:
        count = self._counted.get(type(event))
        if count is not None:
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
            StreamFinished: self._stream,
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
            # In another thread, the only one that writes this family.
            LoopBlocked: lambda event: count(
                "postfacta_event_loop_blocked_total", _route(event.route)
            ),
            PolicyCreated: self._add,
        }

    def _query(self, event: QueryFinished) -> None:
        key = (event.system, event.operation, event.collection, event.sqlstate, event.error_type)
        self._queries[key].observe(event.seconds)

    def _call(self, event: HttpCallFinished) -> None:
        method = _METHODS.get(event.method, OTHER)
        port = str(event.port) if event.port else ""
        status = str(event.status) if event.status else ""
        key = (method, event.address, port, status, event.error_type)
        self._calls[key].observe(event.seconds)

    def _stream(self, event: StreamFinished) -> None:
        name = "postfacta_client_stream_duration_seconds"
        self._families[name][event.service, event.ended].observe(event.seconds)
        self._count("postfacta_client_stream_pieces_total", event.service, event.pieces)
        if event.first_seconds is not None:
            first = "postfacta_client_stream_first_piece_seconds"
            self._count(first, event.service, event.first_seconds)

    def _acquired(self, event: ConnectionAcquired) -> None:
        self._waits[event.pool,].observe(event.seconds)
        if event.error_type in _POOL_TIMEOUTS:
            self._count("db_client_connection_timeouts_total", event.pool)

    def _check(self, event: HealthChecked) -> None:
        critical = "true" if event.critical else "false"
        self._checks[event.check, critical] = event, self._clock()

    def _intercepted(self, event: SignalsIntercepted) -> None:
        # It may be settled a second time, by a server that came late.
        self._mechanisms = {
            **dict.fromkeys(self._mechanisms, False),
            event.mechanism: event.in_place,
        }

    def _exceeded(self, event: DeadlineExceeded) -> None:
        request = current_request()
        is_callers = request is not None and request.is_out_of_callers_time(request.age())
        stage = "caller" if is_callers else event.stage
        self._count("postfacta_deadline_exceeded_total", stage)

    def _add(self, event: PolicyCreated) -> None:
        tally = event.tally
        owner = getattr(tally, "__self__", None)
        function = getattr(tally, "__func__", tally)
        # A bound method is made anew each time; its parts stay.
        key = (id(owner), id(function))
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
            tally = find()
            if tally is None:
                self._policies.pop(key, None)
            else:
                living.append((policy, tally))
        return living

    def describe(self) -> Iterator[Metric]:
        return map(empty_metric, METRICS)

    def collect(self) -> Iterator[Metric]:
        # Ours are shown without a series too, so that a rule's names can be looked up before there
        # is one.
        for name, family in self._histograms():
            yield histogram_metric(name, family)
        yield from self._plain()

    def _histograms(self) -> Iterator[tuple[str, Family]]:
        durations = Family(INSTRUMENTS[_DURATIONS], self._cap)
        first_bytes = Family(INSTRUMENTS[_FIRST_BYTES], self._cap)
        for labels, series in tuple(self._families[_FIRST_BYTES].items()):
            first_bytes[labels].add(series)
        for labels, series in tuple(self._recorded.items()):
            durations[labels[_OF_DURATIONS]].add(series)
            # Of a stream it was observed when it began.
            if labels[0] in _FINE and labels[_OF_FIRST_BYTES][0] != PREROUTING:
                first_bytes[labels[_OF_FIRST_BYTES]].add(series)
        made = {_DURATIONS: durations, _FIRST_BYTES: first_bytes}
        for name, family in {**self._families, **made}.items():
            if family.about.buckets:
                yield name, family

    def _plain(self) -> Iterator[Metric]:
        """Yield the counters and gauges of all instruments, policies and the process."""
        numbers: dict[str, _Numbers] = {}
        for name, about in INSTRUMENTS.items():
            if not about.buckets:
                numbers[name] = {}
        self._add_requests(numbers[_REQUESTS])
        for name, family in self._families.items():
            if not family.about.buckets:
                numbers[name] = {labels: series.total for labels, series in tuple(family.items())}
        for policy, tally in [("metrics", self._gauges), *self._living()]:
            for sample in self._read(policy, tally):
                _add_sample(numbers.setdefault(sample.metric, {}), sample)
        for name, values in numbers.items():
            shown = empty_metric(name)
            for labels, value in values.items():
                shown.add_metric(labels, value)
            yield shown

    def _add_requests(self, requests: _Numbers) -> None:
        for labels, series in tuple(self._recorded.items()):
            key = labels[_OF_REQUESTS]
            requests[key] = requests.get(key, 0) + sum(series.counts)

    def _read(self, policy: str, tally: Tally) -> list[Sample]:
        # A policy with a fault of its own must not take the scrape of all others with it.
        try:
            return [_checked(sample) for sample in tally() if sample.metric in METRICS]
        except Exception as error:  # noqa: BLE001 - a tally is foreign code, and may raise anything
            self._report("policy", policy, repr(error))
            return []

    def _gauges(self) -> Iterator[Sample]:
        for name, family in self._families.items():
            yield Sample(_OVERFLOWS, (name,), family.overflows)
        yield Sample(_OVERFLOWS, ("policies",), self._left_out)
        yield from self._active_requests()
        yield from self._last_requests()
        yield from self._open_streams()
        yield Sample("postfacta_websocket_open", (), self._open_sockets)
        yield Sample("postfacta_requests_overdue", (), self._overdue)
        for phase in _PHASES:
            yield Sample("postfacta_lifecycle_state", (phase,), phase == self._phase)
        for mechanism, is_in_place in tuple(self._mechanisms.items()):
            yield Sample("postfacta_lifecycle_interception", (mechanism,), is_in_place)
        # An age is as old as the scrape that asks for it.
        now = self._clock()
        for labels, (check, at) in tuple(self._checks.items()):
            yield Sample("postfacta_health_check_up", labels, check.up)
            yield Sample("postfacta_health_check_duration_seconds", labels, check.seconds)
            yield Sample("postfacta_health_check_age_seconds", labels, now - at)

    def _active_requests(self) -> Iterator[Sample]:
        active: Counter[tuple[str, str]] = Counter()
        for exchange in tuple(self._under_way):
            method = _METHODS.get(exchange.method, OTHER)
            scheme = _SCHEMES.get(exchange.scheme, OTHER)
            active[method, scheme] += 1
        # A series stays once it was there: also where no request is active now.
        schemes = {scheme for _, scheme in active}
        schemes |= {scheme for _, scheme, *_ in tuple(self._recorded)}
        for key in product((*_METHODS, OTHER), sorted(schemes)):
            yield Sample("http_server_active_requests", key, active[key])

    def _open_streams(self) -> Iterator[Sample]:
        streams = Counter(
            _route(exchange.route) for exchange in tuple(self._under_way) if exchange.is_stream
        )
        routes = {route for route, _ in tuple(self._families[_STREAMS])}
        for route in sorted(routes | streams.keys()):
            yield Sample("postfacta_streams_open", (route,), streams[route])

    def _last_requests(self) -> Iterator[Sample]:
        latest: dict[tuple[str, str], float] = {}
        for (_, _, method, route, *_), series in tuple(self._recorded.items()):
            latest[route, method] = max(series.moment, latest.get((route, method), -math.inf))
        now = self._clock()
        wall = self._wall()
        for labels, moment in latest.items():
            age = now - moment
            # To the millisecond, so that a moment reads the same at each scrape.
            yield Sample("http_last_request_received_time", labels, round(wall - age, 3))

    def render(
        self, accept: str = "", *, labels: Mapping[str, str] = MappingProxyType({})
    ) -> Exposition:
        """Render all metrics in the format of an `Accept` header, with these labels on each series.

        Only OpenMetrics has exemplars. It takes milliseconds, and may run in another thread:
        `asgi.metrics` does so. Of two metrics of one name, the first is shown. A collector that
        fails costs its own series, logged once.
        """
        encode, content_type = choose_encoder(accept)

        def write(metric: Metric) -> bytes:
            return encode(page_of(metric, labels))

        pages: dict[str, bytes] = {}
        # The registry reads its collectors in one go, of which the first that raises ends all. It
        # has no public list of them. Were the list elsewhere one day, a test would turn red.
        collectors = cast("dict[Collector, object]", vars(self.registry)["_collector_to_names"])
        for collector in tuple(collectors):
            try:
                if collector is self and not content_type.endswith(_ESCAPED):
                    is_open = content_type.startswith(_OPEN)
                    written = self._written(write, labels, is_open=is_open)
                else:
                    written = [(metric.name, write(metric)) for metric in collector.collect()]
            except Exception as error:  # noqa: BLE001 - a collector is foreign code, and may raise anything
                self._report("collector", type(collector).__qualname__, repr(error))
                continue
            for name, page in written:
                pages.setdefault(name, page)
        nothing: Any = SimpleNamespace(collect=list)
        end = encode(nothing)
        body = b"".join(page.removesuffix(end) for page in pages.values())
        return Exposition(body + end, content_type)

    def _written(
        self, write: Callable[[Metric], bytes], labels: Mapping[str, str], *, is_open: bool
    ) -> list[tuple[str, bytes]]:
        """Return the name and text of each of our metrics; histograms are written here."""
        histograms = [
            (name, histogram_text(name, family, labels, is_open=is_open))
            for name, family in self._histograms()
        ]
        plain = [(metric.name, write(metric)) for metric in self._plain()]
        return histograms + plain

    def _report(self, kind: str, name: str, why: str) -> None:
        if (kind, name) not in self._broken:
            self._broken.add((kind, name))
            event = f"metrics.{kind}_failed"
            _LOG.error(event, extra={kind: name, "error": why})


def _route(route: str) -> str:
    # OpenTelemetry leaves the attribute out, which for Prometheus is an empty label.
    return "" if route == UNMATCHED else route


def _close_code(code: int | None) -> str:
    # What a client makes up is no label.
    if not code:
        return ""
    return str(code) if code in _CLOSE_CODES else OTHER


def _outcome(status: int, error_type: str, *, is_stream: bool) -> str:
    if status == _CLIENT_LEFT:
        return "left"
    if status >= _SERVER_ERROR or not error_type:
        return "stream" if is_stream and not error_type else f"{status // 100}xx"
    return "failed"


def _add_sample(values: _Numbers, sample: Sample) -> None:
    """Set a number; of two with the same labels, what the metric's `merge` makes of them."""
    labels = tuple(sample.labels)
    former = values.get(labels)
    if former is None:
        values[labels] = sample.value
    else:
        values[labels] = METRICS[sample.metric].merge(former, sample.value)


def _checked(sample: Sample) -> Sample:
    about = METRICS[sample.metric]
    labels = cast("tuple[object, ...]", sample.labels)
    has_all = len(labels) == len(about.labels)
    is_text = all(isinstance(label, str) for label in labels)
    is_number = isinstance(cast("object", sample.value), int | float)
    if about.buckets or not (has_all and is_text and is_number):
        raise TypeError(f"its labels must be texts and its value a number: {sample!r}")
    return sample
