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

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from os import PathLike
from typing import Final

from ..aio.deadline import RunningRequests
from ..aio.health import NO_LIFESPAN, HealthRegistry
from ..aio.lifecycle import Lifecycle
from ..aio.looplag import LoopLag
from ..aio.ratelimit_store import SharedStore
from ..aio.resources import Resource
from ..aio.runtime import Runtime
from ..clock import MONOTONIC, Clock
from ..events import Mode, Observer, PolicyCreated, fan_out, process_observer
from ..policy.address import TrustedProxies
from ..policy.lifecycle import DrainLimits, RecycleLimits
from ..policy.overload import OverloadConfig, OverloadLimiter
from ..policy.transfer import TransferLimits
from ..telemetry.logs import LOGGER, AccessLog, EventLog
from ..telemetry.metrics import Metrics, Registry
from ..telemetry.sampling import AccessSampler
from ..telemetry.tracing import Tracing
from ..validation import validation
from ._problem import Render
from ._route import shadowed
from ._secret import Secret
from ._settings import settings
from ._types import ASGIApp, Receive, Scope, Send
from .concurrency import LoadSheddingMiddleware, PriorityOf
from .context import ContextMiddleware, Resetter
from .cors import Cors, CorsMiddleware
from .deadline import DeadlineMiddleware, Timeout
from .errors import ErrorMiddleware
from .headers import ResponseHeadersMiddleware, check_headers
from .health import HealthMiddleware
from .lifecycle import LifecycleMiddleware
from .lifespan import LifespanMiddleware
from .metrics import MetricsEndpoint
from .ratelimit import RateLimit, RateLimitMiddleware, check_rate_limits
from .telemetry import RouteOf, TelemetryMiddleware
from .transfer import TransferMiddleware

__all__ = ["Hardened", "Policy", "Telemetry", "harden"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The options of a service; the defaults suit production.

    Attributes:
        limits: The largest headers and body, for all requests or by scope.
        request_timeout: Seconds from a request's beginning until it is cancelled; None for any number, or a
            function that tells them of a scope. A handler may have its own: `aio.deadline.time_limit`.
        stream_timeout: The same for a response in pieces, once the first is sent.
        cancel_on_disconnect: Whether a handler is cancelled when its client goes away, or a function of the scope.
        rate_limits: How much each caller may ask for, such as `100/minute per client`; by default without bound.
        rate_limit_store: Shared by several processes; by default each counts by itself. It is opened and closed here.
        trusted_proxies: Networks whose `X-Forwarded-For` names the client; by default none is trusted.
        shedding: Whether requests that cannot be served in time are refused early; in `shadow` they are counted.
        concurrency: What the limit on requests under way starts from; it finds its level from what is finished.
        priority_of: Returns for a scope how much a request matters; None for `critical`.
        priority_key: Lets a caller that knows it set `X-Priority`; empty trusts no caller.
        drain: How long the parts of a drain may take.
        dev: Whether this is a developer's machine, with no load balancer to wait for: then a drain has no delay. It
            has none either after Ctrl-C at a terminal, and under `uvicorn --reload`.
        recycle: When a worker ends by itself, to be replaced by its supervisor; None for never.
        cors: Which pages of other origins may read the answers, refusals among them; None if the application decides
            that by itself, for its own answers.
        response_headers: Given to every response that does not set them itself.
        metrics_path: Where the metrics are.
        metrics_token: The bearer token that a scrape must bring; empty asks for none. Or a function that returns all
            that hold now, so that it can be replaced in a running service.
        allow_metrics: Decides for each scrape whether it may read at all, beside the token; by default each may.
        metrics_workers: A folder that all workers share, if the server runs several; see `MetricsEndpoint`.
        health_prefix: Where the probes are.
        allow_health_detail: Decides which callers see the checks by name.
        traffic_key: Makes `X-Traffic-Class` trusted; empty trusts no caller. Or a function, as for `metrics_token`.
        quiet: More paths that get no span and no access line.
        access_lines: How many ordinary access lines a second are written before they are sampled; None for all.
    """

    limits: TransferLimits | Callable[[Scope], TransferLimits] = field(default_factory=TransferLimits)
    request_timeout: Timeout = 30.0
    stream_timeout: float | None = None
    cancel_on_disconnect: bool | Callable[[Scope], bool] = False
    rate_limits: Sequence[RateLimit | str] = ()
    rate_limit_store: SharedStore | None = None
    trusted_proxies: Sequence[str] | TrustedProxies = ()
    shedding: Mode | str = Mode.ENFORCE
    concurrency: OverloadConfig = field(default_factory=OverloadConfig)
    priority_of: PriorityOf | None = None
    priority_key: str = field(default="", repr=False)
    drain: DrainLimits = field(default_factory=DrainLimits)
    dev: bool = False
    recycle: RecycleLimits | None = None
    cors: Cors | None = None
    response_headers: Sequence[tuple[str, str]] = (("x-content-type-options", "nosniff"),)
    metrics_path: str = "/metrics"
    metrics_token: Secret = field(default="", repr=False)
    allow_metrics: Callable[[Scope], bool] | None = None
    metrics_workers: str | PathLike[str] = ""
    health_prefix: str = "/healthz"
    allow_health_detail: Callable[[Scope], bool] | None = None
    traffic_key: Secret = field(default="", repr=False)
    quiet: Collection[str] = ()
    access_lines: int | None = 100

    def __post_init__(self) -> None:
        if not callable(self.limits):
            validation.instance(
                "Policy.limits",
                self.limits,
                TransferLimits,
                example="TransferLimits(max_body_bytes=1_048_576)",
            )
        settings.limit("Policy.request_timeout", self.request_timeout)
        if self.stream_timeout is not None:
            validation.seconds("Policy.stream_timeout", self.stream_timeout, example="600.0, or None")
        settings.switch("Policy.cancel_on_disconnect", self.cancel_on_disconnect)
        self._check_rates()
        object.__setattr__(self, "shedding", validation.choice("Policy.shedding", self.shedding, Mode))
        validation.instance(
            "Policy.concurrency", self.concurrency, OverloadConfig, example="OverloadConfig()"
        )
        validation.instance("Policy.drain", self.drain, DrainLimits, example="DrainLimits(drain_delay=5.0)")
        validation.flag("Policy.dev", self.dev, example="dev=True")
        if self.recycle is not None:
            validation.instance(
                "Policy.recycle", self.recycle, RecycleLimits, example="RecycleLimits(max_age=86400)"
            )
        self._check_headers()
        validation.secret("Policy.priority_key", self.priority_key, example="a text, or leave it out")
        for key in ("metrics_token", "traffic_key"):
            settings.secret(f"Policy.{key}", getattr(self, key))
        for function in ("priority_of", "allow_health_detail", "allow_metrics"):
            settings.function_or_none(f"Policy.{function}", getattr(self, function))
        self._check_paths()
        if self.access_lines is not None:
            validation.whole("Policy.access_lines", self.access_lines, example="100, or None for all")

    def _check_headers(self) -> None:
        if self.cors is not None:
            validation.instance(
                "Policy.cors", self.cors, Cors, example='Cors(allow_origins=["https://app.example.org"])'
            )
        check_headers("Policy.response_headers", self.response_headers)

    def _check_rates(self) -> None:
        for limit in check_rate_limits("Policy.rate_limits", self.rate_limits):
            if limit.per in {"principal", "route"}:
                validation.refuse(
                    "Policy.rate_limits",
                    f"{limit.rate} per {limit.per}",
                    f"per client, global or a function, as the {limit.per} is unknown before the application runs",
                    example="RateLimit('100/minute', per=api_key_of, name='api-key')",
                )
        if self.rate_limit_store is not None:
            validation.instance(
                "Policy.rate_limit_store",
                self.rate_limit_store,
                SharedStore,
                example="SharedStore('async+valkey://valkey:6379')",
            )
            if not self.rate_limits:
                validation.refuse(
                    "Policy.rate_limits",
                    self.rate_limits,
                    "set where there is a rate_limit_store, which nothing uses otherwise",
                    example="['100/minute per client']",
                )
        if not isinstance(self.trusted_proxies, TrustedProxies):
            TrustedProxies(self.trusted_proxies)

    def _check_paths(self) -> None:
        settings.path("Policy.metrics_path", self.metrics_path, example='"/metrics"')
        settings.prefix("Policy.health_prefix", self.health_prefix)
        if self.metrics_path in self.probes:
            validation.refuse(
                "Policy.metrics_path",
                self.metrics_path,
                "another path than the probes'",
                example='"/metrics"',
            )
        if not isinstance(self.metrics_workers, PathLike):
            validation.text("Policy.metrics_workers", self.metrics_workers, example='"/run/billing"')
        for each in validation.texts("Policy.quiet", self.quiet, example='["/ping"]'):
            settings.path("Policy.quiet", each, example='["/ping"]')

    @property
    def probes(self) -> tuple[str, ...]:
        """The paths of the probes."""
        return tuple(f"{self.health_prefix}/{name}" for name in ("live", "ready", "startup", "deps"))


_TAKEN: Final = (
    "the application's own route %s is not reached, as harden answers there: "
    "move it, or set Policy.metrics_path or Policy.health_prefix"
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
    policy: Policy | None = None,
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
        policy: Limits, paths and headers.
        telemetry: Share one to let a `Database` report to it.
        health: A registry with checks; by default an empty one, which is ready at once.
        resources: Opened before the application starts and closed after it and after the last request, each
            within its share of the time; such as a `Database`.
        render: Another shape of problem for some paths; None from it means RFC 9457.
        route_of: Returns the route template for other frameworks.
        resetters: For context variables of others, such as structlog's `clear_contextvars`.
        clock: Monotonic seconds.

    Raises:
        ValueError: If an argument is wrong, or the application is hardened already.
    """
    _check(app, service=service, policy=policy, telemetry=telemetry, health=health, clock=clock)
    for name, function in (("render", render), ("route_of", route_of)):
        settings.function_or_none(f"harden.{name}", function)
    for resetter in resetters:
        validation.function("harden.resetters", resetter, example="[clear_contextvars]")
    resources = settings.resources("harden.resources", resources)
    policy = policy or Policy()
    telemetry = telemetry or Telemetry()
    health = health or HealthRegistry(observer=telemetry.observer)
    observer = telemetry.observer
    running = RunningRequests(observer=observer, clock=clock)
    lifecycle = Lifecycle(
        replace(policy.drain, drain_delay=0.0) if policy.dev else policy.drain,
        running=running,
        on_drain=health.drain,
        recycle=policy.recycle,
        observer=observer,
        clock=clock,
    )
    shedding = LoadSheddingMiddleware(
        app,
        OverloadLimiter("requests", policy.concurrency),
        priority_of=policy.priority_of,
        priority_key=policy.priority_key,
        spares=lifecycle.found,
        mode=policy.shedding,
        render=render,
        observer=observer,
        clock=clock,
    )
    layers: ASGIApp = DeadlineMiddleware(
        shedding,
        running,
        timeout=policy.request_timeout,
        stream_timeout=policy.stream_timeout,
        cancel_on_disconnect=policy.cancel_on_disconnect,
        render=render,
        observer=observer,
        clock=clock,
    )
    rate_limits = _rate_limits(layers, policy, render=render, observer=observer, clock=clock)
    layers = TransferMiddleware(rate_limits or layers, policy.limits, render=render, clock=clock)
    layers = HealthMiddleware(
        layers, health, prefix=policy.health_prefix, allow_detail=policy.allow_health_detail
    )
    scrapes = MetricsEndpoint(
        layers,
        telemetry.metrics,
        path=policy.metrics_path,
        token=policy.metrics_token,
        allow=policy.allow_metrics,
        workers=policy.metrics_workers,
        observer=observer,
    )
    layers = scrapes
    layers = LifecycleMiddleware(layers, lifecycle)
    layers = ErrorMiddleware(layers, render=render)
    layers = _with_headers(layers, policy, render=render)
    sampler = None if policy.access_lines is None else AccessSampler(policy.access_lines)
    layers = TelemetryMiddleware(
        layers,
        # Spans come first, so that the access line has their ids.
        [telemetry.tracing, telemetry.metrics, AccessLog(service=service, sampler=sampler)],
        route_of=route_of,
        quiet={*policy.probes, policy.metrics_path, *policy.quiet},
        traffic_key=policy.traffic_key,
        clock=clock,
        observer=observer,
    )
    layers = ContextMiddleware(layers, resetters=(telemetry.tracing.fresh_context, *resetters), clock=clock)
    looplag = LoopLag(shedding.beat, observer=observer, clock=clock)
    stores = [policy.rate_limit_store] if policy.rate_limit_store else []
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
            (policy.metrics_path, policy.health_prefix, *policy.probes),
            prefix=policy.health_prefix,
        ),
    )


def _check(
    app: object, *, service: object, policy: object, telemetry: object, health: object, clock: object
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
        ("policy", policy, Policy),
        ("telemetry", telemetry, Telemetry),
        ("health", health, HealthRegistry),
    ):
        if given is not None:
            validation.instance(f"harden.{name}", given, kind, example=f"{kind.__name__}()")
    validation.functions("harden", clock=clock)


def _with_headers(app: ASGIApp, policy: Policy, *, render: Render | None) -> ASGIApp:
    if policy.cors is not None:
        app = CorsMiddleware(app, policy.cors, render=render)
    return ResponseHeadersMiddleware(app, policy.response_headers)


def _rate_limits(
    app: ASGIApp, policy: Policy, *, render: Render | None, observer: Observer, clock: Clock
) -> RateLimitMiddleware | None:
    if not policy.rate_limits and not policy.trusted_proxies:
        return None
    return RateLimitMiddleware(
        app,
        policy.rate_limits,
        trusted_proxies=policy.trusted_proxies,
        store=policy.rate_limit_store,
        render=render,
        observer=observer,
        clock=clock,
    )
