"""Each observation lands in one series, under labels from closed sets."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from postfacta_core.context import RequestContext
from postfacta_core.events import (
    CircuitChanged,
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
    StreamFinished,
    TaskCrashed,
)
from postfacta_core.telemetry.exchange import Exchange, SocketExchange
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.testing import ManualClock
from tests.kit.every import every
from tests.kit.exposition import OPEN_METRICS, read_open_metrics


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def finished(
    metrics: Metrics, route: str = "/i/{id}", method: str = "GET", *, error: str = ""
) -> None:
    exchange = Exchange(RequestContext("an-id-of-some-kind", 990.0), method, "/i/7")
    metrics.begin(exchange)
    exchange.seconds = 0.15
    metrics.answered(exchange)
    exchange.status, exchange.route, exchange.error_type = 500 if error else 200, route, error
    exchange.error = ValueError() if error else None
    metrics.end(exchange)


def socket(
    outcome: str, *, code: int = 0, is_open: bool = True, error: Exception | None = None
) -> SocketExchange:
    exchange = SocketExchange(RequestContext("an-id-of-some-kind", 990.0), "GET", "/rooms/7")
    exchange.route, exchange.outcome, exchange.close_code = "/rooms/{id}", outcome, code
    exchange.seconds, exchange.error, exchange.is_open = 5.0, error, is_open
    exchange.error_type = type(error).__name__ if error else ""
    return exchange


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(
        CollectorRegistry(),
        version="1.2.3",
        revision="abc",
        clock=ManualClock(1000),
        wall=lambda: 5000.0,
    )


def test_a_request_is_one_observation_under_its_labels(metrics: Metrics) -> None:
    finished(metrics)
    both = {"http_request_method": "GET", "http_route": "/i/{id}", "traffic": "user"}
    labels = {**both, "outcome": "2xx", "url_scheme": "http"}
    name = "http_server_request_duration_seconds"
    counted = {**both, "http_response_status_code": "200", "error_type": ""}
    assert value(metrics, "http_server_requests_total", **counted) == 1
    assert value(metrics, f"{name}_count", **labels) == 1
    assert value(metrics, f"{name}_sum", **labels) == 0.15
    assert value(metrics, f"{name}_bucket", le="0.1", **labels) == 0
    assert value(metrics, f"{name}_bucket", le="0.2", **labels) == 1
    assert value(metrics, "http_last_request_received_time", path="/i/{id}", method="GET") == 4990


def test_a_request_is_active_until_it_is_answered(metrics: Metrics) -> None:
    labels = {"http_request_method": "_OTHER", "url_scheme": "https"}
    exchange = Exchange(RequestContext("an-id-of-some-kind", 0.0), "BREW", "/")
    exchange.scheme = "https"
    metrics.begin(exchange)
    assert value(metrics, "http_server_active_requests", **labels) == 1
    metrics.answered(exchange)
    metrics.end(exchange)
    assert value(metrics, "http_server_active_requests", **labels) == 0


# What is recorded: the method, the route, the status, the error, the scheme, whether it is a
# stream. What is shown: the method, the route, the outcome, the scheme.
SHOWN: dict[str, tuple[tuple[str, str, int, str, str, bool], tuple[str, str, str, str]]] = {
    "a whole answer": (("GET", "/i", 200, "", "http", False), ("GET", "/i", "2xx", "http")),
    "a mistake": (("GET", "/i", 404, "", "https", False), ("GET", "/i", "4xx", "https")),
    "a crash": (("GET", "/i", 500, "Boom", "http", False), ("GET", "/i", "5xx", "http")),
    "cut short": (("GET", "/i", 200, "Boom", "http", False), ("GET", "/i", "failed", "http")),
    "a stream": (("GET", "/i", 200, "", "http", True), ("GET", "/i", "stream", "http")),
    "a cut stream": (("GET", "/i", 200, "Boom", "http", True), ("GET", "/i", "failed", "http")),
    "left": (
        ("GET", "/i", 499, "client_disconnected", "http", True),
        ("GET", "/i", "left", "http"),
    ),
    "no route": (("PUT", "_unmatched", 404, "", "http", False), ("_OTHER", "", "4xx", "http")),
    "a redirect": (("PUT", "_unmatched", 307, "", "http", False), ("_OTHER", "", "3xx", "http")),
    "no template": (("PUT", "_unmatched", 200, "", "http", False), ("PUT", "", "2xx", "http")),
    "no such method": (("PUT", "/i", 405, "", "http", False), ("_OTHER", "", "4xx", "http")),
    "refused": (
        ("PUT", "_prerouting", 503, "shed", "http", False),
        ("_OTHER", "_prerouting", "5xx", "http"),
    ),
    "a scheme": (("GET", "/i", 200, "", "gopher", False), ("GET", "/i", "2xx", "_OTHER")),
}


def test_what_a_client_makes_up_is_no_label() -> None:
    with every() as case:
        for name, (recorded, shown) in SHOWN.items():
            with case(name):
                metrics = Metrics(CollectorRegistry(), with_process=False)
                method, route, status, error_type, scheme, is_stream = recorded
                exchange = Exchange(RequestContext("an-id-of-some-kind", 990.0), method, "/i/7")
                exchange.route, exchange.status, exchange.error_type = route, status, error_type
                exchange.scheme, exchange.is_stream = scheme, is_stream
                for _ in range(2):
                    metrics.end(exchange)
                names = ("http_request_method", "http_route", "outcome", "url_scheme")
                labels = {**dict(zip(names, shown, strict=True)), "traffic": "user"}
                count = "http_server_request_duration_seconds_count"
                assert value(metrics, count, **labels) == 2


def test_all_statuses_of_a_class_are_one_histogram(metrics: Metrics) -> None:
    for status, seconds in ((401, 0.15), (404, 0.3), (422, 3.0)):
        exchange = Exchange(RequestContext("an-id-of-some-kind", 990.0), "GET", "/i/7")
        exchange.request.trace_id = f"{status:032x}"
        exchange.request.trace_flags = "01"
        exchange.status, exchange.route, exchange.seconds = status, "/i/{id}", seconds
        metrics.end(exchange)
    page = read_open_metrics(metrics.render(OPEN_METRICS).body)
    samples = page["http_server_request_duration_seconds"].samples
    counts = [sample.value for sample in samples if sample.name.endswith("_count")]
    assert counts == [3]
    assert [sample.value for sample in samples if sample.labels.get("le") == "0.5"] == [2]
    kept = {sample.labels["le"] for sample in samples if sample.exemplar is not None}
    assert kept == {"0.2", "0.5", "5.0"}
    counted = page["http_server_requests"].samples
    assert {each.labels["http_response_status_code"] for each in counted} == {"401", "404", "422"}


def test_the_newest_exemplar_of_a_bucket_stays() -> None:
    now = ManualClock(1000)
    metrics = Metrics(CollectorRegistry(), wall=now, with_process=False)
    for status in (404, 401, 404):
        now.advance(1)
        exchange = Exchange(RequestContext("an-id-of-some-kind", 990.0), "GET", "/i/7")
        exchange.request.trace_id = f"{int(now()):032x}"
        exchange.request.trace_flags = "01"
        exchange.status, exchange.route, exchange.seconds = status, "/i/{id}", 0.15
        metrics.end(exchange)
    page = read_open_metrics(metrics.render(OPEN_METRICS).body)
    samples = page["http_server_request_duration_seconds"].samples
    (kept,) = [sample.exemplar for sample in samples if sample.exemplar is not None]
    assert int(kept.labels["trace_id"], 16) == 1003


def test_a_crash_is_counted_by_its_class(metrics: Metrics) -> None:
    finished(metrics, error="ValueError")
    finished(metrics, error="ValueError")
    assert value(metrics, "postfacta_unhandled_exceptions_total", error_type="ValueError") == 2


def test_past_the_cap_only_the_open_labels_give_way() -> None:
    metrics = Metrics(CollectorRegistry(), label_cap=3, with_process=False)
    for n in range(10):
        finished(metrics, f"/{n}")
    finished(metrics, "/11", "POST", error="ValueError")
    name = "http_server_request_duration_seconds"
    text = metrics.render().body.decode()
    assert len([line for line in text.splitlines() if line.startswith(f"{name}_count")]) == 5
    assert (
        value(
            metrics,
            "http_server_requests_total",
            http_request_method="POST",
            http_route="_OTHER",
            http_response_status_code="500",
            error_type="_OTHER",
            traffic="user",
        )
        == 1
    )
    assert value(metrics, "postfacta_metrics_label_overflow_total", metric=name) == 8


POOL = {"db_client_connection_pool_name": "main"}
POOL_CREATED = PolicyCreated(
    "main",
    lambda: [
        Sample("db_client_connection_count", ("main", "idle"), 1),
        Sample("db_client_connection_count", ("main", "used"), 2),
        Sample("db_client_connection_max", ("main",), 10),
        Sample("db_client_connection_pending_requests", ("main",), 4),
    ],
)
QUERY = {
    "db_system_name": "postgresql",
    "db_operation_name": "SELECT",
    "db_collection_name": "incidents",
    "db_response_status_code": "",
    "error_type": "",
}


CALL = {
    "http_request_method": "GET",
    "server_address": "billing.example",
    "server_port": "443",
    "http_response_status_code": "",
    "error_type": "",
}


@pytest.mark.parametrize(
    ("event", "name", "labels", "expected"),
    [
        (
            QueryFinished("main", "postgresql", "SELECT", "incidents", 0.02),
            "db_client_operation_duration_seconds_count",
            QUERY,
            1,
        ),
        (
            QueryFinished(
                "main", "postgresql", "SELECT", "incidents", 0.02, sqlstate="57014", error_type="X"
            ),
            "db_client_operation_duration_seconds_count",
            {**QUERY, "db_response_status_code": "57014", "error_type": "X"},
            1,
        ),
        (ConnectionAcquired("main", 0.5), "db_client_connection_wait_time_seconds_sum", POOL, 0.5),
        (ConnectionAcquired("main", 0.5), "db_client_connection_timeouts_total", POOL, None),
        (
            ConnectionAcquired("main", 0.5, "pool_timeout"),
            "db_client_connection_wait_time_seconds_count",
            POOL,
            1,
        ),
        (
            ConnectionAcquired("main", 0.5, "pool_timeout"),
            "db_client_connection_timeouts_total",
            POOL,
            1,
        ),
        (ConnectionReleased("main", 2), "db_client_connection_use_time_seconds_sum", POOL, 2),
        (ConnectionOpened("main", 3), "db_client_connection_create_time_seconds_sum", POOL, 3),
        (POOL_CREATED, "db_client_connection_max", POOL, 10),
        (POOL_CREATED, "db_client_connection_pending_requests", POOL, 4),
        (
            POOL_CREATED,
            "db_client_connection_count",
            {**POOL, "db_client_connection_state": "used"},
            2,
        ),
        (
            POOL_CREATED,
            "db_client_connection_count",
            {**POOL, "db_client_connection_state": "idle"},
            1,
        ),
        (DeadlineExceeded("pool"), "postfacta_deadline_exceeded_total", {"stage": "pool"}, 1),
        (DeadlineExceeded("pool"), "postfacta_deadline_exceeded_total", {"stage": "ingress"}, 0),
        (
            TaskCrashed("poller", ValueError()),
            "postfacta_task_crashes_total",
            {"task": "poller"},
            1,
        ),
        (DeadlineExceeded("handler"), "postfacta_deadline_exceeded_total", {"stage": "handler"}, 1),
        (DeadlineExceeded("handler"), "postfacta_deadline_exceeded_total", {"stage": "ingress"}, 0),
        (RequestsOverdue(3), "postfacta_requests_overdue", {}, 3),
        (LoopLagged(0.3), "postfacta_event_loop_lag_seconds_sum", {}, 0.3),
        (
            LogsSuppressed("retry.scheduled", 17),
            "postfacta_log_records_suppressed_total",
            {"event": "retry.scheduled"},
            17,
        ),
        (
            HttpCallFinished("billing", "GET", "billing.example", 443, 503, 0.3, "503"),
            "http_client_request_duration_seconds_sum",
            {**CALL, "http_response_status_code": "503", "error_type": "503"},
            0.3,
        ),
        (
            HttpCallFinished("billing", "BREW", "billing.example", 443, 0, 0.3, "ConnectError"),
            "http_client_request_duration_seconds_count",
            {**CALL, "http_request_method": "_OTHER", "error_type": "ConnectError"},
            1,
        ),
        (
            StreamFinished("model", "idle", 30.0, 7, 0.5),
            "postfacta_client_stream_duration_seconds_sum",
            {"dependency": "model", "ended": "idle"},
            30.0,
        ),
        (
            StreamFinished("model", "idle", 30.0, 7, 0.5),
            "postfacta_client_stream_pieces_total",
            {"dependency": "model"},
            7,
        ),
        (
            StreamFinished("model", "idle", 30.0, 7, 0.5),
            "postfacta_client_stream_first_piece_seconds_sum",
            {"dependency": "model"},
            0.5,
        ),
        (
            StreamFinished("model", "first", 10.0, 0),
            "postfacta_client_stream_first_piece_seconds_count",
            {"dependency": "model"},
            None,
        ),
        (
            PhaseChanged("ready", "draining", 5),
            "postfacta_lifecycle_state",
            {"state": "draining"},
            1,
        ),
        (PhaseChanged("ready", "draining", 5), "postfacta_lifecycle_state", {"state": "ready"}, 0),
        (
            SignalsIntercepted("wrap", in_place=True),
            "postfacta_lifecycle_interception",
            {"mechanism": "wrap"},
            1,
        ),
        (
            SignalsIntercepted("none", in_place=False),
            "postfacta_lifecycle_interception",
            {"mechanism": "none"},
            0,
        ),
    ],
)
def test_an_event_moves_its_metric(
    metrics: Metrics, event: Event, *, name: str, labels: dict[str, str], expected: float | None
) -> None:
    metrics(event)
    assert value(metrics, name, **labels) == expected


def test_a_checks_age_is_counted_at_the_scrape() -> None:
    clock = ManualClock()
    metrics = Metrics(CollectorRegistry(), clock=clock)
    check = {"check": "db", "critical": "true"}
    metrics(HealthChecked("db", critical=True, passed=False, up=True, seconds=0.25))
    clock.advance(7)
    assert value(metrics, "postfacta_health_check_age_seconds", **check) == 7
    assert value(metrics, "postfacta_health_check_up", **check) == 1
    assert value(metrics, "postfacta_health_check_duration_seconds", **check) == 0.25
    metrics(HealthChecked("db", critical=True, passed=False, up=False, seconds=1))
    assert value(metrics, "postfacta_health_check_age_seconds", **check) == 0
    assert value(metrics, "postfacta_health_check_up", **check) == 0


def test_a_service_starts_in_its_first_phase_and_every_phase_has_a_series(metrics: Metrics) -> None:
    states = {
        state: value(metrics, "postfacta_lifecycle_state", state=state)
        for state in ("starting", "ready", "draining", "stopping", "stopped")
    }
    assert states == {"starting": 1, "ready": 0, "draining": 0, "stopping": 0, "stopped": 0}


def test_signals_are_caught_in_one_way_at_a_time(metrics: Metrics) -> None:
    metrics(SignalsIntercepted("wrap", in_place=True))
    metrics(SignalsIntercepted("loop", in_place=True))
    heard = [
        value(metrics, "postfacta_lifecycle_interception", mechanism=m) for m in ("wrap", "loop")
    ]
    assert heard == [0, 1]


def test_an_event_without_a_metric_is_no_error(metrics: Metrics) -> None:
    before = metrics.render().body.count(b"\n")
    metrics(CircuitChanged("breaker", "closed", "open", 1.0, "failures"))
    assert metrics.render().body.count(b"\n") == before


def test_what_runs_is_reported(metrics: Metrics) -> None:
    assert b'postfacta_build_info{python_version="3.' in metrics.render().body
    assert b'revision="abc",version="1.2.3"} 1.0' in metrics.render().body


def test_two_applications_live_in_one_process_and_the_global_registry_stays_untouched() -> None:
    import prometheus_client  # noqa: PLC0415 - to look at what everybody else imports

    one, two = Metrics(CollectorRegistry()), Metrics(CollectorRegistry())
    finished(one)
    assert b"/i/{id}" not in two.render().body
    names = set(prometheus_client.REGISTRY._names_to_collectors)  # noqa: SLF001, TID251 # pyright: ignore[reportPrivateUsage] - nothing public lists them
    assert not [
        name for name in names if name.startswith(("postfacta", "http_server", "db_client"))
    ]


@pytest.mark.parametrize(
    ("code", "label"),
    [(0, ""), (1000, "1000"), (1012, "1012"), (3000, "3000"), (4007, "_OTHER"), (-1, "_OTHER")],
)
def test_a_websocket_is_one_observation_with_a_close_code_of_the_registry(
    metrics: Metrics, code: int, label: str
) -> None:
    one = socket("left", code=code)
    metrics.opened(one)
    assert value(metrics, "postfacta_websocket_open") == 1
    metrics.closed(one)
    assert value(metrics, "postfacta_websocket_open") == 0
    labels = {"http_route": "/rooms/{id}", "outcome": "left", "close_code": label, "error_type": ""}
    assert value(metrics, "postfacta_websocket_duration_seconds_sum", **labels) == 5


def test_a_websocket_that_crashed_in_its_handshake_is_an_unhandled_exception(
    metrics: Metrics,
) -> None:
    metrics.closed(socket("crashed", is_open=False, error=ValueError()))
    assert value(metrics, "postfacta_websocket_open") == 0
    assert value(metrics, "postfacta_unhandled_exceptions_total", error_type="ValueError") == 1
