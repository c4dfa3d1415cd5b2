"""Give each request its own context, whatever the server left in the task.

A server may run a request in the context variables of an earlier one: uvicorn 0.54 does on the asyncio loop,
once a body above 64 KiB was read on the connection. So nothing found at entry is trusted.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..clock import MONOTONIC, Clock, Ids, random_id
from ..validation import validation
from ._kernel import Kernel, Resetter
from ._settings import settings
from ._types import ASGIApp

__all__ = ["ContextMiddleware", "Resetter"]


class ContextMiddleware(Kernel):
    """Bind a fresh `RequestContext` for each HTTP request and WebSocket. It belongs outermost.

    The context is the scope's `postfacta.request` too, where layers find it even if a task in between runs
    in another context. The response carries its `X-Request-ID`, and so does the request inside.

    Args:
        app: The application to wrap.
        resetters: For variables of others, such as `structlog.contextvars.clear_contextvars` and
            `Tracing.fresh_context`. They must be quick and must not raise.
        clock: Monotonic seconds.
        ids: Makes the id of a request that brings none, or one of another form.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        resetters: Sequence[Resetter] = (),
        clock: Clock = MONOTONIC,
        ids: Ids = random_id,
    ) -> None:
        settings.application("ContextMiddleware", app)
        for resetter in resetters:
            settings.function_or_none("ContextMiddleware.resetters", resetter)
        validation.functions("ContextMiddleware", clock=clock, ids=ids)
        super().__init__(app, ids=ids, resetters=resetters, clock=clock)
