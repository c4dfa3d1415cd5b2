"""Server-sent events: whose client resumes them, where one ends, how a drain ends the stream.

A stream of events is as any other response until its client is known to come back: then a drain
need not wait for its end, which may never come. The format is that of the HTML standard, section
9.2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Final

import anyio

from ..clock import LUCK, Clock
from ..deadlines.requests import Silence
from ._types import Message, Send

MEDIA_TYPE: Final = b"text/event-stream"
# An empty line ends an event, and a line ends with CRLF, LF or CR.
_ENDS: Final = (b"\n\n", b"\n\r", b"\r\r", b"\n\r\n", b"\r\r\n")
_LONGEST: Final = 3  # Bytes of an end: as much as is kept of the last piece.
# With these, bytes that are added would not be read as events.
_FRAMES: Final = frozenset({b"content-encoding", b"content-length"})
# Milliseconds: clients of a stopping service come back at moments that are spread, so that they are
# no herd.
_SOONEST = 1000
_SPREAD = 4000


# A comment alone; a client ignores it.
_HEARTBEAT: Final[Message] = {"type": "http.response.body", "body": b":\n\n", "more_body": True}
_has_data = re.compile(rb"^[^:\r\n]", re.MULTILINE).search


class EventStream:
    """A stream of events on its way to a server, and how far it has been sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._tail = _ENDS[0]  # Before the first event is between two, too.
        self._is_between = True
        self._is_ending = False

    @property
    def has_ended(self) -> bool:
        """Whether no more is to be sent after what was sent."""
        return self._is_ending and self._is_between

    @property
    def is_between(self) -> bool:
        """Whether what was sent ends with an event."""
        return self._is_between

    def end(self) -> bool:
        """End after the event under way; return whether there is none."""
        self._is_ending = True
        return self._is_between

    async def send(self, message: Message) -> None:
        """Send a piece. If that is cut off, it is no end of an event."""
        self._is_between = False
        await self._send(message)
        self._tail = (self._tail + message.get("body", b""))[-_LONGEST:]
        self._is_between = self._tail.endswith(_ENDS)


class Pace(Silence):
    """What an application sends on its way to a server, and for how long it has sent nothing.

    Args:
        send: The server's, or an event stream's.
        clock: That of the sweep.
        events: What it sends, if a heartbeat may come between two of them.
        has_comments: A piece of comments alone counts as nothing.
        limit: Seconds without a piece that counts, after which the stream is ended.
        heartbeat: Seconds without any piece, after which a comment is sent.
    """

    def __init__(
        self,
        send: Send,
        clock: Clock,
        *,
        events: EventStream | None,
        has_comments: bool,
        limit: float,
        heartbeat: float,
    ) -> None:
        self._send = send
        self._clock = clock
        self._events = events
        self._has_comments = has_comments
        self._limit = limit
        self._heartbeat = heartbeat
        self._ends = math.inf
        self._rest = b""  # The beginning of a line that is a comment.
        self._beat: anyio.Event | None = None
        self._is_sending = False
        self._has_ended = False
        self._wait(clock())

    async def send(self, message: Message) -> None:
        """Send a piece."""
        if self._beat is not None:
            await self._beat.wait()
        self._is_sending = True
        try:
            await self._send(message)
        finally:
            self._is_sending = False
        now = self._clock()
        if self._counts(message.get("body", b"")):
            self._ends = now + self._limit
        self._has_ended = message["type"] == "http.response.body" and not message.get("more_body")
        self._wait(now)

    def is_over(self, now: float) -> bool:
        """Return whether the application was silent for too long; else it is due later."""
        if now >= self._ends and not self._is_sending:
            self.due = math.inf
            return True
        self._wait(now)
        return False

    async def beat(self) -> None:
        """Send a comment, unless something is under way."""
        is_busy = self._is_sending or self._beat is not None or self._has_ended
        if is_busy or self._events is None or not self._events.is_between:
            return
        self._beat = anyio.Event()
        try:
            await self._send(_HEARTBEAT)
        finally:
            self._beat.set()
            self._beat = None

    def _wait(self, now: float) -> None:
        # While the server takes a piece, it is not the application that is silent.
        ends = self._ends if self._ends > now else now + self._limit
        self.due = math.inf if self._has_ended else min(ends, now + self._heartbeat)

    def _counts(self, body: bytes) -> bool:
        if not self._has_comments:
            return bool(body)
        text = self._rest + body
        line = re.split(rb"[\r\n]", text)[-1]
        self._rest = b":" if line.startswith(b":") else b""
        return _has_data(text.replace(b"\r", b"\n")) is not None


def is_resumed(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether a request is that of a browser's EventSource, which reconnects.

    It asks for events by name and for no stored response (HTML, section 9.2.2), or has come back.
    `Accept` alone is no sign: the page of Gradio reads the answer of one job so, and never comes
    back.
    """
    fields = {name: value.lower() for name, value in headers}
    is_uncached = b"no-cache" in fields.get(b"cache-control", b"") or b"last-event-id" in fields
    return is_uncached and MEDIA_TYPE in fields.get(b"accept", b"")


def are_events(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether a response consists of events, so that added bytes would be read as such."""
    names = {name.lower(): value for name, value in headers}
    return names.get(b"content-type", b"").startswith(MEDIA_TYPE) and names.keys().isdisjoint(
        _FRAMES
    )


def farewell() -> bytes:
    """Return the last lines of a stream.

    When its client may come back, from 1 up to, not including, 5 seconds.
    """
    return b"retry: %d\n\n" % (_SOONEST + LUCK() * _SPREAD)
