"""An HTTP/1.1 client that can stop in the middle of a request; it raises nothing for what the other side does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Self

__all__ = ["Answer", "Connection", "Held", "ask", "encode"]

_MOST_BODY = 8 * 2**20
_BROKEN = (OSError, EOFError, asyncio.LimitOverrunError, TimeoutError, ValueError)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; status 0 if nothing did, and then `broken` says why."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""
    seconds: float = 0.0
    broken: str = ""

    @property
    def good(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    @property
    def refused(self) -> bool:
        """Whether the service had too much to do or nothing to do it with: 429 or 503."""
        return self.status in {429, 503}

    @property
    def json(self) -> Any:
        """The body as JSON; None if it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")

    def __str__(self) -> str:
        return str(self.status) if self.status else self.broken


def encode(method: str, path: str, headers: Mapping[str, str], *, body: bytes | None = None) -> bytes:
    """Return a request as bytes; the length is stated if there is a body."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace") + (body or b"")


class Connection:
    """A connection to a port of this machine, or to a host."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, host: str, port: int, *, tls: bool = False, patience: float = 5.0) -> Self:
        """Connect, or raise `OSError`."""
        try:
            async with asyncio.timeout(patience):
                return cls(*await asyncio.open_connection(host, port, ssl=tls or None))
        except TimeoutError:
            raise ConnectionError("no connection") from None

    async def send(self, data: bytes) -> bool:
        """Send; False if the other side has closed."""
        try:
            self._writer.write(data)
            async with asyncio.timeout(5):
                await self._writer.drain()
        except (OSError, TimeoutError):
            return False
        return True

    async def answer(self, method: str = "GET", patience: float = 10.0) -> Answer:
        """Read one answer."""
        began = monotonic()
        try:
            async with asyncio.timeout(patience):
                status, headers = await self._head()
                body = await self._body(method, status, headers)
        except _BROKEN as error:
            why = "no answer in time" if isinstance(error, TimeoutError) else "connection closed"
            return Answer(seconds=monotonic() - began, broken=why)
        return Answer(status, headers, body, monotonic() - began)

    async def _head(self) -> tuple[int, dict[str, str]]:
        while True:
            first, *lines = (
                (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
            )
            version, status, *_ = first.split(" ")
            if not version.startswith("HTTP/1."):
                raise ValueError("not HTTP")
            if int(status) >= 200 or int(status) == 101:
                return int(status), _headers(lines)

    async def _body(self, method: str, status: int, headers: Mapping[str, str]) -> bytes:
        if method == "HEAD" or status in {204, 304}:
            return b""
        if "chunked" in headers.get("transfer-encoding", "").lower():
            return await self._chunks()
        if "content-length" in headers:
            length = int(headers["content-length"])
            if length > _MOST_BODY:
                raise ValueError("too long")
            return await self._reader.readexactly(length)
        return await self._reader.read(_MOST_BODY)

    async def _chunks(self) -> bytes:
        pieces: list[bytes] = []
        while size := int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16):
            pieces.append((await self._reader.readexactly(size + 2))[:-2])
            if sum(map(len, pieces)) > _MOST_BODY:
                raise ValueError("too long")
        while (await self._reader.readuntil(b"\r\n")) != b"\r\n":
            pass
        return b"".join(pieces)

    async def request(self) -> tuple[dict[str, str], bytes]:
        """Read a request, as its headers and body, for those that serve."""
        _, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
        headers = _headers(lines)
        if "content-length" not in headers and "transfer-encoding" not in headers:
            return headers, b""
        return headers, await self._body("POST", 200, headers)

    async def is_closed(self, within: float) -> bool:
        """Wait until the other side closes or says something; False if it does neither."""
        try:
            async with asyncio.timeout(within):
                await self._reader.read(2**16)
        except TimeoutError:
            return False
        except OSError:
            return True
        return True

    def close(self) -> None:
        """Close at once."""
        self._writer.transport.abort()


def _headers(lines: Iterable[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name = name.strip().lower()
        headers[name] = f"{headers[name]}, {value.strip()}" if name in headers else value.strip()
    return headers


async def ask(
    host: str, port: int, request: bytes, *, method: str = "GET", patience: float = 10.0, tls: bool = False
) -> Answer:
    """Send a request on a connection of its own, and read the answer."""
    began = monotonic()
    try:
        connection = await Connection.open(host, port, tls=tls, patience=patience)
    except OSError:
        return Answer(seconds=monotonic() - began, broken="no connection")
    try:
        await connection.send(request)
        answer = await connection.answer(method, patience - (monotonic() - began))
    finally:
        connection.close()
    return Answer(answer.status, answer.headers, answer.body, monotonic() - began, answer.broken)


@dataclass(slots=True)
class Held:
    """A request of which a part was sent; the rest is sent by `finish`."""

    connection: Connection | None
    rest: bytes
    method: str

    async def finish(self, patience: float = 15.0) -> Answer:
        """Send the rest, and read the answer."""
        if self.connection is None:
            return Answer(broken="no connection")
        await self.connection.send(self.rest)
        answer = await self.connection.answer(self.method, patience)
        self.connection.close()
        return answer

    def drop(self) -> None:
        """Close the connection."""
        if self.connection is not None:
            self.connection.close()
