"""Hold an application's lifespan open around a block, as a server does around its requests."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from postfacta_core.asgi._types import ASGIApp, Message

__all__ = ["running"]


@asynccontextmanager
async def running(app: ASGIApp) -> AsyncGenerator[None]:
    """Start the application, and stop it at the end of the block."""
    to_app, at_app = anyio.create_memory_object_stream[Message](1)
    to_server, at_server = anyio.create_memory_object_stream[Message](1)
    with to_app, at_app, to_server, at_server:

        async def live() -> None:
            await app({"type": "lifespan", "state": {}}, at_app.receive, to_server.send)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(live)
            await to_app.send({"type": "lifespan.startup"})
            assert await at_server.receive() == {"type": "lifespan.startup.complete"}
            yield
            await to_app.send({"type": "lifespan.shutdown"})
            assert await at_server.receive() == {"type": "lifespan.shutdown.complete"}
