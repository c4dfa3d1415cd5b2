"""A cookie that this Python's parser reads in quadratic time is refused; all others pass."""

from __future__ import annotations

import logging
from http import cookies
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from postfacta_core.asgi import harden
from postfacta_core.asgi._cookies import IS_SLOW, SLOW_COOKIES_WARNING, are_costly
from postfacta_core.testing import call_asgi
from tests.kit.every import every
from tests.kit.growth import grows_faster
from tests.kit.lifespan import running

LARGEST = b'a="' + b"\\" * 31_000 + b'"'
HONEST = (
    b"session=4f2a; theme=dark",
    b'quoted="plain text"',
    b'json="{\\"a\\":\\"b\\"}"',
    b"unquoted=" + b"\\" * 5000,
    b'a="' + b"\\\\" * 50 + b'"',
)


def service() -> Any:
    async def page(request: Request) -> JSONResponse:
        return JSONResponse({"cookies": len(request.cookies)})

    return harden(Starlette(routes=[Route("/", page)]), service="billing")


def test_a_quoted_cookie_full_of_backslashes_is_costly() -> None:
    assert are_costly([(b"host", b"a"), (b"cookie", b"first=1"), (b"cookie", LARGEST)])


def test_an_honest_cookie_is_not_costly() -> None:
    with every() as case:
        for value in HONEST:
            with case(value):
                assert not are_costly([(b"cookie", value)])


def test_only_cookies_are_looked_at() -> None:
    assert not are_costly([(b"x-quoted", LARGEST)])


def test_the_slow_parser_is_recognised_by_what_it_does() -> None:
    def parse(text: str) -> None:
        cookies._unquote(text)  # pyright: ignore[reportPrivateUsage] # noqa: SLF001 - what Starlette calls

    # Noise in the shorter input hides a quadratic cost, and nothing else does.
    looks = (grows_faster(parse, lambda size: '"' + "\\" * size + '"') for _ in range(5))
    assert any(looks) == IS_SLOW


async def test_what_the_parser_would_take_seconds_for_is_refused_where_it_does() -> None:
    app = service()
    async with running(app):
        answer = await call_asgi(app, headers=[("cookie", LARGEST.decode())])
        after = await call_asgi(app, headers=[("cookie", HONEST[0].decode())])
    assert answer.status == (431 if IS_SLOW else 200)
    assert after.json() == {"cookies": 2}


async def test_a_service_on_a_slow_python_says_so_at_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        async with running(service()):
            pass
    assert (SLOW_COOKIES_WARNING in caplog.text) == IS_SLOW
