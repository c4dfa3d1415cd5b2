"""Send `Connection: close` while the service drains."""

from __future__ import annotations

from ..drain.lifecycle import Lifecycle
from ._reply import Headers, reply_of, set_header
from ._types import ASGIApp, Receive, Scope, Send

__all__ = ["LifecycleMiddleware"]


class LifecycleMiddleware:
    """Put `Connection: close` on every HTTP/1 response that starts while the service drains.

    So each client learns in time that its connection will be closed. Without it a client finds out by sending a
    request into a connection that the server has closed, and that request fails.

    Args:
        app: The application to wrap.
        lifecycle: Holds whether the service drains. It must be entered by the code that made it.
    """

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        # HTTP/2 forbids the field (RFC 9113, section 8.2.2), and has GOAWAY for it.
        if scope["type"] == "http" and scope.get("http_version", "1.1").startswith("1"):
            send = reply_of(send)
            send.edit(_part, self._lifecycle)
        await self._app(scope, receive, send)


def _part(headers: Headers, names: set[bytes], lifecycle: Lifecycle) -> None:
    if lifecycle.is_draining:
        set_header(headers, names, (b"connection", b"close"))
