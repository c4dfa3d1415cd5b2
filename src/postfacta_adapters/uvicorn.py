"""Bound a uvicorn server: its connections by number, each request head by time and size.

It needs no code: `uvicorn billing:app --http postfacta_adapters.uvicorn:BoundedHttp`, with the
extra `uvicorn`. uvicorn by itself waits for a head without end, reads one of any size into memory,
and holds as many connections as the process may open files; then it accepts none, and the service
opens no file either.
"""

from __future__ import annotations

import logging
import resource
import socket
from asyncio import AbstractEventLoop, BaseTransport, TimerHandle, Transport
from contextlib import suppress
from typing import Any, ClassVar, Final, cast
from weakref import WeakKeyDictionary

from postfacta_core.installation import missing_extra
from postfacta_core.validation import validation

try:
    from uvicorn.config import Config
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
    from uvicorn.server import ServerState
except ModuleNotFoundError as _error:
    raise missing_extra(__name__, "uvicorn", _error) from _error

__all__ = ["BoundedHttp", "bounded", "make_room"]

_LOGGER: Final = logging.getLogger("postfacta")
_RESERVE: Final = 64  # File descriptors for logs, libraries and the event loop.
# A new connection is registered, and the one it displaces closed, a few loop iterations later.
_TURNS: Final = 5
_SAY_EVERY: Final = 60.0  # Seconds between two lines on connections that were closed.
# uvicorn's own default, which stands for: nothing was chosen.
_WS_MAX_SIZE: Final = 16 * 1024 * 1024
_MESSAGE: Final = 1_048_576  # Bytes of a WebSocket's message, in place of that.
_REFUSAL: Final = b"HTTP/1.1 %b\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_TOO_SLOW: Final = _REFUSAL % b"408 Request Timeout"
_TOO_LARGE: Final = _REFUSAL % b"431 Request Header Fields Too Large"


def make_room(connections: int, backlog: int, *, other_files: int) -> tuple[int, int]:
    """Raise this process's limit of open files as far as allowed, and return what it has room for.

    A server accepts up to its backlog at once, before it can close what is too many; so there is
    room for that too.

    Args:
        connections: The most that are wanted.
        backlog: That of the server; uvicorn's is 2048.
        other_files: Files that the service opens besides, such as the connections of its pools.

    Returns:
        How many connections there may be, and which backlog to give to the server: less than wanted
        if the hard limit is below `connections + 5 * backlog + other_files + 64`.
    """
    validation.whole("make_room.connections", connections, example="connections=4096")
    validation.whole("make_room.backlog", backlog, example="backlog=2048")
    validation.whole("make_room.other_files", other_files, at_least=0, example="other_files=100")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + _TURNS * backlog + other_files + _RESERVE
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft >= needed:
        return connections, backlog
    left = max(2 * _TURNS, soft - other_files - _RESERVE)
    backlog = min(backlog, left // (2 * _TURNS))
    return min(connections, left - _TURNS * backlog), backlog


class _Crowd:
    """The connections of one server that are at no request, longest idle first, and their bound."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.idle: dict[BoundedHttp, None] = {}
        self._said_at = float("-inf")

    def close_oldest(self, now: float) -> None:
        # The newest is among them, and is closed if all others are serving a request.
        oldest = next(iter(self.idle))
        del self.idle[oldest]
        oldest.transport.abort()
        if now >= self._said_at + _SAY_EVERY:
            self._said_at = now
            _LOGGER.warning("connections.full", extra={"connections": self.most})


_CROWDS: Final[WeakKeyDictionary[ServerState, _Crowd]] = WeakKeyDictionary()


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 by httptools, with bounds; uvicorn makes one for each connection.

    * A client has 10 seconds for a whole request head, from its connection or from the first byte
      of a later head. Then it gets a `408`, or nothing if it sent nothing, and is closed.
    * A head that goes on for more than 64 KiB after the piece that it began in gets a `431`. What
      still comes is dropped until the client closes, or its time is over.
    * A server has at most 4096 connections, or as many as the limit of open files has room for. One
      more closes the one that has been idle longest, so clients that send requests get through. If
      all others are serving, it is the new one that is closed. That is logged as
      `connections.full`, at most once a minute.
    * A message of a WebSocket has at most 1 MiB, where uvicorn's own `--ws-max-size` of 16 MiB was
      left as it is; a larger one closes the WebSocket with 1009 before it is held.
    * No response waits for the client's delayed acknowledgement: `TCP_NODELAY`, no matter who
      opened the listener.

    At the first connection of a server, the process's soft limit of open files is raised to what is
    needed, 14,500, or to the hard limit. Where that is lower, give uvicorn a lower `--backlog` than
    2048 too; see `make_room`.

    `bounded` makes one with other numbers. A WebSocket counts as a connection, and is never closed
    for another. Bodies, and responses that no one reads, are for `harden`.
    """

    most: ClassVar[int] = 4096
    patience: ClassVar[float] = 10.0
    max_head_bytes: ClassVar[int] = 65_536
    other_files: ClassVar[int] = 100

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        crowd = _CROWDS.get(server_state)
        if crowd is None:
            room, _ = make_room(self.most, config.backlog, other_files=self.other_files)
            crowd = _CROWDS[server_state] = _Crowd(room)
            if config.ws_max_size == _WS_MAX_SIZE:
                config.ws_max_size = _MESSAGE
        self._crowd = crowd
        self._timer: TimerHandle | None = None
        self._is_in_head = self._is_refused = False
        self._came = self._began_at = (
            0  # Bytes of the connection, now and when the present head began.
        )

    def connection_made(self, transport: BaseTransport) -> None:
        """Begin to wait for a head, and make place."""
        super().connection_made(cast("Transport", transport))
        # asyncio sets it only on sockets that name their protocol, which those of workers do not.
        # Without it, a response on a kept connection waits 40 ms. A socket that is not TCP's, or is
        # gone, refuses it.
        connection = transport.get_extra_info("socket")
        if connection is not None:
            with suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._crowd.idle[self] = None
        self._timer = self.loop.call_later(self.patience, self._give_up)
        if len(self.connections) > self._crowd.most:
            self._crowd.close_oldest(self.loop.time())

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, and wait for the rest of a head."""
        if self._is_refused:
            return
        self._came += len(data)
        super().data_received(data)
        # A WebSocket is none of these any more.
        if self.transport.is_closing() or self not in self.connections:
            return
        # Idle without uvicorn's keep-alive timer, as after a lone line feed.
        if self._is_in_head or (self._is_free() and self.timeout_keep_alive_task is None):
            if self._timer is None:
                self._timer = self.loop.call_later(self.patience, self._give_up)
            if self._is_in_head and self._came - self._began_at > self.max_head_bytes:
                self._is_refused = True
                self._answer(_TOO_LARGE)
        elif self._timer is not None:
            self._stop_waiting()

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over; it has no head to wait for, and makes way for no other."""
        self._stop_waiting()
        super().handle_websocket_upgrade()

    def on_message_begin(self) -> None:
        """Note that a head has begun."""
        self._is_in_head = True
        self._began_at = self._came
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Note that the head is whole: the connection is at a request."""
        self._is_in_head = False
        self._crowd.idle.pop(self, None)
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Note that the connection is idle again, unless another request follows."""
        super().on_response_complete()
        if self in self.connections and self.cycle.response_complete:
            self._crowd.idle[self] = None

    def _stop_waiting(self) -> None:
        self._crowd.idle.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_free(self) -> bool:
        # Typed as always set, but None at first.
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is None or cycle.response_complete

    def _give_up(self) -> None:
        self._timer = None
        if not self._is_refused:
            self._answer(_TOO_SLOW)
        self.transport.close()

    def _answer(self, refusal: bytes) -> None:
        # Not within the response to an earlier request, nor to a client that sent nothing.
        if self._is_in_head and self._is_free():
            self.transport.write(refusal)


def bounded(
    most: int, *, patience: float = 10.0, max_head_bytes: int = 65_536, other_files: int = 100
) -> type[BoundedHttp]:
    """Return a `BoundedHttp` with other numbers, for `Config(http=...)` or `uvicorn --http`.

    Args:
        most: The most connections of a server; fewer if the limit of open files has no room for
            them.
        patience: Seconds for a whole request head.
        max_head_bytes: Of a request head, after the piece that it began in, which is at most 256
            KiB. A smaller limit, for heads that are whole, is `harden`'s
            `TransferLimits.max_header_bytes`.
        other_files: Files that the service opens besides, such as the connections of its pools.
    """
    validation.whole("bounded.most", most, example="most=4096")
    validation.seconds("bounded.patience", patience, example="patience=10.0")
    validation.whole("bounded.max_head_bytes", max_head_bytes, example="max_head_bytes=65_536")
    validation.whole("bounded.other_files", other_files, at_least=0, example="other_files=100")
    numbers = {
        "most": most,
        "patience": patience,
        "max_head_bytes": max_head_bytes,
        "other_files": other_files,
    }
    return type("BoundedHttp", (BoundedHttp,), numbers)
