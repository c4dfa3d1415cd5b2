"""Every metric of the library, made once on a registry that is passed in.

`Metrics` records exchanges (it is a `Recorder`) and receives the events of pools, checks and tasks (it is an `Observer`).
"""

from __future__ import annotations

import logging
import math
import platform
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from types import MappingProxyType, SimpleNamespace
from typing import Any, Final, NamedTuple, cast

from prometheus_client import CollectorRegistry, GCCollector, Info, PlatformCollector, ProcessCollector
from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from .. import events
from ..clock import MONOTONIC, WALL, Clock
from ..context import RequestContext, current_request
from ..validation import validation
from .catalogue import INSTRUMENTS, METHODS
from .exchange import OTHER, Exchange, SocketExchange
from .families import Buckets, Numbers

Registry = CollectorRegistry
"""prometheus-client's own, for code that may not import it."""

_METHODS: Final = {method: method for method in METHODS}
_PHASES: Final = INSTRUMENTS["postfacta_lifecycle_state"].values["state"]
_STAGES: Final = INSTRUMENTS["postfacta_deadline_exceeded_total"].values["stage"]
_POOL_TIMEOUTS: Final = frozenset({"pool_timeout", "PoolTimeoutError"})
# The lowest bit of the flags says that the trace is stored.
_SAMPLED: Final = frozenset("13579bdf")
_OFTEN: Final = (
    "http_server_request_duration_seconds", "db_client_operation_duration_seconds",
    "http_client_request_duration_seconds", "db_client_connection_wait_time_seconds",
)  # fmt: skip
_LOG: Final = logging.getLogger("postfacta")
_CLOSE_CODES: Final = frozenset({*range(1000, 1016), 3000, 3003, 3008})
_NO_LABELS: Final[Mapping[str, str]] = MappingProxyType({})


class Exposition(NamedTuple):
    """A rendered scrape."""

    body: bytes
    content_type: str


class Metrics:
    """All instruments on one registry.

    Args:
        registry: Where they are made, by default one of its own; two applications in one process have two.
        version: Of the service, for `postfacta_build_info`.
        revision: The commit it was built from.
        label_cap: The most sets of labels a metric takes before new ones go to `_OTHER`.
        clock: Monotonic seconds, for ages.
        wall: Seconds since the epoch, for `http_last_request_received_time` and exemplars.
        with_process: Whether to add what is known of the process, the platform and the garbage collector.
        include: More registries, such as `prometheus_client.REGISTRY`, where libraries put their series by default. What
            has a name of ours is left out of them.
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
        include: Sequence[Registry] = (),
    ) -> None:
        registry = CollectorRegistry() if registry is None else registry
        self.registry: CollectorRegistry = validation.instance(
            "Metrics.registry", registry, CollectorRegistry, example="CollectorRegistry()"
        )
        validation.text("Metrics.version", version)
        validation.text("Metrics.revision", revision)
        validation.whole("Metrics.label_cap", label_cap, example="label_cap=1000")
        validation.functions("Metrics", clock=clock, wall=wall)
        validation.flag("Metrics.with_process", with_process)
        self._include = _registries("Metrics.include", include)
        self._clock, self._wall = clock, wall
        self._checks: dict[tuple[str, str], tuple[events.HealthChecked, float]] = {}
        self._phase, self._overdue, self._open_sockets = _PHASES[0], 0, 0
        self._mechanisms: dict[str, bool] = {}
        self._broken: set[str] = set()
        self._seen: dict[tuple[str, str, int, str, str], Buckets] = {}
        self._methods: set[str] = set()
        # Active requests are counted at the scrape, so that each costs no more than a place in a set; a background
        # task after the response is not a request.
        self._under_way: set[Exchange] = set()
        self.begin: Callable[[Exchange], None] = self._under_way.add
        self.answered: Callable[[Exchange], None] = self._under_way.discard
        self._numbers = Numbers(label_cap, self._gauges)
        registry.register(self._numbers)
        self._families = self._numbers.families
        self._durations, self._queries, self._calls, self._waits = map(self._families.__getitem__, _OFTEN)
        for stage in _STAGES:
            self._families["postfacta_deadline_exceeded_total"].child((stage,))
        self._counted = self._count_by()
        Info("postfacta_build", "What runs.", registry=registry).info(
            {"version": version, "revision": revision, "python_version": platform.python_version()}
        )
        if with_process:
            for collector in (ProcessCollector, PlatformCollector, GCCollector):
                collector(registry=registry)

    def _gauges(self) -> Iterator[events.Sample]:
        """Yield what is known at the scrape alone."""
        methods = [_METHODS.get(exchange.method, OTHER) for exchange in tuple(self._under_way)]
        # It is shown although none is active any more.
        self._methods.update(methods)
        for method in tuple(self._methods):
            yield events.Sample("http_server_active_requests", (method,), methods.count(method))
        latest: dict[tuple[str, ...], float] = {}
        for (method, route, *_), series in tuple(self._durations.series.items()):
            latest[route, method] = max(series.moment, latest.get((route, method), -math.inf))
        # To the millisecond, so that a moment reads the same at each scrape.
        now, wall = self._clock(), self._wall()
        for labels, moment in latest.items():
            yield events.Sample("http_last_request_received_time", labels, round(wall - (now - moment), 3))
        yield events.Sample("postfacta_websocket_open", (), self._open_sockets)
        yield events.Sample("postfacta_requests_overdue", (), self._overdue)
        for phase in _PHASES:
            yield events.Sample("postfacta_lifecycle_state", (phase,), phase == self._phase)
        for mechanism, is_in_place in tuple(self._mechanisms.items()):
            yield events.Sample("postfacta_lifecycle_interception", (mechanism,), is_in_place)
        for labels, (check, at) in tuple(self._checks.items()):
            yield events.Sample("postfacta_health_check_up", labels, check.up)
            yield events.Sample("postfacta_health_check_duration_seconds", labels, check.seconds)
            # An age is as old as the scrape that asks for it.
            yield events.Sample("postfacta_health_check_age_seconds", labels, now - at)

    def end(self, exchange: Exchange, /) -> None:
        request, seconds = exchange.request, exchange.seconds
        key = (exchange.method, exchange.route, exchange.status, exchange.error_type, exchange.traffic)
        series = self._seen.get(key) or self._find(*key)
        series.counts[bisect_left(series.bounds, seconds)] += 1
        series.total += seconds
        series.moment = request.started
        if request.trace_flags and not exchange.quiet:
            self._exemplify(series, seconds, request)
        if exchange.error is not None:
            self._count("postfacta_unhandled_exceptions_total", exchange.error_type)

    def _find(self, given: str, route: str, status: int, *rest: str) -> Buckets:
        """Find the series of an exchange; the same labels are found at once from then on."""
        method = _METHODS.get(given, OTHER)
        self._methods.add(method)
        series = self._durations.child((method, route, str(status), *rest))
        if given == method and not self._durations.is_full:
            error_type, traffic = rest
            self._seen[given, route, status, error_type, traffic] = series
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
        key = (exchange.route, exchange.outcome, shown, exchange.error_type)
        self._families["postfacta_websocket_duration_seconds"].child(key).observe(exchange.seconds)
        if exchange.error is not None:
            self._count("postfacta_unhandled_exceptions_total", exchange.error_type)

    def _exemplify(self, series: Buckets, value: float, request: RequestContext) -> None:
        # An exemplar must lead to a trace that is stored.
        if request.trace_flags[-1] in _SAMPLED:
            labels = {"trace_id": request.trace_id, "span_id": request.span_id}
            series.exemplify(value, labels, self._wall())

    def _observe_call(self, series: Buckets, seconds: float) -> None:
        """Observe what was done for the present request, which stands for its bucket if its trace is stored."""
        series.observe(seconds)
        request = current_request()
        if request is not None and request.trace_flags:
            self._exemplify(series, seconds, request)

    def __call__(self, event: events.Event, /) -> None:
        if (count := self._counted.get(type(event))) is not None:
            count(event)

    def _count(self, metric: str, label: str, value: float = 1) -> None:
        self._families[metric].child((label,)).observe(value)

    def _count_by(self) -> dict[type, Callable[[Any], object]]:
        """Return what counts an event, by its class."""
        count, families = self._count, self._families
        lag = families["postfacta_event_loop_lag_seconds"].child(())
        uses = families["db_client_connection_use_time_seconds"]
        return {
            events.QueryFinished: self._query,
            events.HttpCallFinished: self._call,
            events.ConnectionAcquired: self._acquired,
            events.ConnectionReleased: lambda it: uses.child((it.pool,)).observe(it.seconds),
            events.ConnectionOpened: lambda it: count(
                "db_client_connection_create_time_seconds", it.pool, it.seconds
            ),
            events.DeadlineExceeded: self._exceeded,
            events.TaskCrashed: lambda it: count("postfacta_task_crashes_total", it.task),
            events.HealthChecked: self._check,
            events.LogsSuppressed: lambda it: count(
                "postfacta_log_records_suppressed_total", it.event, it.count
            ),
            events.PhaseChanged: lambda it: setattr(self, "_phase", it.new),
            events.SignalsIntercepted: self._intercepted,
            events.RequestsOverdue: lambda it: setattr(self, "_overdue", it.count),
            events.LoopLagged: lambda it: lag.observe(it.seconds),
            events.PolicyCreated: self._numbers.add,
        }

    def _query(self, event: events.QueryFinished) -> None:
        key = (event.system, event.operation, event.collection, event.sqlstate, event.error_type)
        self._observe_call(self._queries.child(key), event.seconds)

    def _call(self, event: events.HttpCallFinished) -> None:
        method = _METHODS.get(event.method, OTHER)
        port, status = (str(number) if number else "" for number in (event.port, event.status))
        key = (method, event.address, port, status, event.error_type)
        self._observe_call(self._calls.child(key), event.seconds)

    def _acquired(self, event: events.ConnectionAcquired) -> None:
        self._waits.child((event.pool,)).observe(event.seconds)
        if event.error_type in _POOL_TIMEOUTS:
            self._count("db_client_connection_timeouts_total", event.pool)

    def _check(self, event: events.HealthChecked) -> None:
        self._checks[event.check, "true" if event.critical else "false"] = event, self._clock()

    def _intercepted(self, event: events.SignalsIntercepted) -> None:
        # It may be settled a second time, by a server that came late.
        self._mechanisms = {**dict.fromkeys(self._mechanisms, False), event.mechanism: event.in_place}

    def _exceeded(self, event: events.DeadlineExceeded) -> None:
        request = current_request()
        is_callers = request is not None and request.is_out_of_callers_time(self._clock())
        self._count("postfacta_deadline_exceeded_total", "caller" if is_callers else event.stage)

    def render(self, accept: str = "", *, labels: Mapping[str, str] = _NO_LABELS) -> Exposition:
        """Render all metrics in the format that an `Accept` header asks for.

        It takes milliseconds, and may run in another thread; `asgi.metrics` does so.

        Args:
            accept: The header's value. What asks for OpenMetrics gets exemplars too.
            labels: Put on each series, besides its own.
        """
        encode, content_type = choose_encoder(accept)
        # Of two metrics of one name, the first is shown.
        pages: dict[str, bytes] = {}
        for registry in (self.registry, *self._include):
            # The registry reads its collectors in one go, of which the first that raises ends all.
            for collector in _collectors(registry):
                try:
                    read = [(each.name, encode(_page(each, labels))) for each in collector.collect()]
                except Exception as error:  # noqa: BLE001 - a collector is foreign code, and may raise anything
                    self._report(type(collector).__qualname__, error)
                else:
                    for name, page in read:
                        pages.setdefault(name, page)
        nothing: Any = SimpleNamespace(collect=list)
        end = encode(nothing)
        return Exposition(b"".join(page.removesuffix(end) for page in pages.values()) + end, content_type)

    def _report(self, collector: str, error: Exception) -> None:
        """Log once that a collector failed; that costs its own series."""
        if collector not in self._broken:
            self._broken.add(collector)
            _LOG.error("metrics.collector_failed", extra={"collector": collector, "error": repr(error)})


def _page(metric: Metric, labels: Mapping[str, str]) -> Any:
    if labels:
        # A copy: what never changes, such as the platform, is the collector's own and comes again.
        metric = copy(metric)
        metric.samples = [sample._replace(labels={**labels, **sample.labels}) for sample in metric.samples]
    return SimpleNamespace(collect=lambda: [metric])


def _collectors(registry: CollectorRegistry) -> Iterator[Collector]:
    if info := registry.get_target_info():
        yield cast("Collector", _page(InfoMetricFamily("target", "Target metadata", value=info), {}))
    # It has no public list of them. Were the list elsewhere one day, a test would turn red.
    yield from cast("Iterable[Collector]", vars(registry)["_collector_to_names"])


def _registries(field: str, value: object) -> tuple[CollectorRegistry, ...]:
    if not isinstance(value, list | tuple):
        validation.refuse(field, value, "a list of registries", example="[REGISTRY]")
    given = cast("Sequence[object]", value)
    return tuple(validation.instance(field, each, CollectorRegistry, example="[REGISTRY]") for each in given)
