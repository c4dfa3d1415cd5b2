"""An application with short limits for `test_slow_clients`.

It reads bodies, streams, and says how many bodies it began to read and how many streams go on.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from postfacta_adapters.uvicorn import bounded
from postfacta_core.asgi import HardenOptions, harden
from postfacta_core.asgi._types import Receive, Scope, Send
from postfacta_core.deadlines._limits import TransferLimits
from postfacta_core.drain._course import DrainLimits

LIMITS = TransferLimits(
    max_body_bytes=100_000, body_idle_timeout=5, body_grace=2, min_body_rate=1000, write_timeout=2
)
Http = bounded(4096, patience=5.0)
CHUNK = b"x" * 65_536
CHUNKS = 800  # 50 MB

running: set[object] = set()
begun: list[str] = []  # the paths of bodies that it began to read


async def quick(request: Request) -> Response:
    return PlainTextResponse("ok")


async def read(request: Request) -> Response:
    begun.append(request.url.path)
    return PlainTextResponse(str(len(await request.body())))


async def state(request: Request) -> Response:
    return PlainTextResponse(json.dumps({"streams": len(running), "bodies": len(begun)}))


class Stream:
    """Sends 50 MB, and is counted while it does."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        token = object()
        running.add(token)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            async for message in self._messages():
                await send({"type": "http.response.body", "body": message, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            running.discard(token)

    async def _messages(self) -> AsyncIterator[bytes]:
        for _ in range(CHUNKS):
            yield CHUNK


routes = [
    Route("/quick", quick),
    Route("/read", read, methods=["POST"]),
    Route("/state", state),
    Route("/stream", Stream()),
]
# How it stops is no matter here.
policy = HardenOptions(
    limits=LIMITS, drain=DrainLimits(drain_delay=0, drain_timeout=1, close_timeout=1)
)
app = harden(Starlette(routes=routes), service="slow", options=policy)
