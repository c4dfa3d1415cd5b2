"""Give each request its own context, whatever the server left in the task.

A server may run a request in the context variables of an earlier one: uvicorn 0.54 does on the asyncio loop,
once a body above 64 KiB was read on the connection. So nothing found at entry is trusted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from ..clock import MONOTONIC, Clock, Ids, random_id
from ..context import RequestContext, bind_request, release_request
from ..validation import validation
from ._reply import reply_of, set_header
from ._settings import settings
from ._types import ASGIApp, Receive, Scope, Send

__all__ = ["ContextMiddleware", "Resetter"]

Resetter = Callable[[], Callable[[], object] | None]
"""Called when a request begins, and again when it ends; or then what it returned is called, if it did."""

_REQUEST_ID: Final = b"x-request-id"
_TRACEPARENT: Final = b"traceparent"
# W3C Trace Context, section 3.2: all zeros are invalid.
_trace_of = re.compile(
    rb"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"
).fullmatch
# No more than this goes into headers, log lines and problems: it stops log injection.
_is_id = re.compile(rb"[A-Za-z0-9._-]{8,64}").fullmatch


class ContextMiddleware:
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
        self._app = app
        self._resetters = tuple(resetters)
        self._clock = clock
        self._ids = ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        kind = scope["type"]
        if kind not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        undo: list[Callable[[], object]] = []
        for reset in self._resetters:
            undo.append(reset() or reset)  # noqa: PERF401 - a comprehension is a call
        request_id, trace_id = _ids_of(scope["headers"])
        if not request_id:
            request_id = self._ids()
            # What reads the header inside, such as asgi-correlation-id, sees the same id.
            others = [pair for pair in scope["headers"] if pair[0] != _REQUEST_ID]
            scope["headers"] = [*others, (_REQUEST_ID, request_id.encode("ascii"))]
        request = RequestContext(request_id, self._clock(), root_path=scope.get("root_path", ""))
        request.trace_id = trace_id
        scope["postfacta.request"] = request
        if kind == "http":
            send = reply_of(send)
            send.edit(set_header, (_REQUEST_ID, request.request_id.encode("ascii")))
        # What is bound must be released: else the task would hold its context, which holds the task.
        token = bind_request(request)
        try:
            await self._app(scope, receive, send)
        finally:
            release_request(token)
            for put_back in reversed(undo):
                put_back()


def _ids_of(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, str]:
    """Return the caller's request id and trace id; each is empty if it brings none, or one of another form."""
    request_id = trace_id = b""
    for name, value in headers:
        if name == _REQUEST_ID:
            request_id = value if _is_id(value) else b""
        elif name == _TRACEPARENT and (found := _trace_of(value)):
            trace_id = found[1]
    return request_id.decode("ascii"), trace_id.decode("ascii")
