"""A small service with a hidden queue: `SMALL_SLOTS` at once, each for `SMALL_HOLD` seconds.

With `SMALL_DSN` the slots are the connections of a `Database`, and each request is one statement of
that length. `SMALL_MODE` is `bare`, `ours` (hardened with its defaults) or `cancel` (hardened, and
cancels what its client has left).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from postfacta_core.asgi import ASGIApp, HardenOptions, Message, Receive, Scope, Send, harden
from postfacta_postgres import Database, PoolOptions

__all__ = ["app", "build"]

_BODY: Message = {"type": "http.response.body", "body": b"{}"}
_START: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-length", b"2")],
}
_BUSY: Message = {
    "type": "http.response.start",
    "status": 503,
    "headers": [(b"content-length", b"2")],
}


def _semaphore(slots: int, hold: float) -> Callable[[], Awaitable[object]]:
    free = asyncio.Semaphore(slots)

    async def work() -> None:
        async with free:
            await asyncio.sleep(hold)

    return work


def build(slots: int, hold: float, dsn: str, mode: str) -> ASGIApp:
    """Make the service."""
    database = Database(dsn, options=PoolOptions(max_size=slots)) if dsn else None
    work = _semaphore(slots, hold)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await (
                work() if database is None else database.fetchval("select pg_sleep($1)::text", hold)
            )
        except Exception:  # noqa: BLE001 - a pool that is full, as any service would answer it
            await send(_BUSY)
        else:
            await send(_START)
        await send(_BODY)

    if mode == "bare":
        return _alive(serve, database)
    return harden(
        _alive(serve, None),
        service="small",
        options=HardenOptions(cancel_on_disconnect=mode == "cancel", access_lines=1),
        resources=[database] if database else (),
    )


def _alive(serve: ASGIApp, database: Database | None) -> ASGIApp:
    async def service(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await serve(scope, receive, send)
            return
        async with AsyncExitStack() as stack:
            if database is not None:
                await stack.enter_async_context(database)
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.complete"})

    return service


app = build(
    int(os.environ.get("SMALL_SLOTS", "2")),
    float(os.environ.get("SMALL_HOLD", "0.1")),
    os.environ.get("SMALL_DSN", ""),
    os.environ.get("SMALL_MODE", "ours"),
)
