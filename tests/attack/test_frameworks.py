"""What a framework and the standard library read for a service costs at most as much more as it is longer.

The largest header, path, query and body of each kind reach their parsers before anyone is
authenticated. The cost of a quoted cookie (CVE-2024-7592) was found by these cells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from itertools import count
from typing import Any, Final

import pytest
from fastapi import FastAPI, Request as FastRequest
from litestar import Litestar, Request as LitestarRequest, route
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from postfacta_core.asgi import HardenOptions, harden
from postfacta_core.testing import call_asgi
from tests.kit.every import every
from tests.kit.growth import grows_faster

HEADERS: Final = (
    *(
        "accept",
        "accept-encoding",
        "accept-language",
        "authorization",
        "baggage",
        "content-disposition",
    ),
    *(
        "content-type",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "if-match",
        "if-modified-since",
        "if-none-match",
    ),
    *("if-range", "origin", "range", "referer", "traceparent", "tracestate", "user-agent", "via"),
    *("x-forwarded-for", "x-forwarded-proto", "x-request-id", "x-request-timeout"),
)
# Separators, openings that are never closed, and what escapes.
PUMPS: Final = ("a", "\\", '\\"', "a=b; ", ",", " ", "=", "%41", "(", "0-1,", "/")
# A request costs as much as some 500 characters; all headers together have 32 kB, above which they
# are refused.
LOOKS: Final = ((512, 2), (3072, 5))
# Litestar keeps what it has parsed, so no text is sent twice.
NUMBERS: Final = count()
BODIES: Final = {
    "application/x-www-form-urlencoded": ("a", "&", "=", "a=b&", "%41", "+", ";"),
    "multipart/form-data; boundary=b": (
        "--b\r\n",
        "\r\n",
        "--",
        "--b\r\nContent-Disposition: form-data; name=a\r\n\r\n",
    ),
    "application/json": ("[", '{"a":', '"', "\\", "1e", " ", "[1,"),
    "text/plain": ("a", "\r\n"),
}


def of_starlette() -> Any:
    async def read(request: Request) -> JSONResponse:
        form = await request.form() if "form" in request.headers.get("content-type", "") else None
        parts = (
            request.cookies,
            request.query_params,
            request.url.path,
            form,
            await request.body(),
        )
        return JSONResponse([len(part) for part in parts if part is not None])

    return Starlette(routes=[Route("/items/{rest:path}", read, methods=["GET", "POST"])])


def of_fastapi() -> Any:
    api = FastAPI()

    @api.api_route("/items/{rest:path}", methods=["GET", "POST"])
    async def read(rest: str, request: FastRequest) -> list[int]:
        form = await request.form() if "form" in request.headers.get("content-type", "") else None
        parts = (request.cookies, request.query_params, rest, form, await request.body())
        return [len(part) for part in parts if part is not None]

    return api


def of_litestar() -> Any:
    @route("/items/{rest:path}", http_method=["GET", "POST"])
    async def read(request: LitestarRequest[Any, Any, Any]) -> list[int]:
        form: Any = (
            await request.form() if "form" in request.headers.get("content-type", "") else {}
        )
        parts = (
            request.cookies,
            request.query_params,
            request.url.path,
            form,
            await request.body(),
        )
        return [len(part) for part in parts]

    return Litestar([read], openapi_config=None)


FRAMEWORKS: Final[dict[str, Callable[[], Any]]] = {
    "starlette": of_starlette,
    "fastapi": of_fastapi,
    "litestar": of_litestar,
}
Send = Callable[..., object]


@pytest.fixture(params=list(FRAMEWORKS))
def send(request: pytest.FixtureRequest) -> Generator[Send]:
    """Send a request to a hardened application of the framework, and wait for its answer."""
    # Shedding measures time, which is no matter here.
    app = harden(FRAMEWORKS[request.param](), service="read", options=HardenOptions(shedding="off"))
    with asyncio.Runner() as runner:
        yield lambda *line, **parts: runner.run(call_asgi(app, *line, raise_errors=False, **parts))


def _costs(case: Any, name: str, pump: str, sender: Callable[[str], object]) -> None:
    def unique(text: str) -> object:
        return sender(f"{next(NUMBERS)}{text}")

    with case(f"{name} {pump!r}"):
        assert not grows_faster(unique, lambda size: pump * (size // len(pump)), LOOKS)


def test_a_long_header_costs_what_its_length_does(send: Send) -> None:
    with every() as case:
        for name in HEADERS:

            def ask(text: str, name: str = name) -> object:
                return send(path="/items/a", headers=[(name, text)])

            for pump in PUMPS:
                _costs(case, name, pump, ask)


def test_a_long_quoted_cookie_costs_what_its_length_does(send: Send) -> None:
    def quoted(text: str) -> object:
        return send(path="/items/a", headers=[("cookie", f'a="{text}"')])

    with every() as case:
        for pump in PUMPS:
            _costs(case, "cookie", pump, quoted)


def test_a_long_path_or_query_costs_what_its_length_does(send: Send) -> None:
    with every() as case:
        for pump in PUMPS:
            _costs(case, "path", pump, lambda text: send(path=f"/items/{text}"))
            _costs(case, "query", pump, lambda text: send(path="/items/a", query=text))


def test_a_long_body_costs_what_its_length_does(send: Send) -> None:
    with every() as case:
        for kind, pumps in BODIES.items():
            for pump in pumps:

                def post(text: str, kind: str = kind) -> object:
                    return send(
                        "POST", "/items/a", headers=[("content-type", kind)], body=text.encode()
                    )

                _costs(case, kind, pump, post)
