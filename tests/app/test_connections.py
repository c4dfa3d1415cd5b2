"""A connection that brings no request goes in time, and makes way for one that does."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from postfacta_app.server import bounded

GET = b"GET /quick HTTP/1.1\r\nhost: x\r\n\r\n"
HOLD = b"GET /hold HTTP/1.1\r\nhost: x\r\n\r\n"
PATIENCE = 0.3
LONG = 600.0


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


class Service:
    """A server of few connections, with a handler that waits until it may go on."""

    def __init__(self) -> None:
        self.port = 0
        self.held = 0
        self.go_on = asyncio.Event()
        self.clients: list[Client] = []

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/hold":
            self.held += 1
            await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def client(self, data: bytes = b"") -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
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
async def serving(*, most: int = 100, patience: float = LONG) -> AsyncGenerator[Service]:
    service = Service()
    config = uvicorn.Config(
        service.app,
        http=bounded(most, patience=patience),
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        timeout_keep_alive=600,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        service.port = listener.getsockname()[1]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve(sockets=[listener]))
            try:
                yield service
            finally:
                service.go_on.set()
                for client in service.clients:
                    client.writer.close()
                server.should_exit = True


async def test_a_connection_that_stays_silent_is_closed() -> None:
    async with serving(patience=PATIENCE) as service:
        assert await (await service.client()).end() == b""


async def test_a_head_that_trickles_in_is_refused_however_regular_it_is() -> None:
    async with serving(patience=PATIENCE) as service:
        client = await service.client(b"GET /quick HTTP/1.1\r\n")

        async def trickle() -> None:
            while True:
                await client.send(b"x: y\r\n")
                await asyncio.sleep(PATIENCE / 10)

        async with asyncio.TaskGroup() as tasks:
            trickling = tasks.create_task(trickle())
            assert (await client.end()).startswith(b"HTTP/1.1 408 ")
            trickling.cancel()


async def test_the_head_of_a_later_request_has_the_same_time() -> None:
    async with serving(patience=PATIENCE) as service:
        client = await service.client(GET)
        await client.answer()
        await client.send(GET[:9])
        assert (await client.end()).startswith(b"HTTP/1.1 408 ")


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


ROOM = """
import json, resource, sys
soft, hard = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
from postfacta_app.server import make_room
room = make_room(1000, 500, others=20)
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
