"""What the tests of deadlines share: a service whose requests take a given time, and its log."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from postfacta_core.asgi import HardenOptions
from postfacta_core.asgi._types import ASGIApp, Receive, Scope, Send
from postfacta_core.deadlines.requests import RunningRequests
from postfacta_core.events import DeadlineExceeded
from postfacta_core.telemetry.exchange import Recorder
from postfacta_core.testing import RecordingObserver, call_asgi
from postfacta_core.testing.asgi import AsgiResponse
from tests.core.virtual import loop_clock
from tests.kit.alone import WithDeadline

__all__ = ["LATE", "Log", "Service", "asgi", "sleeping"]

# What is promised is 0.1; the rest is for a machine that does more than this.
LATE = 0.4


class Log(list[str]):
    """What the handlers wrote down."""


class Service:
    """An application below its deadlines, on the time of its loop."""

    def __init__(self, app: ASGIApp, *, recorders: Sequence[Recorder] = (), **options: Any) -> None:
        self.observer = RecordingObserver()
        clock = loop_clock()
        self.running = RunningRequests(observer=self.observer, clock=clock)
        limits = HardenOptions(**options)
        parts: dict[str, Any] = {"observer": self.observer, "recorders": recorders, "answers": True}
        self.app = WithDeadline(app, self.running, limits, **parts)

    @asynccontextmanager
    async def running_now(self) -> AsyncGenerator[None]:
        with anyio.fail_after(30):
            async with self.running:
                yield

    async def get(self, path: str, **options: Any) -> AsgiResponse:
        return await call_asgi(self.app, "GET", path, **options)

    @property
    def stages(self) -> list[str]:
        return [event.stage for event in self.observer.of(DeadlineExceeded)]


def asgi(handler: Callable[[Request], Awaitable[Response]]) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await handler(Request(scope, receive))
        await response(scope, receive, send)

    return app


def sleeping(log: Log, seconds: float = 20.0) -> ASGIApp:
    async def sleep(request: Request) -> Response:
        log.append("began")
        try:
            await anyio.sleep(seconds)
        finally:
            log.append("ended")
        return PlainTextResponse("slept")

    return asgi(sleep)
