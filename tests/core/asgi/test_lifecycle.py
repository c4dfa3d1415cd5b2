"""While a service drains, each HTTP/1 client learns from its response that its connection ends."""

from __future__ import annotations

import pytest

from postfacta_core.asgi._types import ASGIApp, Message, Receive, Scope, Send
from postfacta_core.deadlines.requests import RunningRequests
from postfacta_core.drain.lifecycle import Lifecycle
from postfacta_core.testing import call_asgi
from postfacta_core.testing.asgi import AsgiResponse
from tests.kit.alone import WithLifecycle


def answering(*headers: tuple[bytes, bytes]) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
        await send({"type": "http.response.body", "body": b"ok"})

    return app


def draining() -> Lifecycle:
    lifecycle = Lifecycle(running=RunningRequests())
    lifecycle.drain()
    return lifecycle


def connections(response: AsgiResponse) -> list[bytes]:
    return [value for name, value in response.headers if name.lower() == b"connection"]


async def test_a_service_that_is_ready_says_nothing_of_the_connection() -> None:
    app = WithLifecycle(answering((b"x-own", b"1")), Lifecycle(running=RunningRequests()))
    response = await call_asgi(app)
    assert response.headers[:-1] == [(b"x-own", b"1")]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_one_that_drains_says_that_the_connection_ends(version: str) -> None:
    app = WithLifecycle(answering((b"x-own", b"1")), draining())
    response = await call_asgi(app, scope={"http_version": version})
    assert response.headers[:-1] == [(b"x-own", b"1"), (b"connection", b"close")]
    assert response.body == b"ok"


@pytest.mark.parametrize("name", [b"connection", b"Connection"])
async def test_what_the_application_says_of_the_connection_is_replaced(name: bytes) -> None:
    app = WithLifecycle(answering((name, b"keep-alive"), (b"x-own", b"1")), draining())
    response = await call_asgi(app)
    assert connections(response) == [b"close"]
    assert (b"x-own", b"1") in response.headers


async def test_a_response_without_headers_gets_them() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204})

    assert connections(await call_asgi(WithLifecycle(app, draining()))) == [b"close"]


@pytest.mark.parametrize("version", ["2", "2.0", "3"])
async def test_later_protocols_forbid_the_field(version: str) -> None:
    app = WithLifecycle(answering(), draining())
    assert connections(await call_asgi(app, scope={"http_version": version})) == []


async def test_a_drain_that_begins_during_the_request_closes_it_too() -> None:
    lifecycle = Lifecycle(running=RunningRequests())

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        lifecycle.drain()
        await answering()(scope, receive, send)

    assert connections(await call_asgi(WithLifecycle(app, lifecycle))) == [b"close"]


async def test_the_applications_own_message_is_left_as_it_was() -> None:
    start: Message = {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"connection", b"keep-alive")],
    }

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start)

    await call_asgi(WithLifecycle(app, draining()))
    assert start["headers"] == [(b"connection", b"keep-alive")]


async def test_other_connections_pass_untouched() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    for kind in ("websocket", "lifespan"):
        await call_asgi(WithLifecycle(app, draining()), scope={"type": kind})
    assert seen == ["websocket", "lifespan"]
