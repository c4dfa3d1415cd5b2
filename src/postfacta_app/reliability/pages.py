"""The page `/reliability`: objectives, health checks and protection."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response

from postfacta_core.clock import WALL, Clock
from postfacta_core.health.registry import HealthRegistry
from postfacta_core.telemetry.metrics import Metrics
from postfacta_slo.status.report import facts, percent, plot

from ..principal import Principal
from ..web.render import Pages
from .process import PROMISES, Numbers, kept
from .watch import Watch

__all__ = ["ReliabilityPage"]

_RECENT: Final = 180.0
"""The age in seconds from which a reading is marked as old: three intervals."""


class ReliabilityPage:
    """GET /reliability, from memory only: without the database or the network.

    Args:
        pages: Renders templates.
        health: The checks.
        metrics: The metrics of this process.
        watch: The objectives; None without a Prometheus.
        wall: Seconds since the epoch; the process started when this was created.
    """

    def __init__(
        self,
        pages: Pages,
        health: HealthRegistry,
        metrics: Metrics,
        *,
        watch: Watch | None = None,
        wall: Clock = WALL,
    ) -> None:
        self._pages = pages
        self._health = health
        self._metrics = metrics
        self._watch = watch
        self._since = datetime.fromtimestamp(wall(), UTC)
        self._one = anyio.CapacityLimiter(1)

    async def show(self, request: Request, principal: Principal) -> Response:
        """Render the page from memory."""
        # In a thread, like a scrape: with many routes it takes long.
        numbers = await anyio.to_thread.run_sync(Numbers, self._metrics.registry, limiter=self._one)
        report = self._health.snapshot()
        context: dict[str, object] = {
            "here": "reliability",
            "since": self._since,
            "watch": self._watch,
            "is_old": self._watch is not None and self._watch.age() > _RECENT,
            "age": _seconds(self._watch.age() if self._watch else 0.0),
            "objectives": self._objectives(),
            "kept": [kept(promise, numbers) for promise in PROMISES],
            "numbers": numbers,
            "health": report,
            "percent": percent,
            "seconds": _seconds,
        }
        return self._pages.page("reliability.html", context, principal=principal)

    def _objectives(self) -> list[dict[str, object]]:
        seen = self._watch.seen if self._watch else None
        return [
            {
                "name": one.slo,
                "aim": percent(one.objective),
                "left": one.remaining if one.is_known else None,
                "facts": facts(one),
                "plot": plot(one, width=480),
            }
            for one in (seen.standings if seen else ())
        ]


def _seconds(length: float) -> timedelta:
    return timedelta(seconds=length)
