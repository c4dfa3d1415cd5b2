"""The page `/reliability`: objectives as a Prometheus has them, health checks and protection."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import anyio
import anyio.to_thread
from prometheus_client import CollectorRegistry

from postfacta_core.clock import MONOTONIC, WALL, Clock
from postfacta_core.health.registry import HealthRegistry
from postfacta_core.telemetry.metrics import Metrics
from postfacta_slo.status.prometheus import Prometheus, PrometheusError
from postfacta_slo.status.query import SloStatus, query_status
from postfacta_slo.status.report import facts, percent, plot

from ..principal import Access
from ..web.slices import Page, Routes, part

routes: Final = Routes("page")

_RECENT: Final = 180.0  # the age in seconds from which a reading is marked as old: three intervals


class Reliability:
    """The part that the page needs: all of it is in memory, so it needs neither the database nor the network.

    Without a Prometheus there is no `watch`. The process started when this was created.
    """

    def __init__(
        self, health: HealthRegistry, metrics: Metrics, *, watch: Watch | None = None, wall: Clock = WALL
    ) -> None:
        self.health = health
        self.metrics = metrics
        self.watch = watch
        self.since = datetime.fromtimestamp(wall(), UTC)
        self.one = anyio.CapacityLimiter(1)


@routes.page("/reliability", Access.READ)
async def show(here: Annotated[Reliability, part(Reliability)]) -> Page:
    # In a thread, like a scrape: with many routes it takes long.
    numbers = await anyio.to_thread.run_sync(Numbers, here.metrics.registry, limiter=here.one)
    watch = here.watch
    context: dict[str, object] = {
        "here": "reliability",
        "since": here.since,
        "watch": watch,
        "is_old": watch is not None and watch.age() > _RECENT,
        "age": _seconds(watch.age() if watch else 0.0),
        "objectives": [_objective(one) for one in (watch and watch.seen) or ()],
        "numbers": numbers,
        "health": here.health.snapshot(),
        "percent": percent,
        "seconds": _seconds,
    }
    return Page("reliability.html", context)


def _objective(one: SloStatus) -> Mapping[str, object]:
    return {
        "name": one.slo,
        "aim": percent(one.objective),
        "left": one.remaining if one.is_known else None,
        "facts": facts(one),
        "plot": plot(one, width=480),
    }


def _seconds(length: float) -> timedelta:
    return timedelta(seconds=length)


WINDOW: Final = 30 * 86_400  # Seconds, of the objectives.
_AGAIN: Final = 5.0


class Watch:
    """Holds the last reading of the objectives, every `interval` seconds; after a failure in five.

    `name` is the Prometheus without credentials, `error` says why the last reading failed.
    """

    def __init__(
        self,
        current: Callable[[], Prometheus],
        *,
        interval: float = 60.0,
        clock: Clock = MONOTONIC,
        wall: Clock = WALL,
    ) -> None:
        self._current = current
        self.name: str = self._current().name
        self.seen: Sequence[SloStatus] | None = None
        self._seen_at = 0.0
        self.error: str = ""
        self._interval = interval
        self._clock = clock
        self._wall = wall

    def age(self) -> float:
        return 0.0 if self.seen is None else self._clock() - self._seen_at

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_reading)
            yield
            tasks.cancel_scope.cancel()

    async def _keep_reading(self) -> None:
        own = anyio.CapacityLimiter(1)
        while True:
            try:
                # Abandoned at exit: its own timeout ends it.
                standings = await anyio.to_thread.run_sync(self._read, limiter=own, abandon_on_cancel=True)
                self.seen, self._seen_at, self.error = standings, self._clock(), ""
            except Exception as error:  # noqa: BLE001 - a failure here must end neither the task nor the service
                self.error = str(error) if isinstance(error, PrometheusError) else type(error).__name__
            await anyio.sleep(min(self._interval, _AGAIN) if self.error else self._interval)

    def _read(self) -> Sequence[SloStatus]:
        prometheus = self._current()
        self.name = prometheus.name
        return query_status(prometheus, at=self._wall(), window=WINDOW, service="postfacta")


# What the page shows; other metrics are not read.
_SHOWN: Final = (
    "postfacta_breaker_state", "postfacta_breaker_calls_total", "db_client_connection_count",
    "db_client_connection_max", "db_client_connection_pending_requests", "db_client_connection_timeouts_total",
    "postfacta_ratelimit_decisions_total", "postfacta_ratelimit_store_up", "postfacta_limiter_limit",
    "postfacta_limiter_inflight", "postfacta_limiter_queued", "postfacta_limiter_decisions_total",
)  # fmt: skip


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
