"""Give each request a deadline, and answer for a handler that missed it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

from ..clock import MONOTONIC, Clock, random_id
from ..context import RequestContext, bind_request, release_request
from ..deadlines._deadline import asked_timeout
from ..deadlines.requests import RunningRequests
from ..errors import DeadlineExceededError, DrainingError, ResilienceError
from ..events import DeadlineExceeded, Observer, fan_out, ignore
from ..validation import validation
from ._problem import Render, problem_of, request_of, send_problem
from ._running import SERVICE_RESTART, RunningExchange, RunningSocket
from ._settings import settings
from ._types import ASGIApp, Receive, Scope, Send

__all__ = ["DeadlineMiddleware", "Timeout"]

Timeout = float | None | Callable[[Scope], float | None]
"""Seconds for a request, None for any number of them, or a function that returns them for a scope."""


class DeadlineMiddleware:
    """Cancel a request at its deadline, wait for it to end, and answer 504 if nothing was sent.

    A caller may shorten the limit by `X-Request-Timeout` or `grpc-timeout`. One that has no time left is refused
    before the application sees it. A handler may give its route a limit of its own: `deadlines.requests.time_limit`.

    * A response in pieces is a stream: from its first piece on it has `stream_timeout`, and not the limit. One whose
      first piece is as long as its `Content-Length` is none.
    * What runs after the response, such as a background task, has no limit but the drain's.
    * A handler in a thread cannot be cancelled: its caller gets the 504 in time, the thread goes on to its end
      and keeps its place in anyio's limiter (40 by default), so that their number stays bounded. `RequestsOverdue`
      tells how many there are.
    * A WebSocket must be accepted within the limit, or its handshake is refused. Then it has none, unless its handler
      gives it one; at that it is closed with 1008.
    * Once a response has begun, all that can be done is to end it unfinished, which closes the connection.

    It is also the door of a drain: while the service stops, what still runs is cancelled in the same way. Then
    the answer is 503, a WebSocket is closed with 1012, and server-sent events end with a `retry:` of 3 seconds.

    Args:
        app: The application.
        running: Looks after the deadlines while it is entered. Before that, limits hold by a timer for each
            request, handlers cannot change them, and nothing is drained.
        timeout: The limit of a request, from its beginning.
        stream_timeout: The limit of a stream, from the request's beginning.
        cancel_on_disconnect: Whether a handler is cancelled when its client goes away, or a function that returns
            so of a scope. It begins to be watched after 0.2 seconds, so that a quick request does not pay.
        render: Another shape of problem, for APIs that have one.
        observer: Receives each request that ran out of time. It may raise.
        clock: Monotonic seconds; it must be the clock of the request contexts.
    """

    def __init__(
        self,
        app: ASGIApp,
        running: RunningRequests,
        *,
        timeout: Timeout = 30.0,
        stream_timeout: float | None = None,
        cancel_on_disconnect: bool | Callable[[Scope], bool] = False,
        render: Render | None = None,
        observer: Observer = ignore,
        clock: Clock = MONOTONIC,
    ) -> None:
        settings.application("DeadlineMiddleware", app)
        validation.instance(
            "DeadlineMiddleware.running", running, RunningRequests, example="RunningRequests()"
        )
        settings.limit("DeadlineMiddleware.timeout", timeout)
        if stream_timeout is not None:
            validation.seconds("DeadlineMiddleware.stream_timeout", stream_timeout, example="600.0, or None")
        settings.switch("DeadlineMiddleware.cancel_on_disconnect", cancel_on_disconnect)
        settings.function_or_none("DeadlineMiddleware.render", render)
        validation.functions("DeadlineMiddleware", observer=observer, clock=clock)
        self._app = app
        self._running = running
        self._timeout = timeout
        self._stream_timeout = math.inf if stream_timeout is None else stream_timeout
        self._cancels = cancel_on_disconnect
        self._render = render
        self._observe = fan_out([observer])
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        kind = scope["type"]
        if kind not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        serve = self._http if kind == "http" else self._websocket
        request = request_of(scope)
        if request is not None:
            await serve(request, scope, receive, send)
            return
        request = RequestContext(random_id(), self._clock(), root_path=scope.get("root_path", ""))
        scope["postfacta.request"] = request
        token = bind_request(request)
        try:
            await serve(request, scope, receive, send)
        finally:
            release_request(token)

    # No coroutine of its own, and no keywords: each costs a twentieth of a microsecond.
    def _http(  # noqa: PLR0917 - see above
        self, request: RequestContext, scope: Scope, receive: Receive, send: Send
    ) -> Awaitable[None]:
        asked = asked_timeout(scope["headers"])
        limit = self._timeout(scope) if callable(self._timeout) else self._timeout
        seconds = asked
        if limit is not None:
            request.limit = limit
            if limit < asked:
                seconds = limit
        request.asked, request.deadline = asked, request.started + seconds
        # What the outer layers took counts too, but only a caller can give so little that it matters.
        is_late = seconds <= 0 or (asked < math.inf and self._clock() >= request.deadline)
        if is_late or self._running.is_closed:
            return self._refuse(request, scope, send)
        exchange = RunningExchange(request, scope, receive, send, self._stream_timeout, self._render)
        if self._cancels is not False and (self._cancels is True or self._cancels(scope)):
            exchange.cancels = True
        return self._running.run(exchange, self._app(scope, exchange.receive, exchange.send))

    async def _websocket(  # noqa: PLR0917 - called as `_http` is
        self, request: RequestContext, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if self._running.is_closed:
            request.route, request.error_type = "_prerouting", "draining"
            await send({"type": "websocket.close", "code": SERVICE_RESTART})
            return
        limit = self._timeout(scope) if callable(self._timeout) else self._timeout
        if limit is not None:
            request.limit, request.deadline = limit, request.started + limit
        socket = RunningSocket(request, send)
        await self._running.run(socket, self._app(scope, receive, socket.send))

    async def _refuse(self, request: RequestContext, scope: Scope, send: Send) -> None:
        error: ResilienceError = DrainingError("drain", 1.0)
        if not self._running.is_closed:
            error = DeadlineExceededError("request")
            self._observe(DeadlineExceeded("caller" if request.deadline_is_callers else "ingress"))
        problem = problem_of(error)
        request.route, request.error_type = "_prerouting", problem.error_type
        await send_problem(scope, send, problem, render=self._render)
