"""Compose the middlewares in the one right order: `harden`.

A request passes these layers, outermost first:

1. `ContextMiddleware`: all others need the request's identity.
2. `TelemetryMiddleware`: it must see every answer, refusals and crashes among them.
3. `ResponseHeadersMiddleware`: every answer below it gets its headers, the framework's own 500 too.
   `CorsMiddleware`, if there is a `cors`, stands inside of it: browsers read refusals too.
4. `ErrorMiddleware`: it answers for anything below that raises, so that this answer is recorded too.
5. `LifecycleMiddleware`: while the service drains, every answer below says `Connection: close`, probes too.
6. `MetricsEndpoint` and `HealthMiddleware`: never refused, whatever stands below them.
7. `TransferMiddleware`: what is too large or too slow is refused; also while the application waits for it.
8. `RateLimitMiddleware`, if there are limits or trusted proxies: a caller over its rate costs nothing below. A
   request spends its rate before its time is looked at, since the caller may have set the time.
9. `DeadlineMiddleware`: what lies below is cancelled at its deadline, and in a drain.
10. `LoadSheddingMiddleware`: innermost, since what it measures must be the application's own work.
11. The application.

`LifespanMiddleware` stands beside all of them, since it has nothing to do with requests. It enters the lifecycle
first, then the sweep of deadlines, the loop's heartbeat, the process's metrics, the resources, and health
last, and leaves them the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from ..clock import MONOTONIC, Clock
from ..deadlines.requests import RunningRequests
from ..drain.lifecycle import Lifecycle
from ..drain.resources import Resource
from ..events import Observer, PolicyCreated, fan_out, process_observer
from ..health.looplag import LoopLag
from ..health.registry import NO_LIFESPAN, HealthRegistry
from ..health.runtime import Runtime
from ..limits._overload import OverloadLimiter
from ..telemetry.logs import LOGGER, AccessLog, EventLog
from ..telemetry.metrics import Metrics, Registry
from ..telemetry.sampling import AccessSampler
from ..telemetry.tracing import Tracing
from ..validation import validation
from ._problem import Render
from ._route import note_routes, shadowed
from ._settings import settings
from ._types import ASGIApp, Receive, Scope, Send
from .concurrency import LoadSheddingMiddleware
from .context import ContextMiddleware, Resetter
from .cors import CorsMiddleware
from .deadline import DeadlineMiddleware
from .errors import ErrorMiddleware
from .headers import ResponseHeadersMiddleware
from .health import HealthMiddleware
from .lifecycle import LifecycleMiddleware
from .lifespan import LifespanMiddleware
from .metrics import MetricsEndpoint
from .options import HardenOptions
from .ratelimit import RateLimitMiddleware
from .telemetry import RouteOf, TelemetryMiddleware
from .transfer import TransferMiddleware

__all__ = ["Hardened", "Telemetry", "harden"]


_TAKEN: Final = (
    "the application's own route %s is not reached, as harden answers there: "
    "move it, or set HardenOptions.metrics_path or HardenOptions.health_prefix"
)


class Telemetry:
    """Metrics, traces and logs of one service, and one observer that feeds all three.

    That is the process's observer from now on: every policy that was given no `observer` of its own reports to it,
    those that were made before it too. Of several, the last one counts.

    Args:
        version: Of the service.
        revision: The commit it was built from.
        metrics: By default on a registry of their own, with this version and revision.
        tracing: By default through the globally installed OpenTelemetry SDK, if there is one.
        include: More registries whose series are shown with these, such as `prometheus_client.REGISTRY`; see
            `Metrics`, which takes them where `metrics` is given.
    """

    def __init__(
        self,
        *,
        version: str = "",
        revision: str = "",
        metrics: Metrics | None = None,
        tracing: Tracing | None = None,
        include: Sequence[Registry] = (),
    ) -> None:
        validation.text("Telemetry.version", version)
        validation.text("Telemetry.revision", revision)
        if metrics is not None:
            validation.instance("Telemetry.metrics", metrics, Metrics, example="Metrics()")
        if tracing is not None:
            validation.instance("Telemetry.tracing", tracing, Tracing, example="Tracing()")
        if include and metrics is not None:
            validation.refuse(
                "Telemetry.include",
                include,
                "given to Metrics, where metrics is",
                example="Metrics(include=[REGISTRY])",
            )
        self.metrics: Metrics = metrics or Metrics(version=version, revision=revision, include=include)
        self.tracing: Tracing = tracing or Tracing()
        self.observer: Observer = fan_out([self.metrics, self.tracing, EventLog()])
        self.observer(PolicyCreated("tracing", self.tracing.tally))
        process_observer.use(self.observer)


class Hardened:
    """An application with all its layers: an ASGI application itself.

    Attributes:
        health: Add checks to it before the service starts.
        lifecycle: The phase of the process, and what SIGTERM does to it; `drain` begins the end.
        running: The requests under way.
        shedding: Its `mode` may be set at any time.
        rate_limits: Its `limiters` have a mode each; None if there are none.
        telemetry: Its `observer` is for `Database` and whatever else emits events.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        lifespan: ASGIApp,
        health: HealthRegistry,
        lifecycle: Lifecycle,
        running: RunningRequests,
        shedding: LoadSheddingMiddleware,
        rate_limits: RateLimitMiddleware | None,
        telemetry: Telemetry,
        taken: Callable[[], Sequence[str]],
    ) -> None:
        self._app = app
        self._lifespan = lifespan
        self._taken = taken
        self._is_new = True  # Neither a lifespan nor a request has come.
        self.health = health
        self.lifecycle = lifecycle
        self.running = running
        self.shedding = shedding
        self.rate_limits = rate_limits
        self.telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, or the lifespan."""
        if scope["type"] == "lifespan":
            self._is_new = False
            # Not before: a router may get routes until it starts.
            for path in self._taken():
                LOGGER.warning(_TAKEN, path)
            await self._lifespan(scope, receive, send)
            return
        if self._is_new:
            self._is_new = False
            LOGGER.error(NO_LIFESPAN)
        await self._app(scope, receive, send)


def harden(
    app: ASGIApp,
    *,
    service: str,
    options: HardenOptions | None = None,
    telemetry: Telemetry | None = None,
    health: HealthRegistry | None = None,
    resources: Sequence[Resource] = (),
    render: Render | None = None,
    route_of: RouteOf | None = None,
    resetters: Sequence[Resetter] = (),
    clock: Clock = MONOTONIC,
) -> Hardened:
    """Wrap a whole ASGI application, so that its framework's own answers are covered too.

    Args:
        app: Starlette, FastAPI, Litestar or any ASGI application.
        service: Its name, for the access line.
        options: Limits, paths and headers; by default those of production.
        telemetry: Share one to let a `Database` report to it.
        health: A registry with checks; by default an empty one, which is ready at once.
        resources: Opened before the application starts and closed after it and after the last request, each
            within its share of the time; such as a `Database`.
        render: Another shape of problem for some paths; None from it means RFC 9457.
        route_of: Returns the route template, for a framework that is none of Starlette, FastAPI, Litestar, Django, Quart
            and Falcon, or in place of what is read from these.
        resetters: For context variables of others, such as structlog's `clear_contextvars`.
        clock: Monotonic seconds.

    Raises:
        ValueError: If an argument is wrong, or the application is hardened already.
    """
    _check(app, service=service, options=options, telemetry=telemetry, health=health, clock=clock)
    for name, function in (("render", render), ("route_of", route_of)):
        settings.function_or_none(f"harden.{name}", function)
    for resetter in resetters:
        validation.function("harden.resetters", resetter, example="[clear_contextvars]")
    resources = settings.resources("harden.resources", resources)
    options = options or HardenOptions()
    telemetry = telemetry or Telemetry()
    health = health or HealthRegistry(observer=telemetry.observer)
    observer = telemetry.observer
    if route_of is None:
        note_routes(app)
    running = RunningRequests(observer=observer, clock=clock)
    lifecycle = Lifecycle(
        replace(options.drain, drain_delay=0.0) if options.dev else options.drain,
        running=running,
        on_drain=health.drain,
        recycle=options.recycle,
        observer=observer,
        clock=clock,
    )
    shedding = LoadSheddingMiddleware(
        app,
        OverloadLimiter("requests", options.concurrency),
        priority_of=options.priority_of,
        priority_key=options.priority_key,
        spares=lifecycle.found,
        mode=options.shedding,
        render=render,
        observer=observer,
        clock=clock,
    )
    layers: ASGIApp = DeadlineMiddleware(
        shedding,
        running,
        timeout=options.request_timeout,
        stream_timeout=options.stream_timeout,
        cancel_on_disconnect=options.cancel_on_disconnect,
        render=render,
        observer=observer,
        clock=clock,
    )
    rate_limits = _rate_limits(layers, options, render=render, observer=observer, clock=clock)
    layers = TransferMiddleware(rate_limits or layers, options.limits, render=render, clock=clock)
    layers = HealthMiddleware(
        layers, health, prefix=options.health_prefix, allow_detail=options.allow_health_detail
    )
    scrapes = MetricsEndpoint(
        layers,
        telemetry.metrics,
        path=options.metrics_path,
        token=options.metrics_token,
        allow=options.allow_metrics,
        workers=options.metrics_workers,
        observer=observer,
    )
    layers = ErrorMiddleware(LifecycleMiddleware(scrapes, lifecycle), render=render)
    layers = _with_headers(layers, options, render=render)
    sampler = None if options.access_lines is None else AccessSampler(options.access_lines)
    layers = TelemetryMiddleware(
        layers,
        # Spans come first, so that the access line has their ids.
        [telemetry.tracing, telemetry.metrics, AccessLog(service=service, sampler=sampler)],
        route_of=route_of,
        quiet={*options.probes, options.metrics_path, *options.quiet},
        traffic_key=options.traffic_key,
        clock=clock,
        observer=observer,
    )
    layers = ContextMiddleware(layers, resetters=(telemetry.tracing.fresh_context, *resetters), clock=clock)
    looplag = LoopLag(shedding.beat, observer=observer, clock=clock)
    stores = [options.rate_limit_store] if options.rate_limit_store else []
    ours: list[Resource] = [running, looplag, Runtime(observer=observer), *stores]
    if scrapes.siblings is not None:
        ours.append(scrapes.siblings)
    lifespan = LifespanMiddleware(layers, [*ours, *resources, health], lifecycle=lifecycle, observer=observer)
    return Hardened(
        layers,
        lifespan=lifespan,
        health=health,
        lifecycle=lifecycle,
        running=running,
        shedding=shedding,
        rate_limits=rate_limits,
        telemetry=telemetry,
        taken=partial(
            shadowed,
            app,
            (options.metrics_path, options.health_prefix, *options.probes),
            prefix=options.health_prefix,
        ),
    )


def _check(
    app: object, *, service: object, options: object, telemetry: object, health: object, clock: object
) -> None:
    settings.application("harden", app)
    if isinstance(app, Hardened):
        validation.refuse(
            "harden.app",
            app,
            "an application that is not hardened yet",
            example="harden(app, service='billing')",
        )
    if not isinstance(service, str) or not service.strip():
        validation.refuse("harden.service", service, "the service's name", example="service='billing'")
    for name, given, kind in (
        ("options", options, HardenOptions),
        ("telemetry", telemetry, Telemetry),
        ("health", health, HealthRegistry),
    ):
        if given is not None:
            validation.instance(f"harden.{name}", given, kind, example=f"{kind.__name__}()")
    validation.functions("harden", clock=clock)


def _with_headers(app: ASGIApp, options: HardenOptions, *, render: Render | None) -> ASGIApp:
    if options.cors is not None:
        app = CorsMiddleware(app, options.cors, render=render)
    return ResponseHeadersMiddleware(app, options.response_headers)


def _rate_limits(
    app: ASGIApp, options: HardenOptions, *, render: Render | None, observer: Observer, clock: Clock
) -> RateLimitMiddleware | None:
    if not options.rate_limits and not options.trusted_proxies:
        return None
    return RateLimitMiddleware(
        app,
        options.rate_limits,
        trusted_proxies=options.trusted_proxies,
        store=options.rate_limit_store,
        render=render,
        observer=observer,
        clock=clock,
    )
