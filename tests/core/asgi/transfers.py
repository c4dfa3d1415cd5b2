"""What the tests of transfers share: applications that read a body, and how they crash."""

from __future__ import annotations

from typing import Any

import anyio
from fastapi import FastAPI, Request as FastAPIRequest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from postfacta_core.asgi._types import ASGIApp, Receive, Scope, Send
from postfacta_core.deadlines._limits import TransferLimits
from postfacta_core.testing import call_asgi
from postfacta_core.testing.asgi import AsgiResponse
from tests.kit.alone import WithTransfer

__all__ = [
    "CRASHES",
    "LIMITS",
    "REACTIONS",
    "ClientDisconnect",
    "fastapi_app",
    "kinds",
    "length",
    "post",
    "reading_crash",
    "starlette_app",
    "whole",
]

LIMITS = TransferLimits(max_body_bytes=10, max_header_bytes=500)


async def length(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the length of the body; with -1 if the client left."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            size = -1
            break
        size, more = size + len(message["body"]), message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


def starlette_app() -> ASGIApp:
    async def body(request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    async def json(request: Request) -> Response:
        return PlainTextResponse(str(await request.json()))

    return Starlette(routes=[Route(f"/{f.__name__}", f, methods=["POST"]) for f in (body, json)])


def fastapi_app() -> ASGIApp:
    def json(item: dict[str, int]) -> int:
        return len(item)

    async def body(request: FastAPIRequest) -> int:
        return len(await request.body())

    app = FastAPI()
    for endpoint in (json, body):
        app.add_api_route(f"/{endpoint.__name__}", endpoint, methods=["POST"])
    return app


async def post(app: ASGIApp, *chunks: bytes, path: str = "/", headers: Any = ()) -> AsgiResponse:
    # Applications here wait for a disconnect that comes of a refusal.
    with anyio.fail_after(20):
        return await call_asgi(
            WithTransfer(app, LIMITS), "POST", path, headers=headers, body=list(chunks)
        )


def kinds(response: AsgiResponse) -> list[str]:
    return [message["type"].removeprefix("http.response.") for message in response.messages]


def whole(response: AsgiResponse) -> bool:
    """Return whether exactly one response was sent, to its end; the end may be an empty message."""
    start, *bodies = kinds(response)
    ends = [not message.get("more_body", False) for message in response.messages[1:]]
    length = response.header("content-length") or str(len(response.body))
    return (
        start == "start"
        and set(bodies) == {"body"}
        and ends.index(True) == len(ends) - 1
        and len(response.body) == int(length)
    )


def reading_crash(error: Exception) -> ASGIApp:
    """Read the body whatever it is, then raise."""

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body", False):
            pass
        raise error

    return broken


class ClientDisconnect(Exception):  # noqa: N818 - Starlette's name
    """What frameworks raise."""


REACTIONS = [
    OSError("gone"),
    ClientDisconnect(),
    ExceptionGroup("both", [ConnectionResetError(), ExceptionGroup("inner", [ClientDisconnect()])]),
]
CRASHES = [RuntimeError("a crash"), ExceptionGroup("both", [OSError(), RuntimeError("a crash")])]
