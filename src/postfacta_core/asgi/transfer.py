"""Cut off clients that send too much or too slowly, and those that stop reading."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import anyio

from ..clock import MONOTONIC, Clock
from ..deadlines._transfer import TransferLimits, may_have_body
from ..errors import BodyTooLargeError, BodyTooSlowError, HeadersTooLargeError
from ..telemetry.exchange import CLIENT_DISCONNECTED, tells_of_disconnect
from ..validation import validation
from ._problem import Render, problem_of, request_of, send_problem
from ._settings import settings
from ._types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["TransferMiddleware"]

LimitsOf = Callable[[Scope], TransferLimits]

# A response up to this size finds room in the buffers of server and kernel, whether or not its client reads.
_ROOM: Final = 65_536
# Each piece of a longer one must get away within the write timeout; so it decides what rate a reader needs.
_PIECE: Final = 65_536
# Closing a connection on which bytes still arrive resets it, and the client may lose the answer with it.
_LINGER: Final = 2.0


class TransferMiddleware:
    """Answer 431 to oversized headers, 413 to oversized bodies and 408 to slow ones; drop clients that do not read.

    A body whose `Content-Length` is too large is refused before the application sees it; one of unknown length
    is counted. The time for it runs only while the application waits in `receive`. A client that is refused in
    mid-body gets its answer, or if a response had begun, a broken one; its connection is closed, and the
    application sees it disconnect.

    Of a response, what lies beyond the first 64 KiB is handed on in pieces of that size. A piece that does not
    get away within the write timeout means that the client is gone: `send` raises `ConnectionAbortedError`, an
    OSError, then and ever after. That frees the handler; the socket is the server's, and ASGI cannot close it.
    Smaller responses get no timer, which would cost more than all the rest of this layer: they fit into buffers.
    A client that pipelines requests and reads no answers can fill those; the request's deadline covers that.

    A request without a body costs no timer either; each message of one that has a body costs some 7 µs.

    WebSockets pass untouched. Header reading is over before any application is called: that is for the server,
    or a proxy.

    Args:
        app: The application to protect.
        limits: One set of limits, or a function that returns them for a scope. It must be quick.
        render: Another shape of problem, for APIs that have one.
        clock: Monotonic seconds.

    Attributes:
        render: The shape of problem.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: TransferLimits | LimitsOf | None = None,
        *,
        render: Render | None = None,
        clock: Clock = MONOTONIC,
    ) -> None:
        settings.application("TransferMiddleware", app)
        if limits is not None and not callable(limits):
            validation.instance(
                "TransferMiddleware.limits", limits, TransferLimits, example="TransferLimits()"
            )
        settings.function_or_none("TransferMiddleware.render", render)
        validation.functions("TransferMiddleware", clock=clock)
        self._app = app
        self._limits = limits or TransferLimits()
        self.render: Render | None = render
        self.clock: Clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limits = self._limits if isinstance(self._limits, TransferLimits) else self._limits(scope)
        headers = scope["headers"]
        if not limits.headers_fit(headers):
            _set_prerouting(scope)
            problem = problem_of(HeadersTooLargeError("transfer"))
            await send_problem(scope, send, problem, render=self.render)
        elif not limits.declared_body_fits(headers):
            _set_prerouting(scope)
            await _refuse_unread(scope, receive, send, render=self.render)
        else:
            transfer = _Transfer(scope, receive, send, limits, self)
            try:
                await self._app(scope, transfer.receive, transfer.send)
            except Exception as error:
                # The application's reaction to the disconnect is of no use; a crash is recorded all the same.
                if not (transfer.has_cut_off and tells_of_disconnect(error)):
                    raise


class _Transfer:
    """One exchange, whose body and response are counted and timed as they pass."""

    # Of most requests, none of this ever changes: what is not set for each costs nothing.
    _received: int = 0
    _waited: float = 0.0
    _sent: int = 0
    _has_all: bool = False  # The whole body is here: what `receive` waits for now is the disconnect.
    _is_started: bool = False
    _is_refused: bool = False
    _is_gone: bool = False

    def __init__(  # noqa: PLR0917 - keywords cost a tenth of a microsecond
        self, scope: Scope, receive: Receive, send: Send, limits: TransferLimits, layer: TransferMiddleware
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._limits = limits
        self._layer = layer

    @property
    def has_cut_off(self) -> bool:
        """Whether the application got a disconnect."""
        return self._is_refused or self._is_gone

    # The request

    async def receive(self) -> Message:
        if self.has_cut_off:
            return {"type": "http.disconnect"}
        if self._has_all:
            return await self._receive()
        message = await self._next_chunk()
        if message is None:
            await self._refuse(BodyTooSlowError("transfer"))
            return {"type": "http.disconnect"}
        self._received += len(message.get("body", b""))
        self._has_all = not message.get("more_body", False)
        if self._limits.body_fits(self._received):
            return message
        await self._refuse(BodyTooLargeError("transfer"))
        return {"type": "http.disconnect"}

    async def _next_chunk(self) -> Message | None:
        """Wait for the next message; None if it did not come in time."""
        scope = self._scope
        if not self._received and not may_have_body(scope["headers"], scope.get("http_version", "1.1")):
            return await self._receive()
        now = self._layer.clock()
        due = self._limits.next_chunk_due(now, received=self._received, waited=self._waited)
        try:
            with anyio.move_on_after(due - now):
                return await self._receive()
        finally:
            self._waited += self._layer.clock() - now
        return None

    async def _refuse(self, error: BodyTooLargeError | BodyTooSlowError) -> None:
        self._is_refused = True
        if self._is_started:
            _blame_client(self._scope)
        elif isinstance(error, BodyTooLargeError) and not self._has_all:
            await _refuse_unread(self._scope, self._receive, self._send, render=self._layer.render)
        else:
            await send_problem(
                self._scope, self._send, problem_of(error), render=self._layer.render, close=True
            )

    # The response

    def send(self, message: Message) -> Awaitable[None]:
        if self._is_refused:
            return _nothing()
        kind = message["type"]
        if kind == "http.response.body":
            self._sent += len(message.get("body", b""))
            if self._sent > _ROOM:
                return self._send_pieces(message)
        elif kind == "http.response.start":
            self._is_started = True
        return self._send(message)

    async def _send_pieces(self, message: Message) -> None:
        body: bytes = message.get("body", b"")
        last = max(0, len(body) - 1) // _PIECE * _PIECE  # Where the last piece begins.
        for begin in range(0, last, _PIECE):
            piece = body[begin : begin + _PIECE]
            await self._send_in_time({**message, "body": piece, "more_body": True})
        await self._send_in_time({**message, "body": body[last:]} if last else message)

    async def _send_in_time(self, message: Message) -> None:
        if not self._is_gone:
            with anyio.move_on_after(self._limits.write_timeout):
                await self._send(message)
                return
            self._is_gone = True
            _blame_client(self._scope)
        raise ConnectionAbortedError("the client does not read its response")


async def _nothing() -> None:
    """Discard the message."""


def _set_prerouting(scope: Scope) -> None:
    if (request := request_of(scope)) is not None:
        request.route = "_prerouting"


def _blame_client(scope: Scope) -> None:
    """Record why the response will never be complete, since the layers outside see no disconnect."""
    if (request := request_of(scope)) is not None and not request.error_type:
        request.error_type = CLIENT_DISCONNECTED


async def _refuse_unread(scope: Scope, receive: Receive, send: Send, *, render: Render | None) -> None:
    """Answer 413, then let the client stop sending before the connection is closed."""
    problem = problem_of(BodyTooLargeError("transfer"))
    await send_problem(scope, send, problem, render=render, close=True, more_body=True)
    with anyio.move_on_after(_LINGER):
        while (await receive()).get("more_body", False):
            pass
    # If it left meanwhile, it has its answer.
    with suppress(OSError):
        await send({"type": "http.response.body", "body": b""})
