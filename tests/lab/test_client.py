"""The client of the lab distinguishes each way to end, and raises nothing for what a server does."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import pytest

from postfacta_lab.engine.client import Connection, Outcome, PartialRequest, Response, ask, encode

T = TypeVar("T")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def run(what: Coroutine[Any, Any, T]) -> T:
    """Run it, and let the loop close its sockets."""

    async def settled() -> T:
        found = await what
        await asyncio.sleep(0.05)
        return found

    return asyncio.run(settled())


async def answered(*pieces: bytes, requests: int = 1) -> Sequence[Response]:
    """Ask a server that answers each request with these pieces, then closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        connection = await Connection.open(server.sockets[0].getsockname()[1])
        found = [await connection.get("/", patience=10) for _ in range(requests)]
        connection.close()
    return found


@pytest.mark.parametrize(
    ("pieces", "body"),
    [
        ([OK], b"ok"),
        ([b"HTTP/1.1 200 OK\r\n\r\n", b"until ", b"the end"], b"until the end"),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"1;x=y\r\nd\r\n0\r\na: b\r\n\r\n"], b"abcd"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", OK], b"ok"),
    ],
)  # fmt: skip
def test_an_answer_is_read_whole(pieces: list[bytes], body: bytes) -> None:
    (answer,) = run(answered(*pieces))
    assert (answer.status, answer.body, answer.outcome) == (200, body, Outcome.OK)


@pytest.mark.parametrize(
    ("pieces", "outcome"),
    [
        ([], Outcome.RESET),
        ([b"HTTP/1.1 200"], Outcome.TRUNCATED),
        ([OK[:-1]], Outcome.TRUNCATED),
        ([b"220 smtp.example.org ESMTP\r\n\r\n"], Outcome.TRUNCATED),
        ([b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"], Outcome.STATUS_5XX),
        ([b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"], Outcome.STATUS_4XX),
    ],
)
def test_ways_to_fail_are_distinguished(pieces: list[bytes], outcome: Outcome) -> None:
    (answer,) = run(answered(*pieces))
    assert answer.outcome is outcome


def test_a_kept_connection_that_was_closed_is_stale() -> None:
    first, second = run(answered(OK, requests=2))
    assert (first.outcome, second.outcome) == (Outcome.OK, Outcome.STALE_EOF)


def test_a_client_may_come_from_another_address_of_this_machine() -> None:
    async def peer() -> str:
        seen: list[str] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(writer.get_extra_info("peername")[0])
            writer.write(OK)
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            assert (await ask(port, encode("GET", "/"), source="127.0.0.2")).good
        return seen[0]

    assert run(peer()) == "127.0.0.2"


def test_what_is_not_there_or_mute_is_no_answer() -> None:
    async def both() -> tuple[Response, Response]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        mute = await ask(port, encode("GET", "/"), patience=0.2)
        server.close()
        return mute, await ask(port, encode("GET", "/"))

    mute, gone = run(both())
    assert (mute.outcome, gone.outcome) == (Outcome.TIMEOUT, Outcome.REFUSED)


def test_a_request_is_held_until_its_rest_is_sent() -> None:
    async def hold() -> tuple[bytes, Response, list[str]]:
        got, begun = bytearray(), list[str]()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            got.extend(await reader.readexactly(len(request)))
            writer.write(OK)
            writer.close()

        request = encode("POST", "/", {"Content-Type": "text/plain"}, body=b"one and two")
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            held = await PartialRequest.begin(
                server.sockets[0].getsockname()[1], request, method="POST", remainder=4
            )
            answer = await held.finish(begun=lambda: begun.append("head"))
        assert bytes(got) == request
        return held.remainder, answer, begun

    rest, answer, begun = run(hold())
    assert (rest, answer.text, begun) == (b" two", "ok", ["head"])
