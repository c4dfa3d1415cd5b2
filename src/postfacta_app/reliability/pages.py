"""The page `/reliability`: objectives, health checks and protection."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import anyio
import anyio.to_thread

from postfacta_core.clock import WALL, Clock
from postfacta_core.health.registry import HealthRegistry
from postfacta_core.telemetry.metrics import Metrics
from postfacta_slo.status.query import SloStatus
from postfacta_slo.status.report import facts, percent, plot

from ..principal import Access
from ..web.calls import part
from ..web.slices import Page, Routes
from .process import PROMISES, Numbers, kept
from .watch import Watch

routes: Final = Routes("page")

_RECENT: Final = 180.0
"""The age in seconds from which a reading is marked as old: three intervals."""


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
        "objectives": [_objective(one) for one in (watch.seen.standings if watch and watch.seen else ())],
        "kept": [kept(promise, numbers) for promise in PROMISES],
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
