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

from postfacta_core.asgi import HardenOptions, Telemetry, harden
from postfacta_core.asgi.stack import Hardened
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.testing import call_asgi
from tests.core.virtual import loop_clock
from tests.kit.lifespan import running

OK = 200


class Service:
    """A fresh hardened service with a fast route, and one that takes as long as the test says."""

    def __init__(self, *, forwards: bool = False, **options: Any) -> None:
        self.seconds = 5.0
        self.forwards = forwards
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

    async def get(self, path: str, client: str = "127.0.0.1") -> None:
        headers = [("x-forwarded-for", client)] if self.forwards else []
        peer = "127.0.0.1" if self.forwards else client
        scope = {"client": (peer, 50_000)}
        answer = await call_asgi(self.app, path=path, headers=headers, scope=scope)
        self.answers.setdefault(path, Counter())[answer.status] += 1

    async def send(self, path: str, *, count: int, rate: float, client: str = "127.0.0.1") -> None:
        """Send requests at a steady rate, whether or not those before are answered."""
        async with anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(self.get, path, client)
                await anyio.sleep(1 / rate)

    async def hold(self, path: str, client: str) -> None:
        """Send a request again and again, as one client, 0.2 s after the answer."""
        while True:
            await self.get(path, client)
            await anyio.sleep(0.2)


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
        tasks.start_soon(lambda: service.send("/sleep", count=8, rate=1000))
        await anyio.sleep(3)
        assert service.limiter.in_flight == 8


async def others_beside(service: Service, attack: str, *, count: int, **clients: str) -> float:
    """Return which share of others' requests is served while one client repeats as many requests of a known route."""
    attacker, other = clients["attacker"], clients["other"]
    async with running(service.app), anyio.create_task_group() as tasks:
        await service.get(attack, attacker)
        await service.send("/fast", count=40, rate=20, client=other)
        service.answers.clear()
        for _ in range(count):
            tasks.start_soon(service.hold, attack, attacker)
        await service.send("/fast", count=300, rate=30, client=other)
        tasks.cancel_scope.cancel()
    assert service.limiter.in_flight == 0
    return service.answers["/fast"][OK] / 300


@pytest.mark.parametrize("attack", ["/sleep", "/queue"])
async def test_one_client_leaves_half_of_the_slots_to_others(attack: str) -> None:
    clients = {"attacker": "203.0.113.9", "other": "127.0.0.1"}
    assert await others_beside(Service(), attack, count=40, **clients) == 1.0


async def test_each_client_behind_a_trusted_proxy_has_its_own_share() -> None:
    service = Service(trusted_proxies=["127.0.0.0/8"], forwards=True)
    clients = {"attacker": "203.0.113.9", "other": "198.51.100.7"}
    assert await others_beside(service, "/sleep", count=40, **clients) == 1.0


@pytest.mark.parametrize("attack", ["/sleep", "/queue"])
async def test_where_all_have_one_address_none_goes_first(attack: str) -> None:
    clients = {"attacker": "127.0.0.1", "other": "127.0.0.1"}
    assert 0.0 < await others_beside(Service(), attack, count=40, **clients) < 0.9


@pytest.mark.parametrize("shedding", ["shadow", "off"])
async def test_a_lent_slot_comes_back_in_each_mode(shedding: str) -> None:
    service = Service()
    async with running(service.app), anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: service.send("/sleep", count=20, rate=1000))
        await anyio.sleep(0.3)
        assert service.limiter.in_flight < 20  # Some have lent theirs.
        service.app.shedding.mode = shedding
        tasks.start_soon(lambda: service.send("/sleep", count=20, rate=1000))
    assert service.limiter.in_flight == 0
