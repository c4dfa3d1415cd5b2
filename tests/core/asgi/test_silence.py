"""What tells nothing, such as a hung route or a long-poll that nothing declares, leaves its slot to others."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from postfacta_core.asgi import Hardened, HardenOptions, Telemetry, harden
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.testing import call_asgi
from tests.core.virtual import loop_clock
from tests.kit.lifespan import running

OK = 200


class Service:
    """A fresh hardened service with a fast route, and one that takes as long as the test says."""

    def __init__(self, **options: Any) -> None:
        self.seconds = 5.0
        self.slots = anyio.Semaphore(2)
        self.answers: dict[str, Counter[int]] = {}
        routes = [
            Route("/fast", self.fast),
            Route("/sleep", self.sleep),
            Route("/queue", self.queue),
        ]
        self.app: Hardened = harden(
            Starlette(routes=routes),
            service="silence",
            options=HardenOptions(**options),
            telemetry=Telemetry(metrics=Metrics(CollectorRegistry(), with_process=False)),
            clock=loop_clock(),
        )
        self.limiter = self.app.shedding.limiter

    async def fast(self, request: Request) -> PlainTextResponse:
        await anyio.sleep(0.01)
        return PlainTextResponse("ok")

    async def sleep(self, request: Request) -> PlainTextResponse:
        await anyio.sleep(self.seconds)
        return PlainTextResponse("ok")

    async def queue(self, request: Request) -> PlainTextResponse:
        async with self.slots:
            await anyio.sleep(0.1)
        return PlainTextResponse("ok")

    async def get(self, path: str) -> None:
        answer = await call_asgi(self.app, path=path)
        self.answers.setdefault(path, Counter())[answer.status] += 1

    async def send(self, path: str, *, count: int, rate: float) -> None:
        """Send requests at a steady rate, whether or not those before are answered."""
        async with anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(self.get, path)
                await anyio.sleep(1 / rate)


async def test_forty_sleepers_on_a_fresh_service_take_nothing_from_others() -> None:
    service = Service()
    async with running(service.app), anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: service.send("/fast", count=480, rate=60))
        await anyio.sleep(1)
        tasks.start_soon(lambda: service.send("/sleep", count=40, rate=100))
    assert service.answers == {"/fast": {OK: 480}, "/sleep": {OK: 40}}
    assert service.limiter.in_flight == 0


async def test_a_route_that_hangs_lends_its_slots_after_two_seconds() -> None:
    service = Service()
    async with running(service.app):
        service.seconds = 0.01
        await service.send("/sleep", count=20, rate=20)
        service.seconds = 60.0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: service.send("/sleep", count=200, rate=50))
            await service.send("/fast", count=80, rate=20)
            service.answers.pop("/fast")
            await service.send("/fast", count=100, rate=20)
            tasks.cancel_scope.cancel()
    assert service.answers["/fast"] == {OK: 100}
    assert service.limiter.in_flight == 0


async def test_a_queue_in_which_some_are_answered_lends_nothing() -> None:
    service = Service()
    async with running(service.app):
        await service.send("/queue", count=40, rate=10)
        service.answers.clear()
        await service.send("/queue", count=800, rate=100)
        answers = service.answers["/queue"]
        assert answers[503] > 500
        assert answers[OK] > 100
        assert service.limiter.limit < 16
    assert service.limiter.in_flight == 0


async def test_slots_are_kept_while_all_find_room() -> None:
    service = Service()
    async with running(service.app), anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: service.send("/sleep", count=10, rate=1000))
        await anyio.sleep(3)
        assert service.limiter.in_flight == 10


@pytest.mark.parametrize("shedding", ["shadow", "off"])
async def test_a_lent_slot_comes_back_in_each_mode(shedding: str) -> None:
    service = Service()
    async with running(service.app), anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: service.send("/sleep", count=20, rate=1000))
        await anyio.sleep(0.3)
        assert service.limiter.in_flight == 0
        service.app.shedding.mode = shedding
        tasks.start_soon(lambda: service.send("/sleep", count=20, rate=1000))
    assert service.limiter.in_flight == 0
