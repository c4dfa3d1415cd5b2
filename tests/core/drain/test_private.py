"""Each private attribute that a drain looks at is there in the servers and loops that are installed."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
from collections.abc import Callable

import pytest
import uvicorn
import uvloop
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import Server

from postfacta_core.drain._private import (
    callback_of,
    captured_by,
    handlers_of,
    has_silent_connections,
    is_own_handler,
    listeners_of,
    reloads,
    shutdown_event,
    uvicorn_of,
)
from tests.kit.apart import apart

pytestmark = pytest.mark.usefixtures("programs")

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "loop": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def finds_a_handler(name: str) -> None:
    loop, got = LOOPS[name](), list[object]()
    loop.add_signal_handler(signal.SIGTERM, got.append, "term")
    kind, table = handlers_of(loop)
    assert (kind, list(table or ())) == (name, [signal.SIGTERM])
    assert is_own_handler(loop, signal.getsignal(signal.SIGTERM)) == (name == "uvloop")
    assert table is not None
    callback, *arguments = callback_of(table[signal.SIGTERM])
    callback(*arguments)
    assert got == ["term"]
    loop.close()


@pytest.mark.parametrize("name", LOOPS)
def test_the_handlers_of_a_loop_and_their_callbacks(name: str) -> None:
    assert apart(finds_a_handler, name) == 0


def test_a_handle_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(LookupError):
        callback_of(object())


def finds_uvicorn() -> None:
    server = Server(uvicorn.Config("none:none", reload=True))
    with server.capture_signals():
        assert uvicorn_of(signal.getsignal(signal.SIGTERM)) is server
        assert reloads(server)
        assert captured_by(server) == []
        server.handle_exit(signal.SIGUSR1, None)
        captured = captured_by(server)
        assert captured == [signal.SIGUSR1]
        captured.clear()  # Else it is raised again here.
    assert uvicorn_of(signal.getsignal(signal.SIGTERM)) is None
    assert not reloads(None)


def test_the_server_of_uvicorns_handler() -> None:
    assert apart(finds_uvicorn) == 0


@pytest.mark.parametrize("protocol", [H11Protocol, HttpToolsProtocol])
async def test_the_listeners_and_silent_connections_of_uvicorn(
    protocol: type[H11Protocol | HttpToolsProtocol],
) -> None:
    async def app(scope: object, receive: object, send: object) -> None: ...

    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, http=protocol, lifespan="off", log_config=None
    )
    config.load()
    server = Server(config)
    server.lifespan = config.lifespan_class(config)
    assert listeners_of(server) is None
    await server.startup()
    listeners = listeners_of(server)
    assert listeners is not None
    port = listeners[0].sockets[0].getsockname()[1]
    assert not has_silent_connections(server)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    while not server.server_state.connections:
        await asyncio.sleep(0)
    assert has_silent_connections(server)
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    while has_silent_connections(server):
        await asyncio.sleep(0)
    writer.close()
    await server.shutdown()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # uvicorn knows no other


def finds_the_event() -> None:
    assert shutdown_event() is None
    context = multiprocessing.get_context("spawn")  # as hypercorn does
    event = context.Event()
    process = context.Process(target=sets_the_event, kwargs={"shutdown_event": event})
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert event.is_set()


def sets_the_event(**_: object) -> None:
    shutdown_event().set()


def test_the_event_of_a_worker() -> None:
    assert apart(finds_the_event) == 0
