"""Answer for an application that raises before it has answered."""

from __future__ import annotations

from ._kernel import Kernel
from ._problem import Render
from ._settings import settings
from ._types import ASGIApp

__all__ = ["ErrorMiddleware"]


class ErrorMiddleware(Kernel):
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
        super().__init__(app, answers=True, render=render)
