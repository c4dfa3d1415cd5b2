"""Refuse requests that are larger than the service takes, by counting what really arrives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ..errors import BodyTooLargeError, HeadersTooLargeError
from ..policy.transfer import TransferLimits
from ._problem import Render, problem_of, request_of, send_problem
from ._types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["TransferMiddleware"]

LimitsOf = Callable[[Scope], TransferLimits]


class TransferMiddleware:
    """Answer 431 to oversized headers and 413 to oversized bodies.

    A body whose `Content-Length` is too large is refused unread. One of unknown length is counted; past the
    limit the caller gets its 413, and the application sees the client disconnect.

    Args:
        app: The application to protect.
        limits: One set of limits, or a function that tells those of a scope. It must be quick.
        render: Another shape of problem, for APIs that have one.
    """

    def __init__(
        self, app: ASGIApp, limits: TransferLimits | LimitsOf | None = None, *, render: Render | None = None
    ) -> None:
        self._app = app
        self._limits = limits or TransferLimits()
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limits = self._limits if isinstance(self._limits, TransferLimits) else self._limits(scope)
        headers = scope["headers"]
        if not limits.headers_fit(headers):
            await self._refuse(scope, send, HeadersTooLargeError("transfer"))
        elif not limits.declared_body_fits(headers):
            await self._refuse(scope, send, BodyTooLargeError("transfer"))
        else:
            await _Counted(scope, receive, send, limits=limits, render=self._render).serve(self._app)

    async def _refuse(self, scope: Scope, send: Send, error: Exception) -> None:
        if (request := request_of(scope)) is not None:
            request.route = "_prerouting"
        await send_problem(scope, send, problem_of(error), render=self._render)


class _Counted:
    """One exchange whose body is counted as it arrives."""

    __slots__ = ("_limits", "_receive", "_received", "_refused", "_render", "_scope", "_send", "_started")

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, *, limits: TransferLimits, render: Render | None
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._limits = limits
        self._render = render
        self._received = 0
        self._started = False
        self._refused = False

    async def serve(self, app: ASGIApp) -> None:
        try:
            await app(self._scope, self.receive, self.send)
        except Exception:
            # What the application makes of the disconnect is of no use to a caller who has his answer.
            if not self._refused:
                raise

    async def receive(self) -> Message:
        if self._refused:
            return {"type": "http.disconnect"}
        message = await self._receive()
        self._received += len(message.get("body", b""))
        if self._limits.body_fits(self._received):
            return message
        self._refused = True
        if not self._started:
            problem = problem_of(BodyTooLargeError("transfer"))
            await send_problem(self._scope, self._send, problem, render=self._render)
        return {"type": "http.disconnect"}

    def send(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            self._started = True
        return _nothing() if self._refused else self._send(message)


async def _nothing() -> None:
    """Send nothing."""
