"""Export the counts of policies as metrics, read at the scrape.

A policy is called many times a second, and scraped four times a minute: it counts in plain numbers, announces itself
once by `PolicyCreated`, and is read at the scrape. So the request path pays no lock and no label. What the process
can report at any time, such as its number of tasks, is exported in the same way.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, cast

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ..events import PolicyCreated, Sample, Tally, weakly

_LOG: Final = logging.getLogger("postfacta")
_Family = CounterMetricFamily | GaugeMetricFamily


class PolicyMetric(NamedTuple):
    """A metric that policies fill; it is a counter if its name ends in `_total`.

    Attributes:
        text: Its help text.
        labels: The names of its labels.
        merge: Makes one number of those of two policies with the same name: their sum; of a state, whether one of
            them is in it; of a budget, the same from each that has it; of what must be up, whether all are.
    """

    text: str
    labels: tuple[str, ...]
    merge: Callable[[float, float], float] = operator.add


_POOL: Final = "db_client_connection_pool_name"
POLICY_METRICS: Final[dict[str, PolicyMetric]] = {
    "db_client_connection_count": PolicyMetric("Open connections.", (_POOL, "db_client_connection_state")),
    "db_client_connection_max": PolicyMetric("The most connections that may be open.", (_POOL,)),
    "db_client_connection_pending_requests": PolicyMetric("Callers waiting for a connection.", (_POOL,)),
    "postfacta_breaker_state": PolicyMetric("1 for the circuit's present state.", ("breaker", "state"), max),
    "postfacta_breaker_calls_total": PolicyMetric(
        "Calls by outcome, including rejected ones.", ("breaker", "outcome", "mode")
    ),
    "postfacta_breaker_transitions_total": PolicyMetric(
        "Changes of state.", ("breaker", "from_state", "to_state")
    ),
    "postfacta_retry_attempts_total": PolicyMetric("Tries by outcome.", ("operation", "outcome")),
    "postfacta_retry_budget_tokens": PolicyMetric("Retries that may be made now.", ("budget",), max),
    "postfacta_hedge_attempts_total": PolicyMetric(
        "Calls slower than the delay, by outcome of the second try.", ("operation", "outcome")
    ),
    "postfacta_fallback_answers_total": PolicyMetric(
        "Answers by where they came from.", ("operation", "source")
    ),
    "postfacta_bulkhead_used": PolicyMetric("Calls under way.", ("bulkhead",)),
    "postfacta_bulkhead_waiting": PolicyMetric("Calls that wait for a slot.", ("bulkhead",)),
    "postfacta_bulkhead_slots": PolicyMetric("The most calls at once.", ("bulkhead",)),
    "postfacta_bulkhead_decisions_total": PolicyMetric(
        "Calls admitted or refused.", ("bulkhead", "decision", "mode")
    ),
    "postfacta_limiter_limit": PolicyMetric("The present limit on requests at once.", ("limiter",)),
    "postfacta_limiter_inflight": PolicyMetric("Requests under way.", ("limiter",)),
    "postfacta_limiter_queued": PolicyMetric("Requests that wait to be admitted.", ("limiter",)),
    "postfacta_limiter_decisions_total": PolicyMetric(
        "Requests admitted or shed.", ("limiter", "priority", "decision", "mode")
    ),
    "postfacta_limiter_queue_time_seconds_total": PolicyMetric(
        "All the time that admitted requests waited.", ("limiter",)
    ),
    "postfacta_limiter_pressure": PolicyMetric(
        "How old requests get, by what they may take, for each that is answered; late above 1.", ("limiter",)
    ),
    "postfacta_limiter_work": PolicyMetric("The requests at once that answers prove.", ("limiter",)),
    "postfacta_limiter_scale": PolicyMetric(
        "How many times longer than usual requests take for a reason outside.", ("limiter",)
    ),
    "postfacta_limiter_overloaded": PolicyMetric("1 if requests were refused recently.", ("limiter",)),
    "postfacta_limiter_verdicts_total": PolicyMetric(
        "What cuts of the limit showed: a queue, or work that became slow.", ("limiter", "verdict")
    ),
    "postfacta_ratelimit_decisions_total": PolicyMetric(
        "Requests allowed or limited, and by what if the store is away.", ("policy", "decision", "mode")
    ),
    "postfacta_ratelimit_keys": PolicyMetric("Callers in the memory store.", ("policy",)),
    "postfacta_jobs_running": PolicyMetric("Jobs of a worker under way.", ("worker",)),
    "postfacta_jobs_total": PolicyMetric("Jobs of a worker that ended.", ("worker", "task", "outcome")),
    "postfacta_jobs_seconds_total": PolicyMetric(
        "All the time that these jobs took.", ("worker", "task", "outcome")
    ),
    "postfacta_ratelimit_store_up": PolicyMetric("1 if the shared store answers.", ("policy",), min),
}
"""Every metric whose numbers come from policies, by its full name."""

RUNTIME_METRICS: Final[dict[str, PolicyMetric]] = {
    "postfacta_asyncio_tasks": PolicyMetric("Tasks of the event loop that have not ended.", ()),
    "postfacta_memory_limit_bytes": PolicyMetric(
        "The most memory that the process may use; absent if unlimited.", ()
    ),
    "postfacta_cpu_limit_cores": PolicyMetric(
        "The most processors that it may keep busy; absent if unlimited.", ()
    ),
    "postfacta_telemetry_spans_dropped_total": PolicyMetric(
        "Spans that were recorded and never reached the collector.", ("reason",)
    ),
    "postfacta_metrics_workers": PolicyMetric(
        "Workers by whether their metrics are on this page.", ("state",)
    ),
}
"""Every metric that the process reports in the same way."""

_METRICS: Final = {**POLICY_METRICS, **RUNTIME_METRICS}


class PolicyCollector(Collector):
    """Reads every policy at a scrape. It is a collector of prometheus-client.

    A policy that raises, or gives a number that is none, costs its own numbers, and is logged once. `overflow` is called
    for each policy above the cap: their names are from the code, so that more of them are a mistake.
    """

    def __init__(self, cap: int, *, overflow: Callable[[], None]) -> None:
        self._cap = cap
        self._overflow = overflow
        self._asked: dict[tuple[int, int], _Asked] = {}

    def add(self, event: PolicyCreated) -> None:
        """Read this one too from now on, while it exists. Adding it again changes nothing."""
        tally = event.tally
        key = (id(getattr(tally, "__self__", None)), id(getattr(tally, "__func__", tally)))
        known = self._asked.get(key)
        if known is not None and known.tally() is not None:
            return
        if len(self._asked) >= self._cap:
            self._living()  # forgets the dead ones, such as one at whose address this one is
        if len(self._asked) < self._cap:
            self._asked[key] = _Asked(event.policy, weakly(tally))
        else:
            self._overflow()

    def describe(self) -> Iterator[_Family]:
        for name in _METRICS:
            yield _family(name)

    def collect(self) -> Iterator[_Family]:
        """Read all numbers. Those of policies with the same name are merged, see `PolicyMetric.merge`."""
        numbers: dict[str, dict[tuple[str, ...], float]] = {}
        for policy, tally in self._living():
            for sample in policy.read(tally):
                of_metric, labels = numbers.setdefault(sample.metric, {}), tuple(sample.labels)
                known = of_metric.get(labels)
                merge = _METRICS[sample.metric].merge
                of_metric[labels] = sample.value if known is None else merge(known, sample.value)
        for name, values in numbers.items():
            family = _family(name)
            for labels, value in values.items():
                family.add_metric(labels, value)
            yield family

    def _living(self) -> list[tuple[_Asked, Tally]]:
        living: list[tuple[_Asked, Tally]] = []
        for key, policy in tuple(self._asked.items()):
            tally = policy.tally()
            if tally is None:
                self._asked.pop(key, None)
            else:
                living.append((policy, tally))
        return living


class _Asked:
    """A policy that is read at each scrape."""

    def __init__(self, name: str, tally: Callable[[], Tally | None]) -> None:
        self.tally = tally
        self._name = name
        self._is_reported = False

    def read(self, tally: Tally) -> list[Sample]:
        """Read its numbers: those that can be shown."""
        # A policy with a fault of its own must not take the scrape of all others with it.
        try:
            samples = [sample for sample in tally() if sample.metric in _METRICS]
            good = [sample for sample in samples if _can_be_shown(sample)]
        except Exception as error:  # noqa: BLE001 - a tally is foreign code, and may raise anything
            self._report(repr(error))
            return []
        if len(good) < len(samples):
            bad = next(sample for sample in samples if not _can_be_shown(sample))
            self._report(f"its labels must be texts and its value a number: {bad!r}")
        return good

    def _report(self, why: str) -> None:
        if not self._is_reported:
            self._is_reported = True
            _LOG.error("metrics.policy_failed", extra={"policy": self._name, "error": why})


def _can_be_shown(sample: Sample) -> bool:
    labels, value = cast("tuple[object, ...]", sample.labels), cast("object", sample.value)
    return (
        len(labels) == len(_METRICS[sample.metric].labels)
        and all(isinstance(label, str) for label in labels)
        and isinstance(value, int | float)
    )


def _family(name: str) -> _Family:
    metric = _METRICS[name]
    kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
    return kind(name, metric.text, labels=metric.labels)
