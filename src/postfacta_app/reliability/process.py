"""The reliability of this process, from its own metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry

_DURATIONS: Final = "http_server_request_duration_seconds_bucket"
# What the page shows; other metrics are not read.
_SHOWN: Final = (
    _DURATIONS, "postfacta_breaker_state", "postfacta_breaker_calls_total", "db_client_connection_count",
    "db_client_connection_max", "db_client_connection_pending_requests", "db_client_connection_timeouts_total",
    "postfacta_ratelimit_decisions_total", "postfacta_ratelimit_store_up", "postfacta_limiter_limit",
    "postfacta_limiter_inflight", "postfacta_limiter_queued", "postfacta_limiter_decisions_total",
)  # fmt: skip
_LEFT, _TOO_MANY = "499", "429"


class Numbers:
    """A snapshot of the process's metrics. Reading them takes milliseconds and may run in a thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._series: dict[str, list[tuple[Mapping[str, str], float]]] = {}
        for family in registry.restricted_registry(_SHOWN).collect():
            for sample in family.samples:
                self._series.setdefault(sample.name, []).append((sample.labels, sample.value))

    def series(self, metric: str, **labels: str) -> list[tuple[Mapping[str, str], float]]:
        return [one for one in self._series.get(metric, ()) if labels.items() <= one[0].items()]

    def sum(self, metric: str, **labels: str) -> float:
        return sum(value for _, value in self.series(metric, **labels))

    def names(self, metric: str, label: str) -> Iterable[str]:
        return sorted({labels[label] for labels, _ in self.series(metric)})


@dataclass(frozen=True, slots=True)
class Promise:
    """An objective that one process can measure: the share of requests that succeed, or are fast enough."""

    name: str
    aim: float
    seconds: float | None = None

    @property
    def minimum(self) -> int:
        """The requests from which it is judged: ten may miss it."""
        return round(10 / (1 - self.aim))


# As in deploy/slo/postfacta.openslo.yaml, which is not deployed with the service; a test compares both.
PROMISES: Final = (
    Promise("success-rate", 0.995),
    Promise("latency-p95", 0.95, 0.2),
    Promise("latency-p99", 0.99, 0.5),
)


@dataclass(frozen=True, slots=True)
class Kept:
    """The result of an objective since the process started: `good` of `total` requests."""

    promise: Promise
    good: float
    total: float


def kept(promise: Promise, numbers: Numbers) -> Kept:
    """Count the requests of the objectives: those of users, without probes and client disconnects."""
    asked = [
        (labels, value)
        for labels, value in numbers.series(_DURATIONS, traffic="user")
        if labels["http_response_status_code"] != _LEFT
        and labels["http_route"] != "/metrics"
        and not labels["http_route"].startswith("/healthz")
    ]
    answered = [one for one in asked if not one[0]["error_type"]]
    if promise.seconds is None:
        return Kept(promise, _count(answered, "+Inf"), _count(asked, "+Inf"))
    # The latency of rejections and errors says nothing about speed.
    timed = [one for one in answered if one[0]["http_response_status_code"] != _TOO_MANY]
    return Kept(promise, _count(timed, repr(promise.seconds)), _count(timed, "+Inf"))


def _count(series: Iterable[tuple[Mapping[str, str], float]], edge: str) -> float:
    return sum(value for labels, value in series if labels["le"] == edge)
