"""The generator sends on time whatever becomes of the answers, and reads where each of them ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from postfacta_lab.load.generator import Generator, Meter, Target
from postfacta_lab.load.mix import Ask
from tests.kit.fair import FairLoop

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
GET = Ask("GET /", 1, "/a?b=1")


def ask(
    handle: Handle, *asks: Ask, cap: int = 100, patience: float = 10.0, gap: float = 0.0
) -> Meter:
    """Send each, one after the other, to a server of this process."""
    meter = Meter(cap=cap)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await handle(reader, writer)
        finally:
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        generator = Generator(
            Target(f"http://127.0.0.1:{port}/base", {"X-Own": "yes"}), meter, patience=patience
        )
        try:
            await generator.send([number * gap for number in range(len(asks))], asks)
            await generator.settle()
        finally:
            await generator.close()
            server.close()

    with asyncio.Runner(loop_factory=FairLoop) as runner:
        runner.run(run())
    return meter


def errors(meter: Meter) -> list[str]:
    """Return how each ended, in the order of their moments."""
    return [sample.error for sample in sorted(meter.samples, key=lambda it: it.intended)]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\n",
    ],
)
def test_a_connection_serves_again_when_its_answer_has_ended(answer: bytes) -> None:
    connections: list[int] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        while await reader.readuntil(b"\r\n\r\n"):
            for byte in (answer[:20], answer[20:40], answer[40:]):
                writer.write(byte)
                await writer.drain()
                await asyncio.sleep(0)

    assert errors(ask(handle, *[GET] * 3, gap=0.2)) == [""] * 3
    assert len(connections) == 1


def test_an_answer_may_end_with_its_connection() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
        writer.close()

    assert errors(ask(handle, GET, GET, gap=0.1)) == ["", ""]


def test_an_answer_that_is_cut_is_an_error() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")

    assert errors(ask(handle, GET)) == ["truncated"]


def test_a_request_is_written_as_the_mix_says() -> None:
    seen: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"}"))
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    assert errors(ask(handle, Ask("POST /", 1, "/invoices", "POST", {"sum": 3}, 201))) == [""]
    head, _, body = seen[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /base/invoices HTTP/1.1"
    assert {"X-Own: yes", "Content-Type: application/json", "Content-Length: 10"} <= set(lines)
    assert any(line.startswith("Idempotency-Key: ") for line in lines)
    assert body == b'{"sum": 3}'


def test_a_kept_connection_that_the_server_closed_is_replaced_for_a_read() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()  # unanswered: it was closed at the moment at which the request came

    assert errors(ask(handle, GET, GET, gap=0.2)) == ["", ""]
    posts = [Ask("POST /", 1, "/", "POST")] * 2
    assert errors(ask(handle, *posts, gap=0.2))[1] != ""


def test_other_statuses_and_what_is_no_http_are_errors() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        writer.write(
            b"nonsense\r\n\r\n"
            if path == b"/base/n"
            else b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n"
        )

    assert errors(ask(handle, Ask("n", 1, "/n"), GET, gap=0.1)) == ["truncated", "302"]


def test_a_client_hangs_up_when_its_patience_ends_and_the_others_are_sent_on_time() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    meter = ask(handle, *[GET] * 5, patience=0.4, gap=0.02)
    assert errors(meter) == ["timeout"] * 5
    assert max(sample.began - sample.intended for sample in meter.samples) < 0.3
    assert meter.waiting == []


def test_what_is_above_the_cap_is_dropped_and_counted() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    meter = ask(handle, *[GET] * 5, cap=2, patience=0.3, gap=0.01)
    assert (len(meter.samples), len(meter.dropped)) == (2, 3)


def test_a_port_without_a_listener_is_an_error_of_each() -> None:
    meter = Meter(cap=10)

    async def run() -> None:
        generator = Generator(Target("http://127.0.0.1:9", {}), meter, patience=5.0)
        await generator.send([0.0, 0.01], [GET, GET])
        await generator.settle()
        await generator.close()

    asyncio.run(run())
    assert errors(meter) == ["ConnectionRefusedError"] * 2
