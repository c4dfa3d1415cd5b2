"""The application that the drain harness stops: it writes down when each of its parts began and ended.

Environment: `DRAIN_JOURNAL` names the file for that; `DRAIN_PLAIN` leaves the library out, to show the difference;
`DRAIN_DELAY`, `DRAIN_TIMEOUT` and `DRAIN_CLOSE` are the limits; `DRAIN_STARTUP` makes the startup slow.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from postfacta_core.asgi import Hardened, HardenOptions, harden
from postfacta_core.asgi._types import ASGIApp, Receive, Scope, Send
from postfacta_core.drain._course import DrainLimits

__all__ = ["app"]

PARTS = 8


def note(event: str, **more: object) -> None:
    """Append a line that no other process can break."""
    line = json.dumps({"event": event, "pid": os.getpid(), "at": time.monotonic(), **more}) + "\n"
    descriptor = os.open(os.environ["DRAIN_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def seconds(variable: str, default: float) -> float:
    return float(os.environ.get(variable, default))


async def quick(request: Request) -> Response:
    return PlainTextResponse("quick\n")


async def slow(request: Request) -> Response:
    await anyio.sleep(float(request.query_params.get("seconds", "2")))
    return PlainTextResponse("slow\n")


async def stream(request: Request) -> Response:
    pause = float(request.query_params.get("seconds", "2")) / PARTS

    async def parts() -> AsyncGenerator[str]:
        for number in range(PARTS):
            await anyio.sleep(pause)
            yield f"part {number}\n"

    return StreamingResponse(parts(), media_type="text/plain")


async def forever(request: Request) -> Response:
    await anyio.sleep_forever()
    raise AssertionError


async def events(request: Request) -> Response:
    async def endless() -> AsyncGenerator[str]:
        while True:
            yield f"data: {time.monotonic()}\n\n"
            await anyio.sleep(0.2)

    return StreamingResponse(endless(), media_type="text/event-stream")


async def block(request: Request) -> Response:
    """Block the event loop, as code that waits without await does."""
    time.sleep(float(request.query_params["seconds"]))  # noqa: TID251, ASYNC251 - that is the fault to show
    return PlainTextResponse("blocked\n")


async def pid(request: Request) -> Response:
    return PlainTextResponse(f"{os.getpid()}\n")


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


@asynccontextmanager
async def lifespan(starlette: Starlette) -> AsyncGenerator[None]:
    note("startup-begin")
    await anyio.sleep(seconds("DRAIN_STARTUP", 0))
    # The lifecycle is entered before this, and has chosen by now.
    note("startup", mechanism=app.lifecycle.mechanism if isinstance(app, Hardened) else "")
    yield
    note("shutdown-begin")
    await anyio.sleep(0.05)  # what closes takes its time: nothing of it may overlap a handler
    note("shutdown-end")


@asynccontextmanager
async def resource() -> AsyncGenerator[None]:
    """Stand for what the library opens and closes, such as a database."""
    note("resource-open")
    try:
        yield
    finally:
        note("resource-close")


def journalled(app: ASGIApp) -> ASGIApp:
    """Write down when each handler begins and ends, however it ends."""

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        path = scope["path"]
        note("handler-begin", path=path)
        done = False
        try:
            await app(scope, receive, send)
            done = True
        finally:
            note("handler-end", path=path, done=done)

    return middleware


def build() -> ASGIApp:
    routes = [
        Route("/", quick),
        # The library answers these two itself; without it, they are what such a service would have.
        Route("/healthz/ready", quick),
        Route("/healthz/live", quick),
        Route("/slow", slow),
        Route("/stream", stream),
        Route("/forever", forever),
        Route("/sse", events),
        Route("/block", block),
        Route("/pid", pid),
        WebSocketRoute("/ws", echo),
    ]
    inner = journalled(Starlette(routes=routes, lifespan=lifespan))
    if "DRAIN_PLAIN" in os.environ:
        return inner
    limits = DrainLimits(
        drain_delay=seconds("DRAIN_DELAY", 2),
        drain_timeout=seconds("DRAIN_TIMEOUT", 5),
        close_timeout=seconds("DRAIN_CLOSE", 2),
    )
    return harden(inner, service="drain", options=HardenOptions(drain=limits), resources=[resource()])


app = build()
