"""Server-sent events: whose client resumes them, where one ends, how a drain ends the stream.

A stream of events is as any other response until its client is known to come back: then a drain
need not wait for its end, which may never come. The format is that of the HTML standard, section
9.2.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ..clock import LUCK
from ._types import Message, Send

MEDIA_TYPE: Final = b"text/event-stream"
# An empty line ends an event, and a line ends with CRLF, LF or CR.
_ENDS: Final = (b"\n\n", b"\n\r", b"\r\r", b"\n\r\n", b"\r\r\n")
_LONGEST: Final = 3  # Bytes of an end: as much as is kept of the last piece.
# With these, bytes that are added would not be read as events.
_FRAMES: Final = frozenset({b"content-encoding", b"content-length"})
# Seconds: clients of a stopping service come back at moments that are spread, so that they are no
# herd.
_SOONEST = 1
_SPREAD = 4


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


def is_resumed(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether a request is an EventSource's or that of a listener of MCP: both reconnect.

    It asks for events by name and for no stored response (HTML, section 9.2.2), or has come back,
    or names its session of MCP, whose GET carries no answer to a call of a client.
    `Accept` alone is no sign: the page of Gradio reads the answer of one job so, and never comes
    back.
    """
    fields = {name: value.lower() for name, value in headers}
    is_uncached = b"no-cache" in fields.get(b"cache-control", b"")
    has_place = b"last-event-id" in fields or b"mcp-session-id" in fields
    return (is_uncached or has_place) and MEDIA_TYPE in fields.get(b"accept", b"")


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
    return retry(_SOONEST + LUCK() * _SPREAD)


def retry(seconds: float) -> bytes:
    """Return the lines that have a client come back after that time."""
    return b"retry: %d\n\n" % (seconds * 1000)
