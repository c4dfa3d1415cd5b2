"""A response that is cut ends as its client understands it.

Unfinished, or with a farewell between two events.
"""

from __future__ import annotations

import math
from dataclasses import replace

import anyio
import pytest

from postfacta_core.asgi import HardenOptions, harden
from postfacta_core.asgi._exchange import HttpExchange
from postfacta_core.asgi._kernel import Kernel
from postfacta_core.asgi._rules import Rules
from postfacta_core.asgi._types import ASGIApp, Message, Receive, Scope, Send
from postfacta_core.context import RequestContext
from postfacta_core.deadlines.requests import RunningRequests
from postfacta_core.drain import DrainLimits
from postfacta_core.errors import DeadlineExceededError, StoppedError
from postfacta_core.telemetry.exchange import Exchange, Recorder
from postfacta_core.testing import call_asgi
from tests.kit.every import every
from tests.kit.waiting import until

ACCEPT = (b"accept", b"text/event-stream")
FRESH = (b"cache-control", b"no-cache")
EVENT_STREAM = (b"content-type", b"text/event-stream; charset=utf-8")
RULES = Rules()
Pairs = list[tuple[bytes, bytes]]
EVENT = b"data: 1\n\n"


class Wire:
    """The server's end of a response; it may be held in the midst of a piece."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.open = anyio.Event()
        self.open.set()

    async def receive(self) -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        await self.open.wait()

    @property
    def end(self) -> bytes | None:
        """What the response was ended with; None if it is unfinished."""
        last = self.sent[-1]
        return None if last.get("more_body", True) else last["body"]


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Stand for the application."""


def exchange_on(
    wire: Wire, *headers: tuple[bytes, bytes], method: str = "GET", rules: Rules = RULES
) -> HttpExchange:
    kernel = Kernel(nothing, requests=RunningRequests())
    scope: Scope = {"type": "http", "method": method, "path": "/", "headers": list(headers)}
    return HttpExchange(
        kernel, rules, RequestContext("request-id", 0.0), scope, wire.receive, wire.send
    )


def start(*headers: tuple[bytes, bytes], status: int = 200) -> Message:
    return {"type": "http.response.start", "status": status, "headers": [*headers]}


def piece(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def cut(exchange: HttpExchange, error: StoppedError | DeadlineExceededError) -> None:
    exchange.cancel(error)
    await exchange.answer()


async def test_only_a_stream_that_its_client_resumes_is_ended_after_the_delay() -> None:
    finish, farewell = replace(RULES, farewell=False), replace(RULES, farewell=True)
    cases: dict[str, tuple[tuple[str, Pairs, Rules, int, Pairs], bool]] = {
        "EventSource": (("GET", [ACCEPT, FRESH], RULES, 200, [EVENT_STREAM]), True),
        "EventSource and more": (("GET", [(b"accept", b"a/b, Text/Event-Stream"), FRESH], RULES, 200, [EVENT_STREAM]), True),
        "in capitals": (("GET", [ACCEPT, FRESH], RULES, 200, [(b"Content-Type", b"text/event-stream")]), True),
        "one that came back": (("GET", [ACCEPT, (b"last-event-id", b"7")], RULES, 200, [EVENT_STREAM]), True),
        "a listener of MCP": (("GET", [(b"accept", b"application/json, text/event-stream"), (b"mcp-session-id", b"7")], RULES, 200, [EVENT_STREAM]), True),
        "a call of MCP": (("POST", [(b"accept", b"application/json, text/event-stream"), (b"mcp-session-id", b"7")], RULES, 200, [EVENT_STREAM]), False),
        "a page that reads one answer": (("GET", [ACCEPT], RULES, 200, [EVENT_STREAM]), False),
        "POST": (("POST", [ACCEPT, FRESH], RULES, 200, [EVENT_STREAM]), False),
        "GET of anything": (("GET", [(b"accept", b"*/*"), FRESH], RULES, 200, [EVENT_STREAM]), False),
        "GET without Accept": (("GET", [], RULES, 200, [EVENT_STREAM]), False),
        "NDJSON": (("GET", [ACCEPT, FRESH], RULES, 200, [(b"content-type", b"application/x-ndjson")]), False),
        "an error": (("GET", [ACCEPT, FRESH], RULES, 503, [EVENT_STREAM]), False),
        "compressed": (("GET", [ACCEPT, FRESH], RULES, 200, [EVENT_STREAM, (b"Content-Encoding", b"gzip")]), False),
        "of known length": (("GET", [ACCEPT, FRESH], RULES, 200, [EVENT_STREAM, (b"content-length", b"9")]), False),
        "a route that finishes": (("GET", [ACCEPT, FRESH], finish, 200, [EVENT_STREAM]), False),
        "a route with a farewell": (("POST", [], farewell, 200, [EVENT_STREAM]), True),
        "its other answers": (("POST", [], farewell, 200, [(b"content-type", b"text/plain")]), False),
    }  # fmt: skip
    with every() as case:
        for name, ((method, asked, rules, status, headers), is_ended) in cases.items():
            with case(name):
                exchange = exchange_on(Wire(), *asked, method=method, rules=rules)
                await exchange.send(start(*headers, status=status))
                assert exchange.is_endless is is_ended
                assert exchange.is_due(0.0) is is_ended
                assert exchange.is_due(math.inf)


@pytest.mark.parametrize(("last", "is_between"), [(b"\n", True), (b"id: 2\n", False)])
async def test_a_farewell_comes_between_two_events_and_nowhere_else(
    last: bytes,
    is_between: bool,  # noqa: FBT001 - a table
) -> None:
    wire = Wire()
    exchange = exchange_on(wire, ACCEPT, FRESH)
    await exchange.send(start(EVENT_STREAM))
    for data in (b"data: 1\n", last):
        await exchange.send(piece(data))
    assert exchange.is_due(0.0) is is_between
    await cut(exchange, StoppedError("drain"))
    assert (wire.end or b"").startswith(b"retry: ") is is_between
    assert (wire.end is None) is not is_between


async def test_a_long_event_gets_its_farewell_after_its_last_part() -> None:
    wire = Wire()
    exchange = exchange_on(wire, ACCEPT, FRESH)
    exchange.shared.room = 1.0
    await exchange.send(start(EVENT_STREAM))
    await exchange.send(piece(b"data: " + b"x" * 200_000))
    assert not exchange.is_due(0.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(exchange.send, piece(b"\n\n"))
        await until(lambda: exchange.is_due(0.0))
        tasks.cancel_scope.cancel()


async def test_no_event_begins_once_the_stream_is_to_end() -> None:
    wire, sent = Wire(), list[bytes]()
    exchange = exchange_on(wire, ACCEPT, FRESH)
    await exchange.send(start(EVENT_STREAM))
    await exchange.send(piece(b"data: 1"))
    assert not exchange.is_due(0.0)

    async def application() -> None:
        for data in (b"2\n\n", b"data: 3"):
            await exchange.send(piece(data))
            sent.append(data)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(application)
        await until(lambda: exchange.is_due(0.0))
        await anyio.sleep(0.02)
        tasks.cancel_scope.cancel()
    assert sent == []
    await cut(exchange, StoppedError("drain"))
    assert [message["body"] for message in wire.sent[1:-1]] == [b"data: 1", b"2\n\n"]
    assert (wire.end or b"").startswith(b"retry: ")


async def test_one_that_ignores_its_cancellation_is_ended_and_goes_on() -> None:
    wire, sent = Wire(), list[bytes]()
    exchange = exchange_on(wire, ACCEPT, FRESH)
    await exchange.send(start(EVENT_STREAM))
    await exchange.send(piece(b"data: 1"))
    assert not exchange.is_due(0.0)

    async def application() -> None:
        for data in (b"2\n\n", b"data: 3"):
            await exchange.send(piece(data))
            sent.append(data)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(application)
            await until(lambda: exchange.is_due(0.0))
            # As the sweep does in place of a handler that is shielded.
            await cut(exchange, StoppedError("drain"))
    assert sent == [b"2\n\n", b"data: 3"]
    assert (wire.end or b"").startswith(b"retry: ")


async def test_no_farewell_follows_a_piece_that_was_not_handed_over() -> None:
    wire = Wire()
    exchange = exchange_on(wire, ACCEPT, FRESH)
    await exchange.send(start(EVENT_STREAM))
    wire.open = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(exchange.send, piece(EVENT))
        await until(lambda: len(wire.sent) == 2)
        assert not exchange.is_due(0.0)
        tasks.cancel_scope.cancel()
    await cut(exchange, StoppedError("drain"))
    assert wire.end is None


async def test_a_deadline_leaves_every_stream_unfinished() -> None:
    wire = Wire()
    exchange = exchange_on(wire, ACCEPT, FRESH)
    await exchange.send(start(EVENT_STREAM))
    await exchange.send(piece(EVENT))
    await cut(exchange, DeadlineExceededError("request"))
    assert [message.get("body") for message in wire.sent] == [None, EVENT]
    assert wire.end is None


async def test_events_that_have_ended_are_not_ended_again() -> None:
    wire = Wire()
    exchange = exchange_on(wire, ACCEPT, FRESH)
    await exchange.send(start(EVENT_STREAM))
    await exchange.send(piece(EVENT, more=False))
    assert not exchange.is_due(0.0)
    await cut(exchange, StoppedError("drain"))
    assert wire.end == EVENT


async def test_a_route_has_its_own_time_in_a_drain() -> None:
    exchange = exchange_on(Wire(), rules=replace(RULES, drain_timeout=2.0))
    assert [exchange.is_due(seconds) for seconds in (0.0, 1.9, 2.0)] == [False, False, True]


class Kept(Recorder):
    """Keeps the exchanges that have ended."""

    def __init__(self) -> None:
        self.ended: list[Exchange] = []

    def end(self, exchange: Exchange, /) -> None:
        self.ended.append(exchange)

    @property
    def outcome(self) -> tuple[int, str]:
        (exchange,) = self.ended
        return exchange.status, exchange.error_type

    @property
    def stream_outcome(self) -> str:
        (exchange,) = self.ended
        return exchange.stream_outcome


class Swallowing:
    """A client in the words of uvicorn.

    When it has left, what is sent to it is taken and dropped.
    """

    def __init__(self) -> None:
        self.left = anyio.Event()
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)


class Service:
    """A hardened stream of two pieces, whose second waits for `go_on`.

    Its client leaves in between.
    """

    def __init__(self) -> None:
        self.kept = Kept()
        self.running = RunningRequests()
        self.go_on = anyio.Event()
        self.noticed = anyio.Event()
        self.client = Swallowing()
        self.app: ASGIApp = Kernel(self.stream, requests=self.running, recorders=[self.kept])

    async def stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(piece(b"1"))
        self.client.left.set()
        await receive()
        self.noticed.set()
        await self.go_on.wait()
        await send(piece(b"2", more=False))

    async def serve(self) -> None:
        scope: Scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        await self.app(scope, self.client.receive, self.client.send)


async def test_a_client_that_leaves_midway_has_left_though_the_server_takes_the_rest() -> None:
    service = Service()
    service.go_on.set()
    async with service.running:
        await service.serve()
    assert service.kept.outcome == (200, "")
    assert service.kept.stream_outcome == "left"


@pytest.mark.parametrize(
    "error", [StoppedError("drain"), DeadlineExceededError("request")], ids=str
)
async def test_a_client_that_has_left_stays_so_when_its_request_is_cut(
    error: StoppedError | DeadlineExceededError,
) -> None:
    service = Service()
    with anyio.fail_after(10):
        async with service.running, anyio.create_task_group() as tasks:
            tasks.start_soon(service.serve)
            await service.noticed.wait()
            service.running.cancel(error)
    assert service.kept.outcome == (200, "")
    assert service.kept.stream_outcome == "left"


async def test_a_disconnect_as_the_last_piece_goes_out_is_no_leaving() -> None:
    kept, running, receives = Kept(), RunningRequests(), list[Receive]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        receives.append(receive)
        await send(start())
        await send(piece(b"1"))
        await send(piece(b"2", more=False))

    async def send(message: Message) -> None:
        # hypercorn reports it before the last piece is said to be sent, and Starlette listens.
        if not message.get("more_body", True):
            client.left.set()
            await receives[0]()

    client = Swallowing()
    scope: Scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    async with running:
        await Kernel(app, requests=running, recorders=[kept])(scope, client.receive, send)
    assert kept.outcome == (200, "")


@pytest.mark.parametrize(
    "options", [{}, {"response_headers": [("x-own", "ours")]}], ids=["plain", "owned"]
)
async def test_headers_that_can_be_read_once_arrive(
    options: dict[str, list[tuple[str, str]]],
) -> None:
    given = [(b"x-own", b"1"), (b"x-other", b"2")]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": iter(given)})
        await send({"type": "http.response.body", "body": b""})

    checked = HardenOptions(**options)  # type: ignore[arg-type] # checked where it is given
    response = await call_asgi(harden(app, service="x", options=checked), "GET", "/")
    assert (response.header("x-own"), response.header("x-other")) == ("1", "2")


async def test_headers_that_can_be_read_once_arrive_in_a_drain() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": 200, "headers": iter([(b"x-own", b"1")])}
        )
        await send({"type": "http.response.body", "body": b""})

    service = harden(app, service="x", options=HardenOptions(drain=DrainLimits(drain_delay=60)))
    service.lifecycle.drain()
    response = await call_asgi(service, "GET", "/")
    assert (response.header("x-own"), response.header("connection")) == ("1", "close")
