"""An application with short limits for `test_deadlines`: its handlers write down how they ended.

Environment: `DEADLINES_LOG` names the file for that.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from postfacta_core.asgi import HardenOptions, RouteOptions, harden
from postfacta_core.drain._course import DrainLimits

LIMIT = 0.5

lost = anyio.Event()


def note(line: str) -> None:
    """Append a line that no other process can break."""
    with Path(os.environ["DEADLINES_LOG"]).open("a", encoding="ascii") as file:
        file.write(f"{line}\n")


async def quick(request: Request) -> Response:
    return PlainTextResponse(f"{os.getpid()}")


async def slow(request: Request) -> Response:
    try:
        await anyio.sleep(20)
    finally:
        note(f"ended {request.url.path}")
    return PlainTextResponse("late")


def thread(request: Request) -> Response:
    let_go, end = Path(os.environ["DEADLINES_LOG"]).with_name("go"), time.monotonic() + 60
    while not let_go.exists() and time.monotonic() < end:
        time.sleep(0.05)  # noqa: TID251 - that is what threads are for
    note("ended /thread")
    return PlainTextResponse("late")


class Noted(StreamingResponse):
    """Notes its end: a generator that is left between two pieces ends when it is collected."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            note("ended /stream")


async def stream(request: Request) -> Response:
    async def pieces() -> AsyncGenerator[bytes]:
        while True:
            yield b"piece "
            await anyio.sleep(0.1)

    return Noted(pieces())


async def lose(request: Request) -> Response:
    lost.set()
    return PlainTextResponse("lost")


@asynccontextmanager
async def fragile() -> AsyncGenerator[None]:
    """Stand for a resource whose own task may crash."""

    async def live() -> None:
        await lost.wait()
        raise ConnectionError("the fragile resource is gone")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(live)
        yield
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def solid() -> AsyncGenerator[None]:
    """Stand for one that closes well."""
    yield
    note("closed solid")


routes = [Route(f"/{f.__name__}", f) for f in (quick, slow, thread, stream, lose)]
routes.append(Route("/left", slow))
app = harden(
    Starlette(routes=routes),
    service="deadlines",
    options=HardenOptions(
        request_timeout=LIMIT,
        routes=[RouteOptions(routes=["/left"], request_timeout=20, cancel_on_disconnect=True)],
        drain=DrainLimits(drain_delay=0.3, drain_timeout=0.7, close_timeout=2),
    ),
    resources=[solid(), fragile()],
)
