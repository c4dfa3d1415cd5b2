"""Compose the middlewares in the one right order: `harden`.

A request passes these layers, outermost first:

1. `ContextMiddleware`: all others need the request's identity.
2. `TelemetryMiddleware`: it must see every answer, refusals and crashes among them.
3. `ResponseHeadersMiddleware`: every answer below it gets its headers, the framework's own 500 too.
4. `ErrorMiddleware`: it answers for whatever lies below and raises, so that this answer is recorded as well.
5. `MetricsEndpoint` and `HealthMiddleware`: never refused, whatever comes to stand below them.
6. `TransferMiddleware`: what is too large is refused before the application sees it.
7. The application.

`LifespanMiddleware` stands around all of them, since it has nothing to do with requests.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from ..aio.health import HealthRegistry
from ..clock import MONOTONIC, Clock
from ..events import Observer, fan_out
from ..policy.transfer import TransferLimits
from ..telemetry.logs import AccessLog, EventLog
from ..telemetry.metrics import Metrics
from ..telemetry.tracing import Tracing
from ._problem import Render
from ._types import ASGIApp, Receive, Scope, Send
from .context import ContextMiddleware, Resetter
from .errors import ErrorMiddleware
from .headers import ResponseHeadersMiddleware
from .health import HealthMiddleware
from .lifespan import LifespanMiddleware
from .metrics import MetricsEndpoint
from .telemetry import RouteOf, TelemetryMiddleware
from .transfer import TransferMiddleware

__all__ = ["Hardened", "Policy", "Telemetry", "harden"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a service decides about itself; the defaults suit one in production.

    Attributes:
        limits: The largest headers and body, for all requests or told by scope.
        response_headers: Given to every response that does not set them itself.
        metrics_path: Where the metrics are.
        metrics_token: The bearer token that a scrape must bring; empty asks for none.
        health_prefix: Where the probes are.
        allow_health_detail: Who may see the checks by name.
        traffic_key: Lets `X-Traffic-Class` be believed; empty believes nobody.
        quiet: More paths that get no span and no access line.
    """

    limits: TransferLimits | Callable[[Scope], TransferLimits] = field(default_factory=TransferLimits)
    response_headers: Sequence[tuple[str, str]] = (("x-content-type-options", "nosniff"),)
    metrics_path: str = "/metrics"
    metrics_token: str = ""
    health_prefix: str = "/healthz"
    allow_health_detail: Callable[[Scope], bool] | None = None
    traffic_key: str = ""
    quiet: Collection[str] = ()


class Telemetry:
    """Metrics, traces and logs of one service, and one observer that feeds all three.

    Args:
        version: Of the service.
        revision: The commit it was built from.
        metrics: By default on a registry of their own, with this version and revision.
        tracing: By default through the globally installed OpenTelemetry SDK, if there is one.
    """

    def __init__(
        self,
        *,
        version: str = "",
        revision: str = "",
        metrics: Metrics | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.metrics: Metrics = metrics or Metrics(version=version, revision=revision)
        self.tracing: Tracing = tracing or Tracing()
        self.observer: Observer = fan_out([self.metrics, self.tracing, EventLog()])


class Hardened:
    """An application with all its layers: an ASGI application itself.

    Attributes:
        health: Add checks to it before the service starts.
        telemetry: Its `observer` is for `Database` and whatever else emits events.
    """

    def __init__(self, app: ASGIApp, *, health: HealthRegistry, telemetry: Telemetry) -> None:
        self._app = app
        self.health = health
        self.telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        await self._app(scope, receive, send)


def harden(
    app: ASGIApp,
    *,
    service: str,
    policy: Policy | None = None,
    telemetry: Telemetry | None = None,
    health: HealthRegistry | None = None,
    resources: Sequence[AbstractAsyncContextManager[object]] = (),
    render: Render | None = None,
    route_of: RouteOf | None = None,
    resetters: Sequence[Resetter] = (),
    clock: Clock = MONOTONIC,
) -> Hardened:
    """Wrap a whole ASGI application, so that even what its framework answers by itself is covered.

    Args:
        app: Starlette, FastAPI, Litestar or any ASGI application.
        service: Its name, for the access line.
        policy: Limits, paths and headers.
        telemetry: Share one to let a `Database` report to it.
        health: A registry with checks; by default an empty one, which is ready at once.
        resources: Opened before the application starts and closed after it, such as a `Database`.
        render: Another shape of problem for some paths; None from it means RFC 9457.
        route_of: Tells the route template for other frameworks.
        resetters: For context variables of others, such as structlog's `clear_contextvars`.
        clock: Monotonic seconds.
    """
    if not service:
        raise ValueError("a service has a name: harden(app, service='billing')")
    policy = policy or Policy()
    telemetry = telemetry or Telemetry()
    health = health or HealthRegistry(observer=telemetry.observer)
    probes = [f"{policy.health_prefix}/{name}" for name in ("live", "ready", "startup", "deps")]
    layers: ASGIApp = TransferMiddleware(app, policy.limits, render=render)
    layers = HealthMiddleware(
        layers, health, prefix=policy.health_prefix, allow_detail=policy.allow_health_detail
    )
    layers = MetricsEndpoint(layers, telemetry.metrics, path=policy.metrics_path, token=policy.metrics_token)
    layers = ErrorMiddleware(layers, render=render)
    layers = ResponseHeadersMiddleware(layers, policy.response_headers)
    layers = TelemetryMiddleware(
        layers,
        # Spans come first, so that the access line has their ids.
        [telemetry.tracing, telemetry.metrics, AccessLog(service=service)],
        route_of=route_of,
        quiet={*probes, policy.metrics_path, *policy.quiet},
        traffic_key=policy.traffic_key,
        clock=clock,
        observer=telemetry.observer,
    )
    layers = ContextMiddleware(layers, resetters=(telemetry.tracing.fresh_context, *resetters), clock=clock)
    return Hardened(LifespanMiddleware(layers, [*resources, health]), health=health, telemetry=telemetry)
