"""The application that the drain harness stops.

It writes down when each of its parts began and ended.

Environment: `DRAIN_JOURNAL` names the file for that; `DRAIN_PLAIN` leaves the library out, to show
the difference; `DRAIN_DELAY`, `DRAIN_TIMEOUT` and `DRAIN_CLOSE` are the limits; `DRAIN_STARTUP`
makes the startup slow.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from postfacta_core.asgi import HardenOptions, RouteOptions, harden
from postfacta_core.asgi._types import ASGIApp, Receive, Scope, Send
from postfacta_core.asgi.stack import Hardened
from postfacta_core.drain import spawn
from postfacta_core.drain._course import DrainLimits

__all__ = ["app"]

PARTS = 8
PAUSE = 0.1


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


def seconds_of(request: Request) -> float:
    return float(request.query_params.get("seconds", "2"))


async def quick(request: Request) -> Response:
    return PlainTextResponse("quick\n")


async def slow(request: Request) -> Response:
    await anyio.sleep(seconds_of(request))
    return PlainTextResponse("slow\n")


async def stream(request: Request) -> Response:
    pause = seconds_of(request) / PARTS

    async def parts() -> AsyncGenerator[str]:
        for number in range(PARTS):
            await anyio.sleep(pause)
            yield f"part {number}\n"

    return StreamingResponse(parts(), media_type="text/plain")


def paced(request: Request) -> tuple[int, float]:
    """Return the number of pieces, and the pause before each."""
    whole = seconds_of(request)
    return max(1, round(whole / PAUSE)), PAUSE


async def answer(request: Request) -> Response:
    """Answer as a language model does, token by token."""
    number, pause = paced(request)

    async def tokens() -> AsyncGenerator[str]:
        for token in range(number):
            await anyio.sleep(pause)
            yield f"data: {token}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(tokens(), media_type="text/event-stream")


async def lines(request: Request) -> Response:
    number, pause = paced(request)

    async def objects() -> AsyncGenerator[str]:
        for line in range(number):
            await anyio.sleep(pause)
            yield json.dumps({"line": line, "last": line == number - 1}) + "\n"

    return StreamingResponse(objects(), media_type="application/x-ndjson")


async def tail(request: Request) -> Response:
    async def objects() -> AsyncGenerator[str]:
        while True:
            yield json.dumps({"at": time.monotonic()}) + "\n"
            await anyio.sleep(PAUSE)

    return StreamingResponse(objects(), media_type="application/x-ndjson")


async def download(request: Request) -> Response:
    """Send a file of known length at the pace of a slow disk."""
    number, pause = paced(request)
    part, last = "the next part\n", "the last part\n"

    async def parts() -> AsyncGenerator[str]:
        for _ in range(number - 1):
            await anyio.sleep(pause)
            yield part
        await anyio.sleep(pause)
        yield last

    length = len(part) * (number - 1) + len(last)
    return StreamingResponse(
        parts(), media_type="text/plain", headers={"content-length": str(length)}
    )


class Deaf:
    """An endpoint that never looks whether its client is still there."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(PARTS):
            await send(
                {"type": "http.response.body", "body": b"part %d\n" % number, "more_body": True}
            )
            await anyio.sleep(2 * PAUSE)
        await send({"type": "http.response.body", "body": b"last"})


async def forever(request: Request) -> Response:
    await anyio.sleep_forever()
    raise AssertionError


async def events(request: Request) -> Response:
    async def endless() -> AsyncGenerator[str]:
        while True:
            yield f"data: {time.monotonic()}\n\n"
            await anyio.sleep(0.2)

    return StreamingResponse(endless(), media_type="text/event-stream")


async def halves(request: Request) -> Response:
    async def parts() -> AsyncGenerator[str]:
        while True:
            yield "data: the first half, "
            await anyio.sleep(4 * PAUSE)
            yield "the second half\n\n"

    return StreamingResponse(parts(), media_type="text/event-stream")


async def block(request: Request) -> Response:
    """Block the event loop, as code that waits without await does."""
    time.sleep(float(request.query_params["seconds"]))  # noqa: TID251, ASYNC251 - that is the fault to show
    return PlainTextResponse("blocked\n")


async def worked(seconds: float) -> None:
    note("work-begin")
    await anyio.sleep(seconds)
    note("work-end")


async def task(request: Request) -> Response:
    """Leave a task behind, as applications do without the library."""
    _tasks.append(asyncio.get_running_loop().create_task(worked(seconds_of(request))))
    return PlainTextResponse("begun\n", status_code=202)


async def work(request: Request) -> Response:
    spawn(worked(seconds_of(request)))
    return PlainTextResponse("begun\n", status_code=202)


async def mail(request: Request) -> Response:
    """Do the same from a handler in a thread."""
    await anyio.to_thread.run_sync(lambda: spawn(worked(seconds_of(request))))
    return PlainTextResponse("begun\n", status_code=202)


_tasks: list[asyncio.Task[None]] = []


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
        Route("/sse", events, methods=["GET", "POST"]),
        Route("/answer", answer, methods=["POST"]),
        Route("/deaf", Deaf()),
        Route("/halves", halves),
        Route("/soon", forever),
        Route("/resumed", events, methods=["POST"]),
        Route("/cut", events),
        Route("/lines", lines),
        Route("/tail", tail),
        Route("/download", download),
        Route("/block", block),
        Route("/pid", pid),
        Route("/task", task),
        Route("/work", task if "DRAIN_PLAIN" in os.environ else work),
        Route("/mail", mail),
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
    own = [
        RouteOptions(routes=["/soon"], drain_timeout=0.5),
        RouteOptions(routes=["/resumed"], drain="farewell"),
        RouteOptions(routes=["/cut"], drain="cut"),
    ]
    options = HardenOptions(drain=limits, routes=own)
    return harden(inner, service="drain", options=options, resources=[resource()])


app = build()
