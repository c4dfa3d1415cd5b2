"""Poll the service's objectives from a Prometheus in the background, so that no page waits."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import anyio
import anyio.to_thread

from postfacta_core.clock import MONOTONIC, WALL, Clock
from postfacta_slo.status.prometheus import Prometheus, PrometheusError
from postfacta_slo.status.query import SloStatus, query_status

WINDOW: Final = 30 * 86_400  # Seconds, of the objectives.
_AGAIN: Final = 5.0


@dataclass(frozen=True, slots=True)
class Seen:
    """The last reading, and its monotonic time."""

    standings: Sequence[SloStatus]
    at: float


class Watch:
    """Holds the last reading of the objectives, every `interval` seconds; after a failure in five.

    Attributes:
        name: The Prometheus, without credentials.
        seen: The last reading; None before the first.
        error: Why the last reading failed; empty if it succeeded.
    """

    def __init__(
        self,
        prometheus: Prometheus | Callable[[], Prometheus],
        service: str,
        *,
        interval: float = 60.0,
        clock: Clock = MONOTONIC,
        wall: Clock = WALL,
    ) -> None:
        self._current = prometheus if callable(prometheus) else lambda: prometheus
        self.name: str = self._current().name
        self.seen: Seen | None = None
        self.error: str = ""
        self._service = service
        self._interval = interval
        self._clock = clock
        self._wall = wall

    def age(self) -> float:
        return self._clock() - self.seen.at if self.seen else 0.0

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
                self.seen, self.error = Seen(standings, self._clock()), ""
            except Exception as error:  # noqa: BLE001 - a failure here must end neither the task nor the service
                self.error = str(error) if isinstance(error, PrometheusError) else type(error).__name__
            await anyio.sleep(min(self._interval, _AGAIN) if self.error else self._interval)

    def _read(self) -> Sequence[SloStatus]:
        prometheus = self._current()
        self.name = prometheus.name
        return query_status(prometheus, at=self._wall(), window=WINDOW, service=self._service)
