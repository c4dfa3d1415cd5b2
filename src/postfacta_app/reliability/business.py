"""Show how the service's own business goes: incidents, how long they take, who signs in, which schema there is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol

import anyio
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from postfacta_core.clock import MONOTONIC, Clock
from postfacta_core.events import Observer, Sample, TaskCrashed

from ..db import UNUSABLE

__all__ = ["METRICS", "BusinessMetrics", "Source"]

METRICS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "postfacta_incidents": ("Incidents that are not private, as they stand now.", ("severity", "status")),
    "postfacta_incident_duration_seconds": (
        "Quantiles of the incidents declared in the last 30 days, private ones left out.",
        ("phase", "stat"),
    ),
    "postfacta_incident_duration_samples": (
        "Of how many of these incidents a duration is known, or why it is not.",
        ("phase", "status"),
    ),
    "postfacta_secret_age_seconds": ("The age of the oldest secret in use.", ("secret",)),
    "postfacta_incidents_opened_total": ("Incidents recorded here, private ones left out.", ("severity",)),
    "postfacta_incident_transitions_total": (
        "Changes of status made here, private incidents left out.",
        ("from_status", "to_status", "severity"),
    ),
    "postfacta_signals_ingested_total": ("Signals that were sent here.", ("kind", "result")),
    "postfacta_alertmanager_truncated_total": (
        "Notifications from which Alertmanager left alerts out.",
        (),
    ),
    "postfacta_deployments_total": (
        "Deployments that were reported here, once each.",
        ("environment", "outcome"),
    ),
    "postfacta_auth_attempts_total": (
        "Proofs of who somebody is, by what came of them.",
        ("mode", "outcome"),
    ),
    "postfacta_schema_revision_info": ("1 for the schema's revision.", ("expected", "actual")),
    "postfacta_schema_revision_mismatch": ("1 if the schema is not the one that this program expects.", ()),
    "postfacta_jwks_age_seconds": ("How long ago the Supabase project's public keys were read.", ()),
    "postfacta_business_metrics_age_seconds": ("How long ago the database told these numbers.", ()),
}
"""All of them with their labels; a counter's name ends in `_total`."""

_MOST_SERIES: Final = 1000


class Source(Protocol):
    """Where the numbers are."""

    async def connected(self) -> None:
        """Wait until it can be asked."""
        ...

    async def revision(self) -> str | None:
        """Read the schema's revision; None if there is no schema."""
        ...

    async def read(self) -> Sequence[Sample]:
        """Read the numbers, by the names of `METRICS`."""
        ...


class BusinessMetrics(Collector):
    """Reads the business's numbers in the background, counts what happens here, and shows both at a scrape.

    No scrape waits for the database. If it is away the numbers grow old, and the age says so. All instances read the
    same numbers, so take their `max`; what they count is their own, so take the `sum`.

    Args:
        expected: The schema's revision that this program needs.
        clock: Monotonic seconds.
    """

    def __init__(self, *, expected: str, clock: Clock = MONOTONIC) -> None:
        self._expected = expected
        self._clock = clock
        self._told: Sequence[Sample] = ()
        self._told_at = clock()
        self._counts: defaultdict[tuple[str, tuple[str, ...]], int] = defaultdict(int)
        self._shown: dict[str, Callable[[], float | None]] = {}
        self._schema: Sequence[Sample] = ()

    def count(self, metric: str, *labels: str) -> None:
        """Count one of what ends in `_total`. What would be the 1,001st series of a metric counts as `_OTHER`."""
        if (metric, labels) not in self._counts:
            known = sum(name == metric for name, _ in self._counts)
            labels = labels if known < _MOST_SERIES else ("_OTHER",) * len(labels)
        self._counts[metric, labels] += 1

    def show(self, metric: str, read: Callable[[], float | None]) -> None:
        """Show a number as it is at each scrape, unless it is None."""
        self._shown[metric] = read

    def attempted(self, mode: str, outcome: str) -> None:
        """Count a proof of who somebody is."""
        self.count("postfacta_auth_attempts_total", mode, outcome)

    @asynccontextmanager
    async def reading(
        self, source: Source, *, observer: Observer, interval: float = 60.0
    ) -> AsyncGenerator[None]:
        """Read the numbers once an interval in the background of the block, and at once when there is a database.

        Args:
            source: Where they are.
            observer: Gets each failure but those of a database that is away or unprepared: health checks report these.
            interval: Seconds.
        """

        async def keep_reading() -> None:
            while True:
                await source.connected()
                try:
                    await self._read(source)
                except UNUSABLE:
                    pass
                except Exception as error:  # noqa: BLE001 - a failure here must end neither the task nor the service
                    observer(TaskCrashed("business_metrics", error))
                await anyio.sleep(interval)

        async with anyio.create_task_group() as group:
            group.start_soon(keep_reading)
            yield
            group.cancel_scope.cancel()

    async def _read(self, source: Source) -> None:
        actual = await source.revision()
        self._schema = (
            Sample("postfacta_schema_revision_info", (self._expected, actual or "none"), 1),
            Sample("postfacta_schema_revision_mismatch", (), actual != self._expected),
        )
        if actual is not None:
            self._told = await source.read()
            self._told_at = self._clock()

    def describe(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Name all metrics without any number, so that another collector cannot take a name."""
        return map(_family, METRICS)

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Show the numbers as they were read last, and all counts."""
        families = {name: _family(name) for name in METRICS}
        counted = [Sample(metric, labels, value) for (metric, labels), value in tuple(self._counts.items())]
        age = Sample("postfacta_business_metrics_age_seconds", (), self._clock() - self._told_at)
        shown = [
            Sample(metric, (), now) for metric, read in self._shown.items() if (now := read()) is not None
        ]
        for sample in (*self._told, *counted, *shown, *self._schema, age):
            families[sample.metric].add_metric(sample.labels, sample.value)
        yield from families.values()


def _family(name: str) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
    text, labels = METRICS[name]
    return kind(name, text, labels=labels)
