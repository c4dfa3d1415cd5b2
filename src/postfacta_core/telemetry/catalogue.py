"""Every metric of the library by its full name: its labels, its description.

The reference is written from it.

Three tables, by who has the numbers: `Metrics` itself, the policies that announced themselves, the
process.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

# The buckets of the semantic conventions, and 0.2: the 95th percentile's objective must be a bucket
# edge.
HTTP_BUCKETS: Final = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.2,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
)
CALL_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
PIECE_BUCKETS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
# Of what may be open for days.
LONG_BUCKETS: Final = (0.1, 1, 10, 60, 300, 1800, 3600, 21_600, 86_400)
LAG_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}
)
"""The only ones that become labels; all others are `_OTHER`."""

CLOSED: Final = frozenset(
    {
        "http_request_method",
        "http_response_status_code",
        "url_scheme",
        "traffic",
        "outcome",
        "close_code",
        "ended",
        "stage",
        "db_system_name",
    }
)
"""The labels whose values are a closed set.

All others give way to `_OTHER` once a metric has too many series.
"""


class About(NamedTuple):
    """A metric: a histogram if it has buckets, a counter if its name ends in `_total`, or a gauge.

    Attributes:
        text: Its help text.
        names: Of its labels.
        buckets: Upwards, without the infinite one.
        values: Of the labels that have few, which.
        merge: Makes one number of those of two policies with the same name, such as a state that
            one of them is in.
    """

    text: str
    names: str = ""
    buckets: tuple[float, ...] = ()
    values: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    merge: Callable[[float, float], float] = operator.add

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.names.split())


_POOL: Final = "db_client_connection_pool_name"
_CHECK: Final = "check critical"

INSTRUMENTS: Final[Mapping[str, About]] = {
    "http_server_request_duration_seconds": About(
        "From the request's arrival to the last byte of its response.",
        "outcome url_scheme http_request_method http_route traffic",
        HTTP_BUCKETS,
        values={
            "outcome": ("2xx", "3xx", "4xx", "5xx", "stream", "failed", "left"),
            "traffic": ("user", "synthetic", "load"),
        },
    ),
    "http_server_requests_total": About(
        "Requests that ended, by status and error.",
        "http_request_method http_route traffic http_response_status_code error_type",
        values={"traffic": ("user", "synthetic", "load")},
    ),
    "http_server_active_requests": About(
        "Requests not answered yet.", "http_request_method url_scheme"
    ),
    "http_last_request_received_time": About(
        "When the last request came, in unix seconds.", "path method"
    ),
    "http_server_response_first_byte_seconds": About(
        "From a request's arrival to the first byte of an answer below 400: a stream's first piece,"
        " the last byte of any other.",
        "http_route traffic",
        HTTP_BUCKETS,
        values={"traffic": ("user", "synthetic", "load")},
    ),
    "postfacta_stream_duration_seconds": About(
        "From a request's arrival to the end of its answer in pieces.",
        "http_route outcome",
        LONG_BUCKETS,
        values={"outcome": ("whole", "left", "cut", "idle", "crashed")},
    ),
    "postfacta_streams_open": About(
        "Answers in pieces that have begun and not ended.", "http_route"
    ),
    "postfacta_websocket_open": About("WebSockets that were accepted and are not closed yet."),
    "postfacta_websocket_duration_seconds": About(
        "From the handshake of a WebSocket to its close, or to its refusal.",
        "http_route outcome close_code error_type",
        LONG_BUCKETS,
        values={"outcome": ("closed", "left", "refused", "crashed", "unfinished")},
    ),
    "http_client_request_duration_seconds": About(
        "One try of a call to another service, until its response has begun.",
        "http_request_method server_address server_port http_response_status_code error_type",
        HTTP_BUCKETS,
    ),
    "postfacta_client_stream_first_piece_seconds": About(
        "From a request to another service to the first piece of its response that counts; where"
        " its pieces are bounded.",
        "dependency",
        PIECE_BUCKETS,
    ),
    "postfacta_client_stream_duration_seconds": About(
        "From a request to another service to the end of its response; where its pieces are"
        " bounded.",
        "dependency ended",
        LONG_BUCKETS,
        values={"ended": ("complete", "first", "idle", "cut", "left")},
    ),
    "postfacta_client_stream_pieces_total": About(
        "Pieces that count, of responses of other services that ended.", "dependency"
    ),
    "postfacta_unhandled_exceptions_total": About(
        "Exceptions that no handler caught.", "error_type"
    ),
    "postfacta_deadline_exceeded_total": About(
        "Requests and calls that ran out of time, by where; `caller` if the caller had set a"
        " shorter time.",
        "stage",
        values={
            "stage": (
                "ingress",
                "handler",
                "handshake",
                "work",
                "pool",
                "database",
                "client",
                "caller",
                "timeout",
            )
        },
    ),
    "postfacta_task_crashes_total": About("Background tasks and spawned work that raised.", "task"),
    "postfacta_requests_overdue": About("Handlers that were cancelled and still run."),
    "postfacta_event_loop_lag_seconds": About(
        "How late the event loop ran, sampled.", buckets=LAG_BUCKETS
    ),
    "postfacta_event_loop_blocked_total": About(
        "Steps that kept the event loop from running for more than 0.25 s, by the route of their"
        " request.",
        "http_route",
    ),
    "postfacta_lifecycle_state": About(
        "1 for the present state.",
        "state",
        values={"state": ("starting", "ready", "draining", "stopping", "stopped")},
    ),
    "postfacta_lifecycle_interception": About(
        "1 for what catches SIGTERM; 0 if there is none.", "mechanism"
    ),
    "db_client_operation_duration_seconds": About(
        "From a statement sent to it answered.",
        "db_system_name db_operation_name db_collection_name db_response_status_code error_type",
        CALL_BUCKETS,
    ),
    "db_client_connection_timeouts_total": About(
        "Waits for a connection that took too long.", _POOL
    ),
    "db_client_connection_wait_time_seconds": About(
        "Waits for a connection, including failed ones.", _POOL, CALL_BUCKETS
    ),
    "db_client_connection_use_time_seconds": About(
        "How long connections were lent.", _POOL, CALL_BUCKETS
    ),
    "db_client_connection_create_time_seconds": About(
        "How long connections took to open.", _POOL, CALL_BUCKETS
    ),
    "postfacta_health_check_up": About("1 if the check's verdict is up.", _CHECK),
    "postfacta_health_check_duration_seconds": About("How long the last check took.", _CHECK),
    "postfacta_health_check_age_seconds": About("How long ago the check came back.", _CHECK),
    "postfacta_log_records_suppressed_total": About(
        "Log records left out, as there were too many.", "event"
    ),
    "postfacta_metrics_label_overflow_total": About(
        "Observations under `_OTHER`, above the cap.", "metric"
    ),
}

POLICY_METRICS: Final[Mapping[str, About]] = {
    "db_client_connection_count": About("Open connections.", f"{_POOL} db_client_connection_state"),
    "db_client_connection_max": About("The most connections that may be open.", _POOL),
    "db_client_connection_pending_requests": About("Callers waiting for a connection.", _POOL),
    "postfacta_pool_oldest_loan_seconds": About(
        "For how long the oldest of the lent connections is lent.", _POOL, merge=max
    ),
    "postfacta_breaker_state": About(
        "1 for the circuit's present state.", "breaker state", merge=max
    ),
    "postfacta_breaker_calls_total": About(
        "Calls by outcome, rejected ones too.", "breaker outcome mode"
    ),
    "postfacta_breaker_transitions_total": About(
        "Changes of state.", "breaker from_state to_state"
    ),
    "postfacta_retry_attempts_total": About("Tries by outcome.", "operation outcome"),
    "postfacta_retry_budget_tokens": About("Retries that may be made now.", "budget", merge=max),
    "postfacta_hedge_attempts_total": About(
        "Calls slower than the delay, by outcome of the second try.", "operation outcome"
    ),
    "postfacta_fallback_answers_total": About(
        "Answers by where they came from.", "operation source"
    ),
    "postfacta_numbers_total": About(
        "Changes of numbers at run time, and files that were refused.", "outcome"
    ),
    "postfacta_bulkhead_used": About("Calls under way.", "bulkhead"),
    "postfacta_bulkhead_waiting": About("Calls that wait for a slot.", "bulkhead"),
    "postfacta_bulkhead_slots": About("The most calls at once.", "bulkhead"),
    "postfacta_bulkhead_decisions_total": About(
        "Calls admitted or refused.", "bulkhead decision mode"
    ),
    "postfacta_limiter_limit": About("The present limit on requests at once.", "limiter"),
    "postfacta_limiter_inflight": About("Requests under way.", "limiter"),
    "postfacta_limiter_queued": About("Requests that wait to be admitted.", "limiter"),
    "postfacta_limiter_decisions_total": About(
        "Requests admitted or shed.", "limiter priority decision mode"
    ),
    "postfacta_limiter_queue_time_seconds_total": About(
        "All the time admitted requests waited.", "limiter"
    ),
    "postfacta_limiter_pressure": About(
        "How old requests get, by what they may take, each twice at most, for each that is"
        " answered; late above 1.",
        "limiter",
    ),
    "postfacta_limiter_work": About("The requests at once that answers prove.", "limiter"),
    "postfacta_limiter_scale": About(
        "How many times longer than usual requests take for a reason outside.", "limiter"
    ),
    "postfacta_limiter_overloaded": About("1 if requests were refused recently.", "limiter"),
    "postfacta_limiter_verdicts_total": About(
        "What cuts of the limit showed: a queue, or work that became slow.", "limiter verdict"
    ),
    "postfacta_ratelimit_decisions_total": About(
        "Requests allowed or limited, and by what if the store is away.", "policy decision mode"
    ),
    "postfacta_ratelimit_keys": About("Callers in the memory store.", "policy"),
    "postfacta_feed_watchers": About("Streams of a feed that are open.", "feed"),
    "postfacta_feed_events_total": About("Events that were published.", "feed"),
    "postfacta_feed_gaps_total": About(
        "Watchers that were sent a gap: they returned too late, or with an id that is not known.",
        "feed",
    ),
    "postfacta_feed_dropped_total": About(
        "Watchers that were dropped as too slow, to return with the id of their last event.", "feed"
    ),
    "postfacta_feed_read_age_seconds": About(
        "How long ago the source of a feed was read.", "feed", merge=max
    ),
    "postfacta_jobs_running": About(
        "Jobs of a worker, or of a service beside its requests, under way.", "worker"
    ),
    "postfacta_jobs_total": About(
        "Jobs that ended; the worker is `service` for those beside requests.", "worker task outcome"
    ),
    "postfacta_jobs_seconds_total": About(
        "All the time that these jobs took.", "worker task outcome"
    ),
    "postfacta_ratelimit_store_up": About("1 if the shared store answers.", "policy", merge=min),
}

RUNTIME_METRICS: Final[Mapping[str, About]] = {
    "postfacta_asyncio_tasks": About("Tasks of the event loop that have not ended.", merge=max),
    "postfacta_memory_limit_bytes": About(
        "The most memory to use; absent if unlimited.", merge=max
    ),
    "postfacta_cpu_limit_cores": About(
        "The most processors to keep busy; absent if unlimited.", merge=max
    ),
    "postfacta_telemetry_spans_dropped_total": About(
        "Spans that never reached the collector.", "reason"
    ),
    "postfacta_metrics_workers": About(
        "Workers by whether their metrics are on this page.", "state"
    ),
}
