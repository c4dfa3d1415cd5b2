"""Answer for an application that raises before it has answered."""

from __future__ import annotations

from contextlib import suppress

from ..errors import ResilienceError
from ._problem import Render, problem_of, request_of, send_problem
from ._reply import reply_of
from ._settings import settings
from ._types import ASGIApp, Receive, Scope, Send

__all__ = ["ErrorMiddleware"]


class ErrorMiddleware:
    """Send a problem when the application raises before its response starts.

    A refusal of this library ends there, since it is an answer like any other. Any other exception is a crash:
    it goes on to the layers outside and to the server, which count and log it.

    Args:
        app: The application to answer for.
        render: Another shape of problem, for APIs that have one.
    """

    def __init__(self, app: ASGIApp, *, render: Render | None = None) -> None:
        settings.application("ErrorMiddleware", app)
        settings.function_or_none("ErrorMiddleware.render", render)
        self._app = app
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = reply = reply_of(send)
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            has_begun = reply.has_begun
            if not has_begun:
                problem = problem_of(error)
                if (request := request_of(scope)) is not None and not request.error_type:
                    request.error_type = problem.error_type
                # If the client is gone, the answer cannot be sent; the crash is still recorded.
                with suppress(OSError):
                    await send_problem(scope, send, problem, render=self._render)
            if has_begun or not isinstance(error, ResilienceError):
                raise
