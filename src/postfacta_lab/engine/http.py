"""A small HTTP/1.1 server for what is sent to the lab itself, such as traces."""

from __future__ import annotations

import asyncio
import gzip
import io
import socket
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import h11

from .values import Headers

_MOST = 16_777_216  # bytes of a request's body, and of the traces that are kept


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request; the names of its headers are in lower case."""

    method: str
    target: str
    headers: Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"


Handler = Callable[[Request], Awaitable[Reply]]


@asynccontextmanager
async def serving(handler: Handler, listener: socket.socket) -> AsyncGenerator[None]:
    """Answer requests until the block ends; then close the listener and all connections."""
    connections: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer)
        try:
            with suppress(OSError, h11.RemoteProtocolError, asyncio.CancelledError):
                await _serve(handler, reader, writer)
        finally:
            connections.discard(writer)
            writer.close()

    server = await asyncio.start_server(serve, sock=listener)
    try:
        yield
    finally:
        server.close()
        for writer in tuple(connections):
            writer.close()


async def _serve(
    handler: Handler,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """Answer one request after the other, until the connection ends or a body is too long."""
    http = h11.Connection(h11.SERVER)
    body = bytearray()
    head: h11.Request | None = None
    while len(body) <= _MOST:
        event = http.next_event()
        if event is h11.NEED_DATA:
            if http.they_are_waiting_for_100_continue:
                writer.write(
                    http.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
                )
            http.receive_data(await reader.read(65_536))
        elif isinstance(event, h11.Request):
            head = event
            body = bytearray()
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            headers = {
                name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers
            }
            request = Request(
                head.method.decode(), head.target.decode("latin-1"), headers, bytes(body)
            )
            writer.write(_encode(http, request.method, await handler(request)))
            await writer.drain()
            if http.our_state is h11.MUST_CLOSE:
                return
            http.start_next_cycle()
        else:
            return


def _encode(http: h11.Connection, method: str, reply: Reply) -> bytes:
    headers: list[tuple[str, str]] = []
    if reply.status != 204:
        headers.append(("content-type", reply.content_type))
        headers.append(("content-length", str(len(reply.body))))
    events = (
        h11.Response(status_code=reply.status, headers=headers),
        h11.Data(data=b"" if method == "HEAD" else reply.body),
        h11.EndOfMessage(),
    )
    return b"".join(http.send(event) or b"" for event in events)


def _unpacked(body: bytes) -> bytes:
    """Return the first of what was packed, and nothing of what is not gzip's format."""
    try:
        with gzip.open(io.BytesIO(body)) as content:
            return content.read(_MOST)
    except (OSError, EOFError, zlib.error):
        return b""


class Collector:
    """Accepts traces by OTLP over HTTP, as protobuf or JSON, and finds ids in either."""

    def __init__(self) -> None:
        self._got = bytearray()
        self.port: int = 0

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[None]:
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        async with serving(self._take, listener):
            yield

    async def _take(self, request: Request) -> Reply:
        if len(self._got) < _MOST:
            packed = "gzip" in request.headers.get("content-encoding", "")
            self._got += _unpacked(request.body) if packed else request.body
        return Reply(content_type="application/x-protobuf")

    @property
    def bytes(self) -> int:
        return len(self._got)

    def has(self, trace: str) -> bool:
        """Whether a trace id, as 32 hexadecimal digits, came as bytes or as text."""
        return bytes.fromhex(trace) in self._got or trace.encode() in self._got.lower()
