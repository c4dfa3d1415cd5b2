"""Observe each request once, and pass the result to every recorder."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..clock import MONOTONIC, Clock
from ..context import current_request
from ..events import Observer, ignore
from ..telemetry.exchange import ErrorTypes, Recorder
from ..validation import validation
from ._kernel import Kernel, RouteOf
from ._problem import request_of
from ._route import RouteReader, local_path
from ._secret import Secret
from ._settings import settings
from ._types import ASGIApp, Receive, Scope, Send

__all__ = ["RouteOf", "RouteProbe", "TelemetryMiddleware"]


class TelemetryMiddleware(Kernel):
    """Make one `Exchange` of each HTTP request or WebSocket. What the application raises is recorded, and raised again.

    It belongs outside of all that may answer or refuse, and right inside of `ContextMiddleware`; without that
    it makes a request context of its own. A layer that answers before the application may set, on the
    scope's `postfacta.request`, `route` to `_prerouting` (or its own path) and `error_type` to the reason.

    Args:
        app: The application to observe.
        recorders: Each is called when the exchange begins, is answered and ends. Errors that they raise are reported
            as events.
        route_of: Returns the route for a framework that is neither Starlette, FastAPI nor Litestar.
        quiet: Paths of probes and scrapes: without span and log line.
        traffic_key: The secret that a caller must give in `X-Traffic-Key` for its `X-Traffic-Class` to count, or a
            function that returns all that hold now.
            Without one, all traffic is `user`.
        error_types: The closed set of error types; middlewares of one process may share it.
        clock: Monotonic seconds.
        observer: Receives each recorder that raised.
    """

    def __init__(
        self,
        app: ASGIApp,
        recorders: Sequence[Recorder],
        *,
        route_of: RouteOf | None = None,
        quiet: Collection[str] = (),
        traffic_key: Secret = "",
        error_types: ErrorTypes | None = None,
        clock: Clock = MONOTONIC,
        observer: Observer = ignore,
    ) -> None:
        settings.application("TelemetryMiddleware", app)
        settings.function_or_none("TelemetryMiddleware.route_of", route_of)
        if error_types is not None:
            validation.instance(
                "TelemetryMiddleware.error_types", error_types, ErrorTypes, example="ErrorTypes()"
            )
        validation.texts("TelemetryMiddleware.quiet", quiet, example='["/ping"]')
        settings.secret("TelemetryMiddleware.traffic_key", traffic_key)
        validation.functions("TelemetryMiddleware", clock=clock, observer=observer)
        super().__init__(
            app,
            recorders=recorders,
            route_of=route_of,
            quiet=quiet,
            traffic_key=traffic_key,
            error_types=error_types,
            clock=clock,
            observer=observer,
        )


class RouteProbe:
    """Copy the route to the outer scope, past a middleware that copies the scope.

    Without it, a layer that hands on `dict(scope)` hides from all layers outside of it what the router put
    there. Put the probe innermost, around the router: in Starlette as the last of the `middleware`.

    Args:
        app: The router, or what stands around it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._reader = RouteReader()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        request = request_of(scope) or current_request()
        if scope["type"] == "lifespan" or request is None:
            await self._app(scope, receive, send)
            return
        path = local_path(scope["path"], request.root_path)
        try:
            await self._app(scope, receive, send)
        finally:
            if request.route is None:
                request.route = self._reader.read(scope, request.root_path, path)
