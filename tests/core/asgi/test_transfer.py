"""What is too large or too slow is refused by what really arrives, whatever was said of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from postfacta_core.asgi import HardenOptions, RouteOptions, harden
from postfacta_core.asgi._problem import Problem
from postfacta_core.asgi._types import ASGIApp, Message, Receive, Scope, Send
from postfacta_core.deadlines._limits import TransferLimits
from postfacta_core.testing import call_asgi
from tests.core.asgi.transfers import (
    CRASHES,
    LIMITS,
    REACTIONS,
    fastapi_app,
    kinds,
    length,
    post,
    reading_crash,
    starlette_app,
    whole,
)
from tests.kit.alone import WithTransfer
from tests.kit.every import every


def _receiving(body: bytes = b"") -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _collecting(sent: list[Message]) -> Send:
    async def send(message: Message) -> None:
        sent.append(message)

    return send


async def test_a_body_up_to_the_limit_reaches_the_application() -> None:
    cases: list[tuple[bytes, ...]] = [(b"x" * 10,), (b"x" * 4, b"x" * 6), (b"",), (b"x" * 10, b"")]
    with every() as case:
        for chunks in cases:
            with case(chunks):
                assert (await post(length, *chunks)).body == str(len(b"".join(chunks))).encode()


async def test_a_body_beyond_it_is_answered_once_with_413() -> None:
    cases: list[tuple[bytes, ...]] = [
        (b"x" * 11,),
        (b"x" * 4, b"x" * 7),
        (b"x" * 10, b"x", b"x" * 20),
    ]
    with every() as case:
        for chunks in cases:
            with case(chunks):
                response = await post(length, *chunks)
                assert (response.status, whole(response)) == (413, True)
                assert response.json()["code"] == "too-large"
                assert response.header("connection") == "close"


async def test_a_declared_length_is_judged_if_it_is_a_number() -> None:
    cases: list[tuple[bytes, bool]] = [
        (b"0", True),
        (b"10", True),
        (b"0000000010", True),
        (b"11", False),
        (b"99999999999999999999", False),
        (b"9" * 5000, False),
        (b"%020d" % 10, True),
        (b"%021d" % 10, False),
        (b"-1", True),
        (b"1e9", True),
        ("\u0661\u0661".encode(), True),
    ]
    limits = TransferLimits(max_header_bytes=10_000, max_body_bytes=10)
    with every() as case:
        for declared, fits in cases:
            with case(declared, fits):
                headers = [("content-length", declared.decode("latin-1"))]
                response = await call_asgi(WithTransfer(length, limits), "POST", headers=headers)
                assert response.status == (200 if fits else 413)


async def test_a_body_of_any_size_is_allowed_by_infinity() -> None:
    limits = TransferLimits(max_header_bytes=math.inf, max_body_bytes=math.inf)  # type: ignore[arg-type] # as the docs say
    headers = [("content-length", str(10**18))]
    assert (await call_asgi(WithTransfer(length, limits), "POST", headers=headers)).status == 200


async def test_a_frameworks_own_reader_adds_nothing_to_the_413() -> None:
    makes: list[Callable[[], ASGIApp]] = [starlette_app, fastapi_app]
    with every() as case:
        for make in makes:
            for path in ("/body", "/json"):
                with case(make, path):
                    headers = [("content-type", "application/json")]
                    response = await post(
                        make(), b"[1, 2", b", 3, 4, 5, 6]", path=path, headers=headers
                    )
                    assert (response.status, whole(response)) == (413, True)


async def test_a_body_that_is_declared_too_large_never_reaches_the_application() -> None:
    async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    response = await post(nothing, b"x", headers=[("Content-Length", "11")])
    assert (response.status, whole(response)) == (413, True)
    assert response.header("connection") == "close"


async def test_a_body_that_is_declared_small_is_counted_all_the_same() -> None:
    assert (await post(length, b"x" * 11, headers=[("Content-Length", "1")])).status == 413


async def test_headers_beyond_the_limit_are_431() -> None:
    response = await post(length, b"", headers=[("cookie", "x" * 500)])
    assert (response.status, response.json()["code"]) == (431, "headers-too-large")


@settings(max_examples=50)
@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=40)), max_size=20))
async def test_headers_fit_up_to_the_limit_and_not_one_byte_more(
    headers: list[tuple[bytes, bytes]],
) -> None:
    size = sum(len(name) + len(value) + 32 for name, value in headers) + len("/")
    scope: Scope = {"type": "http", "method": "GET", "path": "/", "headers": headers}
    for limit, fits in ((max(1, size), True), (size - 1, False)):
        if limit > 0:
            sent: list[Message] = []
            app = WithTransfer(length, TransferLimits(max_header_bytes=limit))
            await app(scope, _receiving(), _collecting(sent))
            assert (sent[0]["status"] not in {414, 431}) is fits


async def test_a_request_line_beyond_the_limit_is_414() -> None:
    for scope_of_line in (
        {"path": "/" + "x" * 500},
        {"path": "/", "query_string": b"q=" + b"x" * 500},
    ):
        sent: list[Message] = []
        scope: Scope = {
            "type": "http",
            "method": "GET",
            "headers": [(b"host", b"a.test")],
            **scope_of_line,
        }
        await WithTransfer(length, LIMITS)(scope, _receiving(), _collecting(sent))
        assert (sent[0]["status"], json.loads(sent[1]["body"])["code"]) == (414, "uri-too-long")


async def test_a_flood_of_empty_headers_is_not_free() -> None:
    response = await post(length, b"", headers=[("x", "")] * 100)
    assert response.status == 431


async def test_infinity_lets_all_headers_and_bodies_in() -> None:
    limits = TransferLimits(max_header_bytes=math.inf, max_body_bytes=math.inf)  # type: ignore[arg-type] # as the docs say
    sent: list[Message] = []
    scope: Scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "headers": [(b"a", b"b" * 10**6)],
    }
    await WithTransfer(length, limits)(scope, _receiving(b"x" * 2_000_000), _collecting(sent))
    assert sent[0]["status"] == 200


async def test_a_response_under_way_is_broken_off_and_never_looks_whole() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (message := await receive())["type"] == "http.request":
            await send({"type": "http.response.body", "body": message["body"], "more_body": True})
            if not message.get("more_body"):
                break
        await send({"type": "http.response.body", "body": b""})

    response = await post(echo, b"x" * 6, b"x" * 6)
    assert (response.status, response.body, kinds(response)) == (200, b"x" * 6, ["start", "body"])


async def test_after_the_413_the_application_sees_no_more_of_the_body() -> None:
    heard: list[str] = []

    async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
        heard.extend([(await receive())["type"] for _ in range(5)])

    assert (await post(stubborn, b"x" * 6, b"x" * 6, b"x", b"x")).status == 413
    assert heard == ["http.request", *["http.disconnect"] * 4]


@pytest.mark.parametrize("declared", [(), [("content-length", "99")]])
async def test_a_client_that_still_sends_is_read_until_it_stops_so_that_it_can_read_its_413(
    declared: Any,
) -> None:
    read: list[bytes] = []

    async def receive() -> Message:
        if len(read) == 5:
            return {"type": "http.disconnect"}
        read.append(b"x" * 11)
        return {"type": "http.request", "body": read[-1], "more_body": True}

    sent: list[tuple[str, bool, int]] = []

    async def send(message: Message) -> None:
        sent.append((message["type"], message.get("more_body", False), len(read)))

    headers = [
        (name.encode(), value.encode()) for name, value in [*declared, ("transfer-encoding", "x")]
    ]
    scope: Scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
    await WithTransfer(length, LIMITS)(scope, receive, send)
    before = 0 if declared else 1
    assert sent == [
        ("http.response.start", False, before),
        ("http.response.body", True, before),
        ("http.response.body", False, 5),
    ]


async def test_the_disconnect_after_a_refusal_is_no_crash() -> None:
    with every() as case:
        for error in REACTIONS:
            with case(error):
                assert (await post(reading_crash(error), b"x" * 11)).status == 413
                # Without a refusal it is the application's own.
                response = await call_asgi(
                    WithTransfer(reading_crash(error), LIMITS), body=b"x", raise_errors=False
                )
                assert response.error is error


async def test_a_crash_is_seen_by_the_layers_outside_after_a_refusal_too() -> None:
    with every() as case:
        for error in CRASHES:
            for size in (1, 11):
                with case(error, size):
                    app = WithTransfer(reading_crash(error), LIMITS)
                    response = await call_asgi(app, "POST", body=b"x" * size, raise_errors=False)
                    assert response.error is error
                    assert response.status == (413 if size == 11 else 0)


async def test_limits_may_differ_by_route() -> None:
    upload = RouteOptions(routes=["/upload"], limits=TransferLimits(max_body_bytes=100))
    options = HardenOptions(limits=replace(LIMITS, max_header_bytes=1000), routes=[upload])
    app = harden(length, service="uploads", options=options)
    assert (await call_asgi(app, "POST", "/upload", body=b"x" * 100)).body == b"100"
    assert (await call_asgi(app, "POST", "/other", body=b"x" * 100)).status == 413


async def test_a_refusal_before_the_application_is_prerouting() -> None:
    for headers, chunk, route in (
        ([("content-length", "11")], b"", "_prerouting"),
        ([("cookie", "x" * 500)], b"", "_prerouting"),
        # Here the application was reached, so the route is the application's to tell.
        ([], b"x" * 11, None),
    ):
        app = WithTransfer(length, LIMITS)
        response = await call_asgi(app, "POST", headers=headers, body=chunk)
        assert response.scope["postfacta.request"].route == route


async def test_an_own_shape_is_used_for_both_ways_to_refuse() -> None:
    def render(problem: Problem, scope: Scope) -> tuple[str, bytes]:
        return "text/plain", problem.code.encode()

    app = WithTransfer(length, LIMITS, render=render)
    for headers in ([("content-length", "11")], []):
        assert (await call_asgi(app, "POST", headers=headers, body=b"x" * 11)).body == b"too-large"


async def test_what_is_not_http_passes_untouched() -> None:
    seen: list[tuple[Scope, Receive, Send]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope, receive, send))

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        raise AssertionError

    scope = {"type": "lifespan"}
    await WithTransfer(app, LIMITS)(scope, receive, send)
    assert seen == [(scope, receive, send)]
