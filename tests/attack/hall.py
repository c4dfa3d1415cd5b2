"""A service as a team writes it, hardened, with all that attackers may ask for.

For `test_others.py`.

POSTFACTA_SHEDDING=off uvicorn tests.attack.hall:app
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator

import anyio
import anyio.to_thread
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from postfacta_core import Bulkhead
from postfacta_core.asgi import HardenOptions, harden

__all__ = ["PASSWORD", "app"]

PASSWORD = "correct horse battery staple"  # noqa: S105 - of no one
_LARGE = bytes(8_000_000)
_hasher = PasswordHasher()
_stored = _hasher.hash(PASSWORD)
_known = Bulkhead("hall-known", 1, max_waiting=19, max_wait=3.0, lends=True)
_unknown = Bulkhead("hall-unknown", 2, max_waiting=18, max_wait=3.0, lends=True)


def _is_right(password: str) -> bool:
    try:
        return _hasher.verify(_stored, password)
    except VerifyMismatchError:
        return False


def _hash(password: str) -> str:
    return _hasher.hash(password)


async def _read(request: Request) -> Response:
    await anyio.sleep(0.005)
    return PlainTextResponse("read")


async def _write(request: Request) -> Response:
    await request.body()
    await anyio.sleep(0.01)
    return PlainTextResponse("written")


async def _sign_in(request: Request) -> Response:
    password = (await request.body()).decode()
    bulkhead = _known if "device" in request.cookies else _unknown
    is_right = await bulkhead.call(anyio.to_thread.run_sync, _is_right, password)
    return PlainTextResponse("", 200 if is_right else 401)


async def _register(request: Request) -> Response:
    password = (await request.body()).decode()
    await _unknown.call(anyio.to_thread.run_sync, _hash, password)
    return PlainTextResponse("registered", 201)


async def _large(request: Request) -> Response:
    return Response(_LARGE)


async def _live(request: Request) -> Response:
    async def events() -> AsyncGenerator[bytes]:
        while True:
            yield b"data: 1\n\n"
            await anyio.sleep(1)

    return StreamingResponse(events(), media_type="text/event-stream")


async def _sleep(request: Request) -> Response:
    await anyio.sleep(5)
    return PlainTextResponse("slept")


async def _lobby(websocket: WebSocket) -> None:
    await anyio.sleep(60)
    await websocket.accept()


async def _idle(websocket: WebSocket) -> None:
    await websocket.accept()
    await anyio.sleep(60)


_routes = [
    Route("/read", _read),
    Route("/write", _write, methods=["POST"]),
    Route("/sign-in", _sign_in, methods=["POST"]),
    Route("/register", _register, methods=["POST"]),
    Route("/large", _large),
    Route("/live", _live),
    Route("/sleep", _sleep),
    WebSocketRoute("/lobby", _lobby),
    WebSocketRoute("/idle", _idle),
]
app = harden(
    Starlette(routes=_routes),
    service="hall",
    options=HardenOptions(shedding=os.environ.get("POSTFACTA_SHEDDING", "enforce")),
)
