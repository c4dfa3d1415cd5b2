"""The state of a request under way: how far its response got, and whether its client is still connected."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Iterable
from contextlib import suppress
from typing import Final

import anyio
from anyio.lowlevel import checkpoint

from ..context import RequestContext
from ..deadlines._transfer import may_have_body
from ..deadlines.requests import Running
from ..errors import StoppedError
from ._problem import Render, problem_of, send_problem
from ._types import Message, Receive, Scope, Send

__all__ = ["SERVICE_RESTART", "RunningExchange", "RunningSocket"]

SERVICE_RESTART: Final = 1012  # The close codes of the IANA WebSocket registry.
_POLICY_VIOLATION: Final = 1008
# A client of server-sent events comes back by itself: not at once, for the service is only just stopping.
_SSE_FAREWELL: Final = b"retry: 3000\n\n"
# What carries the response's bytes, or a file that the server sends in their place.
_BODY: Final = frozenset({"http.response.body", "http.response.pathsend", "http.response.zerocopysend"})
_CONTENT_TYPE: Final = len(b"content-type")
_POLL: Final = 0.1
_MOST_KEPT: Final = 8


class RunningExchange(Running):
    """One HTTP request.

    Once it is older than 0.2 seconds and its body is complete, its client is watched: the message of its leaving passes
    the `receive` of the layers outside, which count it, though the application never asks.

    Args:
        request: Its context.
        scope: Its scope.
        receive: The server's.
        send: The server's.
        stream_timeout: The limit of a response in pieces, from the request's beginning; `math.inf` for none.
        render: Another shape of problem.

    Attributes:
        cancels: Whether it is cancelled when its client has left.
    """

    cancels: bool = False
    is_watched: bool = True
    _has_body: bool = False  # All of it was received by the application.
    _is_read: bool = False
    _is_read_ahead: bool = False
    _kept: list[Message] | None = None
    _started: bool = False
    _headers: Iterable[tuple[bytes, bytes]] = ()
    _has_pieces: bool = False
    _is_complete: bool = False
    _answered: anyio.Event | None = None

    # Keywords cost a tenth of a microsecond, and so does the constructor of the class above.
    def __init__(  # noqa: PLR0917 - see above
        self,
        request: RequestContext,
        scope: Scope,
        receive: Receive,
        send: Send,
        stream_timeout: float,
        render: Render | None,
    ) -> None:
        self.request = request
        self._scope = scope
        self._receive = receive
        self._send = send
        self._stream_timeout = stream_timeout
        self._render = render

    def send(self, message: Message) -> Awaitable[None]:
        """Send what the application sends, unless its caller was answered without it."""
        if self._answered is not None:
            # Nothing is sent. A handler that keeps sending is cancelled here, and does not block the loop.
            return checkpoint()
        kind = message["type"]
        if kind == "http.response.start":
            self._started = True
            self._headers = message.get("headers", ())
            if _is_event_stream(self._headers):
                self.is_endless = True
        elif kind in _BODY:
            if not message.get("more_body", False):
                self._complete()
            elif not self._has_pieces:
                self._has_pieces = True
                self._begin_stream(message)
        return self._send(message)

    def _complete(self) -> None:
        self._is_complete = True
        if self._watcher is not None:
            # Some servers report a disconnect as the last byte goes out.
            self._watcher.cancel()
        if self.is_endless:
            self.is_endless = False
        self.limit(math.inf)

    def _begin_stream(self, first: Message) -> None:
        # Behind Starlette's BaseHTTPMiddleware each response comes in pieces, with an empty one at the end: one whose
        # first piece is all of it is no stream.
        whole = b"%d" % len(first.get("body", b""))
        if not any(name.lower() == b"content-length" and value == whole for name, value in self._headers):
            self.request.limit = self._stream_timeout
            self.limit(min(self._stream_timeout, self.request.asked))

    async def answer(self) -> None:
        """Answer the caller with the reason for the cancellation, if a response can still be sent."""
        if self._answered is not None:
            # An answer under way must reach the server completely before the end.
            await self._answered.wait()
        elif self.error is not None and not self._is_complete:
            self._answered = anyio.Event()
            try:
                await self._tell()
            finally:
                self._answered.set()

    async def _tell(self) -> None:
        problem = problem_of(self.error) if self.error else None
        if problem is None:
            raise AssertionError("there is nothing to answer")
        if not self.request.error_type:
            self.request.error_type = problem.error_type
        # The client may be gone by now.
        with suppress(OSError):
            if not self._started:
                await send_problem(self._scope, self._send, problem, render=self._render)
            elif self.is_endless:
                farewell = {"type": "http.response.body", "body": _SSE_FAREWELL, "more_body": False}
                await self._send(farewell)

    async def receive(self) -> Message:
        """Receive for the application, also what was received while the client was watched."""
        if self._kept is not None:
            while self._is_read_ahead and not self._kept:
                await self._news.wait()
            if self._kept:
                return self._kept.pop(0)
        self._is_read = True
        try:
            message = await self._receive()
        finally:
            self._is_read = False
        if not message.get("more_body", False):
            self._has_body = True
        return message

    def may_watch(self) -> bool:
        """Return whether to begin now: never while the application itself receives, nor before it has the body.

        One that is cancelled when its client leaves is watched in any case, and read ahead of.
        """
        if self.cancels:
            return True
        scope = self._scope
        return not self._is_read and (
            self._has_body or not may_have_body(scope["headers"], scope.get("http_version", "1.1"))
        )

    async def watch(self) -> None:
        """Receive ahead of the application, but no more of a body than one piece; cancel it if it is alone."""
        kept: list[Message] = []
        self._kept = kept
        with anyio.CancelScope() as self._watcher:
            while not (self._has_ended or self._is_complete):
                if self._is_read and not self.cancels:
                    # The application sees for itself; the sweep looks whether it goes on to.
                    self.is_watched = True
                    return
                if self._is_read or any(message.get("more_body", False) for message in kept):
                    # The application sees for itself, or has not yet taken what there is.
                    await anyio.sleep(_POLL)
                elif await self._next_message(kept) == "http.disconnect":
                    if self.cancels and not self._is_complete:
                        self.cancel(None)
                    return
                elif len(kept) > _MOST_KEPT:
                    # A server that gives empty bodies for ever never reports a disconnect.
                    return

    async def _next_message(self, kept: list[Message]) -> str:
        self._news = anyio.Event()
        self._is_read_ahead = True
        try:
            message = await self._receive()
            kept.append(message)
            return str(message["type"])
        finally:
            self._is_read_ahead = False
            self._news.set()


class RunningSocket(Running):
    """One WebSocket. The request's limit is for its handshake: once it is accepted, it has none but its handler's."""

    is_endless: bool = True
    _is_closed: bool = False
    _answered: anyio.Event | None = None

    def __init__(self, request: RequestContext, send: Send) -> None:
        super().__init__(request)
        self._send = send
        self._limit = request.limit

    def send(self, message: Message) -> Awaitable[None]:
        """Send what the application sends, unless the socket was closed without it."""
        if self._answered is not None:
            return checkpoint()
        kind = message["type"]
        if kind == "websocket.accept":
            # A limit that the handler gave itself stays.
            if self.request.limit == self._limit:
                self.request.limit = math.inf
                self.limit(math.inf)
        elif kind in {"websocket.close", "websocket.http.response.start"}:
            self._is_closed = True
        return self._send(message)

    async def answer(self) -> None:
        """Close the socket with a reason."""
        if self._answered is not None:
            await self._answered.wait()
        elif self.error is not None and not self._is_closed:
            self._answered = anyio.Event()
            if not self.request.error_type:
                self.request.error_type = problem_of(self.error).error_type
            code = SERVICE_RESTART if isinstance(self.error, StoppedError) else _POLICY_VIOLATION
            try:
                with suppress(OSError, RuntimeError):
                    reason = problem_of(self.error).title
                    await self._send({"type": "websocket.close", "code": code, "reason": reason})
            finally:
                self._answered.set()


def _is_event_stream(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    for name, value in headers:
        # A name has another length, as a rule.
        if len(name) == _CONTENT_TYPE and name.lower() == b"content-type":
            return value.startswith(b"text/event-stream")
    return False
