"""Clients of HTTP/1.1 that can stop in the middle of a request, one or many.

An answer says what came, or why none did.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from time import monotonic
from typing import Any, Self

from .values import Headers

HOST = "127.0.0.1"
_MOST_BODY = 2**26
_BROKEN = (OSError, EOFError, asyncio.LimitOverrunError, ValueError)  # a time-out is an OSError


class Outcome(StrEnum):
    """How a request ended for its client."""

    OK = "ok"
    STALE_EOF = (  # a kept-alive connection was closed unanswered, without a warning before
        "stale_eof"
    )
    REFUSED = "refused"
    RESET = "reset"  # a fresh connection was reset, or closed unanswered
    TRUNCATED = "truncated"
    STATUS_4XX = "status_4xx"
    STATUS_5XX = "status_5xx"
    TIMEOUT = "timeout"

    @classmethod
    def of(cls, status: int) -> Outcome:
        if status < 400:
            return cls.OK
        return cls.STATUS_4XX if status < 500 else cls.STATUS_5XX


@dataclass(frozen=True, slots=True)
class Response:
    """What came back; status 0 if nothing came whole, and then `broken` says why."""

    status: int = 0
    headers: Headers = field(default_factory=dict[str, str])
    body: bytes = b""
    seconds: float = 0.0
    broken: Outcome = Outcome.TIMEOUT

    @property
    def outcome(self) -> Outcome:
        return Outcome.of(self.status) if self.status else self.broken

    @property
    def good(self) -> bool:
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
        return self.body.decode("utf-8", "replace")

    def __str__(self) -> str:
        return str(self.status or self.broken)


def encode(
    method: str,
    path: str,
    headers: Headers | None = None,
    *,
    body: bytes | None = None,
) -> bytes:
    """Return a request as bytes; the length is stated if there is a body."""
    named = {"Host": HOST, **(headers or {})}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace") + (body or b"")


class Connection:
    """A connection that is kept as long as the server does not say otherwise: then it is `closing`.

    One that could not be made has a `failure`, of which its answer tells.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None) -> None:
        self._reader = reader
        self._writer = writer
        self._answers = 0
        self.closing: bool = writer is None
        self.failure: BaseException | None = reader.exception()

    @classmethod
    async def open(
        cls,
        port: int,
        *,
        host: str = HOST,
        tls: ssl.SSLContext | None = None,
        patience: float = 5.0,
        source: str = "",
    ) -> Self:
        """Connect, from the address `source` if it is given."""
        reader = asyncio.StreamReader()
        writer = None
        local = (source, 0) if source else None
        try:
            async with asyncio.timeout(patience):
                reader, writer = await asyncio.open_connection(
                    host, port, ssl=tls, local_addr=local
                )
        except OSError as error:
            reader.set_exception(error)
        return cls(reader, writer)

    @property
    def is_usable(self) -> bool:
        """Whether another request may be sent, as far as is known."""
        return not (
            self.closing or not self._writer or self._writer.is_closing() or self._reader.at_eof()
        )

    async def send(self, data: bytes) -> bool:
        """Send; False if the other side has closed."""
        if self._writer is None:
            return False
        try:
            self._writer.write(data)
            async with asyncio.timeout(5):
                await self._writer.drain()
        except OSError:
            return False
        return True

    async def get(
        self,
        path: str,
        headers: Headers | None = None,
        *,
        patience: float,
    ) -> Response:
        await self.send(encode("GET", path, headers))
        return await self.answer(patience=patience)

    async def drip(
        self, pieces: Iterable[bytes], *, patience: float, every: float = 0.0
    ) -> Response:
        """Send pieces with pauses in between until there is an answer.

        It is a time-out if there is none.
        """
        async with asyncio.TaskGroup() as group:
            answer = group.create_task(self.answer(patience=patience))
            for piece in pieces:
                if not await self.send(piece):
                    break
                done, _ = await asyncio.wait([answer], timeout=every)
                if done:
                    break
        return answer.result()

    async def answer(
        self,
        method: str = "GET",
        patience: float | None = 10.0,
        *,
        begun: Callable[[], None] | None = None,
    ) -> Response:
        """Read one answer, or say why there is none; `begun` is called when its head has come."""
        began = monotonic()
        has_head = False
        try:
            async with asyncio.timeout(patience):
                status, headers = await self._head()
                has_head = True
                if begun is not None:
                    begun()
                body = await self._body(method, status, headers)
        except _BROKEN as error:
            self.closing = True
            return Response(
                seconds=monotonic() - began, broken=self._outcome_of(error, has_head=has_head)
            )
        self._answers += 1
        return Response(status, headers, body, monotonic() - began)

    def _outcome_of(self, error: Exception, *, has_head: bool) -> Outcome:
        if isinstance(error, TimeoutError):
            return Outcome.TIMEOUT
        if isinstance(error, ConnectionRefusedError):
            return Outcome.REFUSED
        is_cut = isinstance(error, asyncio.IncompleteReadError) and not error.partial
        if has_head or not (is_cut or isinstance(error, OSError)):
            return Outcome.TRUNCATED
        return Outcome.STALE_EOF if self._answers else Outcome.RESET

    async def _head(self) -> tuple[int, dict[str, str]]:
        while True:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            version, status, *_ = first.split(" ")
            if not version.startswith("HTTP/1."):
                raise ValueError("not HTTP")
            if int(status) >= 200 or int(status) == 101:
                headers = _headers(lines)
                self.closing = (
                    version == "HTTP/1.0" or "close" in headers.get("connection", "").lower()
                )
                return int(status), headers

    async def _body(self, method: str, status: int, headers: Headers) -> bytes:
        if method == "HEAD" or status in {204, 304}:
            return b""
        if "chunked" in headers.get("transfer-encoding", "").lower():
            return await self._chunks()
        if "content-length" in headers:
            return await self._reader.readexactly(_bounded(int(headers["content-length"])))
        self.closing = True
        body = bytearray()
        while piece := await self._reader.read(2**16):
            body += piece
            _bounded(len(body))
        return bytes(body)

    async def _chunks(self) -> bytes:
        body = bytearray()
        while size := await self._chunk_size():
            _bounded(len(body) + size)
            chunk = await self._reader.readexactly(size + 2)
            body += chunk[:-2]
        while (await self._reader.readuntil(b"\r\n")) != b"\r\n":
            pass
        return bytes(body)

    async def _chunk_size(self) -> int:
        line = await self._reader.readuntil(b"\r\n")
        digits, _, _ = line.partition(b";")  # an extension may follow: RFC 9112, 7.1.1
        return int(digits, 16)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        field_name, _, field_value = line.partition(":")
        name = field_name.strip().lower()
        value = field_value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _bounded(length: int) -> int:
    if not 0 <= length <= _MOST_BODY:
        raise ValueError("too long")
    return length


@dataclass(slots=True)
class PartialRequest:
    """A request of which a part was sent; the rest is sent by `finish`."""

    connection: Connection
    method: str
    remainder: bytes

    @classmethod
    async def begin(
        cls,
        port: int,
        request: bytes,
        *,
        method: str = "GET",
        remainder: int = 0,
        patience: float = 5.0,
        source: str = "",
    ) -> Self:
        """Send a request on a connection of its own, but for the last bytes of it."""
        connection = await Connection.open(port, patience=patience, source=source)
        until = len(request) - remainder
        await connection.send(request[:until])
        return cls(connection, method, request[until:])

    async def finish(
        self,
        patience: float | None = 15.0,
        *,
        begun: Callable[[], None] | None = None,
    ) -> Response:
        try:
            await self.connection.send(self.remainder)
            return await self.connection.answer(self.method, patience, begun=begun)
        finally:
            self.connection.close()


async def ask(
    port: int,
    request: bytes,
    *,
    method: str = "GET",
    patience: float = 10.0,
    source: str = "",
) -> Response:
    """Send a request on a connection of its own, and read the answer."""
    began = monotonic()
    partial = await PartialRequest.begin(
        port,
        request,
        method=method,
        patience=patience,
        source=source,
    )
    answer = await partial.finish(patience - (monotonic() - began))
    return replace(answer, seconds=monotonic() - began)


_Ask = Callable[[], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Flood:
    """Answers with the seconds at which they were due, and how late the generator was at worst."""

    answers: tuple[tuple[float, Response], ...]
    lateness: float
    seconds: float

    def good(self, within: float) -> int:
        return sum(answer.good and answer.seconds <= within for _, answer in self.answers)


async def open_loop(ask: _Ask, *, rate: float, seconds: float) -> Flood:
    """Ask at a rate, however slow the answers are."""
    answers: list[tuple[float, Response]] = []
    late = 0.0
    began = monotonic()

    async def send(due: float) -> None:
        answers.append((due, await ask()))

    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            due = number / rate
            if (ahead := due - (monotonic() - began)) > 0:
                await asyncio.sleep(ahead)
            late = max(late, monotonic() - began - due)
            group.create_task(send(due))
    return Flood(tuple(answers), late, monotonic() - began)


async def closed_loop(
    ask: _Ask,
    *,
    callers: int,
    seconds: float = 1e9,
    requests: int = 10**9,
    pause: float = 0.05,
) -> Flood:
    """Let callers ask one after the other, until the time or the number is used up.

    A refused one pauses.
    """
    answers: list[tuple[float, Response]] = []
    began = monotonic()

    async def caller() -> None:
        while (due := monotonic() - began) < seconds and len(answers) < requests:
            answer = await ask()
            answers.append((due, answer))
            if not answer.good:
                await asyncio.sleep(pause)

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    return Flood(tuple(answers), 0.0, monotonic() - began)


async def slow_clients(
    connect: Callable[[], Awaitable[Connection]],
    first: bytes,
    remainder: bytes,
    *,
    clients: int,
    every: float,
    patience: float,
) -> list[Response]:
    """Let clients drip the rest of a request.

    Return what ended each, a time-out if it was not ended in time.
    """

    async def client() -> Response:
        connection = await connect()
        if connection.failure:
            return Response(broken=Outcome.REFUSED)
        try:
            await connection.send(first)
            pieces = (remainder[place : place + 1] for place in range(len(remainder)))
            return await connection.drip(pieces, every=every, patience=patience)
        finally:
            connection.close()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(client()) for _ in range(clients)]
    return [task.result() for task in tasks]
