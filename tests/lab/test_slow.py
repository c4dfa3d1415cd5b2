"""Slow clients know who ended them."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from postfacta_lab.engine.client import Connection, Outcome, Response, slow_clients

REFUSAL = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Server:
    """Reads for a while, then says something and hangs up; it keeps what it was sent."""

    def __init__(self, patience: float, says: bytes = b"") -> None:
        self.patience, self.says, self.read = patience, says, list[bytes]()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent = b""
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(self.patience):
                while more := await reader.read(100):
                    sent += more
        self.read.append(sent)
        writer.write(self.says)
        writer.close()

    async def start(self) -> tuple[asyncio.Server, int]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        return server, server.sockets[0].getsockname()[1]


def attack(server: Server, *, patience: float) -> list[Response]:
    async def run() -> list[Response]:
        listening, port = await server.start()
        async with listening:
            found = await slow_clients(
                lambda: Connection.open(port),
                b"GET / ",
                b"x" * 100,
                clients=3,
                every=0.05,
                patience=patience,
            )
            await asyncio.sleep(0.1)  # until the server has seen that they are gone
            return found

    return asyncio.run(run())


def test_a_request_is_dripped_until_it_is_answered() -> None:
    server = Server(0.5, REFUSAL)
    assert [answer.status for answer in attack(server, patience=10)] == [408] * 3
    assert all(b"GET / xx" in sent < b"GET / " + b"x" * 100 for sent in server.read)


def test_one_that_is_hung_up_on_is_no_time_out() -> None:
    assert Outcome.TIMEOUT not in {answer.outcome for answer in attack(Server(0.3), patience=10)}


def test_one_that_is_never_ended_gives_up() -> None:
    assert {answer.outcome for answer in attack(Server(30), patience=0.4)} == {Outcome.TIMEOUT}
