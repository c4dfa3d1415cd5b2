"""`harden` does the same for Starlette, FastAPI, Litestar and an ASGI function."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from fastapi import APIRouter, FastAPI, Request as FastAPIRequest
from litestar import (
    Litestar,
    Request as LitestarRequest,
    Router as LitestarRouter,
    WebSocket as LitestarSocket,
    get,
    post,
    websocket,
)
from litestar.exceptions import HTTPException
from litestar.params import FromPath
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from postfacta_core.asgi import HardenOptions, harden, problem_handler
from postfacta_core.asgi._types import ASGIApp, Message, Receive, Scope, Send
from postfacta_core.asgi.stack import Hardened
from postfacta_core.deadlines._limits import TransferLimits
from postfacta_core.errors import PoolTimeoutError, ResilienceError
from postfacta_core.health.registry import NO_LIFESPAN
from postfacta_core.testing import call_asgi
from postfacta_core.testing.asgi import AsgiResponse
from tests.kit.lifespan import running

ITEM = "/v1/tenants/acme/items/7"
TEMPLATE = "/v1/tenants/{tenant}/items/{id}"
ID = "0123456789abcdef"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # What runs calls is tested on both loops, in `guards`.


class Boom(Exception):  # noqa: N818 - the label is its name
    """A crash."""


def starlette_app() -> ASGIApp:
    async def item(request: Request) -> Response:
        return PlainTextResponse("item")

    async def crash(request: Request) -> Response:
        raise Boom

    async def refuse(request: Request) -> Response:
        raise PoolTimeoutError("main", 1.5)

    async def read(request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    inner = Mount("/tenants/{tenant}", routes=[Route("/items/{id}", item)])
    return Starlette(
        routes=[
            Mount("/v1", routes=[inner]),
            Route("/crash", crash),
            Route("/refuse", refuse),
            Route("/read", read, methods=["POST"]),
        ],
        exception_handlers={ResilienceError: problem_handler, Exception: problem_handler},
    )


def _fastapi_rest(app: FastAPI) -> FastAPI:
    def crash() -> str:
        raise Boom

    def refuse() -> str:
        raise PoolTimeoutError("main", 1.5)

    async def read(request: FastAPIRequest) -> int:
        return len(await request.body())

    app.add_api_route("/crash", crash)
    app.add_api_route("/refuse", refuse)
    app.add_api_route("/read", read, methods=["POST"])
    app.add_exception_handler(ResilienceError, problem_handler)
    app.add_exception_handler(Exception, problem_handler)
    return app


def fastapi_app() -> ASGIApp:
    app = FastAPI()
    app.add_api_route(TEMPLATE, _item)
    return _fastapi_rest(app)


def fastapi_with_routers() -> ASGIApp:
    items = APIRouter(prefix="/items")
    items.add_api_route("/{id}", _item)
    tenants = APIRouter(prefix="/tenants/{tenant}")
    tenants.include_router(items)
    app = FastAPI()
    app.include_router(tenants, prefix="/v1")
    return _fastapi_rest(app)


def _item(tenant: str, id: int) -> str:  # noqa: A002 - the parameter of the path
    return "item"


def litestar_app() -> ASGIApp:
    @get("/items/{id:int}", sync_to_thread=False)
    def item(tenant: FromPath[str], id: FromPath[int]) -> str:  # noqa: A002 - the parameter of the path
        return "item"

    @get("/crash", sync_to_thread=False)
    def crash() -> str:
        raise Boom

    @get("/refuse", sync_to_thread=False)
    def refuse() -> str:
        raise PoolTimeoutError("main", 1.5)

    @post("/read")
    async def read(request: LitestarRequest[Any, Any, Any]) -> int:
        return len(await request.body())

    async def let_through(error: Exception, _: object) -> None:
        if not isinstance(error, HTTPException):
            raise error

    tenants = LitestarRouter("/v1/tenants/{tenant:str}", route_handlers=[item])
    # Litestar answers for a crash by itself, and tells nobody outside of it: it has to be let
    # through. Its types are ASGI shapes of its own.
    return cast("ASGIApp", Litestar([tenants, crash, refuse, read], after_exception=[let_through]))


async def asgi_function(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve the same without any framework."""
    assert scope["type"] == "http", "this application knows no lifespan"
    path, method = scope["path"], scope["method"]
    status, body = 200, b"item"
    if path == "/crash":
        raise Boom
    if path == "/refuse":
        raise PoolTimeoutError("main", 1.5)
    if path == "/read":
        body = str(await _length(receive)).encode()
    elif path != ITEM:
        status, body = 404, b"nothing here"
    elif method != "GET":
        status, body = 405, b"only GET"
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", b"text/plain")],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def _length(receive: Receive) -> int:
    length, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise OSError("the client is gone")
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
    return length


def route_of_function(scope: Scope) -> str | None:
    path: str = scope["path"]
    return TEMPLATE if path == ITEM else path if path in {"/crash", "/refuse", "/read"} else None


FRAMEWORKS: dict[str, Callable[[], ASGIApp]] = {
    "starlette": starlette_app,
    "fastapi": fastapi_app,
    "fastapi-with-routers": fastapi_with_routers,
    "litestar": litestar_app,
    "function": lambda: asgi_function,
}


class Service:
    """One hardened application, and what it recorded."""

    def __init__(self, name: str, caplog: pytest.LogCaptureFixture) -> None:
        self.log: list[str] = []
        self.app: Hardened = harden(
            FRAMEWORKS[name](),
            service="billing",
            options=HardenOptions(limits=TransferLimits(max_body_bytes=10, max_header_bytes=1000)),
            resources=[self.resource("database")],
            route_of=route_of_function if name == "function" else None,
        )
        self._caplog = caplog
        caplog.set_level(logging.INFO, "postfacta")

    @asynccontextmanager
    async def resource(self, name: str) -> AsyncGenerator[None]:
        self.log.append(f"open {name}")
        yield
        self.log.append(f"close {name}")

    async def call(self, method: str = "GET", path: str = ITEM, **options: Any) -> AsgiResponse:
        headers = [("x-request-id", ID), *options.pop("headers", ())]
        return await call_asgi(
            self.app, method, path, headers=headers, raise_errors=False, **options
        )

    def count(self, method: str, route: str, status: int, error_type: str = "") -> float:
        """Return how many requests were counted under these labels."""
        labels = {
            "http_request_method": method,
            "http_route": route,
            "http_response_status_code": str(status),
            "error_type": error_type,
            "traffic": "user",
        }
        name = "http_server_requests_total"
        return self.app.telemetry.metrics.registry.get_sample_value(name, labels) or 0.0

    @property
    def total(self) -> float:
        families = self.app.telemetry.metrics.registry.collect()
        samples = [sample for family in families for sample in family.samples]
        return sum(s.value for s in samples if s.name == "http_server_requests_total")

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The access lines, as the fields they hold."""
        records = [vars(record) for record in self._caplog.records if record.name == "postfacta"]
        return [record for record in records if record["msg"] == "http.request"]


@pytest.fixture(params=FRAMEWORKS)
def service(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Service:
    return Service(str(request.param), caplog)


def problem(response: AsgiResponse) -> dict[str, Any]:
    """Read an answer that must be one whole problem, with all that the service owes."""
    starts = [message for message in response.messages if message["type"] == "http.response.start"]
    ends = [
        m for m in response.messages if m["type"] == "http.response.body" and not m.get("more_body")
    ]
    assert (len(starts), len(ends)) == (1, 1)
    assert response.header("content-type") == "application/problem+json"
    assert response.header("x-content-type-options") == "nosniff"
    document: dict[str, Any] = response.json()
    assert document["status"] == response.status
    assert document["request_id"] == response.header("x-request-id") == ID
    return document


async def test_an_answer_has_the_request_id_and_the_headers_and_is_counted_and_logged_once(
    service: Service,
) -> None:
    response = await service.call()
    assert (response.status, response.header("x-request-id")) == (200, ID)
    assert response.header("x-content-type-options") == "nosniff"
    assert b"item" in response.body
    assert service.count("GET", TEMPLATE, 200) == service.total == 1
    (line,) = service.lines
    assert (line["service"], line["request_id"], line["route"]) == ("billing", ID, TEMPLATE)


async def test_what_is_not_there_is_an_unmatched_404(service: Service) -> None:
    for path in ("/nothing", "/v1/tenants/acme/nothing"):
        assert (await service.call(path=path)).status == 404
    assert service.count("_OTHER", "", 404) == service.total == 2


async def test_a_wrong_method_is_a_405(service: Service) -> None:
    response = await service.call("DELETE")
    assert (response.status, response.header("x-request-id")) == (405, ID)
    assert service.count("_OTHER", "", 405) == 1
    assert service.total == 1


async def test_a_crash_is_one_500_problem_one_count_and_one_line_with_its_id(
    service: Service,
) -> None:
    response = await service.call(path="/crash")
    assert isinstance(response.error, Boom)
    assert (problem(response)["code"], response.status) == ("internal", 500)
    assert service.count("GET", "/crash", 500, "Boom") == service.total == 1
    (line,) = service.lines
    assert (line["levelname"], line["status"], line["request_id"]) == ("ERROR", 500, ID)
    assert line["exc_info"][0] is Boom


async def test_a_refusal_of_the_library_has_its_own_status_wherever_it_is_raised(
    service: Service,
) -> None:
    response = await service.call(path="/refuse")
    assert response.error is None
    assert (problem(response)["code"], response.status) == ("unavailable", 503)
    assert response.header("retry-after") == "2"
    assert service.count("GET", "/refuse", 503, "pool_timeout") == service.total == 1
    (line,) = service.lines
    assert (line["levelname"], line["status"], line["error_type"]) == ("INFO", 503, "pool_timeout")


async def test_a_body_within_the_limit_is_read(service: Service) -> None:
    response = await service.call("POST", "/read", body=[b"12345", b"67890"])
    assert response.status in {200, 201}
    assert response.body == b"10"


async def test_a_body_that_is_declared_too_large_is_refused_before_the_application(
    service: Service,
) -> None:
    response = await service.call(
        "POST", "/read", headers=[("content-length", "11")], body=b"x" * 11
    )
    assert (problem(response)["code"], response.status) == ("too-large", 413)
    assert service.count("_OTHER", "_prerouting", 413) == service.total == 1


async def test_a_body_that_grows_too_large_is_refused_once_and_nothing_else_is_sent(
    service: Service,
) -> None:
    response = await service.call("POST", "/read", body=[b"x" * 6] * 4)
    assert (problem(response)["code"], response.status) == ("too-large", 413)
    assert response.error is None
    assert service.count("POST", "/read", 413) == service.total == 1
    (line,) = service.lines
    assert (line["levelname"], line["status"], line["error_type"]) == ("INFO", 413, "")


async def test_headers_that_are_too_large_are_refused_before_the_application(
    service: Service,
) -> None:
    response = await service.call(headers=[("cookie", "x" * 1000)])
    assert (problem(response)["code"], response.status) == ("headers-too-large", 431)
    assert service.count("_OTHER", "_prerouting", 431) == service.total == 1


async def test_resources_and_probes_follow_the_service_from_start_to_end(service: Service) -> None:
    assert (await service.call(path="/healthz/ready")).status == 503
    async with running(service.app):
        assert service.log == ["open database"]
        for probe in ("live", "ready", "startup"):
            response = await service.call(path=f"/healthz/{probe}")
            assert (response.status, response.header("x-request-id")) == (200, ID)
    assert service.log == ["open database", "close database"]
    assert service.count("GET", "/healthz/ready", 200) == 1
    assert service.lines == []


async def test_the_metrics_are_served_and_count_what_was_served(service: Service) -> None:
    await service.call()
    response = await service.call(path="/metrics")
    assert response.status == 200
    counted = next(
        line
        for line in response.body.decode().splitlines()
        if line.startswith("http_server_requests_total")
    )
    assert f'http_route="{TEMPLATE}"' in counted
    assert counted.endswith(" 1.0")


async def test_a_client_that_leaves_is_no_crash(service: Service) -> None:
    response = await service.call("POST", "/read", body=[], disconnect_after=0)
    assert response.messages == []
    assert service.count("POST", "/read", 499, "client_disconnected") == service.total == 1


@pytest.mark.parametrize("framework", [Starlette, FastAPI])
async def test_the_frameworks_own_500_has_the_headers_too(
    framework: Callable[..., ASGIApp], caplog: pytest.LogCaptureFixture
) -> None:
    async def crash(request: Request) -> Response:
        raise Boom

    app = harden(framework(routes=[Route("/crash", crash)]), service="billing")
    response = await call_asgi(
        app, "GET", "/crash", headers=[("x-request-id", ID)], raise_errors=False
    )
    assert (response.status, response.body) == (500, b"Internal Server Error")
    assert response.header("x-request-id") == ID
    assert response.header("x-content-type-options") == "nosniff"
    assert [
        record.exc_info and record.exc_info[0]
        for record in caplog.records
        if record.msg != NO_LIFESPAN
    ] == [Boom]


def echo_starlette() -> ASGIApp:
    return Starlette(routes=[WebSocketRoute("/echo", _echo)])


def echo_fastapi() -> ASGIApp:
    app = FastAPI()
    app.add_api_websocket_route("/echo", _echo)
    return app


def echo_litestar() -> ASGIApp:
    @websocket("/echo")
    async def echo(socket: LitestarSocket[Any, Any, Any]) -> None:
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        await socket.close()

    return cast("ASGIApp", Litestar([echo]))


async def _echo(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(await websocket.receive_text())
    await websocket.close()


@pytest.mark.parametrize("make", [echo_starlette, echo_fastapi, echo_litestar])
async def test_a_websocket_passes(make: Callable[[], ASGIApp]) -> None:
    coming = iter([{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hello"}])
    sent: list[Message] = []

    async def receive() -> Message:
        return next(coming)

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "websocket",
        "path": "/echo",
        "raw_path": b"/echo",
        "root_path": "",
        "query_string": b"",
        "headers": [],
        "subprotocols": [],
        "state": {},
    }
    await harden(make(), service="billing")(scope, receive, send)
    assert [message["type"] for message in sent] == [
        "websocket.accept",
        "websocket.send",
        "websocket.close",
    ]
    assert sent[1]["text"] == "hello"
