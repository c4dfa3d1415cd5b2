"""Give every response the headers that the service owes it, whoever made the response."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable

from ._types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["ResponseHeadersMiddleware"]


class ResponseHeadersMiddleware:
    """Add headers to each response that does not set them itself.

    Args:
        app: The application to wrap.
        headers: Names and values, ASCII; sent in this order.
    """

    def __init__(self, app: ASGIApp, headers: Iterable[tuple[str, str]]) -> None:
        self._app = app
        self._headers = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in headers]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or not self._headers:
            await self._app(scope, receive, send)
            return

        def send_with_headers(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                own = list(message.get("headers", ()))
                have = {name for name, _ in own}
                # A new message with a new list: an application may send the same objects again and again.
                message = {
                    **message,
                    "headers": own + [pair for pair in self._headers if pair[0] not in have],
                }
            return send(message)

        await self._app(scope, receive, send_with_headers)
