"""Every metric of the library: its labels, its description. The reference is written from it: it cannot lag behind.

Three tables, by who has the numbers: `Metrics` itself, the policies that announced themselves, the process.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

# The buckets of the semantic conventions, and 0.2: the 95th percentile's objective must be a bucket edge.
HTTP_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
CALL_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
SOCKET_BUCKETS: Final = (0.1, 1, 10, 60, 300, 1800, 3600, 21_600, 86_400)
LAG_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
"""The only ones that become labels; all others are `_OTHER`."""

CLOSED: Final = frozenset(
    {"http_request_method", "http_response_status_code", "traffic", "outcome", "close_code", "stage", "db_system_name"}
)  # fmt: skip
"""The labels whose values are a closed set. All others give way to `_OTHER` once a metric has too many series."""


class Instrument(NamedTuple):
    """One metric: a histogram if it has buckets, a counter if its name ends in `_total`, else a gauge.

    Attributes:
        text: Its help text.
        labels: Their names.
        merge: Makes one number of those of two policies with the same name: their sum; of a state, whether one of
            them is in it; of a budget, the same from each that has it; of what must be up, whether all are.
        values: Of the labels that have few, which.
        buckets: Upwards, without the infinite one.
    """

    text: str
    labels: tuple[str, ...]
    merge: Callable[[float, float], float]
    values: Mapping[str, tuple[str, ...]]
    buckets: tuple[float, ...]


def _metric(
    text: str,
    labels: str = "",
    merge: Callable[[float, float], float] = operator.add,
    *,
    values: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    buckets: tuple[float, ...] = (),
) -> Instrument:
    return Instrument(text, tuple(labels.split()), merge, values, buckets)


_POOL: Final = "db_client_connection_pool_name"
_CHECK: Final = "check critical"

INSTRUMENTS: Final[Mapping[str, Instrument]] = {
    "http_server_request_duration_seconds": _metric(
        "From the request's arrival to the last byte of its response.",
        "http_request_method http_route http_response_status_code error_type traffic",
        values={"traffic": ("user", "synthetic", "load")},
        buckets=HTTP_BUCKETS,
    ),
    "http_server_active_requests": _metric("Requests not answered yet.", "http_request_method"),
    "http_last_request_received_time": _metric("When the last request came, in unix seconds.", "path method"),
    "postfacta_websocket_open": _metric("WebSockets that were accepted and are not closed yet."),
    "postfacta_websocket_duration_seconds": _metric(
        "From the handshake of a WebSocket to its close, or to its refusal.",
        "http_route outcome close_code error_type",
        values={"outcome": ("closed", "left", "refused", "crashed", "unfinished")},
        buckets=SOCKET_BUCKETS,
    ),
    "http_client_request_duration_seconds": _metric(
        "One try of a call to another service, until its response has begun.",
        "http_request_method server_address server_port http_response_status_code error_type",
        buckets=HTTP_BUCKETS,
    ),
    "postfacta_unhandled_exceptions_total": _metric("Exceptions that no handler caught.", "error_type"),
    "postfacta_deadline_exceeded_total": _metric(
        "Requests and calls that ran out of time, by where; `caller` if the caller had set a shorter time.",
        "stage",
        values={"stage": ("ingress", "handler", "pool", "database", "client", "caller", "timeout")},
    ),
    "postfacta_task_crashes_total": _metric("Background tasks that raised and were started again.", "task"),
    "postfacta_requests_overdue": _metric("Handlers that were cancelled and still run."),
    "postfacta_event_loop_lag_seconds": _metric("How late the event loop ran, sampled.", buckets=LAG_BUCKETS),
    "postfacta_lifecycle_state": _metric(
        "1 for the present state.",
        "state",
        values={"state": ("starting", "ready", "draining", "stopping", "stopped")},
    ),
    "postfacta_lifecycle_interception": _metric(
        "1 for the mechanism that catches SIGTERM; 0 if there is none.", "mechanism"
    ),
    "db_client_operation_duration_seconds": _metric(
        "From a statement sent to it answered.",
        "db_system_name db_operation_name db_collection_name db_response_status_code error_type",
        buckets=CALL_BUCKETS,
    ),
    "db_client_connection_timeouts_total": _metric("Waits for a connection that took too long.", _POOL),
    "db_client_connection_wait_time_seconds": _metric(
        "Waits for a connection, including failed ones.", _POOL, buckets=CALL_BUCKETS
    ),
    "db_client_connection_use_time_seconds": _metric(
        "How long connections were lent.", _POOL, buckets=CALL_BUCKETS
    ),
    "db_client_connection_create_time_seconds": _metric(
        "How long it took to open a connection.", _POOL, buckets=CALL_BUCKETS
    ),
    "postfacta_health_check_up": _metric("1 if the check's verdict is up.", _CHECK),
    "postfacta_health_check_duration_seconds": _metric("How long the last check took.", _CHECK),
    "postfacta_health_check_age_seconds": _metric("How long ago the check came back.", _CHECK),
    "postfacta_log_records_suppressed_total": _metric(
        "Log records that were not written, since there were too many like them.", "event"
    ),
    "postfacta_metrics_label_overflow_total": _metric(
        "Observations whose labels were replaced, since the metric had too many sets of them.", "metric"
    ),
}
"""Every instrument by its full name."""

POLICY_METRICS: Final[Mapping[str, Instrument]] = {
    "db_client_connection_count": _metric("Open connections.", f"{_POOL} db_client_connection_state"),
    "db_client_connection_max": _metric("The most connections that may be open.", _POOL),
    "db_client_connection_pending_requests": _metric("Callers waiting for a connection.", _POOL),
    "postfacta_breaker_state": _metric("1 for the circuit's present state.", "breaker state", max),
    "postfacta_breaker_calls_total": _metric(
        "Calls by outcome, including rejected ones.", "breaker outcome mode"
    ),
    "postfacta_breaker_transitions_total": _metric("Changes of state.", "breaker from_state to_state"),
    "postfacta_retry_attempts_total": _metric("Tries by outcome.", "operation outcome"),
    "postfacta_retry_budget_tokens": _metric("Retries that may be made now.", "budget", max),
    "postfacta_hedge_attempts_total": _metric(
        "Calls slower than the delay, by outcome of the second try.", "operation outcome"
    ),
    "postfacta_fallback_answers_total": _metric("Answers by where they came from.", "operation source"),
    "postfacta_bulkhead_used": _metric("Calls under way.", "bulkhead"),
    "postfacta_bulkhead_waiting": _metric("Calls that wait for a slot.", "bulkhead"),
    "postfacta_bulkhead_slots": _metric("The most calls at once.", "bulkhead"),
    "postfacta_bulkhead_decisions_total": _metric("Calls admitted or refused.", "bulkhead decision mode"),
    "postfacta_limiter_limit": _metric("The present limit on requests at once.", "limiter"),
    "postfacta_limiter_inflight": _metric("Requests under way.", "limiter"),
    "postfacta_limiter_queued": _metric("Requests that wait to be admitted.", "limiter"),
    "postfacta_limiter_decisions_total": _metric(
        "Requests admitted or shed.", "limiter priority decision mode"
    ),
    "postfacta_limiter_queue_time_seconds_total": _metric(
        "All the time that admitted requests waited.", "limiter"
    ),
    "postfacta_limiter_pressure": _metric(
        "How old requests get, by what they may take, for each that is answered; late above 1.", "limiter"
    ),
    "postfacta_limiter_work": _metric("The requests at once that answers prove.", "limiter"),
    "postfacta_limiter_scale": _metric(
        "How many times longer than usual requests take for a reason outside.", "limiter"
    ),
    "postfacta_limiter_overloaded": _metric("1 if requests were refused recently.", "limiter"),
    "postfacta_limiter_verdicts_total": _metric(
        "What cuts of the limit showed: a queue, or work that became slow.", "limiter verdict"
    ),
    "postfacta_ratelimit_decisions_total": _metric(
        "Requests allowed or limited, and by what if the store is away.", "policy decision mode"
    ),
    "postfacta_ratelimit_keys": _metric("Callers in the memory store.", "policy"),
    "postfacta_jobs_running": _metric("Jobs of a worker under way.", "worker"),
    "postfacta_jobs_total": _metric("Jobs of a worker that ended.", "worker task outcome"),
    "postfacta_jobs_seconds_total": _metric("All the time that these jobs took.", "worker task outcome"),
    "postfacta_ratelimit_store_up": _metric("1 if the shared store answers.", "policy", min),
}
"""Every metric whose numbers come from policies, by its full name."""

RUNTIME_METRICS: Final[Mapping[str, Instrument]] = {
    "postfacta_asyncio_tasks": _metric("Tasks of the event loop that have not ended."),
    "postfacta_memory_limit_bytes": _metric("The most memory to use; absent if unlimited."),
    "postfacta_cpu_limit_cores": _metric("The most processors to keep busy; absent if unlimited."),
    "postfacta_telemetry_spans_dropped_total": _metric(
        "Spans that were recorded and never reached the collector.", "reason"
    ),
    "postfacta_metrics_workers": _metric("Workers by whether their metrics are on this page.", "state"),
}
"""Every metric that the process reports in the same way."""
