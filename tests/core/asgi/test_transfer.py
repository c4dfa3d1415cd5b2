"""What is too large is refused by what really arrives, whatever was said of it."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request as FastAPIRequest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from postfacta_core.asgi._problem import Problem
from postfacta_core.asgi._types import ASGIApp, Message, Receive, Scope, Send
from postfacta_core.asgi.transfer import TransferMiddleware
from postfacta_core.context import RequestContext
from postfacta_core.policy.transfer import TransferLimits
from postfacta_core.testing import AsgiResponse, call_asgi

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
    return await call_asgi(
        TransferMiddleware(app, LIMITS),
        "POST",
        path,
        headers=headers,
        body=list(chunks),
    )


def kinds(response: AsgiResponse) -> list[str]:
    return [message["type"].removeprefix("http.response.") for message in response.messages]


@pytest.mark.parametrize("chunks", [(b"x" * 10,), (b"x" * 4, b"x" * 6), (b"",), (b"x" * 10, b"")])
async def test_a_body_up_to_the_limit_reaches_the_application(chunks: tuple[bytes, ...]) -> None:
    assert (await post(length, *chunks)).body == str(len(b"".join(chunks))).encode()


@pytest.mark.parametrize("chunks", [(b"x" * 11,), (b"x" * 4, b"x" * 7), (b"x" * 10, b"x", b"x" * 20)])
async def test_a_body_beyond_it_is_answered_once_with_413(chunks: tuple[bytes, ...]) -> None:
    response = await post(length, *chunks)
    assert (response.status, kinds(response)) == (413, ["start", "body"])
    assert response.json()["code"] == "too-large"


@pytest.mark.parametrize("make", [starlette_app, fastapi_app])
@pytest.mark.parametrize("path", ["/body", "/json"])
async def test_a_frameworks_own_reader_adds_nothing_to_the_413(
    make: Callable[[], ASGIApp], path: str
) -> None:
    headers = [("content-type", "application/json")]
    response = await post(make(), b"[1, 2", b", 3, 4, 5, 6]", path=path, headers=headers)
    assert (response.status, kinds(response)) == (413, ["start", "body"])


async def test_a_body_that_is_declared_too_large_never_reaches_the_application() -> None:
    async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    response = await post(nothing, b"x", headers=[("Content-Length", "11")])
    assert (response.status, kinds(response)) == (413, ["start", "body"])


async def test_a_body_that_is_declared_small_is_counted_all_the_same() -> None:
    assert (await post(length, b"x" * 11, headers=[("Content-Length", "1")])).status == 413


async def test_headers_beyond_the_limit_are_431() -> None:
    response = await post(length, b"", headers=[("cookie", "x" * 500)])
    assert (response.status, response.json()["code"]) == (431, "headers-too-large")


async def test_a_response_under_way_is_broken_off_and_never_looks_whole() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (message := await receive())["type"] == "http.request":
            await send({"type": "http.response.body", "body": message["body"], "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    response = await post(echo, b"x" * 6, b"x" * 6)
    assert (response.status, response.body, kinds(response)) == (200, b"x" * 6, ["start", "body"])


async def test_after_the_413_no_more_of_the_body_is_read() -> None:
    heard: list[str] = []

    async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
        heard.extend([(await receive())["type"] for _ in range(5)])

    read = 0

    async def receive() -> Message:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b"x" * 6, "more_body": True}

    async def send(message: Message) -> None:
        """Take it."""

    scope: Scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    await TransferMiddleware(stubborn, LIMITS)(scope, receive, send)
    assert (heard, read) == (["http.request", *["http.disconnect"] * 4], 2)


async def test_an_error_of_the_application_is_its_own_unless_it_was_refused() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body", False):
            pass
        raise RuntimeError("a crash")

    with pytest.raises(RuntimeError, match="a crash"):
        await post(broken, b"x")
    assert (await post(broken, b"x" * 11)).status == 413


async def test_limits_may_differ_by_route() -> None:
    def limits(scope: Scope) -> TransferLimits:
        return TransferLimits(max_body_bytes=100) if scope["path"] == "/upload" else LIMITS

    app = TransferMiddleware(length, limits)
    assert (await call_asgi(app, "POST", "/upload", body=b"x" * 100)).body == b"100"
    assert (await call_asgi(app, "POST", "/other", body=b"x" * 100)).status == 413


async def test_a_refusal_before_the_application_is_prerouting() -> None:
    for headers, chunk, route in (
        ([("content-length", "11")], b"", "_prerouting"),
        ([("cookie", "x" * 500)], b"", "_prerouting"),
        # Here the application was reached, so the route is the application's to tell.
        ([], b"x" * 11, None),
    ):
        request = RequestContext("request-1", 0.0)
        app = TransferMiddleware(length, LIMITS)
        scope = {"postfacta.request": request}
        await call_asgi(app, "POST", headers=headers, body=chunk, scope=scope)
        assert request.route == route


async def test_an_own_shape_is_used_for_both_ways_to_refuse() -> None:
    def render(problem: Problem, scope: Scope) -> tuple[str, bytes]:
        return "text/plain", problem.code.encode()

    app = TransferMiddleware(length, LIMITS, render=render)
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

    for kind in ("websocket", "lifespan"):
        scope = {"type": kind}
        await TransferMiddleware(app, LIMITS)(scope, receive, send)
        assert seen[-1] == (scope, receive, send)


SERVED = """
from fastapi import FastAPI, Request
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from postfacta_core.asgi import Policy, harden
from postfacta_core.policy.transfer import TransferLimits

async def read(request: Request):
    return PlainTextResponse(str(len(await request.body())))

policy = Policy(limits=TransferLimits(max_body_bytes=100_000))
starlette = harden(Starlette(routes=[Route("/read", read, methods=["POST"])]), service="test", policy=policy)
api = FastAPI()
api.post("/read")(read)
fastapi = harden(api, service="test", policy=policy)
"""


@contextmanager
def served(folder: Path, flavour: str, framework: str) -> Generator[int]:
    """Run uvicorn as a direct child, on a socket that is open before it starts."""
    (folder / "served.py").write_text(SERVED)
    # A port below those that the kernel gives to outgoing connections.
    with _listening() as listener, (folder / "log").open("wb") as log:
        words = ["-m", "uvicorn", "--http", flavour, "--fd", str(listener.fileno()), f"served:{framework}"]
        process = subprocess.Popen(  # noqa: S603 - a fixed program
            [sys.executable, *words], cwd=folder, stdout=log, stderr=log, pass_fds=[listener.fileno()]
        )
        try:
            yield listener.getsockname()[1]
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def _listening() -> socket.socket:
    for port in range(21_000, 32_000):
        listener = socket.socket()
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen()
        except OSError:
            listener.close()
        else:
            return listener
    raise AssertionError


def chunks(number: int) -> Iterator[bytes]:
    for _ in range(number):
        yield b"x" * 10_000


@pytest.mark.parametrize("framework", ["starlette", "fastapi"])
@pytest.mark.parametrize("flavour", ["h11", "httptools"])
def test_behind_a_real_server_a_chunked_body_gets_its_413_and_nothing_else(
    tmp_path: Path, flavour: str, framework: str
) -> None:
    with served(tmp_path, flavour, framework) as port:
        for size, status in ((5, 200), (30, 413), (5, 200)):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request(
                "POST", "/read", chunks(size), encode_chunked=True, headers={"transfer-encoding": "chunked"}
            )
            response = connection.getresponse()
            body = response.read()
            assert response.status == status, body
            assert (b"too-large" in body) == (status == 413)
            if connection.sock is not None:
                # Nothing more comes on this connection: whatever follows would be taken for the next answer.
                connection.sock.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    assert connection.sock.recv(1) == b""
                    raise TimeoutError
            connection.close()
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "Exception" not in log
