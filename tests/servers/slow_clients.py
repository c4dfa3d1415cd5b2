"""Clients that are slow on purpose, and one that is not, over plain asyncio streams."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass, field

BIND = "127.0.0.1"
_PATIENCE = 30.0  # For a step that is not slow on purpose; the machine may be busy.


@dataclass(slots=True)
class Answer:
    """How one connection ended: status (0 without one), seconds, and whether the server closed it."""

    status: int
    seconds: float
    closed: bool
    body: bytes = b""


@dataclass(slots=True)
class Flood:
    """What came of a flood.

    Attributes:
        headers_closed: Seconds after which the server closed each header trickler; those that it left are missing.
        bodies: How each body trickler ended.
        well_behaved: Statuses of the well-behaved client; 0 for a request that failed.
        slowest: Of its requests, in seconds.
        streams_before: Handlers that streamed to a client that does not read.
        streams_after: Those that still did when all had had time to be cut.
    """

    headers_closed: list[float] = field(default_factory=list[float])
    bodies: list[Answer] = field(default_factory=list[Answer])
    well_behaved: Counter[int] = field(default_factory=Counter[int])
    slowest: float = 0.0
    streams_before: int = 0
    streams_after: int = 0


async def request(
    port: int, head: str, *chunks: bytes, pause: float = 0.0, most: float = _PATIENCE
) -> Answer:
    """Send a request, its chunks with pauses in between, and read until the server closes or `most` is over.

    It reads while it sends, and stops sending once there is an answer.
    """
    begun = time.monotonic()
    reader, writer = await asyncio.open_connection(BIND, port)
    reading = asyncio.ensure_future(_read_all(reader, begun + most))
    try:
        writer.write(head.encode())
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()
            if (await asyncio.wait([reading], timeout=pause))[0]:
                break
        raw, closed = await reading
    except ConnectionError:
        raw, closed = await reading
    finally:
        reading.cancel()
        writer.transport.abort()
    status = int(raw[9:12]) if raw.startswith(b"HTTP/1.") else 0
    return Answer(status, time.monotonic() - begun, closed, raw.partition(b"\r\n\r\n")[2])


async def _read_all(reader: asyncio.StreamReader, until: float) -> tuple[bytes, bool]:
    raw = b""
    try:
        async with asyncio.timeout(until - time.monotonic()):
            while more := await reader.read(65_536):
                raw += more
    except TimeoutError:
        return raw, False
    except ConnectionError:
        pass
    return raw, True


def chunked(size: int) -> tuple[str, list[bytes]]:
    """Make a request whose body says nothing of its length beforehand."""
    head = "POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    whole, rest = divmod(size, 10_000)
    pieces = [b"x" * 10_000] * whole + ([b"x" * rest] if rest else [])
    return head, [*(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces), b"0\r\n\r\n"]


async def trickle_body(port: int, most: float) -> Answer:
    """Send one byte of the body a second."""
    head = "POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    return await request(port, head, *[b"x"] * 1000, pause=1, most=most)


async def trickle_headers(port: int, most: float) -> Answer:
    """Send one header a second, and never the last."""
    head = "GET /quick HTTP/1.1\r\nHost: x\r\n"
    return await request(port, head, *[b"x-slow: 1\r\n"] * 1000, pause=1, most=most)


async def stay_silent(port: int, seconds: float) -> None:
    """Ask for the long stream, and read none of it."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
    loop = asyncio.get_running_loop()
    with sock:
        await loop.sock_connect(sock, (BIND, port))
        await loop.sock_sendall(sock, b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(seconds)


async def streams(port: int) -> int:
    """Ask how many streams go on."""
    answer = await request(port, "GET /state HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    return int(json.loads(answer.body)["streams"])


async def behave(port: int, flood: Flood, over: asyncio.Event) -> None:
    """Send 20 ordinary requests a second, each of which should succeed."""
    heads = ("GET /quick HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", chunked(20_000))
    number = 0
    while not over.is_set():
        head = heads[number % 2]
        number += 1
        try:
            if isinstance(head, str):
                answer = await request(port, head)
            else:
                closing = head[0].replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
                answer = await request(port, closing, *head[1])
        except OSError:
            answer = Answer(0, _PATIENCE, closed=True)
        flood.well_behaved[answer.status] += 1
        flood.slowest = max(flood.slowest, answer.seconds)
        await asyncio.sleep(0.05)


async def flood_with(
    port: int,
    *,
    headers: int = 500,
    bodies: int = 100,
    silent: int = 20,
    seconds: float = 9.0,
    head_start: float = 3.0,
) -> Flood:
    """Attack a server in three ways at once, while a well-behaved client goes on."""
    flood, over = Flood(), asyncio.Event()

    async def header() -> None:
        answer = await trickle_headers(port, seconds)
        if answer.closed:
            flood.headers_closed.append(answer.seconds)

    async def body() -> None:
        flood.bodies.append(await trickle_body(port, seconds))

    async def watch() -> None:
        end = time.monotonic() + seconds - 1  # The silent ones leave a second later.
        try:
            flood.streams_after = flood.streams_before
            while flood.streams_after and time.monotonic() < end:
                flood.streams_after = await streams(port)
                await asyncio.sleep(0.1)
            await asyncio.sleep(end - time.monotonic())
        finally:
            over.set()

    # These come first: in the crowd, the limiter would have no place for some of them.
    async with asyncio.TaskGroup() as tasks:
        for _ in range(silent):
            tasks.create_task(stay_silent(port, seconds + head_start))
        ready = time.monotonic() + head_start
        while flood.streams_before < silent and time.monotonic() < ready:
            flood.streams_before = await streams(port)
            await asyncio.sleep(0.1)
        slow: list[Awaitable[None]] = [header() for _ in range(headers)]
        slow += [body() for _ in range(bodies)]
        await asyncio.gather(*slow, behave(port, flood, over), watch())
    return flood
