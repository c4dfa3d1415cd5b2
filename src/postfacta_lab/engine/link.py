"""One connection of a client over which one request at a time is sent, as bytes, and its answer's status is read.

It reads no more of HTTP/1.1 than where an answer ends, so that a generator spends little on each.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import cast

__all__ = ["Link"]

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)")
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r]*\bchunked")
_CLOSE = re.compile(rb"\r\nconnection:[^\r]*\bclose\b")
_LAST_CHUNK = re.compile(rb"(?:^|\r\n)0+(?:;[^\r]*)?\r\n(?:[^\r]+\r\n)*\r\n\Z")
_TAIL = 512  # of a body in chunks: its last one, with some trailers
_BY_END, _BY_CHUNKS = -1, -2

Done = Callable[[int, str], None]  # the status, or 0 and why there is none


class Link(asyncio.Protocol):
    """A connection that calls `idle` when another request may be sent, and `lost` once, when it is closed."""

    def __init__(self, idle: Callable[[Link], None], lost: Callable[[Link], None]) -> None:
        self._idle, self._lost = idle, lost
        self._transport: asyncio.Transport | None = None
        self._done: Done | None = None
        self._has_body = True
        self._data = b""
        self._status, self._until, self._got, self._closes = 0, 0, 0, False
        self.uses = 0  # answers that came over it

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def was_answered(self) -> bool:
        """Whether any byte of the answer came."""
        return bool(self._data or self._status)

    def send(self, data: bytes, done: Done, *, has_body: bool = True) -> None:
        """Send a request; an answer to HEAD has no body."""
        self._done, self._has_body = done, has_body
        self._data, self._status = b"", 0
        if self._transport is None or self._transport.is_closing():
            self._end(0, "ConnectionResetError")
        else:
            self._transport.write(data)

    def abort(self) -> None:
        """Hang up; nothing more is reported of the request that is under way."""
        self._done = None
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; that of uvloop is of no class in common."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._status:
            self._got += len(data)
            self._data = (self._data + data)[-_TAIL:]
        else:
            self._data += data
            while not self._status:
                if not self._read_head():
                    return
        if self._is_complete():
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the request that is under way: an answer without a length ends so."""
        self._transport = None
        if self._status and self._until == _BY_END:
            self._end(self._status, "")
        else:
            self._end(0, type(exc).__name__ if exc else "ConnectionResetError")
        self._lost(self)

    def _read_head(self) -> bool:
        head, found, body = self._data.partition(b"\r\n\r\n")
        if not found:
            return False
        status = head[9:12]
        if not head.startswith(b"HTTP/1.") or not status.isdigit():
            self.abort_with("ValueError")
            return False
        self._data, self._got = body, len(body)
        if status.startswith(b"1") and status != b"101":
            return True  # of another answer to come
        lowered = head.lower()
        self._status = int(status)
        self._closes = bool(_CLOSE.search(lowered)) or head.startswith(b"HTTP/1.0")
        length = _LENGTH.search(lowered)
        if not self._has_body or self._status in {204, 304}:
            self._until = 0
        elif _CHUNKED.search(lowered):
            self._until = _BY_CHUNKS
        else:
            self._until = int(length[1]) if length else _BY_END
        return True

    def _is_complete(self) -> bool:
        if self._until == _BY_CHUNKS:
            return bool(_LAST_CHUNK.search(self._data[-_TAIL:]))
        return 0 <= self._until <= self._got

    def _finish(self) -> None:
        self.uses += 1
        status, closes = self._status, self._closes
        self._data, self._status = b"", 0
        self._end(status, "")
        if closes and self._transport is not None:
            self._transport.close()
        elif self.is_open:
            self._idle(self)

    def abort_with(self, error: str) -> None:
        """Hang up on an answer that is none."""
        self._end(0, error)
        self.abort()

    def _end(self, status: int, error: str) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(status, error)
