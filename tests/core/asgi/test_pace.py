"""An application that sends nothing for too long is ended, or spoken for between two events."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from postfacta_core.asgi import HardenOptions, RouteOptions, Telemetry, harden
from postfacta_core.asgi._pace import Pace
from postfacta_core.asgi._sse import EventStream
from postfacta_core.asgi._types import ASGIApp, Message, Receive, Scope, Send
from postfacta_core.deadlines import TransferLimits
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.testing import ManualClock, call_asgi
from postfacta_core.testing.asgi import AsgiResponse
from tests.core.virtual import loop_clock
from tests.kit.every import every

EVENTS = [(b"content-type", b"text/event-stream")]
LINES = [(b"content-type", b"application/x-ndjson")]
BEAT = b":\n\n"
OUTCOME = "postfacta_stream_duration_seconds_count"
Pieces = list[tuple[float, bytes]]


def streaming(headers: list[tuple[bytes, bytes]], pieces: Pieces) -> ASGIApp:
    """Send pieces, each after some seconds, then the end; the first is the head's own pause."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for seconds, piece in pieces:
            await anyio.sleep(seconds)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


class Service:
    """A service in the time of its loop."""

    def __init__(self, app: ASGIApp, **options: Any) -> None:
        clock = loop_clock()
        self.metrics = Metrics(with_process=False, clock=clock)
        route = RouteOptions(routes=["/"], request_timeout=math.inf, **options)
        self.app = harden(
            app,
            service="chat",
            telemetry=Telemetry(metrics=self.metrics),
            options=HardenOptions(routes=[route], shedding="off"),
            clock=clock,
        )

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        async with self.app.running:
            yield

    async def get(self, **options: Any) -> AsgiResponse:
        async with self.running():
            return await call_asgi(self.app, "GET", "/", **options)

    def count(self, outcome: str) -> float | None:
        labels = {"http_route": "", "outcome": outcome}
        return self.metrics.registry.get_sample_value(OUTCOME, labels)


def is_whole(response: AsgiResponse) -> bool:
    return not response.messages[-1].get("more_body", False)


async def test_a_stream_whose_application_falls_silent_is_left_unfinished() -> None:
    began = anyio.current_time()
    service = Service(streaming(LINES, [(9, b"{}\n"), (4, b"{}\n"), (60, b"{}\n")]), stream_idle=5)
    response = await service.get()
    assert response.body == b"{}\n{}\n"
    assert not is_whole(response)
    assert 18 <= anyio.current_time() - began < 18.2
    assert service.count("idle") == 1


async def test_a_slow_stream_that_lives_is_never_cut() -> None:
    pieces = [(14.0, b"data: 1\n\n")] * 40
    response = await Service(streaming(EVENTS, pieces), stream_idle=15).get()
    assert response.body == b"data: 1\n\n" * 40
    assert is_whole(response)


async def test_comments_count_as_silence_of_event_streams_alone() -> None:
    pieces = [(1.0, b"data: 1\n\n"), *[(1.0, b": alive\n\n")] * 20]
    with every() as case:
        for name, headers, is_idle in (("events", EVENTS, True), ("others", LINES, False)):
            with case(name):
                service = Service(streaming(headers, pieces), stream_idle=5)
                response = await service.get()
                assert is_whole(response) is not is_idle
                assert service.count("idle") == (1 if is_idle else None)


async def test_a_heartbeat_comes_between_two_events_only() -> None:
    pieces = [(50.0, b"data: 1\n\n"), (50.0, b"data: 2\n"), (50.0, b"\n"), (10.0, b"data: 3\n\n")]
    response = await Service(streaming(EVENTS, pieces), heartbeat=20).get()
    sent = [message["body"] for message in response.messages[1:]]
    assert sent == [
        *[BEAT, BEAT, b"data: 1\n\n"],
        *[BEAT, BEAT, b"data: 2\n", b"\n"],
        *[b"data: 3\n\n", b""],
    ]


async def test_only_event_streams_of_a_route_that_wants_it_have_a_heartbeat() -> None:
    pieces = [(1.0, b"data: 1\n\n"), (60.0, b"data: 2\n\n")]
    packed = [*EVENTS, (b"content-encoding", b"gzip")]
    cases: dict[str, tuple[list[tuple[bytes, bytes]], dict[str, Any]]] = {
        "by default": (EVENTS, {}),
        "another type": (LINES, {"heartbeat": 20}),
        "compressed": (packed, {"heartbeat": 20}),
    }
    with every() as case:
        for name, (headers, options) in cases.items():
            with case(name):
                response = await Service(streaming(headers, pieces), **options).get()
                assert response.body == b"data: 1\n\ndata: 2\n\n"


async def test_a_heartbeat_does_not_keep_a_silent_stream_open() -> None:
    pieces = [(1.0, b"data: 1\n\n"), (math.inf, b"")]
    response = await Service(streaming(EVENTS, pieces), heartbeat=10, stream_idle=35).get()
    assert response.body == b"data: 1\n\n" + 3 * BEAT
    assert not is_whole(response)


async def test_a_client_that_a_heartbeat_does_not_reach_has_left() -> None:
    async def send(message: Message) -> None:
        if message.get("body") == BEAT:
            raise OSError

    async def receive() -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    service = Service(
        streaming(EVENTS, [(1.0, b"data: 1\n\n"), (25.0, b"data: 2\n\n")]), heartbeat=10
    )
    scope: Scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    async with service.running():
        await service.app(scope, receive, send)
    assert service.count("left") == 1


async def test_a_piece_after_a_long_rest_has_its_write_timeout() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(2):
            await send({"type": "http.response.body", "body": b"x" * 65_000, "more_body": True})
            await anyio.sleep(30)

    async def send(message: Message) -> None:
        taken.append(message)
        if len(taken) > 2:
            await anyio.sleep_forever()

    async def receive() -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    taken: list[Message] = []
    service = Service(app, limits=TransferLimits(write_timeout=4))
    scope: Scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    began = anyio.current_time()
    async with service.running():
        await service.app(scope, receive, send)
    assert 34 <= anyio.current_time() - began < 34.1
    assert service.count("left") == 1


class Wire:
    """What a server takes, one message at a time."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.takes = anyio.Event()
        self.takes.set()

    async def send(self, message: Message) -> None:
        await self.takes.wait()
        self.sent.append(message["body"])


def piece(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


@pytest.fixture
def pace() -> Callable[..., Pace]:
    def make(wire: Wire, clock: ManualClock, *, limit: float = 5) -> Pace:
        events = EventStream(wire.send)
        return Pace(events.send, clock, events=events, has_comments=True, limit=limit, heartbeat=2)

    return make


async def test_a_server_that_takes_long_is_no_silence(pace: Callable[..., Pace]) -> None:
    wire, clock = Wire(), ManualClock(0)
    paced = pace(wire, clock)
    await paced.send(piece(b"data: 1\n\n"))
    wire.takes = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(paced.send, piece(b"data: 2\n\n"))
        await anyio.wait_all_tasks_blocked()
        clock.advance(60)
        assert not paced.is_over(clock())
        assert paced.due > clock()
        await paced.beat()
        wire.takes.set()
    assert wire.sent == [b"data: 1\n\n", b"data: 2\n\n"]
    clock.advance(5)
    assert paced.is_over(clock())


async def test_the_application_waits_for_a_heartbeat_under_way(pace: Callable[..., Pace]) -> None:
    wire, clock = Wire(), ManualClock(0)
    paced = pace(wire, clock)
    wire.takes = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(paced.beat)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(paced.send, piece(b"data: 1\n\n"))
        await anyio.wait_all_tasks_blocked()
        await paced.beat()
        wire.takes.set()
    assert wire.sent == [BEAT, b"data: 1\n\n"]


async def test_a_comment_in_two_pieces_is_still_a_comment(pace: Callable[..., Pace]) -> None:
    wire, clock = Wire(), ManualClock(0)
    paced = pace(wire, clock)
    await paced.send(piece(b"data: 1\r\r"))
    for part in (b": al", b"ive", b"\r\n", b"\r\n:", b"data: 1\n"):
        clock.advance(1)
        await paced.send(piece(part))
    assert paced.is_over(clock())
    await paced.send(piece(b"data"))
    assert not paced.is_over(clock())
