"""Every metric of the library, made once on a registry that is passed in.

`Metrics` records exchanges (it is a `Recorder`) and receives the events of pools, checks and tasks (it is an
`Observer`). Children are looked up in a dict by their label values; a metric takes a bounded number of sets of
labels, and sends what is new after that to `_OTHER` in the labels that an error or a route can widen.
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

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Info,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from ..clock import MONOTONIC, WALL, Clock
from ..context import RequestContext, current_request
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
    TaskCrashed,
)
from ..validation import validation
from .catalogue import INSTRUMENTS, METHODS
from .exchange import OTHER, Exchange, SocketExchange
from .families import Buckets, Families, Family
from .policies import PolicyCollector

Registry = CollectorRegistry
"""prometheus-client's own, for code that may not import it."""

_METHODS: Final = {method: method for method in METHODS}
_PHASES: Final = INSTRUMENTS["postfacta_lifecycle_state"].values["state"]
_STAGES: Final = INSTRUMENTS["postfacta_deadline_exceeded_total"].values["stage"]
_POOL_TIMEOUTS: Final = frozenset({"pool_timeout", "PoolTimeoutError"})
# The lowest bit of the flags says that the trace is stored.
_SAMPLED: Final = frozenset("13579bdf")
_OURS: Final = ("prometheus_client.", "postfacta_core.")
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
        body_sizes: Whether to observe the sizes of bodies: 20 series more for each route and method.
        include: More registries, such as `prometheus_client.REGISTRY`, where libraries put their series by default. What
            has a name of ours is left out of them.

    Attributes:
        begin: Counts an exchange as active.
        answered: Counts it as active no longer.
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
        body_sizes: bool = False,
        include: Sequence[Registry] = (),
    ) -> None:
        if registry is not None:
            validation.instance(
                "Metrics.registry", registry, CollectorRegistry, example="CollectorRegistry()"
            )
        validation.text("Metrics.version", version)
        validation.text("Metrics.revision", revision)
        validation.whole("Metrics.label_cap", label_cap, example="label_cap=1000")
        validation.functions("Metrics", clock=clock, wall=wall)
        validation.flag("Metrics.with_process", with_process)
        validation.flag("Metrics.body_sizes", body_sizes)
        registry = registry or CollectorRegistry()
        self.registry: CollectorRegistry = registry
        self._include = _registries("Metrics.include", include)
        self._clock = clock
        self._wall = wall
        self._checks: dict[tuple[str, str], tuple[HealthChecked, float]] = {}
        self._phase, self._overdue = _PHASES[0], 0
        self._mechanisms: dict[str, bool] = {}
        self._broken: set[str] = set()
        self._make(Families(label_cap), body_sizes=body_sizes)
        overflow = self._families.overflow("policies")
        self._policies = PolicyCollector(label_cap, gauges=self._gauges, overflow=overflow)
        registry.register(self._families)
        registry.register(self._policies)
        self._counted = self._count_by()
        Info("postfacta_build", "What runs.", registry=registry).info(
            {"version": version, "revision": revision, "python_version": platform.python_version()}
        )
        if with_process:
            ProcessCollector(registry=registry)
            PlatformCollector(registry=registry)
            GCCollector(registry=registry)

    def _make(self, families: Families, *, body_sizes: bool) -> None:
        self._families = families
        make, connection = families.make, "db_client_connection"
        self._seen: dict[tuple[str, str, int, str, str], Buckets] = {}
        self._methods: set[str] = set()
        # Active requests are counted at the scrape, so that each costs no more than a place in a set; a background
        # task after the response is not a request.
        self._under_way: set[Exchange] = set()
        self.begin: Callable[[Exchange], None] = self._under_way.add
        self.answered: Callable[[Exchange], None] = self._under_way.discard
        self._durations = make("http_server_request_duration_seconds")
        self._crashes = make("postfacta_unhandled_exceptions_total")
        self._sockets = make("postfacta_websocket_duration_seconds")
        self._open_sockets = 0
        self._calls = make("http_client_request_duration_seconds")
        self._bodies: tuple[Family, Family] | None = None
        if body_sizes:
            sizes = ("http_server_request_body_size_bytes", "http_server_response_body_size_bytes")
            self._bodies = make(sizes[0]), make(sizes[1])
        self._queries = make("db_client_operation_duration_seconds")
        self._timeouts = make(f"{connection}_timeouts_total")
        self._waits = make(f"{connection}_wait_time_seconds")
        self._uses = make(f"{connection}_use_time_seconds")
        self._creations = make(f"{connection}_create_time_seconds")
        self._task_crashes = make("postfacta_task_crashes_total")
        self._suppressed = make("postfacta_log_records_suppressed_total")
        self._late = make("postfacta_deadline_exceeded_total")
        for stage in _STAGES:
            self._late.child((stage,))
        self._lag = make("postfacta_event_loop_lag_seconds").child(())

    def _gauges(self) -> Iterator[Sample]:
        """Yield what is known at the scrape alone."""
        methods = [_METHODS.get(exchange.method, OTHER) for exchange in tuple(self._under_way)]
        # It is shown although none is active any more.
        self._methods.update(methods)
        for method in tuple(self._methods):
            yield Sample("http_server_active_requests", (method,), methods.count(method))
        latest: dict[tuple[str, ...], float] = {}
        for (method, route, *_), series in tuple(self._durations.series.items()):
            latest[route, method] = max(series.moment, latest.get((route, method), -math.inf))
        # To the millisecond, so that a moment reads the same at each scrape.
        now, wall = self._clock(), self._wall()
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

    def end(self, exchange: Exchange, /) -> None:
        request, seconds = exchange.request, exchange.seconds
        key = (exchange.method, exchange.route, exchange.status, exchange.error_type, exchange.traffic)
        series = self._seen.get(key) or self._find(*key)
        series.counts[bisect_left(series.bounds, seconds)] += 1
        series.total += seconds
        series.moment = request.started
        if request.trace_flags and not exchange.quiet:
            self._exemplify(series, seconds, request)
        if self._bodies is not None:
            read, sent = self._bodies
            labels = (_METHODS.get(exchange.method, OTHER), exchange.route)
            read.child(labels).observe(exchange.request_bytes)
            sent.child(labels).observe(exchange.response_bytes)
        if exchange.error is not None:
            self._crashes.child((exchange.error_type,)).observe(1)

    def _find(self, given: str, route: str, status: int, *rest: str) -> Buckets:
        """Find the series of an exchange; the same labels are found at once from then on."""
        method = _METHODS.get(given, OTHER)
        self._methods.add(method)
        series = self._durations.child((method, route, str(status), *rest))
        if given == method and not self._durations.is_full:
            error_type, traffic = rest
            self._seen[given, route, status, error_type, traffic] = series
        return series

    def opened(self, exchange: SocketExchange, /) -> None:
        self._open_sockets += 1

    def closed(self, exchange: SocketExchange, /) -> None:
        if exchange.is_open:
            self._open_sockets -= 1
        key = (exchange.route, exchange.outcome, _code(exchange.close_code), exchange.error_type)
        self._sockets.child(key).observe(exchange.seconds)
        if exchange.error is not None:
            self._crashes.child((exchange.error_type,)).observe(1)

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

    def __call__(self, event: Event, /) -> None:
        if (count := self._counted.get(type(event))) is not None:
            count(event)

    def _count_by(self) -> dict[type, Callable[[Any], object]]:
        """Return what counts an event, by its class."""
        return {
            QueryFinished: self._query,
            HttpCallFinished: self._call,
            ConnectionAcquired: self._acquired,
            ConnectionReleased: lambda it: self._uses.child((it.pool,)).observe(it.seconds),
            ConnectionOpened: lambda it: self._creations.child((it.pool,)).observe(it.seconds),
            DeadlineExceeded: lambda it: self._late.child((self._stage(it.stage),)).observe(1),
            TaskCrashed: lambda it: self._task_crashes.child((it.task,)).observe(1),
            HealthChecked: self._check,
            LogsSuppressed: lambda it: self._suppressed.child((it.event,)).observe(it.count),
            PhaseChanged: lambda it: setattr(self, "_phase", it.new),
            SignalsIntercepted: self._intercepted,
            RequestsOverdue: lambda it: setattr(self, "_overdue", it.count),
            LoopLagged: lambda it: self._lag.observe(it.seconds),
            PolicyCreated: self._policies.add,
        }

    def _query(self, event: QueryFinished) -> None:
        key = (event.system, event.operation, event.collection, event.sqlstate, event.error_type)
        self._observe_call(self._queries.child(key), event.seconds)

    def _call(self, event: HttpCallFinished) -> None:
        method = _METHODS.get(event.method, OTHER)
        port, status = (str(number) if number else "" for number in (event.port, event.status))
        key = (method, event.address, port, status, event.error_type)
        self._observe_call(self._calls.child(key), event.seconds)

    def _acquired(self, event: ConnectionAcquired) -> None:
        self._waits.child((event.pool,)).observe(event.seconds)
        if event.error_type in _POOL_TIMEOUTS:
            self._timeouts.child((event.pool,)).observe(1)

    def _check(self, event: HealthChecked) -> None:
        self._checks[event.check, "true" if event.critical else "false"] = event, self._clock()

    def _intercepted(self, event: SignalsIntercepted) -> None:
        # It may be settled a second time, by a server that came late.
        self._mechanisms = {**dict.fromkeys(self._mechanisms, False), event.mechanism: event.in_place}

    def _stage(self, stage: str) -> str:
        request = current_request()
        is_callers = request is not None and request.is_out_of_callers_time(self._clock())
        return "caller" if is_callers else stage

    def render(self, accept: str = "", *, labels: Mapping[str, str] = _NO_LABELS) -> Exposition:
        """Render all metrics in the format that an `Accept` header asks for.

        It takes milliseconds, and may run in another thread; `asgi.metrics` does so.

        Args:
            accept: The header's value. What asks for OpenMetrics gets exemplars too.
            labels: Put on each series, besides its own.
        """
        encode, content_type = choose_encoder(accept)
        metrics = [_labelled(metric, labels) if labels else metric for metric in self._collect(encode)]
        return Exposition(encode(_page(metrics)), content_type)

    def _collect(self, encode: Callable[[Any], bytes]) -> Iterator[Metric]:
        """Read all registries; of two metrics of one name, the first is shown."""
        seen: set[str] = set()
        for registry in (self.registry, *self._include):
            if info := registry.get_target_info():
                yield InfoMetricFamily("target", "Target metadata", value=info)
            # The registry reads its collectors in one go, of which the first that raises ends all.
            for collector in _collectors(registry):
                for metric in self._read(collector, encode):
                    if metric.name not in seen:
                        seen.add(metric.name)
                        yield metric

    def _read(self, collector: Collector, encode: Callable[[Any], bytes]) -> Sequence[Metric]:
        """Read a collector; one that fails costs its own series, and is logged once."""
        try:
            metrics = list(collector.collect())
            if not type(collector).__module__.startswith(_OURS):
                # Written out once, since a label that is no text is found only then.
                encode(_page(metrics))
        except Exception as error:  # noqa: BLE001 - a collector is foreign code, and may raise anything
            name = type(collector).__qualname__
            if name not in self._broken:
                self._broken.add(name)
                _LOG.error("metrics.collector_failed", extra={"collector": name, "error": repr(error)})
            return ()
        return metrics


def _page(metrics: Sequence[Metric]) -> Any:
    return SimpleNamespace(collect=lambda: metrics)


def _labelled(metric: Metric, labels: Mapping[str, str]) -> Metric:
    # A copy: what never changes, such as the platform, is the collector's own and comes again.
    more = copy(metric)
    more.samples = [sample._replace(labels={**labels, **sample.labels}) for sample in metric.samples]
    return more


def _code(code: int) -> str:
    # The registry of IANA. What a client makes up is no label.
    return str(code) if code in _CLOSE_CODES else OTHER if code else ""


def _collectors(registry: CollectorRegistry) -> Sequence[Collector]:
    # It has no public list of them. Were the list elsewhere one day, a test would turn red.
    return tuple(cast("Iterable[Collector]", vars(registry)["_collector_to_names"]))


def _registries(field: str, value: object) -> tuple[CollectorRegistry, ...]:
    if not isinstance(value, list | tuple):
        validation.refuse(field, value, "a list of registries", example="[REGISTRY]")
    given = cast("Sequence[object]", value)
    return tuple(validation.instance(field, each, CollectorRegistry, example="[REGISTRY]") for each in given)
