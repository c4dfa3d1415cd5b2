"""uvicorn's HTTP protocol with a header timeout and a connection limit.

uvicorn has neither: it waits forever for request headers and accepts connections until file descriptors run out.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from typing import Any, Final, NamedTuple, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEADER_TIMEOUT: Final = 10.0
"""Seconds a client has for a whole request head, from its connection or the first byte."""

_LOGGER: Final = logging.getLogger("postfacta_app")
_RESERVE: Final = 64  # File descriptors for logs, libraries and the event loop.
# A new connection is registered, and the one it displaces closed, a few loop iterations later.
_TURNS: Final = 5
_SAY_EVERY: Final = 60.0
_TOO_SLOW: Final = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Room(NamedTuple):
    """How many connections the process can hold."""

    connections: int  # at most this many at once
    backlog: int  # accepted in one iteration of the event loop


def make_room(connections: int, backlog: int, others: int) -> Room:
    """Raise the limit of open files as far as allowed; return what there is room for beside `others`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _TURNS * backlog + others + _RESERVE
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft >= wanted:
        return Room(connections, backlog)
    left = max(2 * _TURNS, soft - others - _RESERVE)
    backlog = min(backlog, left // (2 * _TURNS))
    return Room(min(connections, left - _TURNS * backlog), backlog)


class _Bounded(HttpToolsProtocol):
    """One connection; `bounded` makes the class of one server."""

    most: int
    patience: float
    idle: dict[_Bounded, None]
    """Idle connections, longest idle first."""
    said_at: float

    _timer: asyncio.TimerHandle | None = None
    _is_in_head = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        self.idle[self] = None
        self._timer = self.loop.call_later(self.patience, self._give_up)
        if len(self.connections) > self.most:
            self._close_oldest()

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._is_in_head or self._is_silent():
            if self._timer is None:
                self._timer = self.loop.call_later(self.patience, self._give_up)
        elif self._timer is not None:
            self.stop_waiting()

    def on_message_begin(self) -> None:
        self._is_in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self.idle.pop(self, None)
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self in self.connections and self.cycle.response_complete:
            self.idle[self] = None

    def _is_silent(self) -> bool:
        """Return whether the connection is idle without uvicorn's keep-alive timer, as after a lone line feed."""
        return self._is_free() and self.timeout_keep_alive_task is None

    def _is_free(self) -> bool:
        # Typed as always set, but None at first.
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is None or cycle.response_complete

    def stop_waiting(self) -> None:
        """Stop waiting for a request."""
        self.idle.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self._is_in_head and self._is_free():
            self.transport.write(_TOO_SLOW)
        self.transport.close()

    def _close_oldest(self) -> None:
        # The newest is among them, and is closed if all others are serving a request.
        oldest = next(iter(self.idle))
        oldest.stop_waiting()
        oldest.transport.abort()
        kind, now = type(self), self.loop.time()
        if now >= kind.said_at + _SAY_EVERY:
            kind.said_at = now
            _LOGGER.warning("connections.full", extra={"connections": self.most})


def bounded(most: int, *, patience: float = HEADER_TIMEOUT) -> type[HttpToolsProtocol]:
    """Create the protocol class of one server.

    A connection that does not send a request head within `patience` seconds is closed. Above `most`, the
    connection that has been idle longest is closed, so clients that send requests get through however many
    others hold connections.
    """
    own: dict[str, Any] = {"most": most, "patience": patience, "idle": {}, "said_at": float("-inf")}
    return type("BoundedHttp", (_Bounded,), own)
