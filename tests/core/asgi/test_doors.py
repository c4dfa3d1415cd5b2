"""Doors answer on their own paths, and let all else through."""

from __future__ import annotations

from postfacta_core.asgi._doors import Doors
from postfacta_core.asgi._problem import send_whole
from postfacta_core.asgi._types import Receive, Scope, Send
from postfacta_core.testing import call_asgi


async def _application(scope: Scope, receive: Receive, send: Send) -> None:
    await send_whole(scope, send, 200, b"text/plain", scope["type"].encode())


async def _probe(scope: Scope, send: Send) -> None:
    await send_whole(scope, send, 200, b"text/plain", b"live")


async def test_a_door_answers_on_its_own_path_alone() -> None:
    app = Doors(_application, {"/live": _probe})
    assert (await call_asgi(app, "GET", "/live")).body == b"live"
    assert (await call_asgi(app, "GET", "/live/")).body == b"http"


async def test_a_door_is_below_the_root_path() -> None:
    doors = Doors(_application, {"/live": _probe})

    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        await doors({**scope, "root_path": "/api"}, receive, send)

    assert (await call_asgi(mounted, "GET", "/api/live")).body == b"live"
    assert (await call_asgi(mounted, "GET", "/live")).body == b"live"
