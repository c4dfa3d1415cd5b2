"""WebSockets that are not accepted yet have a bound and a time of their own, and take no slot from requests."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from prometheus_client import CollectorRegistry

from postfacta_core.asgi import HardenOptions, RouteOptions, Telemetry, harden
from postfacta_core.asgi._types import Message, Receive, Scope, Send
from postfacta_core.asgi.stack import Hardened
from postfacta_core.limits._overload import OverloadConfig
from postfacta_core.limits.streams import Occupancy
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.testing import call_asgi
from tests.core.virtual import loop_clock
from tests.kit.lifespan import running

SMALL = OverloadConfig(start=2)


class Lobby:
    """A hardened service whose WebSockets are accepted when the test says so, and what each of them got."""

    def __init__(self, **options: Any) -> None:
        self.opens = anyio.Event()
        self.begun = 0
        self.got: list[Message] = []
        self.app: Hardened = harden(
            self.serve,
            service="lobby",
            options=HardenOptions(concurrency=SMALL, **options),
            telemetry=Telemetry(metrics=Metrics(CollectorRegistry(), with_process=False)),
            clock=loop_clock(),
        )

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        if scope["type"] == "websocket":
            self.begun += 1
            await self.opens.wait()
            await send({"type": "websocket.accept"})
            await receive()
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async def connect(self, client: str = "198.51.100.1", path: str = "/ws") -> None:
        async def receive() -> Message:
            await anyio.sleep(0.01)
            return {"type": "websocket.disconnect", "code": 1000}

        async def send(message: Message) -> None:
            self.got.append(message)

        scope: Scope = {"type": "websocket", "path": path, "headers": [], "client": (client, 1)}
        await self.app(scope, receive, send)

    def stages(self) -> float | None:
        name, labels = "postfacta_deadline_exceeded_total", {"stage": "handshake"}
        return self.app.telemetry.metrics.registry.get_sample_value(name, labels)


async def settled() -> None:
    """Let all run until they wait."""
    for _ in range(200):
        await anyio.lowlevel.checkpoint()


async def test_pending_handshakes_leave_the_slots_to_requests() -> None:
    lobby = Lobby()
    async with running(lobby.app), anyio.create_task_group() as tasks:
        for _ in range(40):
            tasks.start_soon(lobby.connect)
        await settled()
        assert (lobby.begun, lobby.app.shedding.limiter.in_flight) == (40, 0)
        assert [(await call_asgi(lobby.app)).status for _ in range(20)] == [200] * 20
        lobby.opens.set()
    assert Counter(message["type"] for message in lobby.got) == {"websocket.accept": 40}


async def test_a_handshake_is_refused_after_five_seconds_and_counted() -> None:
    lobby = Lobby()
    async with running(lobby.app):
        began = anyio.current_time()
        await lobby.connect()
        assert 5.0 <= anyio.current_time() - began < 5.2
    assert lobby.got == [{"type": "websocket.close", "code": 1008, "reason": "The time ran out"}]
    assert lobby.stages() == 1


@pytest.mark.parametrize("seconds", [1.0, 12.0])
async def test_a_route_with_a_time_of_its_own_keeps_it_for_handshakes(seconds: float) -> None:
    lobby = Lobby(routes=[RouteOptions(routes=["/slow"], request_timeout=seconds)])
    async with running(lobby.app):
        began = anyio.current_time()
        await lobby.connect(path="/slow")
        assert seconds <= anyio.current_time() - began < seconds + 0.2


async def test_an_accepted_websocket_outlives_the_time_of_handshakes() -> None:
    lobby = Lobby()
    lobby.opens.set()
    async with running(lobby.app):
        await lobby.connect()
    assert [message["type"] for message in lobby.got] == ["websocket.accept"]
    assert not lobby.stages()


async def test_one_client_has_at_most_half_of_the_handshakes() -> None:
    lobby = Lobby()
    lobby.app.shedding.handshakes = Occupancy(8, 4)
    async with running(lobby.app):
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(lobby.connect)
            await settled()
            assert lobby.begun == 4
            assert Counter(message.get("code") for message in lobby.got) == {1013: 6}
            for host in range(6):
                tasks.start_soon(lobby.connect, f"192.0.2.{host}")
            await settled()
            assert (lobby.begun, len(lobby.got)) == (8, 8)
            lobby.opens.set()
        # Each gave its place back.
        lobby.got.clear()
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(lobby.connect)
    assert [message["type"] for message in lobby.got] == ["websocket.accept"] * 4


async def test_a_cancelled_handshake_gives_its_place_back() -> None:
    lobby = Lobby()
    async with running(lobby.app):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lobby.connect)
            await settled()
            tasks.cancel_scope.cancel()
        handshakes = lobby.app.shedding.handshakes
        assert (handshakes.count, vars(handshakes)["_by_caller"]) == (0, Counter())
