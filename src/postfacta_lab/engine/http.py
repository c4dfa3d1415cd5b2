"""A small HTTP/1.1 server, for what the lab itself must answer."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import h11

__all__ = ["Handler", "Reply", "Request", "as_json", "serving"]

_MOST = 16_777_216  # bytes of a request's body


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request; the names of its headers are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"


Handler = Callable[[Request], Awaitable[Reply]]


def as_json(data: object, status: int = 200) -> Reply:
    return Reply(status, json.dumps(data).encode(), "application/json")


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


async def _serve(handler: Handler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    http = h11.Connection(h11.SERVER)
    while http.our_state is not h11.MUST_CLOSE:
        request = await _receive(http, reader, writer)
        if request is None:
            return
        reply = await handler(request)
        head = [("content-type", reply.content_type)] if reply.body else []
        if reply.status != 204:
            head.append(("content-length", str(len(reply.body))))
        for event in (
            h11.Response(status_code=reply.status, headers=head),
            h11.Data(data=reply.body if request.method != "HEAD" else b""),
            h11.EndOfMessage(),
        ):
            writer.write(http.send(event) or b"")
        await writer.drain()
        if http.our_state is h11.DONE and http.their_state is h11.DONE:
            http.start_next_cycle()


async def _receive(
    http: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Request | None:
    """Return the next request; None at the end of the connection."""
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            if http.they_are_waiting_for_100_continue:
                writer.write(http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            http.receive_data(await reader.read(65_536))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > _MOST:
                return None
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
            return Request(head.method.decode(), head.target.decode("latin-1"), headers, bytes(body))
        else:
            return None
