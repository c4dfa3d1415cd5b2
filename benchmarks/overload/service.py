"""The services under test.

Kinds of work, without any framework, bare or behind the library's load shedding.

`OVERLOAD_HANDLER` is `cpu` (burns 5 ms of processor time), `pool` (holds one of 20 slots for 50 ms)
or `nothing` (answers at once, which is what a refusal costs the server at least), and
`OVERLOAD_SHEDDING` is `1` for the middleware with its defaults.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

from postfacta_core.asgi._concurrency import Shedding
from postfacta_core.asgi._kernel import Kernel
from postfacta_core.asgi._types import ASGIApp, Receive, Scope, Send
from postfacta_core.deadlines.requests import RunningRequests
from postfacta_core.limits.overload import OverloadLimiter

__all__ = ["KEY", "app", "build"]

KEY = "bench"
"""The secret with which the generator may say how much its requests matter."""

_BURN = 0.005
_SLOTS = 20
_HOLD = 0.05
_BODY = b'{"ok":true}'
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"11")]


async def _burn() -> None:
    # Processor time and not the wall's: what others do on this core must not make the work less.
    until = time.thread_time() + _BURN
    while time.thread_time() < until:
        pass


async def _nothing() -> None:
    """Do nothing."""


def _hold() -> Callable[[], Awaitable[None]]:
    slots = asyncio.Semaphore(_SLOTS)

    async def hold() -> None:
        async with slots:
            await asyncio.sleep(_HOLD)

    return hold


def build(handler: str, *, shedding: bool) -> ASGIApp:
    """Make one of the services."""
    work = {"cpu": _burn, "pool": _hold(), "nothing": _nothing}[handler]

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        await work()
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await send({"type": "http.response.body", "body": _BODY})

    if not shedding:
        return _alive(serve)
    admission = Shedding(OverloadLimiter("requests", explores=True), key=KEY)
    running = RunningRequests()
    running.on_beat = admission.beat
    return _alive(Kernel(serve, admission=admission), running)


def _alive(inner: ASGIApp, running: RunningRequests | None = None) -> ASGIApp:
    async def service(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await inner(scope, receive, send)
        elif running is None:
            await _lifespan(receive, send)
        else:
            async with running:
                await _lifespan(receive, send)

    return service


async def _lifespan(receive: Receive, send: Send) -> None:
    for phase in ("startup", "shutdown"):
        await receive()
        message: dict[str, Any] = {"type": f"lifespan.{phase}.complete"}
        await send(message)


app = build(
    os.environ.get("OVERLOAD_HANDLER", "cpu"), shedding=os.environ.get("OVERLOAD_SHEDDING") == "1"
)
