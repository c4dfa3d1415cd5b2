"""What a route is given for a drain and for the limiter holds for its requests, and for no others."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
from prometheus_client import CollectorRegistry

from postfacta_core.asgi import HardenOptions, RouteOptions, Telemetry, harden
from postfacta_core.asgi._types import Message, Receive, Scope, Send
from postfacta_core.asgi.stack import Hardened
from postfacta_core.drain import DrainLimits
from postfacta_core.errors import StoppedError
from postfacta_core.limits._overload import OverloadConfig
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.testing import call_asgi
from tests.core.virtual import on_real_loops
from tests.kit.every import every
from tests.kit.lifespan import running
from tests.kit.waiting import until

EVENT_STREAM = (b"content-type", b"text/event-stream")
EVENT = b"data: 1\n\n"


class Server:
    """A hardened application with requests under way, each known by its path, and what each was sent."""

    def __init__(self, *routes: RouteOptions, **options: Any) -> None:
        self.sent: dict[str, list[Message]] = {}
        self.under_way: list[str] = []
        self.go_on = anyio.Event()
        self.app: Hardened = harden(
            self.application,
            service="billing",
            options=HardenOptions(routes=routes, **options),
            telemetry=Telemetry(metrics=Metrics(CollectorRegistry(), with_process=False)),
        )

    async def application(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
        elif path.endswith("/stream"):
            await send({"type": "http.response.start", "status": 200, "headers": [EVENT_STREAM]})
            await send({"type": "http.response.body", "body": EVENT, "more_body": True})
        self.sent.setdefault(path, [])
        self.under_way.append(path)
        try:
            await self.go_on.wait()
        finally:
            self.under_way.remove(path)
        if scope["type"] == "http":
            if not path.endswith("/stream"):
                await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"end"})

    async def open(self, path: str, *, kind: str = "http") -> None:
        """Send a request and keep what it is answered."""

        async def receive() -> Message:
            await anyio.sleep_forever()
            raise AssertionError

        async def send(message: Message) -> None:
            self.sent.setdefault(path, []).append(message)

        scope: Scope = {"type": kind, "method": "GET", "path": path, "headers": []}
        await self.app(scope, receive, send)

    async def drain(self, seconds: float) -> set[str]:
        """End what a drain ends at this moment after its delay; return what goes on."""
        left = len(self.app.running)
        left -= self.app.running.cancel(StoppedError("drain"), drained=seconds)
        await until(lambda: len(self.app.running) == left)
        return set(self.under_way)

    async def status_of(self, path: str) -> int:
        """Ask once more, let all go on as soon as it began or was refused, and return its status."""
        answered: list[int] = []

        async def ask() -> None:
            answered.append((await call_asgi(self.app, path=path)).status)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await until(lambda: answered or path in self.sent)
            self.go_on.set()
        return answered[0]

    def sheds(self) -> set[str]:
        """Return the modes in which requests were counted as refused."""
        samples = self.app.shedding.limiter.tally()
        return {sample.labels[3] for sample in samples if "shed" in sample.labels and sample.value}

    @asynccontextmanager
    async def serving(self, *paths: str) -> AsyncGenerator[None]:
        with anyio.fail_after(20):
            async with running(self.app), anyio.create_task_group() as tasks:
                for path in paths:
                    kind = "websocket" if path.endswith("/socket") else "http"
                    tasks.start_soon(partial(self.open, path, kind=kind))
                await until(lambda: len(self.sent) == len(paths))
                try:
                    yield
                finally:
                    self.go_on.set()


PATHS = [
    f"/{route}/{kind}"
    for route in ("finish", "farewell", "cut", "none")
    for kind in ("stream", "plain", "socket")
]


@on_real_loops
async def test_a_route_says_how_a_drain_ends_what_it_serves() -> None:
    server = Server(
        RouteOptions(routes=["/finish/{x}"], drain="finish", drain_timeout=3),
        RouteOptions(routes=["/farewell/{x}"], drain="farewell"),
        RouteOptions(routes=["/cut/{x}"], drain="cut"),
    )
    async with server.serving(*PATHS):
        # No client here resumes by itself, but those of sockets.
        rest = {
            "/finish/stream",
            "/finish/plain",
            "/finish/socket",
            "/farewell/plain",
            "/none/stream",
            "/none/plain",
        }
        assert await server.drain(0.0) == rest
        assert await server.drain(2.9) == rest
        assert await server.drain(3.0) == {"/farewell/plain", "/none/stream", "/none/plain"}
    last = {path: messages[-1] for path, messages in server.sent.items()}
    with every() as case:
        for path, message in last.items():
            with case(path):
                match path.split("/")[1:]:
                    case [_, "socket"]:
                        assert message["code"] == 1012
                    case ["farewell", "stream"]:
                        assert message["body"].startswith(b"retry: ")
                        assert not message["more_body"]
                    case ["finish" | "cut", "stream"]:
                        assert message == {
                            "type": "http.response.body",
                            "body": EVENT,
                            "more_body": True,
                        }
                    case ["finish" | "cut", "plain"]:
                        assert server.sent[path][0]["status"] == 503
                    case _:
                        assert message["body"] == b"end"


@pytest.mark.parametrize(("drain_timeout", "is_right"), [(20, True), (20.1, False)])
def test_a_route_has_no_more_time_than_the_drain(drain_timeout: float, is_right: bool) -> None:  # noqa: FBT001 - a table
    route = RouteOptions(routes=["/a"], drain_timeout=drain_timeout)
    if is_right:
        HardenOptions(routes=[route])
        return
    rule = r"RouteOptions.drain_timeout must be at most the drain_timeout of HardenOptions.drain, 20 s, not 20.1"
    with pytest.raises(ValueError, match=rule):
        HardenOptions(routes=[route])
    HardenOptions(routes=[route], drain=DrainLimits(drain_timeout=30))


def test_a_route_that_is_cut_has_no_time() -> None:
    with pytest.raises(ValueError, match=r"RouteOptions.drain_timeout must be None"):
        RouteOptions(routes=["/a"], drain="cut", drain_timeout=1)


ONE = OverloadConfig(start=1, patience=0.001)


@pytest.mark.usefixtures("no_growth")
@on_real_loops
async def test_a_route_that_waits_holds_no_slot() -> None:
    server = Server(RouteOptions(routes=["/poll/{n}"], waits=True), concurrency=ONE)
    async with server.serving(*(f"/poll/{n}" for n in range(30))):
        assert server.app.shedding.limiter.in_flight == 0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.open, "/work")
            await until(lambda: "/work" in server.sent)
            assert server.app.shedding.limiter.in_flight == 1
            # What only waits begins when there is room, as all else: to begin is work.
            refused = await call_asgi(server.app, path="/poll/31")
            assert refused.status == 503
            server.go_on.set()
    assert server.app.shedding.limiter.in_flight == 0


@on_real_loops
async def test_one_that_waited_in_the_queue_holds_no_slot_either() -> None:
    patient = OverloadConfig(start=1, patience=10)
    server = Server(RouteOptions(routes=["/poll"], waits=True), concurrency=patient)
    limiter = server.app.shedding.limiter
    async with server.serving("/work"), anyio.create_task_group() as tasks:
        tasks.start_soon(server.open, "/poll")
        await until(lambda: limiter.waiting == 1)
        before, server.go_on = server.go_on, anyio.Event()
        before.set()
        await until(lambda: "/poll" in server.sent)
        assert limiter.in_flight == 0
        server.go_on.set()


@pytest.mark.usefixtures("no_growth")
@on_real_loops
@pytest.mark.parametrize(
    ("service", "route", "status", "counted_in"),
    [
        ("enforce", None, 503, {"enforce"}),
        ("enforce", "off", 200, set[str]()),
        ("enforce", "shadow", 200, {"shadow"}),
        ("shadow", None, 200, {"shadow"}),
        ("shadow", "enforce", 503, {"enforce"}),
        ("off", None, 200, set[str]()),
        ("off", "enforce", 503, {"enforce"}),
    ],
)
async def test_a_route_is_refused_as_its_own_mode_says(
    service: str, route: str | None, status: int, counted_in: set[str]
) -> None:
    options = RouteOptions(routes=["/few/{x}"], shedding=route)
    server = Server(options, shedding=service, concurrency=ONE)
    # Where the limiter is off for all others, only the route's own requests fill it.
    async with server.serving("/few/1" if service == "off" else "/others"):
        assert await server.status_of("/few/2") == status
    assert server.sheds() == counted_in
