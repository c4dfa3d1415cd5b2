"""Speak HTTP over one TCP connection, so that each way to fail can be distinguished."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

import h11

__all__ = ["HOST", "Connection", "Headers", "Outcome", "Reply", "RequestFailed"]

HOST = "127.0.0.1"
_PATIENCE = 20.0
Headers = Sequence[tuple[str, str]]


class Outcome(StrEnum):
    """How a request ended for its client."""

    OK = "ok"
    STALE_EOF = "stale_eof"  # a kept-alive connection was closed unanswered, without a warning before
    REFUSED = "refused"
    RESET = "reset"  # a fresh connection was reset, or closed unanswered
    TRUNCATED = "truncated"
    STATUS_4XX = "status_4xx"
    STATUS_5XX = "status_5xx"
    TIMEOUT = "timeout"

    @classmethod
    def of(cls, status: int) -> Outcome:
        """Judge an answer that came whole."""
        if status < 400:
            return cls.OK
        return cls.STATUS_4XX if status < 500 else cls.STATUS_5XX


class RequestFailed(Exception):  # noqa: N818 - a fact to count, not an error of ours
    """No whole answer came.

    Attributes:
        outcome: Why not.
    """

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer.

    Attributes:
        status: Of the response.
        content_type: As the server wrote it, or empty.
        body: All of it.
    """

    status: int
    content_type: str
    body: bytes


class Connection:
    """One connection of a client that keeps it as long as the server does not say otherwise.

    Attributes:
        closing: The server asked the client not to use it again.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT)
        self._answers = 0
        self._bytes = 0
        self._rest = b""
        self.closing = False

    @classmethod
    async def open(cls, port: int, *, within: float = _PATIENCE) -> Connection:
        """Connect.

        Raises:
            RequestFailed: Refused, reset or not accepted in time.
        """
        try:
            async with asyncio.timeout(within):
                return cls(*await asyncio.open_connection(HOST, port))
        except TimeoutError:
            raise RequestFailed(Outcome.TIMEOUT) from None
        except ConnectionRefusedError:
            raise RequestFailed(Outcome.REFUSED) from None
        except OSError:
            raise RequestFailed(Outcome.RESET) from None

    async def get(self, path: str, *, within: float = _PATIENCE, headers: Headers = ()) -> Reply:
        """Send a request and read the whole answer.

        Raises:
            RequestFailed: No whole answer came within that many seconds.
        """
        try:
            async with asyncio.timeout(within):
                await self.send(path, headers=headers)
                return await self._reply()
        except TimeoutError:
            raise RequestFailed(Outcome.TIMEOUT) from None

    async def send_half(self, method: str, path: str, *, body: bytes, headers: Headers = ()) -> None:
        """Send a request with a JSON body, but for the second half of that."""
        self._bytes, self._rest = 0, body[len(body) // 2 :]
        of_body = [("content-type", "application/json"), ("content-length", str(len(body)))]
        request = h11.Request(method=method, target=path, headers=[("host", HOST), *of_body, *headers])
        head = self._http.send(request) or b""
        await self._write(head + (self._http.send(h11.Data(data=body[: len(body) // 2])) or b""))

    async def send_rest(self, *, within: float = _PATIENCE) -> Reply:
        """Send the other half, and read the whole answer.

        Raises:
            RequestFailed: No whole answer came within that many seconds.
        """
        rest = (self._http.send(h11.Data(data=self._rest)) or b"") + (
            self._http.send(h11.EndOfMessage()) or b""
        )
        try:
            async with asyncio.timeout(within):
                await self._write(rest)
                return await self._reply()
        except TimeoutError:
            raise RequestFailed(Outcome.TIMEOUT) from None

    async def send(self, path: str, *, headers: Headers = ()) -> None:
        """Send a request."""
        self._bytes = 0
        request = h11.Request(method="GET", target=path, headers=[("host", HOST), *headers])
        data = self._http.send(request) or b""
        self._http.send(h11.EndOfMessage())
        await self._write(data)

    async def head(self) -> h11.Response:
        """Read the answer up to its body."""
        while True:
            event = await self._event()
            if isinstance(event, h11.Response):
                return event

    async def body(self) -> AsyncGenerator[bytes]:
        """Read the body as it comes, and make ready for the next request."""
        while not isinstance(event := await self._event(), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                yield bytes(event.data)
        self._answers += 1
        self.closing = self._http.our_state is not h11.DONE
        if not self.closing:
            self._http.start_next_cycle()

    async def close(self) -> None:
        """Close, whatever state it is in."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def _write(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError:
            raise RequestFailed(self._unanswered()) from None

    async def _reply(self) -> Reply:
        response = await self.head()
        body = b"".join([part async for part in self.body()])
        types = [value.decode() for name, value in response.headers if name == b"content-type"]
        return Reply(response.status_code, "".join(types), body)

    async def _event(self) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError:
                raise RequestFailed(Outcome.TRUNCATED) from None
            if event is not h11.NEED_DATA:
                return event
            self._http.receive_data(await self._read())

    async def _read(self) -> bytes:
        try:
            data = await self._reader.read(65_536)
        except OSError:
            data = b""
        if not data and not self._bytes:
            raise RequestFailed(self._unanswered())
        self._bytes += len(data)
        return data

    def _unanswered(self) -> Outcome:
        return Outcome.STALE_EOF if self._answers else Outcome.RESET
