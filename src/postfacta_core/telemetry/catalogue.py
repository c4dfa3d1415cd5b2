"""Every metric that is made with the registry: its kind, its labels, its description.

`Metrics` makes its instruments from this table, and the reference is written from it: neither can lag behind. What
policies report at the scrape is listed in `policies`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

# The buckets of the semantic conventions, and 0.2: the 95th percentile's objective must be a bucket edge.
HTTP_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
CALL_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
SOCKET_BUCKETS: Final = (0.1, 1, 10, 60, 300, 1800, 3600, 21_600, 86_400)
LAG_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
# A header field or two, a form, a document, an upload; the largest body that is let in by default is 1 MiB.
SIZE_BUCKETS: Final = (0, 128, 1024, 8192, 65_536, 262_144, 1_048_576, 10_485_760, 104_857_600)

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
"""The only ones that become labels; all others are `_OTHER`."""

_NOTHING: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({})


class Instrument(NamedTuple):
    """One metric.

    Attributes:
        kind: What it is.
        text: Its help text.
        labels: Their names.
        wide: The places of the labels that give way to `_OTHER` once there are too many series; all others are
            closed sets.
        values: Of the labels that have few, which.
        buckets: Of a histogram, upwards, without the infinite one.
        note: What the reference adds to the kind.
    """

    kind: Literal["counter", "gauge", "histogram"]
    text: str
    labels: tuple[str, ...] = ()
    wide: tuple[int, ...] = (0,)
    values: Mapping[str, tuple[str, ...]] = _NOTHING
    buckets: tuple[float, ...] = CALL_BUCKETS
    note: str = ""


_POOL: Final = "db_client_connection_pool_name"
_CHECK: Final = ("check", "critical")

INSTRUMENTS: Final[Mapping[str, Instrument]] = {
    "http_server_request_duration_seconds": Instrument(
        "histogram",
        "From the request's arrival to the last byte of its response.",
        ("http_request_method", "http_route", "http_response_status_code", "error_type", "traffic"),
        wide=(1, 3),
        values={"traffic": ("user", "synthetic", "load")},
        buckets=HTTP_BUCKETS,
    ),
    "http_server_active_requests": Instrument(
        "gauge", "Requests not answered yet.", ("http_request_method",), wide=()
    ),
    "http_server_request_body_size_bytes": Instrument(
        "histogram",
        "Bytes that were read of the request's body.",
        ("http_request_method", "http_route"),
        wide=(1,),
        buckets=SIZE_BUCKETS,
        note="only with `body_sizes`",
    ),
    "http_server_response_body_size_bytes": Instrument(
        "histogram",
        "Bytes of the response's body.",
        ("http_request_method", "http_route"),
        wide=(1,),
        buckets=SIZE_BUCKETS,
        note="only with `body_sizes`",
    ),
    "http_last_request_received_time": Instrument(
        "gauge", "When the last request came.", ("path", "method"), note="unix seconds"
    ),
    "postfacta_websocket_open": Instrument("gauge", "WebSockets that were accepted and are not closed yet."),
    "postfacta_websocket_duration_seconds": Instrument(
        "histogram",
        "From the handshake of a WebSocket to its close, or to its refusal.",
        ("http_route", "outcome", "close_code", "error_type"),
        wide=(0, 3),
        values={"outcome": ("closed", "left", "refused", "crashed", "unfinished")},
        buckets=SOCKET_BUCKETS,
    ),
    "http_client_request_duration_seconds": Instrument(
        "histogram",
        "One try of a call to another service, until its response has begun.",
        ("http_request_method", "server_address", "server_port", "http_response_status_code", "error_type"),
        wide=(1, 2, 4),
        buckets=HTTP_BUCKETS,
    ),
    "postfacta_unhandled_exceptions_total": Instrument(
        "counter", "Exceptions that an application did not handle.", ("error_type",)
    ),
    "postfacta_deadline_exceeded_total": Instrument(
        "counter",
        "Requests and calls that ran out of time, by where; `caller` if the caller had set a shorter time.",
        ("stage",),
        wide=(),
        values={"stage": ("ingress", "handler", "pool", "database", "client", "caller", "timeout")},
    ),
    "postfacta_task_crashes_total": Instrument(
        "counter", "Background tasks that raised and were started again.", ("task",)
    ),
    "postfacta_requests_overdue": Instrument("gauge", "Handlers that were cancelled and still run."),
    "postfacta_event_loop_lag_seconds": Instrument(
        "histogram", "How late the event loop ran, sampled.", buckets=LAG_BUCKETS
    ),
    "postfacta_lifecycle_state": Instrument(
        "gauge",
        "1 for the present state.",
        ("state",),
        wide=(),
        values={"state": ("starting", "ready", "draining", "stopping", "stopped")},
    ),
    "postfacta_lifecycle_interception": Instrument(
        "gauge", "1 for the mechanism that catches SIGTERM; 0 if there is none.", ("mechanism",)
    ),
    "db_client_operation_duration_seconds": Instrument(
        "histogram",
        "From a statement sent to it answered.",
        (
            "db_system_name",
            "db_operation_name",
            "db_collection_name",
            "db_response_status_code",
            "error_type",
        ),
        wide=(1, 2, 3, 4),
    ),
    "db_client_connection_timeouts_total": Instrument(
        "counter", "Waits for a connection that took too long.", (_POOL,)
    ),
    "db_client_connection_wait_time_seconds": Instrument(
        "histogram", "Waits for a connection, including failed ones.", (_POOL,)
    ),
    "db_client_connection_use_time_seconds": Instrument(
        "histogram", "How long connections were lent.", (_POOL,)
    ),
    "db_client_connection_create_time_seconds": Instrument(
        "histogram", "How long it took to open a connection.", (_POOL,)
    ),
    "postfacta_health_check_up": Instrument("gauge", "1 if the check's verdict is up.", _CHECK),
    "postfacta_health_check_duration_seconds": Instrument("gauge", "How long the last check took.", _CHECK),
    "postfacta_health_check_age_seconds": Instrument("gauge", "How long ago the check came back.", _CHECK),
    "postfacta_log_records_suppressed_total": Instrument(
        "counter", "Log records that were not written, since there were too many like them.", ("event",)
    ),
    "postfacta_metrics_label_overflow_total": Instrument(
        "counter",
        "Observations whose labels were replaced, since the metric had too many sets of them.",
        ("metric",),
    ),
}
"""Every instrument by its full name."""
