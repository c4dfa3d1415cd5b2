"""A WebSocket that outlives its time or its service is closed once, with a reason."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from postfacta_core.asgi._kernel import Kernel
from postfacta_core.asgi._rules import Rules
from postfacta_core.asgi._types import Message, Receive, Scope, Send
from postfacta_core.asgi._websocket import WebSocketExchange
from postfacta_core.context import RequestContext
from postfacta_core.deadlines._limits import TransferLimits
from postfacta_core.deadlines.requests import RunningRequests
from postfacta_core.errors import DeadlineExceededError, StoppedError


class Wire:
    """The server's end: what it is sent."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.error: Exception | None = None
        self.messages: list[Message] = []

    async def receive(self) -> Message:
        return self.messages[0]

    async def send(self, message: Message) -> None:
        await anyio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        self.sent.append(message)


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Stand for the application."""


def socket_on(wire: Wire, rules: Rules | None = None) -> WebSocketExchange:
    kernel = Kernel(nothing, requests=RunningRequests())
    scope: Scope = {"type": "websocket", "path": "/", "headers": []}
    return WebSocketExchange(
        kernel,
        rules or Rules(),
        RequestContext("request-id", 0.0),
        scope,
        wire.receive,
        wire.send,
    )


@pytest.mark.parametrize(
    ("error", "code"), [(StoppedError("drain"), 1012), (DeadlineExceededError("request"), 1008)]
)
async def test_a_websocket_is_closed_once_with_a_reason(
    error: StoppedError | DeadlineExceededError, code: int
) -> None:
    wire = Wire()
    socket = socket_on(wire)
    assert socket.is_endless
    await socket.send({"type": "websocket.accept"})
    await socket.answer()
    socket.cancel(error)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(socket.answer)
        tasks.start_soon(socket.answer)
    await socket.send({"type": "websocket.send", "text": "late"})
    assert [message["type"] for message in wire.sent] == ["websocket.accept", "websocket.close"]
    assert wire.sent[1]["code"] == code
    assert len(wire.sent[1]["reason"].encode()) <= 123


@pytest.mark.parametrize("last", ["websocket.close", "websocket.http.response.start"])
async def test_a_websocket_that_is_closed_is_not_closed_again(last: str) -> None:
    wire = Wire()
    socket = socket_on(wire)
    await socket.send({"type": last})
    socket.cancel(StoppedError("drain"))
    await socket.answer()
    assert len(wire.sent) == 1


@pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("closed already")])
async def test_a_websocket_whose_client_is_gone_gets_nothing(error: Exception) -> None:
    wire = Wire()
    socket = socket_on(wire)
    socket.cancel(StoppedError("drain"))
    wire.error = error
    await socket.answer()


@pytest.mark.parametrize(
    "message", [{"bytes": b"x" * 11}, {"text": "x" * 11}, {"text": "\u20ac" * 4, "bytes": None}]
)
async def test_a_message_that_is_too_big_closes_the_websocket(message: Message) -> None:
    wire = Wire()
    wire.messages = [{"type": "websocket.receive", **message}] * 2
    socket = socket_on(wire, Rules(limits=TransferLimits(max_message_bytes=10)))
    await socket.send({"type": "websocket.accept"})
    for _ in range(2):
        seen = await socket.receive()
        assert (seen["type"], seen["code"]) == ("websocket.disconnect", 1009)
    await socket.send({"type": "websocket.send", "text": "late"})
    assert [each["type"] for each in wire.sent] == ["websocket.accept", "websocket.close"]
    assert wire.sent[1]["code"] == socket.close_code == 1009
    assert socket.is_complete


@pytest.mark.parametrize("message", [{"bytes": b"x" * 10}, {"text": "\u20ac" * 3}, {}])
async def test_the_largest_message_comes_as_it_was_sent(message: Message) -> None:
    wire = Wire()
    wire.messages = [{"type": "websocket.receive", **message}]
    socket = socket_on(wire, Rules(limits=TransferLimits(max_message_bytes=10)))
    assert await socket.receive() is wire.messages[0]
