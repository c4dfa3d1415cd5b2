"""What the tests of telemetry share: what is kept of an exchange."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from postfacta_core.asgi._types import ASGIApp, Receive, Scope, Send
from postfacta_core.telemetry.exchange import Exchange, Recorder
from postfacta_core.testing import call_asgi
from tests.kit.alone import WithTelemetry

__all__ = [
    "APP",
    "ROUTES",
    "Boom",
    "CopyingMiddleware",
    "Kept",
    "crash",
    "crash_after",
    "crash_midway",
    "files",
    "hello",
    "observe",
    "read",
]


class Kept(Recorder):
    """A recorder that keeps its calls, and the state of the exchange at each."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.exchanges: list[Exchange] = []
        self.errors: list[Exception | None] = []

    def begin(self, exchange: Exchange, /) -> None:
        self.told.append("begin")

    def answered(self, exchange: Exchange, /) -> None:
        self.told.append("answered")

    def end(self, exchange: Exchange, /) -> None:
        self.told.append("end")
        self.exchanges.append(exchange)
        self.errors.append(exchange.error)

    @property
    def only(self) -> Exchange:
        assert self.told == ["begin", "answered", "end"]
        return self.exchanges[0]

    @property
    def summary(self) -> tuple[int, str, str]:
        return self.only.status, self.only.route, self.only.error_type


async def observe(
    app: ASGIApp,
    method: str = "GET",
    path: str = "/",
    *,
    parts: Mapping[str, Any] | None = None,
    **options: Any,
) -> Kept:
    """Make a request; `parts` are options of the kernel."""
    kept = Kept()
    await call_asgi(
        WithTelemetry(app, [kept], **(parts or {})),
        method,
        path,
        raise_errors=False,
        **options,
    )
    return kept


class Boom(Exception):  # noqa: N818 - the label is its name
    """A crash."""


async def hello(request: Request) -> Response:
    return PlainTextResponse("hello")


async def crash(request: Request) -> Response:
    raise Boom


async def crash_midway(request: Request) -> Response:
    async def body() -> AsyncGenerator[bytes]:
        yield b"a"
        raise Boom

    return StreamingResponse(body())


async def crash_after(request: Request) -> Response:
    def task() -> None:
        raise Boom

    return PlainTextResponse("all of it", background=BackgroundTask(task))


async def read(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


async def files(scope: Scope, receive: Receive, send: Send) -> None:
    """An application without routes, such as one for static files."""
    await PlainTextResponse("file", 404 if scope["path"].endswith("none") else 200)(
        scope, receive, send
    )


class CopyingMiddleware:
    """Hands on a copy of the scope, as many third-party middlewares do."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(dict(scope), receive, send)


ROUTES = [
    Route("/i/{id}", hello),
    Route("/s/", hello),
    Route("/crash/{id}", crash),
    Route("/midway/{id}", crash_midway),
    Route("/after/{id}", crash_after),
    Route("/read", read, methods=["POST"]),
    Mount("/static", files),
    Mount("/api", routes=[Mount("/in", routes=[Route("/v/{x}", hello), Mount("/static", files)])]),
    Mount(
        "/t/{tenant}",
        routes=[Mount("/u/{user}", routes=[Route("/v/{x}", hello), Mount("/f", files)])],
    ),
]
APP = Starlette(routes=ROUTES)
