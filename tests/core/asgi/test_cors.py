"""A browser may read each answer, and only where that is allowed."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from postfacta_core.asgi import Cors, HardenOptions, harden
from postfacta_core.asgi._problem import Problem
from postfacta_core.asgi._types import Message, Receive, Scope, Send
from postfacta_core.asgi.stack import Hardened
from postfacta_core.deadlines._limits import TransferLimits
from postfacta_core.testing import call_asgi
from postfacta_core.testing.asgi import AsgiResponse
from tests.kit.alone import WithCors
from tests.kit.every import every

LISTED, FOREIGN = "https://console.example.org", "https://evil.example.net"


async def hello(request: Request) -> Response:
    return PlainTextResponse("hello", headers={"Vary": "Accept"})


async def crash(request: Request) -> Response:
    raise LookupError


def hardened(cors: Cors | None = None, *, inner: bool = False, **policy: Any) -> Hardened:
    own = [Middleware(CORSMiddleware, allow_origins=[FOREIGN])] if inner else []
    app = Starlette(routes=[Route("/", hello), Route("/crash", crash)], middleware=own)
    return harden(
        app,
        service="web",
        options=HardenOptions(cors=cors or Cors(allow_origins=[LISTED]), **policy),
    )


def told(response: AsgiResponse) -> dict[str, str]:
    return {
        name.decode().removeprefix("access-control-"): value.decode()
        for name, value in response.headers
        if name.startswith(b"access-control-")
    }


def vary(response: AsgiResponse) -> list[bytes]:
    return [value for name, value in response.headers if name == b"vary"]


async def preflight(
    app: Hardened, origin: str, method: str = "POST", headers: str = ""
) -> AsgiResponse:
    asked = [("origin", origin), ("access-control-request-method", method)]
    return await call_asgi(
        app,
        "OPTIONS",
        headers=[*asked, *([("access-control-request-headers", headers)] if headers else [])],
    )


async def test_each_answer_and_refusal_can_be_read() -> None:
    cases: list[tuple[dict[str, Any], dict[str, Any], int]] = [
        ({}, {}, 200),
        ({}, {"path": "/nowhere"}, 404),
        ({}, {"path": "/crash"}, 500),
        ({}, {"headers": [("x-request-timeout", "0")]}, 504),
        ({"rate_limits": ["1/minute per client"]}, {}, 429),
        (
            {"limits": TransferLimits(max_body_bytes=1)},
            {"method": "POST", "headers": [("content-length", "9")]},
            413,
        ),
        ({"limits": TransferLimits(max_header_bytes=1)}, {}, 431),
    ]
    with every() as case:
        for options, request_, status in cases:
            with case(options, request_, status):
                app = hardened(**options)
                await call_asgi(app)
                asked: dict[str, Any] = {
                    **request_,
                    "headers": [("origin", LISTED), *request_.get("headers", ())],
                }
                response = await call_asgi(app, **asked, raise_errors=False)
                assert (response.status, told(response)["allow-origin"]) == (status, LISTED)
                assert told(response)["expose-headers"].startswith("Retry-After, X-Request-ID")
                assert b"Origin" in vary(response)


async def test_another_origin_or_none_gets_nothing_but_vary() -> None:
    for headers in ([("origin", FOREIGN)], []):
        response = await call_asgi(hardened(), headers=headers)
        assert (response.status, told(response), vary(response)) == (
            200,
            {},
            [b"Accept", b"Origin"],
        )


@pytest.mark.parametrize(
    ("cors", "allowed"),
    [
        (Cors(allow_origins=["*"]), {"allow-origin": "*"}),
        (
            Cors(allow_origins=[FOREIGN], allow_credentials=True, expose_headers=["ETag"]),
            {"allow-origin": FOREIGN, "allow-credentials": "true"},
        ),
        (Cors(), {}),
    ],
    ids=str,
)
async def test_an_allowed_origin_gets_the_headers(cors: Cors, allowed: dict[str, str]) -> None:
    response = await call_asgi(hardened(cors), headers=[("origin", FOREIGN)])
    has = told(response)
    exposed = has.pop("expose-headers", "")
    assert has == allowed
    assert ("ETag" in exposed) is bool(cors.expose_headers)
    assert (b"Origin" in vary(response)) is (cors.allow_origins != ["*"])


async def test_what_an_application_inside_decides_is_replaced() -> None:
    app = hardened(inner=True)
    assert told(await call_asgi(app, headers=[("origin", FOREIGN)])) == {}
    assert told(await call_asgi(app, headers=[("origin", LISTED)]))["allow-origin"] == LISTED


async def test_without_a_setting_the_application_decides() -> None:
    app = harden(
        Starlette(
            routes=[Route("/", hello)],
            middleware=[Middleware(CORSMiddleware, allow_origins=[FOREIGN])],
        ),
        service="web",
    )
    assert told(await call_asgi(app, headers=[("origin", FOREIGN)])) == {"allow-origin": FOREIGN}
    assert (await preflight_of_starlette(app)).status == 200


async def preflight_of_starlette(app: Hardened) -> AsgiResponse:
    return await preflight(app, FOREIGN, "GET")


async def test_a_preflight_is_granted_with_the_security_headers() -> None:
    cors = Cors(
        allow_origins=[LISTED], allow_methods=["PUT"], allow_headers=["If-Match"], max_age=60
    )
    response = await preflight(hardened(cors), LISTED, "PUT", "if-match, Content-Type")
    assert response.status == 200
    has = told(response)
    assert (has["allow-origin"], has["allow-methods"], has["max-age"]) == (LISTED, "PUT", "60")
    assert "If-Match" in has["allow-headers"]
    assert response.header("x-content-type-options") == "nosniff"
    assert response.scope["postfacta.request"].route == "_prerouting"


@pytest.mark.parametrize("credentials", [False, True])
async def test_a_star_for_headers_names_those_that_were_asked_for(*, credentials: bool) -> None:
    cors = Cors(allow_origins=[LISTED], allow_headers=["*"], allow_credentials=credentials)
    response = await preflight(hardened(cors), LISTED, "POST", "X-B, x-a")
    assert (response.status, told(response)["allow-headers"]) == (200, "x-a, x-b")
    assert (await preflight(hardened(cors), LISTED)).status == 200


@pytest.mark.parametrize(
    ("origin", "method", "headers", "why"),
    [
        (FOREIGN, "POST", "", "origin"),
        (LISTED, "TRACE", "", "method"),
        (LISTED, "POST", "x-admin", "headers"),
        ("null", "PUT", "x-admin", "origin, method, headers"),
    ],
)
async def test_another_preflight_is_refused_with_the_reason(
    origin: str, method: str, headers: str, why: str
) -> None:
    response = await preflight(hardened(), origin, method, headers)
    assert (response.status, response.json()["code"]) == (400, "cors")
    assert response.json()["detail"].endswith(why)


async def test_a_plain_options_request_reaches_the_application() -> None:
    assert (await call_asgi(hardened(), "OPTIONS", headers=[("origin", LISTED)])).status == 405
    assert (await call_asgi(hardened(), "OPTIONS")).status == 405


async def test_a_refused_preflight_has_the_applications_shape() -> None:
    def render(problem: Problem, scope: Scope) -> tuple[str, bytes]:
        return "text/plain", problem.code.encode()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    alone = WithCors(app, Cors(), render=render)
    asked = [("origin", LISTED), ("access-control-request-method", "GET")]
    assert (await call_asgi(alone, "OPTIONS", headers=asked)).body == b"cors"


async def test_other_connections_pass() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        raise AssertionError

    await WithCors(app, Cors())({"type": "websocket", "path": "/", "headers": []}, receive, send)
    assert seen == ["websocket"]


def test_a_wrong_setting_is_refused_by_name() -> None:
    cases: list[dict[str, Any]] = [
        {"allow_origins": LISTED},
        {"allow_origins": [f"{LISTED}/"]},
        {"allow_origins": ["console.example.org"]},
        {"allow_origins": ["https://*.example.org"]},
        {"allow_origins": ["*"], "allow_credentials": True},
        {"allow_origins": ["null"], "allow_credentials": True},
        {"allow_methods": ["GET, POST"]},
        {"allow_headers": ["X\r\nY"]},
        {"expose_headers": [""]},
        {"max_age": -1},
    ]
    with every() as case:
        for wrong in cases:
            with case(wrong), pytest.raises(ValueError, match=r"^Cors"):
                Cors(**wrong)
