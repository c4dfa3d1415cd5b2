"""Cut off clients that send too much or too slowly, and those that stop reading."""

from __future__ import annotations

from collections.abc import Callable

from ..clock import MONOTONIC, Clock
from ..deadlines._transfer import TransferLimits
from ..validation import validation
from ._kernel import Kernel
from ._problem import Render
from ._settings import settings
from ._types import ASGIApp, Scope

__all__ = ["TransferMiddleware"]

LimitsOf = Callable[[Scope], TransferLimits]


class TransferMiddleware(Kernel):
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

    A request without a body costs no timer either. In `harden` one that has a body costs none, as the sweep of deadlines
    ends its waits; alone, each message costs some 7 µs.

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
        super().__init__(app, limits=limits or TransferLimits(), render=render, clock=clock)
