"""A client that leaves, a WebSocket and a drain end a request as they should, and once."""

from __future__ import annotations

from contextlib import suppress

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from postfacta_core.asgi._types import Message, Receive, Scope, Send
from postfacta_core.deadlines.requests import limit_request
from postfacta_core.errors import StoppedError
from postfacta_core.telemetry.exchange import Exchange, Recorder
from postfacta_core.testing import call_asgi
from postfacta_core.testing.asgi import AsgiResponse
from tests.core.asgi.deadlines import Log, Service, asgi, sleeping
from tests.kit.waiting import until


@pytest.mark.clock("1.5 s")
async def test_a_client_that_leaves_cancels_its_handler_where_that_is_wanted() -> None:
    log = Log()
    service = Service(sleeping(log, 2.0), cancel_on_disconnect=True)
    async with service.running_now():
        began = anyio.current_time()
        response = await service.get("/watched", disconnect_after=0)
        assert anyio.current_time() - began < 1.5
    assert (response.messages, log, service.stages) == ([], ["began", "ended"], [])


async def test_else_a_client_that_leaves_is_only_counted() -> None:
    log, seen = Log(), list[Exchange]()

    class Kept(Recorder):
        def end(self, exchange: Exchange, /) -> None:
            seen.append(exchange)

    service = Service(sleeping(log, 0.5), recorders=[Kept()])

    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_silently(message: Message) -> None:
            with suppress(OSError):  # as uvicorn does
                await send(message)

        await service.app(scope, receive, send_silently)

    async with service.running_now():
        await call_asgi(silent, disconnect_after=0)
    assert log == ["began", "ended"]
    assert [(one.status, one.error_type) for one in seen] == [(499, "client_disconnected")]


async def test_a_body_in_pieces_arrives_whole_while_the_client_is_watched() -> None:
    pieces = [bytes([number]) * 50 for number in range(12)]

    async def slow_reader(request: Request) -> Response:
        received = b""
        async for piece in request.stream():
            received += piece
            await anyio.sleep(0.05)
        return PlainTextResponse(received.hex())

    service = Service(asgi(slow_reader), cancel_on_disconnect=True)
    async with service.running_now():
        response = await call_asgi(service.app, "POST", "/", body=pieces)
    assert bytes.fromhex(response.body.decode()) == b"".join(pieces)


def websocket_scope(path: str) -> Scope:
    return {
        "type": "websocket",
        "path": path,
        "root_path": "",
        "query_string": b"",
        "headers": [],
        "state": {},
    }


async def socket_messages(service: Service, path: str) -> list[Message]:
    sent: list[Message] = []
    coming: list[Message] = [{"type": "websocket.connect"}]

    async def receive() -> Message:
        if coming:
            return coming.pop(0)
        await anyio.sleep_forever()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    await service.app(websocket_scope(path), receive, send)
    return sent


async def endless_socket(websocket: WebSocket) -> None:
    await websocket.accept()
    if websocket.url.path == "/own":
        limit_request(0.1)
    await websocket.receive_text()


SOCKETS = [WebSocketRoute("/own", endless_socket), WebSocketRoute("/free", endless_socket)]


async def test_a_websocket_with_a_limit_of_its_own_is_closed_with_1008() -> None:
    service = Service(Starlette(routes=SOCKETS), request_timeout=0.05)
    async with service.running_now():
        sent = await socket_messages(service, "/own")
    assert sent[1:] == [{"type": "websocket.close", "code": 1008, "reason": "The time ran out"}]


async def test_a_handshake_that_is_never_accepted_is_refused_at_the_requests_limit() -> None:
    async def mute(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep_forever()

    service = Service(mute, request_timeout=0.1)
    with anyio.fail_after(10):
        async with service.running_now():
            sent = await socket_messages(service, "/")
    assert sent == [{"type": "websocket.close", "code": 1008, "reason": "The time ran out"}]
    assert service.stages == ["handshake"]


async def test_a_websocket_has_no_limit_and_closes_for_a_restart() -> None:
    service = Service(Starlette(routes=SOCKETS), request_timeout=0.05)
    closed: list[Message] = []

    async def talk() -> None:
        closed.extend(await socket_messages(service, "/free"))

    async with service.running_now(), anyio.create_task_group() as tasks:
        tasks.start_soon(talk)
        await anyio.sleep(0.2)
        assert closed == []
        service.running.cancel(StoppedError("drain"), drained=0.0)
    assert closed[-1]["code"] == 1012


async def test_while_the_service_stops_new_requests_and_websockets_are_refused() -> None:
    log = Log()
    service = Service(sleeping(log))
    async with service.running_now():
        service.running.is_closed = True
        response = await service.get("/")
        assert (response.status, response.json()["code"]) == (503, "draining")
        assert response.header("retry-after") == "1"
        (closed,) = await socket_messages(service, "/")
        assert (closed["type"], closed["code"]) == ("websocket.close", 1012)
    assert (log, service.stages) == ([], [])


async def test_a_request_cut_short_by_a_drain_may_have_begun() -> None:
    service = Service(sleeping(Log()))
    answers: list[AsgiResponse] = []

    async def ask() -> None:
        answers.append(await service.get("/"))

    async with service.running_now(), anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await until(lambda: len(service.running) == 1)
        service.running.cancel(StoppedError("drain"))
    assert (answers[0].status, answers[0].json()["code"]) == (503, "stopped")
