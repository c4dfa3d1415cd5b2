"""Send `Connection: close` while the service drains."""

from __future__ import annotations

from ..drain.lifecycle import Lifecycle
from ._kernel import Kernel
from ._types import ASGIApp

__all__ = ["LifecycleMiddleware"]


class LifecycleMiddleware(Kernel):
    """Put `Connection: close` on every HTTP/1 response that starts while the service drains.

    So each client learns in time that its connection will be closed. Without it a client finds out by sending a
    request into a connection that the server has closed, and that request fails.

    Args:
        app: The application to wrap.
        lifecycle: Holds whether the service drains. It must be entered by the code that made it.
    """

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        super().__init__(app, lifecycle=lifecycle)
