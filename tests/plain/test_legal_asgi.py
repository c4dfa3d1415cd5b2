"""What is odd and legal in ASGI passes all parts of `harden` as it reaches the bare application.

Servers and frameworks of today send lists of pairs. The specification says iterables, and lets keys
be left out.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from postfacta_core.asgi import Cors, HardenOptions, RouteOptions, harden
from postfacta_core.asgi._types import ASGIApp, Message, Receive, Scope, Send
from postfacta_core.deadlines._limits import TransferLimits
from tests.kit.every import every

Pairs = list[tuple[bytes, bytes]]
OWN = {
    b"x-request-id",
    b"x-content-type-options",
    b"x-part",
    b"ratelimit",
    b"ratelimit-policy",
    b"vary",
}
ALL_PARTS = HardenOptions(
    limits=TransferLimits(max_body_bytes=500_000),
    routes=[RouteOptions(routes=["/stream", "GET /odd/{id}"], request_timeout=60)],
    rate_limits=["1000/minute per client"],
    priority_key="key-of-priorities-0123456789abcdef",
    traffic_key="key-of-traffic-0123456789abcdef",
    cors=Cors(allow_origins=["https://console.example.org"]),
    response_headers=[("x-part", "yes")],
    cancel_on_disconnect=True,
)


class Bytes(bytes):
    """Bytes of a class of their own."""


PAIRS: Pairs = [(b"host", b"shop"), (b"content-type", b"text/plain"), (b"cookie", b"a=b")]
Make = Callable[[Pairs], Iterable[object]]
WHOLE: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]
ITERABLES: dict[str, Make] = {
    "list": list,
    "tuple": tuple,
    "iterator": iter,
    "generator": lambda pairs: (pair for pair in pairs),
    "list of lists": lambda pairs: [[*pair] for pair in pairs],
    "map of lists": lambda pairs: map(list, pairs),
    "bytes of a class": lambda pairs: [(Bytes(name), Bytes(value)) for name, value in pairs],
    "nothing": lambda _: (),
}
OPTIONAL = (
    "client",
    "server",
    "query_string",
    "root_path",
    "raw_path",
    "state",
    "scheme",
    "extensions",
)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with what it sees, once it has the whole body."""
    headers = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
    body, more = b"", True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        body += bytes(message.get("body", b""))
        more = message.get("more_body", False)
    seen = [[f"{name!r} {value!r}" for name, value in headers if name not in OWN], len(body)]
    seen += [scope["path"], str(scope.get("query_string", "none")), scope.get("root_path", "none")]
    answer = json.dumps(seen).encode()
    length = (b"content-length", str(len(answer)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": answer})


def sends(*messages: Message) -> ASGIApp:
    """Make an application that reads nothing and sends these messages."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(dict(message))

    return app


def scope_of(kind: str, **more: Any) -> Scope:
    return {
        "type": kind,
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "path": "/odd/7",
        "raw_path": b"/odd/7",
        "query_string": b"a=1",
        "root_path": "",
        "scheme": "http",
        "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 80),
        "state": {},
        "extensions": {},
        "headers": PAIRS,
        **({"method": "GET"} if kind == "http" else {"subprotocols": []}),
        **more,
    }


async def answer(app: ASGIApp, scope: Scope, messages: Iterable[Message]) -> list[object]:
    """Return what a server has to send: the status, the application's headers and the body, or a conversation."""
    waiting = iter(messages)
    sent: list[Message] = []

    async def receive() -> Message:
        try:
            return next(waiting)
        except StopIteration:
            await asyncio.Event().wait()
            raise

    async def send(message: Message) -> None:
        # A server reads an iterable once.
        headers = [(bytes(n).lower(), bytes(v)) for n, v in message.get("headers", ())]
        sent.append({**message, "headers": headers} if "headers" in message else dict(message))

    await asyncio.wait_for(app(scope, receive, send), 20)
    result: list[object] = []
    body = b""
    for message in sent:
        kind = message["type"]
        own = [pair for pair in message.get("headers", ()) if pair[0] not in OWN]
        if kind == "http.response.body":
            body += bytes(message.get("body", b""))
        elif kind == "http.response.start":
            result.append((message["status"], own))
        else:
            result.append(
                (kind, own, message.get("text"), message.get("bytes"), message.get("code"))
            )
    return [*result, body]


def same(app: ASGIApp, scope: Scope, messages: list[Message] = WHOLE, make: Make = list) -> None:
    """Compare the hardened application with the bare one, each asked twice, with headers of a kind."""

    async def ask() -> None:
        hardened = harden(app, service="odd", options=ALL_PARTS)
        for _ in range(2):
            expected = await answer(app, {**scope, "headers": make(scope["headers"])}, messages)
            asked = {**scope, "headers": make(scope["headers"])}
            assert await answer(hardened, asked, messages) == expected

    asyncio.run(ask())


BODIES: dict[str, list[Message]] = {
    "no keys": [{"type": "http.request"}],
    "no body": [{"type": "http.request", "more_body": False}],
    "no more_body": [{"type": "http.request", "body": b"abc"}],
    "empty pieces": [
        {"type": "http.request", "body": b"", "more_body": True},
        {"type": "http.request", "more_body": True},
        {"type": "http.request", "body": b"abc", "more_body": True},
        {"type": "http.request", "body": b"", "more_body": False},
    ],
    "bytearray": [{"type": "http.request", "body": bytearray(b"abc")}],
    "memoryview": [{"type": "http.request", "body": memoryview(b"abc")}],
    "large": [
        {"type": "http.request", "body": bytearray(200_000), "more_body": True},
        {"type": "http.request", "body": bytearray(200_000)},
    ],
}


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_reaches_the_application_as_its_server_made_it(method: str) -> None:
    full = scope_of("http", method=method)
    with every() as case:
        for name, make in ITERABLES.items():
            with case("headers", name):
                same(echo, full, make=make)
        for key in OPTIONAL:
            with case("without", key):
                same(echo, {name: value for name, value in full.items() if name != key})
        for key in ("client", "server"):
            with case("none", key):
                same(echo, {**full, key: None})
        with case("only what must be there"):
            same(echo, {name: value for name, value in full.items() if name not in OPTIONAL})
        for name, body in BODIES.items():
            with case("body", name):
                same(echo, full, body)


START: Message = {"type": "http.response.start", "status": 201}
END: Message = {"type": "http.response.body"}
EVENTS: Pairs = [
    (b"Content-Type", b"text/event-stream"),
    (b"X-Request-Id", b"its-own"),
    (b"X-Odd", b"1"),
]


def pieces(*bodies: object) -> list[Message]:
    return [{"type": "http.response.body", "body": body, "more_body": True} for body in bodies]


RESPONSES: dict[str, list[Message]] = {
    "no headers": [START, END],
    "no body, more": [START, {"type": "http.response.body", "more_body": False}],
    "whole": [START, {"type": "http.response.body", "body": b"abc"}],
    "bytearray": [START, {"type": "http.response.body", "body": bytearray(b"abc")}],
    "memoryview": [START, {"type": "http.response.body", "body": memoryview(b"abc")}],
    "bytes of a class": [START, {"type": "http.response.body", "body": Bytes(b"abc")}],
    "large bytearray": [START, {"type": "http.response.body", "body": bytearray(200_000)}],
    "large memoryview": [START, {"type": "http.response.body", "body": memoryview(bytes(200_000))}],
    "empty pieces": [START, *pieces(b"", b"", b"abc", b""), END],
    "pieces without a body": [START, {"type": "http.response.body", "more_body": True}, END],
    "pieces of other kinds": [START, *pieces(bytearray(b"a"), memoryview(b"b"), Bytes(b"c")), END],
}


def stream(make: Make) -> ASGIApp:
    """Make an application that answers with events, by headers of a kind."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({**START, "headers": make(EVENTS)})
        for message in (*pieces(b"data: 1\n\n", b"", bytearray(b"data: 2\n\n")), END):
            await send(message)

    return app


def test_a_response_reaches_its_server_as_the_application_made_it() -> None:
    with every() as case:
        for path in ("/odd/7", "/stream", "/else"):
            for accept in (b"*/*", b"text/event-stream"):
                headers = [*PAIRS, (b"accept", accept), (b"cache-control", b"no-cache")]
                scope = scope_of("http", path=path, headers=headers)
                for name, messages in RESPONSES.items():
                    with case(path, accept, name):
                        same(sends(*messages), scope)
                for name, make in ITERABLES.items():
                    with case(path, accept, "headers", name):
                        same(stream(make), scope)


CONNECT: Message = {"type": "websocket.connect"}
ACCEPT: Message = {"type": "websocket.accept"}
CLOSE: Message = {"type": "websocket.close"}
CONVERSATIONS: dict[str, list[Message]] = {
    "text alone": [ACCEPT, {"type": "websocket.send", "text": "a"}, CLOSE],
    "bytes alone": [ACCEPT, {"type": "websocket.send", "bytes": b"a"}, {**CLOSE, "code": 1001}],
    "the other is None": [
        ACCEPT,
        {"type": "websocket.send", "bytes": None, "text": ""},
        {**CLOSE, "reason": None},
    ],
    "bytearray": [ACCEPT, {"type": "websocket.send", "bytes": bytearray(b"a")}, CLOSE],
    "refused": [CLOSE],
    "protocol is None": [{**ACCEPT, "subprotocol": None, "headers": ()}, CLOSE],
    "headers": [{**ACCEPT, "headers": [[b"X-Odd", b"1"]]}, CLOSE],
}


def test_a_websocket_is_the_same_on_both_sides() -> None:
    full = scope_of("websocket")
    with every() as case:
        for name, sent in CONVERSATIONS.items():
            with case(name):
                same(sends(*sent), full, [CONNECT])
        for name, make in ITERABLES.items():
            with case("headers", name):
                same(by_headers, full, [CONNECT], make)
        for key in (*OPTIONAL, "subprotocols"):
            with case("without", key):
                asked = {name: value for name, value in full.items() if name != key}
                same(by_headers, asked, [CONNECT])


async def by_headers(scope: Scope, receive: Receive, send: Send) -> None:
    """Accept, send the names of the headers of the handshake, and close."""
    names = [bytes(name).decode() for name, _ in scope["headers"] if name not in OWN]
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": " ".join(names)})
    await send({"type": "websocket.close"})
