"""Run the application under uvicorn, with a timeout of request heads and a limit of connections."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import resource
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from postfacta_core.drain.signals import has_terminal

from .errors import CommandFailedError
from .observability import configure_logging, configure_tracing
from .settings import Settings

BACKLOG: Final = 2048
HEADER_TIMEOUT: Final = 10.0  # Seconds for a whole request head, from the connection or the first byte.
_LOGGER: Final = logging.getLogger("postfacta_app")
_RESERVE: Final = 64  # File descriptors for logs, libraries and the event loop.
# A new connection is registered, and the one it displaces closed, a few loop iterations later.
_TURNS: Final = 5
_SAY_EVERY: Final = 60.0
_TOO_SLOW: Final = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"

# The core's drain ends everything earlier, except the sockets of clients that do not read.
_CLOSING = 10.0


def check_port(host: str, port: int) -> None:
    """Check that the address is free before any slow startup work; raise `CommandFailedError` if not."""
    _listen(host, port).close()


def graceful_timeout(settings: Settings) -> int:
    return round(settings.drain_timeout + _CLOSING)


def serve(
    settings: Settings, *, say: Callable[[str], None], read: Callable[[], Settings] | None = None
) -> int:
    """Serve until Ctrl-C or SIGTERM, then drain; return the exit code; raise if the port is taken.

    SIGHUP reloads the secrets by `read`; it stops the service only if a terminal was closed.
    """
    with _listen(settings.host, settings.port) as listener:
        host, port = listener.getsockname()[:2]
        configure_logging(settings)
        flush = configure_tracing(settings)
        room = make_room(4096, BACKLOG, others=2 * settings.pool_max_size)
        server = uvicorn.Server(_config(settings, room, read))
        # Requests leave no reference cycles; collecting every 700 objects took 5 to 10 % of their time.
        gc.freeze()
        gc.set_threshold(10_000, 10, 10)
        # Handled here too, since uvicorn handles signals only once its loop runs: a KeyboardInterrupt before that can
        # be lost in an import. uvicorn re-raises them after its graceful stop, so that our caller can clean up.
        before = {told: signal.signal(told, server.handle_exit) for told in (signal.SIGINT, signal.SIGTERM)}
        had_terminal = has_terminal()

        def hang_up(signum: int, frame: FrameType | None) -> None:
            # Until the application handles it.
            if had_terminal and not has_terminal():
                server.handle_exit(signum, frame)

        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, hang_up)
        try:
            say(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}; Ctrl-C stops it")
            server.run(sockets=[listener])
        finally:
            for told, handler in before.items():
                signal.signal(told, handler)
            flush()
    return 0 if server.started else 1


def _config(settings: Settings, room: tuple[int, int], read: Callable[[], Settings] | None) -> uvicorn.Config:
    from .app import create_app  # noqa: PLC0415 - after the port check, since it is slow

    return uvicorn.Config(
        create_app(settings, read=read),
        loop="asyncio",
        http=bounded(room[0]),
        backlog=room[1],
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        # uvicorn would trust any local sender; the core trusts those of a setting.
        proxy_headers=False,
        timeout_graceful_shutdown=graceful_timeout(settings),
        # Else context variables of one request leak into the next one of its connection.
        reset_contextvars=True,
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
        # asyncio sets it only on sockets that name their protocol, which these do not. Without it, a response on a
        # kept connection waits 40 ms for the client's delayed acknowledgement. Accepted sockets inherit it.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        raise CommandFailedError(_advice(host, port, error)) from None
    return listener


def _advice(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        other = port + 1 if port < 65535 else 8080  # noqa: PLR2004 - the last port
        return (
            f"port {port} of {host} is in use: stop the process that listens there, or choose another port with --port {other}"
            f" (or POSTFACTA_PORT={other})"
        )
    if error.errno == errno.EACCES:
        return f"port {port} needs more privileges: choose a port above 1023, such as --port 8080"
    return f"cannot listen on {host}: {error.strerror}; --host must be an address of this machine"


def make_room(connections: int, backlog: int, others: int) -> tuple[int, int]:
    """Raise the limit of open files as far as allowed; return what there is room for beside `others`.

    That is how many connections at once, and how many accepted in one iteration of the event loop.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _TURNS * backlog + others + _RESERVE
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft >= wanted:
        return connections, backlog
    left = max(2 * _TURNS, soft - others - _RESERVE)
    backlog = min(backlog, left // (2 * _TURNS))
    return min(connections, left - _TURNS * backlog), backlog


class _Bounded(HttpToolsProtocol):
    """One connection; `bounded` makes the class of one server."""

    most: int
    patience: float
    idle: dict[_Bounded, None]  # longest idle first
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
        # Idle without uvicorn's keep-alive timer, as after a lone line feed.
        if self._is_in_head or (self._is_free() and self.timeout_keep_alive_task is None):
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

    def _is_free(self) -> bool:
        # Typed as always set, but None at first.
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is None or cycle.response_complete

    def stop_waiting(self) -> None:
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
    """Create the protocol class of one server: `most` connections, `patience` seconds for a request head.

    One more connection closes the one that has been idle longest, so clients that send requests get through.
    """
    own: dict[str, Any] = {"most": most, "patience": patience, "idle": {}, "said_at": float("-inf")}
    return type("BoundedHttp", (_Bounded,), own)
