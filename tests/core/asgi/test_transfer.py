"""What is too large or too slow is refused by what really arrives, whatever was said of it."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from fastapi import FastAPI, Request as FastAPIRequest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from postfacta_core.asgi._problem import Problem
from postfacta_core.asgi._types import ASGIApp, Message, Receive, Scope, Send
from postfacta_core.asgi.telemetry import TelemetryMiddleware
from postfacta_core.asgi.transfer import TransferMiddleware
from postfacta_core.context import RequestContext
from postfacta_core.policy.transfer import TransferLimits
from postfacta_core.telemetry.exchange import Exchange
from postfacta_core.testing import AsgiResponse, ManualClock, call_asgi

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


def whole(response: AsgiResponse) -> bool:
    """Tell whether exactly one response was sent, to its end; the end may be an empty message."""
    start, *bodies = kinds(response)
    ends = [not message.get("more_body", False) for message in response.messages[1:]]
    length = response.header("content-length") or str(len(response.body))
    return (
        start == "start"
        and set(bodies) == {"body"}
        and ends.index(True) == len(ends) - 1
        and len(response.body) == int(length)
    )


@pytest.mark.parametrize("chunks", [(b"x" * 10,), (b"x" * 4, b"x" * 6), (b"",), (b"x" * 10, b"")])
async def test_a_body_up_to_the_limit_reaches_the_application(chunks: tuple[bytes, ...]) -> None:
    assert (await post(length, *chunks)).body == str(len(b"".join(chunks))).encode()


@pytest.mark.parametrize("chunks", [(b"x" * 11,), (b"x" * 4, b"x" * 7), (b"x" * 10, b"x", b"x" * 20)])
async def test_a_body_beyond_it_is_answered_once_with_413(chunks: tuple[bytes, ...]) -> None:
    response = await post(length, *chunks)
    assert (response.status, whole(response)) == (413, True)
    assert response.json()["code"] == "too-large"
    assert response.header("connection") == "close"


@pytest.mark.parametrize("make", [starlette_app, fastapi_app])
@pytest.mark.parametrize("path", ["/body", "/json"])
async def test_a_frameworks_own_reader_adds_nothing_to_the_413(
    make: Callable[[], ASGIApp], path: str
) -> None:
    headers = [("content-type", "application/json")]
    response = await post(make(), b"[1, 2", b", 3, 4, 5, 6]", path=path, headers=headers)
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


async def test_a_response_under_way_is_broken_off_and_never_looks_whole() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (message := await receive())["type"] == "http.request":
            await send({"type": "http.response.body", "body": message["body"], "more_body": True})
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

    headers = [(name.encode(), value.encode()) for name, value in [*declared, ("transfer-encoding", "x")]]
    scope: Scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
    await TransferMiddleware(length, LIMITS)(scope, receive, send)
    before = 0 if declared else 1
    assert sent == [
        ("http.response.start", False, before),
        ("http.response.body", True, before),
        ("http.response.body", False, 5),
    ]


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


@pytest.mark.parametrize("error", REACTIONS, ids=repr)
async def test_what_tells_of_the_disconnect_after_a_refusal_is_nobodys_crash(error: Exception) -> None:
    assert (await post(reading_crash(error), b"x" * 11)).status == 413
    # Without a refusal it is the application's own.
    response = await call_asgi(
        TransferMiddleware(reading_crash(error), LIMITS), body=b"x", raise_errors=False
    )
    assert response.error is error


@pytest.mark.parametrize("error", CRASHES, ids=repr)
@pytest.mark.parametrize("size", [1, 11])
async def test_a_crash_is_seen_by_the_layers_outside_after_a_refusal_too(error: Exception, size: int) -> None:
    app = TransferMiddleware(reading_crash(error), LIMITS)
    response = await call_asgi(app, "POST", body=b"x" * size, raise_errors=False)
    assert response.error is error
    assert response.status == (413 if size == 11 else 0)


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


# Slow bodies


class SlowClient:
    """Sends chunks with pauses in between, on a clock that the test moves; real time passes only at the cut."""

    def __init__(self, clock: ManualClock, *chunks: tuple[float, bytes]) -> None:
        self._clock = clock
        self._chunks = list(chunks)
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        if not self._chunks:
            await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()  # Here it may be cancelled, as at a socket.
        pause, chunk = self._chunks.pop(0)
        self._clock.advance(pause)
        return {"type": "http.request", "body": chunk, "more_body": bool(chunk)}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def call(self, app: ASGIApp, limits: TransferLimits, **more: object) -> None:
        headers = [(b"transfer-encoding", b"chunked")]
        scope: Scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, **more}
        with anyio.fail_after(20):
            await TransferMiddleware(app, limits, clock=self._clock)(scope, self.receive, self.send)

    @property
    def unsent(self) -> int:
        return len(self._chunks)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


# Only silence takes real time in these tests, and little of it.
QUICK = TransferLimits(body_idle_timeout=0.02, body_grace=5, min_body_rate=10)


async def test_a_body_that_stops_coming_is_answered_once_with_408_and_the_connection_closed() -> None:
    client = SlowClient(ManualClock(), (0, b"xx"))
    await client.call(length, QUICK)
    assert client.status == 408
    assert (b"connection", b"close") in client.sent[0]["headers"]
    assert json.loads(client.body)["code"] == "request-timeout"
    assert [message["type"] for message in client.sent] == ["http.response.start", "http.response.body"]


async def test_http_2_knows_no_connection_header() -> None:
    client = SlowClient(ManualClock())
    await client.call(length, QUICK, http_version="2")
    assert client.status == 408
    assert b"connection" not in dict(client.sent[0]["headers"])


@pytest.mark.parametrize("make", [starlette_app, fastapi_app])
async def test_a_frameworks_own_reader_adds_nothing_to_the_408(make: Callable[[], ASGIApp]) -> None:
    client = SlowClient(ManualClock(), (0, b"xx"))
    more = {"path": "/body", "raw_path": b"/body", "query_string": b"", "root_path": ""}
    await client.call(make(), QUICK, **more)
    assert (client.status, len(client.sent)) == (408, 2)


async def test_a_byte_now_and_then_is_too_slow_though_never_silent_for_long() -> None:
    client = SlowClient(ManualClock(), *[(1, b"x")] * 20)
    # With one byte a second the patience, 5 s and 0.1 s for each byte, is over after the sixth.
    await client.call(length, replace(QUICK, body_idle_timeout=2))
    assert (client.status, client.unsent) == (408, 14)
    assert len(client.sent) == 2


async def test_a_slow_but_honest_client_is_waited_for() -> None:
    client = SlowClient(ManualClock(), *[(1, b"x" * 20)] * 50, (0, b""))
    await client.call(length, QUICK)
    assert (client.status, client.body) == (200, b"1000")


async def test_the_time_the_application_takes_between_chunks_is_not_the_clients() -> None:
    clock = ManualClock()

    async def busy(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body", False):
            clock.advance(100)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    client = SlowClient(clock, *[(1, b"x")] * 3, (0, b""))
    await client.call(busy, QUICK)
    assert client.status == 200


async def test_a_response_under_way_is_broken_off_when_its_request_is_too_slow() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (message := await receive())["type"] == "http.request":
            await send({"type": "http.response.body", "body": message["body"], "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    request = RequestContext("request-1", 0.0)
    client = SlowClient(ManualClock(), (0, b"xx"))
    await client.call(echo, QUICK, **{"postfacta.request": request})
    assert [message.get("more_body") for message in client.sent] == [None, True]
    assert request.error_type == "client_disconnected"


async def test_a_crash_after_the_408_is_seen_by_the_layers_outside() -> None:
    client = SlowClient(ManualClock())
    with pytest.raises(RuntimeError, match="a crash"):
        await client.call(reading_crash(RuntimeError("a crash")), QUICK)
    assert client.status == 408


async def test_without_a_body_nothing_bounds_the_wait_for_the_disconnect() -> None:
    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["more_body"] is False
        with anyio.move_on_after(0.1) as patience:
            await receive()
        assert patience.cancelled_caught

    client = SlowClient(ManualClock(), (0, b""))
    await client.call(wait, QUICK)
    assert client.sent == []


# Clients that do not read


class NonReader:
    """Takes so many bytes, and no more."""

    def __init__(self, room: int) -> None:
        self._room = room
        self.taken: list[Message] = []

    async def receive(self) -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        if len(message.get("body", b"")) > self._room:
            await anyio.sleep_forever()
        self._room -= len(message.get("body", b""))
        self.taken.append(message)

    async def call(self, app: ASGIApp, request: RequestContext | None = None) -> None:
        scope: Scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        scope["postfacta.request"] = request
        with anyio.fail_after(20):
            await TransferMiddleware(app, TransferLimits(write_timeout=0.02))(scope, self.receive, self.send)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.taken)


def streaming(chunk: bytes, times: int, raised: list[BaseException] | None = None) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(times):
            try:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except OSError as error:
                if raised is None:
                    raise
                raised.append(error)
        if raised:
            assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.body", "body": b""})

    return app


async def test_a_client_that_does_not_read_is_taken_for_gone() -> None:
    request = RequestContext("request-1", 0.0)
    client = NonReader(200_000)
    await client.call(streaming(b"x" * 10_000, 50), request)
    assert len(client.body) == 200_000
    assert all(message.get("more_body", True) for message in client.taken)
    assert request.error_type == "client_disconnected"


async def test_every_later_send_fails_at_once_too_and_receive_says_why() -> None:
    raised: list[BaseException] = []
    client = NonReader(200_000)
    await client.call(streaming(b"x" * 10_000, 50, raised))
    assert len(raised) == 30
    assert {type(error) for error in raised} == {ConnectionAbortedError}


async def test_a_long_body_is_handed_on_in_pieces_each_of_which_must_get_away() -> None:
    body = bytes(range(256)) * 1000

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    reader, non_reader = NonReader(len(body)), NonReader(100_000)
    await reader.call(app)
    assert reader.body == body
    assert [message.get("more_body", False) for message in reader.taken[1:]] == [True, True, True, False]
    assert max(len(message.get("body", b"")) for message in reader.taken) == 65_536
    await non_reader.call(app)
    assert non_reader.body == body[:65_536]


async def test_a_small_response_is_handed_on_as_it_is() -> None:
    message = {"type": "http.response.body", "body": b"x" * 65_536, "more_body": False}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send(message)

    client = NonReader(100_000)
    await client.call(app)
    assert client.taken[1] is message


async def test_a_small_response_gets_no_timer() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": False})

    with anyio.move_on_after(0.1) as patience:
        await NonReader(0).call(app)
    assert patience.cancelled_caught


async def recorded(app: ASGIApp, client: SlowClient | NonReader) -> tuple[int, str]:
    """Serve a client under telemetry; return the status and the error type that it recorded."""
    seen: list[tuple[int, str]] = []

    class Keep:
        def begin(self, exchange: Exchange, /) -> None: ...
        def answered(self, exchange: Exchange, /) -> None: ...
        def end(self, exchange: Exchange, /) -> None:
            seen.append((exchange.status, exchange.error_type))

    headers = [(b"transfer-encoding", b"chunked")]
    scope: Scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
    with anyio.fail_after(20):
        await TelemetryMiddleware(app, [Keep()])(scope, client.receive, client.send)
    return seen[0]


async def test_telemetry_counts_a_client_that_does_not_read_as_one_that_left() -> None:
    app = TransferMiddleware(streaming(b"x" * 10_000, 50), TransferLimits(write_timeout=0.02))
    assert await recorded(app, NonReader(200_000)) == (499, "client_disconnected")


async def test_telemetry_counts_a_slow_body_as_the_clients_fault() -> None:
    app = TransferMiddleware(reading_crash(ClientDisconnect()), QUICK)
    assert await recorded(app, SlowClient(ManualClock(), (0, b"x"))) == (408, "")
    app = TransferMiddleware(reading_crash(RuntimeError()), QUICK)
    with pytest.raises(RuntimeError):
        await recorded(app, SlowClient(ManualClock()))


# Real servers


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
