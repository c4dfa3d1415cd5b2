"""Answer probes and scrapes in place of the application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from ._problem import request_of
from ._route import local_path
from ._settings import check_options
from ._types import ASGIApp, Receive, Scope, Send

Door = Callable[[Scope, Send], Awaitable[None]]
"""Answers a probe or a scrape."""


class Doors:
    """An ASGI application around another one, with doors alone.

    All other requests cost next to nothing.
    """

    def __init__(self, app: ASGIApp, doors: Mapping[str, Door]) -> None:
        check_options(type(self).__name__, app=app)
        self.app: ASGIApp = app
        self.doors: Mapping[str, Door] = doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = local_path(scope.get("path", ""), scope.get("root_path", ""))
        door = self.doors.get(path) if scope["type"] == "http" else None
        if door is None:
            await self.app(scope, receive, send)
            return
        if (request := request_of(scope)) is not None:
            request.route = path
        await door(scope, send)
