"""A client that leaves and a WebSocket are recorded as what they were."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, MutableMapping
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from postfacta_core.asgi._types import Message, Receive, Scope, Send
from postfacta_core.telemetry.exchange import Recorder, SocketExchange
from tests.core.asgi.observed import APP, Boom, observe
from tests.kit.alone import WithTelemetry


async def test_a_client_that_leaves_before_the_answer_is_a_499_whatever_the_framework_makes_of_it() -> (
    None
):
    async def shrug(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.start", "status": 500})

    for app in (APP, shrug):
        kept = await observe(app, "POST", "/read", body=[], disconnect_after=0)
        assert kept.only.status == 499
        assert kept.only.error_type == "client_disconnected"
        assert kept.errors == [None]


async def test_a_real_crash_after_the_client_left_is_still_a_crash() -> None:
    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        raise Boom

    kept = await observe(bare, disconnect_after=0)
    assert kept.summary == (500, "_unmatched", "Boom")


async def test_a_client_that_leaves_a_live_stream_is_no_error() -> None:
    async def endless(request: Request) -> Response:
        async def body() -> AsyncGenerator[bytes]:
            while True:
                yield b"a"
                await anyio.lowlevel.checkpoint()

        return StreamingResponse(body())

    kept = await observe(Starlette(routes=[Route("/", endless)]), body=[], disconnect_after=5)
    assert kept.summary == (200, "/", "")
    assert kept.only.stream_outcome == "left"
    assert kept.errors == [None]


async def test_an_error_of_the_application_that_looks_like_a_disconnect_is_a_crash() -> None:
    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        raise FileNotFoundError

    assert (await observe(bare)).summary == (500, "_unmatched", "FileNotFoundError")


class Sockets(Recorder):
    """Keeps the calls for WebSockets too."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bool]] = []
        self.last: tuple[Any, ...] = ()

    def connect(self, exchange: SocketExchange, /) -> None:
        self.told.append(("connect", exchange.is_open))

    def opened(self, exchange: SocketExchange, /) -> None:
        self.told.append(("opened", exchange.is_open))

    def closed(self, exchange: SocketExchange, /) -> None:
        self.told.append(("closed", exchange.is_open))
        self.last = (exchange.outcome, exchange.status, exchange.close_code, exchange.error_type)


class Gone(Exception):  # noqa: N818 - the label is its name
    """A crash."""


WebSocketDisconnect = type("WebSocketDisconnect", (Exception,), {})
ACCEPT: Message = {"type": "websocket.accept"}
CLOSE: Message = {"type": "websocket.close"}
LEFT: Message = {"type": "websocket.disconnect", "code": 1001}
REFUSE: Message = {"type": "websocket.http.response.start", "status": 401, "headers": []}


@pytest.mark.parametrize(
    ("script", "last"),
    [
        ([ACCEPT, CLOSE], ("closed", 101, 1000, "")),
        (
            [ACCEPT, {"type": "websocket.send", "text": "hello"}, {**CLOSE, "code": 4000}],
            ("closed", 101, 4000, ""),
        ),
        ([ACCEPT, LEFT], ("left", 101, 1001, "")),
        ([ACCEPT, {"type": "websocket.disconnect"}], ("left", 101, 1006, "")),
        ([ACCEPT, LEFT, CLOSE], ("left", 101, 1001, "")),
        ([ACCEPT, CLOSE, LEFT], ("closed", 101, 1000, "")),
        ([ACCEPT, LEFT, WebSocketDisconnect()], ("left", 101, 1001, "")),
        ([ACCEPT, OSError("gone")], ("left", 101, 0, "")),
        ([ACCEPT, Gone()], ("crashed", 101, 0, "Gone")),
        ([Gone()], ("crashed", 403, 0, "Gone")),
        ([ACCEPT], ("unfinished", 101, 0, "incomplete_response")),
        ([CLOSE], ("refused", 403, 1000, "")),
        ([REFUSE], ("refused", 401, 0, "")),
        (["shed", CLOSE], ("refused", 403, 1000, "shed")),
        (
            ["deadline_exceeded", ACCEPT, {**CLOSE, "code": 1008}],
            ("closed", 101, 1008, "deadline_exceeded"),
        ),
        ([LEFT], ("left", 403, 1001, "")),
    ],
    ids=str,
)
async def test_a_websocket_is_recorded_with_how_it_ended(
    script: list[Message | Exception | str], last: tuple[Any, ...]
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for step in script:
            match step:
                case str():
                    scope["postfacta.request"].error_type = step
                case OSError():
                    with contextlib.suppress(OSError):
                        await send({"type": "websocket.send", "text": "?"})
                case Exception():
                    raise step
                case {"type": "websocket.disconnect"}:
                    await receive()
                case _:
                    await send(step)

    coming = [
        step
        for step in script
        if isinstance(step, MutableMapping) and step["type"] == "websocket.disconnect"
    ]

    async def receive() -> Message:
        return coming.pop(0)

    async def send(message: Message) -> None:
        if message.get("text") == "?":
            raise OSError

    kept = Sockets()
    scope: Scope = {"type": "websocket", "path": "/", "headers": [], "client": ("127.0.0.1", 1)}
    with contextlib.suppress(Gone, WebSocketDisconnect):
        await WithTelemetry(app, [kept])(scope, receive, send)
    assert kept.last == last
    opened = [("opened", True)] if ACCEPT in script else []
    assert kept.told == [("connect", False), *opened, ("closed", bool(opened))]


async def test_a_websocket_that_the_server_cancels_was_left() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        scope_of_test.cancel()
        await anyio.sleep_forever()

    async def send(message: Message) -> None:
        """Take it."""

    async def receive() -> Message:
        raise AssertionError

    kept = Sockets()
    with anyio.CancelScope() as scope_of_test:
        scope: Scope = {"type": "websocket", "path": "/", "headers": []}
        await WithTelemetry(app, [kept])(scope, receive, send)
    assert kept.last == ("left", 101, 0, "")
