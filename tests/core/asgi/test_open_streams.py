"""A stream or WebSocket that is one too many is refused so that its client comes back later."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import anyio
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from postfacta_core.asgi import HardenOptions, RouteOptions, Telemetry, harden
from postfacta_core.asgi._types import Message, Scope
from postfacta_core.asgi.stack import Hardened
from postfacta_core.limits.streams import OpenStreams, StreamLimits
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.testing import call_asgi
from postfacta_core.testing.asgi import AsgiResponse
from tests.core.virtual import loop_clock
from tests.kit.every import every
from tests.kit.lifespan import running
from tests.kit.waiting import until

EVENT_SOURCE = [("accept", "text/event-stream"), ("cache-control", "no-cache")]
Act = Callable[[], Awaitable[object]]


class Stage:
    """A service of streams that last until the test ends them."""

    def __init__(self, **options: Any) -> None:
        self.ends = anyio.Event()
        self.begun = 0
        self.cancelled = 0
        self.metrics = Metrics(CollectorRegistry(), with_process=False)
        routes = [
            Route("/events", self.events, methods=["GET", "POST"]),
            Route("/farewell", self.events, methods=["POST"]),
            Route("/quick", self.quick),
            WebSocketRoute("/ws", self.socket),
        ]
        self.app: Hardened = harden(
            Starlette(routes=routes),
            service="stage",
            options=HardenOptions(**options),
            telemetry=Telemetry(metrics=self.metrics),
            clock=loop_clock(),
        )
        streams = self.app.streams
        assert isinstance(streams, OpenStreams)
        self.streams = streams

    async def events(self, request: Request) -> Response:
        headers = {"access-control-allow-origin": "*", "x-of": "the application"}
        return StreamingResponse(self.pieces(), headers=headers, media_type="text/event-stream")

    async def pieces(self) -> AsyncGenerator[bytes]:
        self.begun += 1
        yield b"data: 1\n\n"
        try:
            await self.ends.wait()
        except BaseException:
            self.cancelled += 1
            raise
        yield b"data: 2\n\n"

    async def quick(self, request: Request) -> JSONResponse:
        return JSONResponse({})

    async def socket(self, socket: WebSocket) -> None:
        await socket.accept()
        self.begun += 1
        await self.ends.wait()

    async def ask(self, method: str = "GET", **options: Any) -> Any:
        return await call_asgi(self.app, method, options.pop("path", "/events"), **options)

    async def connect(self, client: str = "192.0.2.1") -> list[Message]:
        got: list[Message] = []

        async def receive() -> Message:
            return {"type": "websocket.connect"}

        async def send(message: Message) -> None:
            got.append(message)

        scope: Scope = {"type": "websocket", "path": "/ws", "headers": [], "client": (client, 1)}
        await self.app(scope, receive, send)
        return got

    def counted(self, decision: str) -> float | None:
        labels = {"bulkhead": "streams", "decision": decision, "mode": "enforce"}
        registry = self.metrics.registry
        return registry.get_sample_value("postfacta_bulkhead_decisions_total", labels)

    def is_idle(self) -> bool:
        return (self.streams.count, vars(self.streams)["_by_caller"]) == (0, Counter())


async def test_one_too_many_is_answered_as_its_client_understands_it() -> None:
    stage = Stage(
        streams=StreamLimits(most=2),
        routes=[RouteOptions(routes=["POST /farewell"], drain="farewell")],
    )
    answers: dict[str, AsgiResponse] = {}
    sent: list[Message] = []
    async with running(stage.app), anyio.create_task_group() as tasks:
        tasks.start_soon(stage.ask)
        tasks.start_soon(stage.connect)
        await until(lambda: stage.begun == 2)
        answers["source"] = await stage.ask(headers=EVENT_SOURCE)
        answers["farewell"] = await stage.ask("POST", path="/farewell")
        answers["plain"] = await stage.ask()
        answers["post"] = await stage.ask("POST")
        sent += await stage.connect()
        answers["quick"] = await stage.ask(path="/quick")
        assert stage.begun == 2
        assert stage.counted("refused") == 5
        stage.ends.set()
    # A browser gives up for good after any status but 200, or without the headers of CORS.
    with every() as case:
        for answer in (answers["source"], answers["farewell"]):
            with case("resumed"):
                assert answer.status == 200
                assert answer.header("access-control-allow-origin") == "*"
                assert answer.header("x-of") == "the application"
                field, _, milliseconds = answer.body.partition(b": ")
                assert field == b"retry"
                assert 30_000 <= int(milliseconds) <= 60_000
                assert answer.body.endswith(b"\n\n")
    assert answers["plain"].status == 503
    assert 30 <= int(answers["plain"].header("retry-after") or 0) <= 60
    # Its handler has begun: who reads Retry-After would send it again.
    assert (answers["post"].status, answers["post"].header("retry-after")) == (503, None)
    assert "may have begun" in json.loads(answers["post"].body)["detail"]
    assert sent == [{"type": "websocket.close", "code": 1013, "reason": "Unavailable"}]
    assert answers["quick"].status == 200
    assert stage.is_idle()


async def test_a_caller_with_too_many_is_refused_by_429_and_others_are_served() -> None:
    stage = Stage(streams=StreamLimits(per_caller=1), trusted_proxies=["127.0.0.0/8"])
    proxy = {"client": ("127.0.0.1", 1)}
    forged = {"client": ("198.51.100.9", 1)}
    async with running(stage.app), anyio.create_task_group() as tasks:

        async def ask(forwarded: str, scope: Scope = proxy) -> int:
            headers = [("x-forwarded-for", forwarded)]
            answer = await stage.ask(headers=headers, scope=scope)
            return int(answer.status)

        tasks.start_soon(ask, "192.0.2.1")
        tasks.start_soon(ask, "203.0.113.5", forged)
        await until(lambda: stage.begun == 2)
        assert await ask("192.0.2.1") == 429
        # Whose word does not count is the same caller under any name.
        assert [await ask(f"192.0.2.{number}", forged) for number in range(20, 25)] == [429] * 5
        tasks.start_soon(ask, "192.0.2.2")
        await until(lambda: stage.begun == 3)
        stage.ends.set()
    assert stage.is_idle()
    error_types = {labels[-1] for labels in vars(stage.metrics)["_recorded"] if labels[-2] == "429"}
    assert error_types == {""}


async def test_a_burst_of_200_on_a_fresh_process_is_served() -> None:
    stage = Stage()
    async with running(stage.app), anyio.create_task_group() as tasks:
        await anyio.sleep(0.2)  # The limiter explores from the first heartbeat on.
        for _ in range(200):
            tasks.start_soon(stage.ask)
        await until(lambda: stage.begun == 200)
        assert stage.counted("refused") == 0
        stage.ends.set()
    assert stage.is_idle()


async def test_each_way_to_end_gives_the_place_back() -> None:
    stage = Stage(streams=StreamLimits(most=1))

    async def leaves() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stage.ask)
            await until(lambda: stage.streams.count == 1)
            tasks.cancel_scope.cancel()

    async def runs_out() -> None:
        await stage.ask(headers=[("x-request-timeout", "0.1")], raise_errors=False)

    async def is_cancelled() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stage.connect)
            await until(lambda: stage.streams.count == 1)
            tasks.cancel_scope.cancel()

    async def asks_for_the_head() -> None:
        assert (await stage.ask("HEAD")).status == 200

    stage.ends.set()
    acts: list[Act] = [asks_for_the_head, stage.ask, stage.connect]
    async with running(stage.app):
        with every() as case:
            for act in acts:
                with case(act.__name__):
                    await act()
                    assert stage.is_idle()
            stage.ends = anyio.Event()
            for act in (leaves, runs_out, is_cancelled):
                with case(act.__name__):
                    await act()
                    assert stage.is_idle()
    assert stage.counted("refused") == 0


async def test_the_handler_of_what_is_refused_is_cancelled() -> None:
    stage = Stage(streams=StreamLimits(most=1))
    reached: list[str] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await stage.app.app(scope, receive, send)
            return
        headers = [(b"content-type", b"text/event-stream"), (b"content-encoding", b"gzip")]
        head = {"type": "http.response.start", "status": 200, "headers": iter(headers)}
        try:
            await send(head)
            reached.append("the head was sent")
            await anyio.sleep_forever()
        finally:
            reached.append("the end")

    hardened = harden(
        app, service="x", options=HardenOptions(streams=StreamLimits(most=1)), clock=loop_clock()
    )
    async with running(hardened), anyio.create_task_group() as tasks:
        tasks.start_soon(call_asgi, hardened)
        await until(lambda: hardened.streams is not None and hardened.streams.count == 1)
        answer = await call_asgi(hardened, headers=EVENT_SOURCE)
        # What is compressed takes no line of ours.
        assert answer.status == 503
        assert reached == ["the head was sent", "the end"]
        tasks.cancel_scope.cancel()
