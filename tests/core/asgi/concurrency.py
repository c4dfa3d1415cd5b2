"""What the tests of admission share.

A middleware that records, requests that are held, and clients.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import anyio

from postfacta_core.asgi._types import ASGIApp, Message, Receive, Scope, Send
from postfacta_core.limits._overload import Ending, OverloadConfig, OverloadLimiter
from postfacta_core.limits._waiting import Admit, Shed, Wait
from tests.kit.alone import WithShedding

__all__ = [
    "ANSWERED",
    "LEFT",
    "LOST",
    "POST",
    "UNKNOWN",
    "UNTIMED",
    "Client",
    "Held",
    "Recording",
    "_receive",
    "_send",
    "_take",
    "answer",
    "echo",
    "full",
    "raising",
]

ANSWERED, LOST, LEFT, UNKNOWN, UNTIMED = Ending


class Recording(OverloadLimiter):
    """Writes down what it learns of requests that end."""

    def __init__(self, limit: int = 1, **options: Any) -> None:
        chosen: dict[str, Any] = {"start": limit, "patience": 5.0, **options}
        super().__init__("requests", OverloadConfig(**chosen))
        self.endings: list[Ending] = []
        self.kinds: list[object] = []
        self.waits: list[float] = []
        self.lags: list[float] = []
        self.beats: list[float] = []
        self.on_arrival: Callable[[], object] = list[int]

    def arrive(
        self,
        priority: int,
        now: float,
        *,
        luck: float = 0.0,
        client_of: Callable[[], Hashable] | None = None,
    ) -> Admit | Wait | Shed:
        decision = super().arrive(priority, now, luck=luck, client_of=client_of)
        self.on_arrival()
        return decision

    def finish(
        self,
        now: float,
        admitted: float,
        ending: Ending = Ending.ANSWERED,
        kind: Hashable = None,
        waited: float = 0.0,
        lag: float = 0.0,
    ) -> None:
        self.endings.append(ending)
        self.kinds.append(kind)
        self.waits.append(waited)
        self.lags.append(lag)
        super().finish(now, admitted, ending, kind, waited, lag)

    def beat(self, now: float, own_share: float = 1.0) -> None:
        self.beats.append(own_share)
        super().beat(now, own_share)


class Held:
    """An application whose requests end when the test says so."""

    def __init__(self) -> None:
        self.begun = 0
        self.go = anyio.Event()
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun += 1
        self.scopes.append(scope)
        await self.go.wait()
        await answer(200)(scope, receive, send)


def answer(status: int, *chunks: bytes) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


def raising(error: Exception) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    return app


def full(app: ASGIApp | None = None, **options: Any) -> WithShedding:
    limiter = Recording(1, patience=1e-6, spare=1e-6)
    limiter.in_flight = 100
    return WithShedding(app or answer(200), limiter, **options)


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(message: Message) -> None:
    """Throw it away."""


class Client:
    """Sends its body and reads when the test says so."""

    def __init__(self, pieces: int = 1) -> None:
        self.gives = anyio.Event()
        self.reads = anyio.Event()
        self.asked = 0
        self._left = pieces

    async def receive(self) -> Message:
        self.asked += 1
        await self.gives.wait()
        if self._left == 0:
            return {"type": "http.disconnect"}
        self._left -= 1
        return {"type": "http.request", "body": b"x", "more_body": self._left > 0}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            await self.reads.wait()


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    await answer(200)(scope, receive, send)


async def _take(receive: Receive) -> None:
    await receive()


POST: Scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
