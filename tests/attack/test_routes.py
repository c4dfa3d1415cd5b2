"""However a client writes a path.

What reaches the handler of a route has met the options of that route.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import litestar
import pytest
from hypothesis import example, given, strategies as st
from litestar.params import FromPath
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from postfacta_core.asgi import HardenOptions, RouteOptions, harden
from postfacta_core.asgi._types import ASGIApp
from postfacta_core.deadlines import TransferLimits
from postfacta_core.testing import call_asgi

pytestmark = pytest.mark.anyio

FEW, MANY = b"few", b"more than it may send"
PIECES = (
    "/",
    "//",
    "accounts",
    "%61ccounts",
    "ACCOUNTS",
    "7",
    "%2F",
    ".",
    "..",
    "key",
    "k%65y",
    ";v=1",
    "%0a",
    "%00",
    "files",
    "in",
    "?",
)


async def keep(request: Request) -> Response:
    await request.body()
    return Response("kept")


@litestar.post("/accounts/{name:str}/key", status_code=200)
async def account(request: litestar.Request[Any, Any, Any], name: FromPath[str]) -> str:
    await request.body()
    return name


@litestar.post("/files/{rest:path}", status_code=200)
async def file(request: litestar.Request[Any, Any, Any], rest: FromPath[str]) -> str:
    await request.body()
    return rest


@litestar.post("/in/key", status_code=200)
async def inner(request: litestar.Request[Any, Any, Any]) -> str:
    await request.body()
    return "kept"


def hardened(app: Any) -> ASGIApp:
    few = RouteOptions(
        routes=["POST /accounts/{name}/key", "POST /files/{rest:path}", "POST /in/key"],
        limits=TransferLimits(max_body_bytes=len(FEW)),
    )
    return harden(app, service="routes", options=HardenOptions(routes=[few], rate_limits=()))


APPS = {
    "starlette": hardened(
        Starlette(
            routes=[
                Route("/accounts/{name}/key", keep, methods=["POST"]),
                Route("/files/{rest:path}", keep, methods=["POST"]),
                Mount("/in", routes=[Route("/key", keep, methods=["POST"])]),
            ]
        )
    ),
    "litestar": hardened(litestar.Litestar([account, file, inner], openapi_config=None)),
}


async def sent(app: ASGIApp, written: str, body: bytes) -> int:
    raw, _, query = written.partition("?")
    scope = {"raw_path": raw.encode(), "query_string": query.encode()}
    return (await call_asgi(app, "POST", unquote(raw), body=body, scope=scope)).status


@pytest.mark.parametrize("name", APPS)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=8))
@example(pieces=["accounts/7/key"])
@example(pieces=["accounts/7/key/"])
@example(pieces=["accounts/7//key"])
@example(pieces=["/accounts/7/key"])
@example(pieces=["in/key/"])
@example(pieces=["files/a/"])
@example(pieces=["files"])
@example(pieces=["files/"])
async def test_no_way_to_write_a_path_leads_around_its_options(
    name: str, pieces: list[str]
) -> None:
    path = "/" + "".join(pieces)
    if await sent(APPS[name], path, FEW) == 200:
        assert await sent(APPS[name], path, MANY) == 413
