"""A connection that brings no request goes in time, and makes way for one that does."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from postfacta_adapters.uvicorn import BoundedHttp, bounded

GET = b"GET /quick HTTP/1.1\r\nhost: x\r\n\r\n"
HOLD = b"GET /hold HTTP/1.1\r\nhost: x\r\n\r\n"
PATIENCE = 1.0
LONG = 600.0


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture(autouse=True)
def _files() -> Generator[None]:
    """Restore the limit of open files, which a server raises."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limit)


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> bytes:
        """Read one answer's head and its body of two bytes."""
        async with asyncio.timeout(30):
            return await self.reader.readuntil(b"\r\n\r\n") + await self.reader.readexactly(2)

    async def end(self) -> bytes:
        """Read until the server closes."""
        async with asyncio.timeout(30):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


class Echo(asyncio.Protocol):
    """Takes the place of an implementation of WebSockets.

    It sends back what it gets, the request first.
    """

    def __init__(
        self, config: uvicorn.Config, server_state: ServerState, app_state: object
    ) -> None:
        self._connections: set[Any] = server_state.connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)

    def shutdown(self) -> None:
        self._transport.close()


class Service:
    """A server of few connections, with a handler that waits until it may go on."""

    def __init__(self, kind: type[BoundedHttp]) -> None:
        config = uvicorn.Config(
            self.app,
            http=kind,
            ws=Echo,
            lifespan="off",
            interface="asgi3",
            log_config=None,
            timeout_keep_alive=600,
        )
        self.server = uvicorn.Server(config)
        self.address: tuple[str, int] | str = ""
        self.held = 0
        self.go_on = asyncio.Event()
        self.clients: list[Client] = []

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/hold":
            self.held += 1
            await self.go_on.wait()
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
        )
        await send({"type": "http.response.body", "body": b"ok"})

    async def client(self, data: bytes = b"") -> Client:
        if isinstance(self.address, str):
            client = Client(*await asyncio.open_unix_connection(self.address))
        else:
            client = Client(*await asyncio.open_connection(*self.address))
        self.clients.append(client)
        await client.send(data)
        return client

    async def holding(self) -> Client:
        held, client = self.held, await self.client(HOLD)
        async with asyncio.timeout(30):
            while self.held == held:
                await asyncio.sleep(0.01)
        return client


@asynccontextmanager
async def listening(listener: socket.socket, kind: type[BoundedHttp]) -> AsyncGenerator[Service]:
    service = Service(kind)
    service.address = listener.getsockname()
    async with asyncio.TaskGroup() as tasks:
        served = tasks.create_task(service.server.serve(sockets=[listener]))
        try:
            yield service
        finally:
            service.go_on.set()
            for client in service.clients:
                client.writer.close()
            service.server.should_exit = True
            # After a failure too: uvloop never ends if a server was cancelled.
            await asyncio.wait([served])


@asynccontextmanager
async def serving(*, most: int = 100, patience: float = LONG) -> AsyncGenerator[Service]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with listening(listener, bounded(most, patience=patience)) as service:
            yield service


async def test_a_connection_that_stays_silent_is_closed() -> None:
    async with serving(patience=PATIENCE) as service:
        assert await (await service.client()).end() == b""


async def test_a_head_that_trickles_in_is_refused_however_regular_it_is() -> None:
    async with serving(patience=PATIENCE) as service:
        loop = asyncio.get_running_loop()
        # A stream would forget what came when a later piece cannot be sent.
        with socket.socket() as client:
            client.settimeout(0)
            await loop.sock_connect(client, service.address)
            await loop.sock_sendall(client, b"GET /quick HTTP/1.1\r\n")

            async def trickle() -> None:
                with suppress(ConnectionError):
                    while True:
                        await loop.sock_sendall(client, b"x: y\r\n")
                        await asyncio.sleep(PATIENCE / 10)

            async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
                trickling = tasks.create_task(trickle())
                assert (await loop.sock_recv(client, 1024)).startswith(b"HTTP/1.1 408 ")
                trickling.cancel()


async def test_the_head_of_a_later_request_has_the_same_time() -> None:
    async with serving(patience=PATIENCE) as service:
        client = await service.client(GET)
        await client.answer()
        await client.send(GET[:9])
        assert (await client.end()).startswith(b"HTTP/1.1 408 ")


async def test_a_head_that_goes_on_is_refused_and_what_still_comes_is_dropped() -> None:
    async with serving() as service:
        client = await service.client(GET)
        await client.answer()
        await client.send(b"GET /quick HTTP/1.1\r\n")
        for _ in range(20):
            await client.send(b"x: %b\r\n" % (b"y" * 60_000))
        async with asyncio.timeout(30):
            assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 431 ")
        await client.send(b"\r\n" + GET)
        client.writer.write_eof()
        assert await client.end() == b""


async def test_who_sends_a_large_head_is_closed_in_time() -> None:
    async with serving(patience=PATIENCE) as service:
        client = await service.client(b"GET /quick HTTP/1.1\r\nx: " + b"y" * 600_000)
        assert (await client.end()).count(b"HTTP/1.1 ") == 1


async def test_many_small_heads_are_no_large_one() -> None:
    head = GET[:-2] + b"x: %b\r\n\r\n" % (b"y" * 1000)
    async with serving() as service:
        client = await service.client(head[:9])
        for _ in range(3):
            # Each time it stops within a head.
            await client.send(head[9:] + head * 100 + head[:9])
            for _ in range(101):
                assert (await client.answer()).endswith(b"ok")


async def test_a_lone_line_feed_after_an_answer_keeps_no_connection_open() -> None:
    async with serving(patience=PATIENCE) as service:
        client = await service.client(GET)
        await client.answer()
        await client.send(b"\r\n")
        assert await client.end() == b""


async def test_a_head_in_pieces_is_served_and_its_handler_has_its_own_time() -> None:
    async with serving(patience=PATIENCE) as service:
        client = await service.client(HOLD[:9])
        await asyncio.sleep(0.01)
        await client.send(HOLD[9:])
        await asyncio.sleep(2 * PATIENCE)
        service.go_on.set()
        assert (await client.answer()).endswith(b"ok")
        await client.send(GET)
        assert (await client.answer()).endswith(b"ok")


@pytest.mark.parametrize("first", [b"", GET[:9], GET], ids=["silent", "in its head", "kept alive"])
async def test_the_longest_without_a_request_makes_way(
    first: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(most=3) as service:
        oldest = await service.client(first)
        if first == GET:
            await oldest.answer()
        held = await service.holding()
        await service.client()
        for _ in range(3):
            newest = await service.client(GET)
            assert (await newest.answer()).endswith(b"ok")
        assert await oldest.end() == b""
        service.go_on.set()
        assert (await held.answer()).endswith(b"ok")
    assert [record.getMessage() for record in caplog.records].count("connections.full") == 1


async def test_who_comes_when_all_are_served_is_closed() -> None:
    async with serving(most=2) as service:
        held = [await service.holding(), await service.holding()]
        assert await (await service.client(GET)).end() == b""
        service.go_on.set()
        assert [(await one.answer())[-2:] for one in held] == [b"ok", b"ok"]


async def test_a_websocket_has_no_head_to_send_and_makes_way_for_none() -> None:
    upgrade = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    async with serving(most=2, patience=PATIENCE) as service:
        client = await service.client(upgrade)
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"GET / ")
        for _ in range(3):
            assert (await (await service.client(GET)).answer()).endswith(b"ok")
        await asyncio.sleep(2 * PATIENCE)
        await client.send(b"still here")
        async with asyncio.timeout(30):
            assert await client.reader.readexactly(10) == b"still here"


async def test_two_servers_of_one_class_count_each_for_itself() -> None:
    kind = bounded(1)
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        async with listening(one, kind) as busy, listening(other, kind) as idle:
            held = await busy.holding()
            kept = await idle.client(GET)
            assert (await kept.answer()).endswith(b"ok")
            assert await (await busy.client(GET)).end() == b""
            await kept.send(GET)
            assert (await kept.answer()).endswith(b"ok")
            busy.go_on.set()
            assert (await held.answer()).endswith(b"ok")


async def test_no_answer_waits_forty_milliseconds_for_an_acknowledgement() -> None:
    async with serving() as service:
        await (await service.client(GET)).answer()
        connections: set[Any] = service.server.server_state.connections
        (accepted,) = (one.transport.get_extra_info("socket") for one in connections)
        # As asyncio leaves it alone.
        assert accepted.proto == 0
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_socket_that_has_no_such_option_is_served(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        async with listening(listener, BoundedHttp) as service:
            assert (await (await service.client(GET)).answer()).endswith(b"ok")


async def answer_nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Wait for no request."""


async def test_a_transport_without_a_socket_is_served() -> None:
    class Memory(asyncio.Transport):
        """Has no socket, as those of uvicorn's own tests."""

        def close(self) -> None:
            """Be closed."""

    config = uvicorn.Config(answer_nothing, lifespan="off")
    config.load()
    protocol = BoundedHttp(config, ServerState(), {}, asyncio.get_running_loop())
    protocol.connection_made(Memory())
    assert protocol in protocol.connections
    protocol.connection_lost(None)


async def test_the_first_connection_makes_room_for_all_others() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (600, hard))
    async with serving() as service:
        await (await service.client(GET)).answer()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (
            min(hard, 100 + 5 * 2048 + 100 + 64),
            hard,
        )


ROOM = """
import json, resource, sys
soft, hard = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
from postfacta_adapters.uvicorn import make_room
room = make_room(1000, 500, other_files=20)
print(json.dumps([*room, resource.getrlimit(resource.RLIMIT_NOFILE)[0]]))
"""


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize(
    ("soft", "hard", "room", "after"),
    [
        (100, 4096, (1000, 500), 3584),
        (3700, 4096, (1000, 500), 3700),
        (256, 784, (350, 70), 784),
        (128, 128, (24, 4), 128),
    ],
)
def test_there_is_room_for_what_may_be_accepted_in_one_turn(
    soft: int, hard: int, room: tuple[int, int], after: int
) -> None:
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", ROOM, str(soft), str(hard)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout) == [*room, after]
    assert room[0] + 5 * room[1] + 20 <= after
