"""One exchange alone, on a server's end that a test holds."""

from __future__ import annotations

import math
from dataclasses import replace

import anyio

from postfacta_core.asgi._exchange import HttpExchange
from postfacta_core.asgi._kernel import Kernel
from postfacta_core.asgi._rules import Rules
from postfacta_core.asgi._types import Message, Receive, Scope, Send
from postfacta_core.context import RequestContext
from postfacta_core.deadlines.requests import RunningRequests

SCOPE: Scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
START: Message = {"type": "http.response.start", "status": 200, "headers": []}
DISCONNECT: Message = {"type": "http.disconnect"}


class Wire:
    """The server's end: what it has received, and what it is sent."""

    def __init__(self, *messages: Message) -> None:
        self.coming = list(messages)
        self.sent: list[Message] = []
        self.more = anyio.Event()
        self.pause = 0.0
        self.error: Exception | None = None

    def arrive(self, *messages: Message) -> None:
        self.coming += messages
        self.more.set()
        self.more = anyio.Event()

    async def receive(self) -> Message:
        while not self.coming:
            await self.more.wait()
        return self.coming.pop(0)

    async def send(self, message: Message) -> None:
        await anyio.sleep(self.pause)
        if self.error is not None:
            raise self.error
        self.sent.append(message)

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.sent if message["type"] == "http.response.body"]


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Stand for the application."""


def make(
    scope: Scope, receive: Receive, send: Send, *, stream_timeout: float = math.inf
) -> HttpExchange:
    kernel, rules = (
        Kernel(nothing, requests=RunningRequests()),
        Rules(stream_timeout=stream_timeout),
    )
    return HttpExchange(kernel, rules, RequestContext("request-id", 1000.0), scope, receive, send)


def exchange_on(
    wire: Wire, *, stream_timeout: float = math.inf, cancels: bool = False
) -> HttpExchange:
    exchange = make(SCOPE, wire.receive, wire.send, stream_timeout=stream_timeout)
    exchange.rules = replace(exchange.rules, cancels=cancels)
    exchange.request.deadline = 1030.0
    return exchange


def body(piece: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": piece, "more_body": more}


def part(piece: bytes, *, more: bool) -> Message:
    return {"type": "http.request", "body": piece, "more_body": more}
