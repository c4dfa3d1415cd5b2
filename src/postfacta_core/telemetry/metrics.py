"""Every metric of the library, made once on a registry that is passed in.

`Metrics` records exchanges (it is a `Recorder`) and hears the events of pools, checks and tasks (it is an
`Observer`). Children are looked up in a dict by their label values; a metric takes at most so many sets of
labels, and sends what is new after that to `_OTHER` in the labels that an error or a route can widen.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics import MetricWrapperBase

from ..clock import MONOTONIC, WALL, Clock
from ..events import (
    ConnectionAcquired,
    ConnectionOpened,
    ConnectionReleased,
    DeadlineExceeded,
    Event,
    HealthChecked,
    LoopLagged,
    PhaseChanged,
    PolicyCreated,
    PoolSized,
    QueryFinished,
    RequestsOverdue,
    SignalsIntercepted,
    TaskCrashed,
)
from .exchange import OTHER, Exchange
from .plain import PlainGauge, PlainHistogram
from .policies import PolicyCollector

__all__ = ["DATABASE_BUCKETS", "HTTP_BUCKETS", "Exposition", "Metrics"]

# The buckets of the semantic conventions, and 0.2: the 95th percentile's objective must be a bucket edge.
HTTP_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
LAG_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
DATABASE_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)

_METHODS: Final = {
    method: method
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
}
_PHASES: Final = ("starting", "ready", "draining", "stopping", "stopped")
_STAGES: Final = ("ingress", "handler", "pool", "database")
_POOL_TIMEOUTS: Final = frozenset({"pool_timeout", "PoolTimeoutError"})


class Exposition(NamedTuple):
    """A rendered scrape."""

    body: bytes
    content_type: str


_Metric = MetricWrapperBase | PlainGauge | PlainHistogram


class _Family:
    """One metric and its children, which are found without hashing each label by itself.

    Args:
        metric: The instrument.
        cap: The most sets of labels.
        overflow: Told of each observation that was sent to `_OTHER`.
        wide: The places of the labels that may be replaced; all others are closed sets.
    """

    def __init__(
        self, metric: _Metric, cap: int, *, overflow: Callable[[], None], wide: tuple[int, ...]
    ) -> None:
        self._metric = metric
        self._cap = cap
        self._overflow = overflow
        self._wide = wide
        self._children: dict[tuple[str, ...], Any] = {}

    def child(self, key: tuple[str, ...]) -> Any:
        """Return the child of these label values, or the one that takes their place."""
        if (known := self._children.get(key)) is not None:
            return known
        if len(self._children) < self._cap:
            return self._add(key)
        self._overflow()
        key = tuple(OTHER if place in self._wide else value for place, value in enumerate(key))
        return self._children.get(key) or self._add(key)

    def known(self) -> list[tuple[str, ...]]:
        """Return the label values that it has so far."""
        return list(self._children)

    def _add(self, key: tuple[str, ...]) -> Any:
        child = self._children[key] = self._metric.labels(*key)
        return child


class Metrics:
    """All instruments on one registry.

    Args:
        registry: Where they are made, by default one of its own; two applications in one process have two.
        version: Of the service, for `postfacta_build_info`.
        revision: The commit it was built from.
        label_cap: The most sets of labels a metric takes before new ones go to `_OTHER`.
        clock: Monotonic seconds, for ages.
        wall: Seconds since the epoch, for `http_last_request_received_time`.
        with_process: Whether to add what is known of the process, the platform and the garbage collector.
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
        registry = registry or CollectorRegistry()
        self.registry: CollectorRegistry = registry
        self._cap = label_cap
        self._clock = clock
        self._wall = wall
        self._checked_at: dict[tuple[str, ...], float] = {}
        self._sized: dict[str, PoolSized] = {}
        self._overflows = Counter(
            "postfacta_metrics_label_overflow_total",
            "Observations whose labels were replaced, since the metric had too many sets of them.",
            ["metric"],
            registry=registry,
        )
        self._make_http()
        self._make_database()
        self._make_the_rest()
        Info("postfacta_build", "What runs.", registry=registry).info(
            {"version": version, "revision": revision, "python_version": platform.python_version()}
        )
        if with_process:
            ProcessCollector(registry=registry)
            PlatformCollector(registry=registry)
            GCCollector(registry=registry)

    def _make_http(self) -> None:
        self._durations = self._histogram(
            "http_server_request_duration_seconds",
            "From the request's arrival to the last byte of its response.",
            "http_request_method http_route http_response_status_code error_type traffic",
            buckets=HTTP_BUCKETS,
            wide=(1, 3),
        )
        self._active = self._plain_gauge(
            "http_server_active_requests", "Requests not answered yet.", "http_request_method"
        )
        self._received = self._plain_gauge(
            "http_last_request_received_time", "When the last request came.", "path method", read=self._when
        )
        self._crashes = self._counter(
            "postfacta_unhandled_exceptions_total",
            "Exceptions that an application let through.",
            "error_type",
            wide=(0,),
        )

    def _make_database(self) -> None:
        self._queries = self._histogram(
            "db_client_operation_duration_seconds",
            "From a statement sent to it answered.",
            "db_system_name db_operation_name db_collection_name db_response_status_code error_type",
            wide=(1, 2, 3, 4),
        )
        pool, state = "db_client_connection_pool_name", "db_client_connection_state"
        self._connections = self._gauge("db_client_connection_count", "Open connections.", f"{pool} {state}")
        self._most = self._gauge("db_client_connection_max", "The most connections that may be open.", pool)
        self._fewest = self._gauge(
            "db_client_connection_idle_min", "The fewest connections kept open idle.", pool
        )
        self._waiting = self._gauge(
            "db_client_connection_pending_requests", "Callers waiting for a connection.", pool
        )
        self._timeouts = self._counter(
            "db_client_connection_timeouts_total", "Waits for a connection that took too long.", pool
        )
        self._waits = self._histogram(
            "db_client_connection_wait_time_seconds", "Waits for a connection, the vain ones too.", pool
        )
        self._uses = self._histogram(
            "db_client_connection_use_time_seconds", "How long connections were lent.", pool
        )
        self._creations = self._histogram(
            "db_client_connection_create_time_seconds", "How long it took to open a connection.", pool
        )

    def _make_the_rest(self) -> None:
        self._task_crashes = self._counter(
            "postfacta_task_crashes_total", "Background tasks that raised and were started again.", "task"
        )
        self._late = self._counter(
            "postfacta_deadline_exceeded_total", "Requests that ran out of time, by where.", "stage", wide=()
        )
        for stage in _STAGES:
            self._late.child((stage,))
        self._phases = self._gauge("postfacta_lifecycle_state", "1 for the present state.", "state", wide=())
        for phase in _PHASES:
            self._phases.child((phase,)).set(phase == _PHASES[0])
        self._mechanism = self._gauge(
            "postfacta_lifecycle_interception", "1 for how SIGTERM is heard; 0 if it is not.", "mechanism"
        )
        self._overdue = Gauge(
            "postfacta_requests_overdue",
            "Handlers that were cancelled and go on nevertheless.",
            registry=self.registry,
        )
        self._lag = Histogram(
            "postfacta_event_loop_lag_seconds",
            "How late the event loop ran, sampled.",
            buckets=LAG_BUCKETS,
            registry=self.registry,
        )
        self._policies = PolicyCollector(self._cap, overflow=self._overflows.labels("policies").inc)
        self.registry.register(self._policies)
        check = "check critical"
        self._up = self._gauge("postfacta_health_check_up", "1 if the check's verdict is up.", check)
        self._check_seconds = self._gauge(
            "postfacta_health_check_duration_seconds", "How long the last check took.", check
        )
        self._check_age = self._gauge(
            "postfacta_health_check_age_seconds", "How long ago the check came back.", check
        )

    def begin(self, exchange: Exchange, /) -> None:
        """Count a request as active."""
        self._active.child((_METHODS.get(exchange.method, OTHER),)).value += 1

    def answered(self, exchange: Exchange, /) -> None:
        """Count it as active no longer; a background task after the response is not a request."""
        self._active.child((_METHODS.get(exchange.method, OTHER),)).value -= 1

    def end(self, exchange: Exchange, /) -> None:
        """Observe the duration under the settled labels."""
        method = _METHODS.get(exchange.method, OTHER)
        route = exchange.route
        key = (method, route, str(exchange.status), exchange.error_type, exchange.traffic)
        self._durations.child(key).observe(exchange.seconds)
        self._received.child((route, method)).value = exchange.request.started
        if exchange.error is not None:
            self._crashes.child((exchange.error_type,)).inc()

    def _when(self, moment: float) -> float:
        # To the millisecond, so that a moment reads the same at each scrape.
        return round(self._wall() - (self._clock() - moment), 3)

    def __call__(self, event: Event, /) -> None:
        """Count what happened outside of exchanges."""
        match event:
            case QueryFinished():
                self._queries.child(
                    (event.system, event.operation, event.collection, event.sqlstate, event.error_type)
                ).observe(event.seconds)
            case ConnectionAcquired() | ConnectionReleased() | ConnectionOpened() | PoolSized():
                self._count_connection(event)
            case _:
                self._count_rest(event)

    def _count_rest(self, event: Event) -> None:
        match event:
            case DeadlineExceeded():
                self._late.child((event.stage,)).inc()
            case TaskCrashed():
                self._task_crashes.child((event.task,)).inc()
            case HealthChecked():
                self._check(event)
            case _:
                self._count_life(event)

    def _count_life(self, event: Event) -> None:
        match event:
            case PhaseChanged():
                for phase in _PHASES:
                    self._phases.child((phase,)).set(phase == event.new)
            case SignalsIntercepted():
                # It may be settled a second time, by a server that came late.
                for known in self._mechanism.known():
                    self._mechanism.child(known).set(0)
                self._mechanism.child((event.mechanism,)).set(event.in_place)
            case RequestsOverdue():
                self._overdue.set(event.count)
            case LoopLagged():
                self._lag.observe(event.seconds)
            case PolicyCreated():
                self._policies.add(event)
            case _:
                pass

    def _count_connection(
        self, event: ConnectionAcquired | ConnectionReleased | ConnectionOpened | PoolSized
    ) -> None:
        match event:
            case ConnectionAcquired():
                self._waits.child((event.pool,)).observe(event.seconds)
                if event.error_type in _POOL_TIMEOUTS:
                    self._timeouts.child((event.pool,)).inc()
            case ConnectionReleased():
                self._uses.child((event.pool,)).observe(event.seconds)
            case ConnectionOpened():
                self._creations.child((event.pool,)).observe(event.seconds)
            case _:
                if event.pool not in self._sized:
                    self._show_pool(event.pool)
                self._sized[event.pool] = event

    def _show_pool(self, pool: str) -> None:
        # As for active requests: the pool tells its size twice for each statement, and somebody looks now and then.
        sized = self._sized
        self._connections.child((pool, "idle")).set_function(lambda: sized[pool].idle)
        self._connections.child((pool, "used")).set_function(lambda: sized[pool].used)
        self._most.child((pool,)).set_function(lambda: sized[pool].maximum)
        self._fewest.child((pool,)).set_function(lambda: sized[pool].idle_minimum)
        self._waiting.child((pool,)).set_function(lambda: sized[pool].waiting)

    def _check(self, event: HealthChecked) -> None:
        key = (event.check, "true" if event.critical else "false")
        self._up.child(key).set(event.up)
        self._check_seconds.child(key).set(event.seconds)
        if key not in self._checked_at:
            # An age is as old as the scrape that asks for it.
            self._check_age.child(key).set_function(lambda: self._clock() - self._checked_at[key])
        self._checked_at[key] = self._clock()

    def render(self, accept: str = "") -> Exposition:
        """Render all metrics in the format that an `Accept` header asks for.

        It takes milliseconds, and may run in another thread; `asgi.metrics` does so.
        """
        encode, content_type = choose_encoder(accept)
        return Exposition(encode(self.registry), content_type)

    def _family(self, metric: _Metric, name: str, wide: tuple[int, ...]) -> _Family:
        # The bound child is made here: `labels` costs more than the observation itself.
        overflow = self._overflows.labels(name).inc
        return _Family(metric, self._cap, overflow=overflow, wide=wide)

    def _histogram(
        self,
        name: str,
        text: str,
        labels: str,
        *,
        buckets: tuple[float, ...] = DATABASE_BUCKETS,
        wide: tuple[int, ...] = (0,),
    ) -> _Family:
        metric = PlainHistogram(name, text, labels.split(), bounds=buckets, registry=self.registry)
        return self._family(metric, name, wide)

    def _plain_gauge(
        self, name: str, text: str, labels: str, *, read: Callable[[float], float] = float
    ) -> _Family:
        metric = PlainGauge(name, text, labels.split(), registry=self.registry, read=read)
        return self._family(metric, name, (0,))

    def _gauge(self, name: str, text: str, labels: str, *, wide: tuple[int, ...] = (0,)) -> _Family:
        return self._family(Gauge(name, text, labels.split(), registry=self.registry), name, wide)

    def _counter(self, name: str, text: str, labels: str, *, wide: tuple[int, ...] = (0,)) -> _Family:
        return self._family(Counter(name, text, labels.split(), registry=self.registry), name, wide)
