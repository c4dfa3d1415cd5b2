"""Give each request a deadline, and answer for a handler that missed it."""

from __future__ import annotations

from collections.abc import Callable

from ..clock import MONOTONIC, Clock
from ..deadlines.requests import RunningRequests
from ..events import Observer, ignore
from ..validation import validation
from ._kernel import Kernel, Timeout
from ._problem import Render
from ._settings import settings
from ._types import ASGIApp, Scope

__all__ = ["DeadlineMiddleware", "Timeout"]


class DeadlineMiddleware(Kernel):
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
        super().__init__(
            app,
            running=running,
            timeout=timeout,
            stream_timeout=stream_timeout,
            cancels=cancel_on_disconnect,
            render=render,
            observer=observer,
            clock=clock,
        )
