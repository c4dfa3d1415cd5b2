"""Put all parts around an application, in the one right order: `harden`.

Which it is, and why, stands in docs/reference/parts.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, cast

from ..clock import LUCK, MONOTONIC, Clock
from ..deadlines.requests import RunningRequests
from ..drain.lifecycle import Lifecycle
from ..drain.resources import Resource
from ..events import LoopLagged, Mode, Observer, PolicyCreated, Sample, fan_out, process_observer
from ..health import holders, runtime
from ..health.blocking import LoopWatch
from ..health.registry import NO_LIFESPAN, HealthRegistry
from ..limits._overload import OverloadLimiter
from ..limits._waiting import Priority
from ..limits.address import TrustedProxies
from ..limits.streams import OpenStreams
from ..telemetry.logs import LOGGER, AccessLog, EventLog
from ..telemetry.metrics import Metrics
from ..telemetry.sampling import AccessSampler
from ..telemetry.tracing import Tracing
from ..validation import validation
from ._application import cors_rules, note_taken, permit
from ._concurrency import Shedding
from ._cookies import IS_SLOW as IS_SLOW, SLOW_COOKIES_WARNING as SLOW_COOKIES_WARNING
from ._cors import CorsRules
from ._exchange import HttpExchange
from ._kernel import Kernel, RouteOf
from ._numbers import Numbers, renumbered
from ._problem import Render as Render, request_of
from ._ratelimit import LimitRule, RatePlan, check_rate_limits
from ._route import local_path, note_routes
from ._rules import Find, Rules, any_of_none, route_table
from ._settings import check_options, instance_of, or_none
from ._types import ASGIApp, Receive, Scope, Send
from .health import HealthEndpoint
from .lifespan import LifespanMiddleware
from .metrics import MetricsEndpoint
from .options import HardenOptions, RouteOptions


class Telemetry:
    """Metrics, traces and logs of one service, and one observer that feeds all three.

    Policies without an observer of their own report to it, earlier ones too. Of several, the last
    one counts.

    Args:
        metrics: By default without a version of the service.
        tracing: By default through the globally installed OpenTelemetry SDK, if there is one.
    """

    def __init__(self, *, metrics: Metrics | None = None, tracing: Tracing | None = None) -> None:
        or_none(instance_of(Metrics))("Telemetry.metrics", metrics)
        or_none(instance_of(Tracing))("Telemetry.tracing", tracing)
        self.metrics: Metrics = metrics or Metrics()
        self.tracing: Tracing = tracing or Tracing()
        self.observer: Observer = fan_out([self.metrics, self.tracing, EventLog()])
        process_observer.use(self.observer)


# Of Starlette, FastAPI and Litestar: what is often looked for on what hardens them.
_OF_THE_APPLICATION: Final = (
    *("get", "post", "put", "patch", "delete", "websocket", "route", "mount", "include_router"),
    *("add_route", "add_api_route", "add_middleware", "add_exception_handler"),
    *("middleware", "exception_handler", "on_event", "dependency_overrides"),
    *("state", "router", "routes", "url_path_for", "register"),
)


class _OfTheApplication:
    """A name that only the application has: a second way to it would hide mistakes.

    A `__getattr__` would say it of every name, and makes each attribute of the class dearer: 5 %
    of the instructions that `harden` adds to a request.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, hardened: Hardened | None, owner: type[Hardened]) -> object:
        text = f"{owner.__name__!r} object has no attribute {self._name!r}"
        if hasattr(getattr(hardened, "app", None), self._name):
            text = f"{text}: the application inside has it, as `app.app.{self._name}`"
        raise AttributeError(text, name=self._name, obj=hardened)


class Hardened(Kernel):
    """An ASGI application with all parts around it: its framework's own answers are covered, too.

    Args:
        app: Starlette, FastAPI, Litestar or any ASGI application.
        service: Its name, for the access line.
        options: Limits, paths and headers; by default those of production.
        telemetry: Share one to let a `Database` report to its `observer`.
        health: A registry with checks; by default an empty one, which is ready at once.
        resources: Opened before the application starts and closed after it and after the last
            request, each within its share of the time; such as a `Database`.
        render: Another shape of problem for some paths; None from it means RFC 9457.
        route_of: Returns the route template, for a framework that is none of Starlette, FastAPI,
            Litestar, Django and Quart, or in place of what is read from these.
        clock: Monotonic seconds.

    Attributes:
        lifecycle: The phase of the process, and what SIGTERM does to it; `drain` begins the end.
        running: The requests under way.
        shedding: Its `mode` may be set at any time.
        rate_limits: Its `limiters` have a mode each; None if there are none.

    Raises:
        ValueError: If an argument is wrong, or the application is hardened already.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        service: str,
        options: HardenOptions | None = None,
        telemetry: Telemetry | None = None,
        health: HealthRegistry | None = None,
        resources: Sequence[Resource] = (),
        render: Render | None = None,
        route_of: RouteOf | None = None,
        clock: Clock = MONOTONIC,
    ) -> None:
        check_options(
            "harden", app=app, resources=resources, clock=clock, render=render, route_of=route_of
        )
        if isinstance(app, Hardened):
            rule = "an application that is not hardened yet"
            validation.refuse("harden.app", app, rule, example="its own app")
        if not isinstance(cast("object", service), str) or not service.strip():
            validation.refuse(
                "harden.service", service, "the service's name", example="service='billing'"
            )
        or_none(instance_of(HardenOptions))("harden.options", options)
        or_none(instance_of(Telemetry))("harden.telemetry", telemetry)
        or_none(instance_of(HealthRegistry))("harden.health", health)
        if route_of is None:
            note_routes(app)
        options = options or HardenOptions()
        telemetry = telemetry or Telemetry()
        observer = telemetry.observer
        self._service = service
        self.telemetry: Telemetry = telemetry
        self.health: HealthRegistry = health or HealthRegistry(observer=observer)
        self.running: RunningRequests = RunningRequests(observer=observer, clock=clock)
        running = self.running
        running.on_beat = self._beat
        drain = replace(options.drain, drain_delay=0.0) if options.dev else options.drain
        self.lifecycle: Lifecycle = Lifecycle(
            drain,
            running=running,
            work_at_once=options.work_at_once,
            cover_tasks=options.cover_tasks,
            on_drain=self.health.drain,
            observer=observer,
            clock=clock,
        )
        self.shedding: Shedding = Shedding(
            OverloadLimiter("requests", options.concurrency, explores=True),
            options.shedding,
            priority_of=options.priority_of,
            key=options.priority_key,
            spares=self.lifecycle.drain_began_after,
            render=render,
            observer=observer,
            clock=clock,
        )
        self.rate_limits: RatePlan | None = _rates(options, observer=observer, clock=clock)
        self._metrics_path = options.metrics_path
        probes = HealthEndpoint(app, self.health, options)
        scrapes = MetricsEndpoint(app, telemetry.metrics, options, observer=observer)
        sampler = None if options.access_lines is None else AccessSampler(options.access_lines)
        self._options = options
        rules, find = self._resolved(options)
        self.shedding.is_special |= any(
            part.waits or part.shedding is not None for part in options.routes
        )
        super().__init__(
            app,
            clock=clock,
            render=render,
            observer=observer,
            # Spans come first, so that the access line has their ids.
            recorders=[
                telemetry.tracing,
                telemetry.metrics,
                AccessLog(service=service, sampler=sampler),
                *options.parts,
            ],
            parts=options.parts,
            quiet={*options.probes, options.metrics_path, *options.quiet},
            traffic_key=options.traffic_key,
            trusted_traces=TrustedProxies(options.trusted_traces),
            request_id_header=options.request_id_header,
            response_headers=options.response_headers,
            cors=None if options.cors is None else CorsRules(options.cors),
            answers=True,
            process=self.lifecycle,
            streams=OpenStreams(options.streams, observer=observer),
            doors={**probes.doors, **scrapes.doors},
            requests=running,
            admission=self.shedding,
            rules=rules,
            find=find,
            route_of=route_of,
        )
        self.observe(PolicyCreated("runtime", self._tally))
        self._watch = LoopWatch(lambda: running.loop, self._whose, observer=observer)
        ours = (running, self._watch, options.rate_limit_store, scrapes.siblings)
        owned: list[Resource] = [
            *(resource for resource in ours if resource is not None),
            *resources,
            self.health,
        ]
        self._lifespan = LifespanMiddleware(app, owned, lifecycle=self.lifecycle, observer=observer)
        self._later, self._served = self._served, {}  # Neither a lifespan nor a request has come.

    def __repr__(self) -> str:
        names = [part.name for part in self.order]
        order = " > ".join([*names, "limiter", type(self.app).__name__])
        return f"<harden {self._service}: {order}>"

    @property
    def spawn(self) -> Callable[..., None]:
        """Begin work beside its requests, as the function `spawn` does."""
        return self.lifecycle.work.spawn

    @property
    def every(self) -> Callable[..., None]:
        """Call a function again and again, see `drain.work.Work.every`."""
        return self.lifecycle.work.every

    def tuned(self, routes: Numbers) -> Callable[[], None]:
        """Check other numbers for routes; return what makes new requests use them.

        What is not given is as the options have it.

        Args:
            routes: By route, as in `RouteOptions`, or `*` for all that are given no others:
                `request_timeout`, `stream_timeout`, and of a route `stream_idle` and `heartbeat`;
                and what `TransferLimits` has.

        Raises:
            ValueError: If one is wrong, as at construction, or may not change while it runs.
        """
        rules, find = self._resolved(renumbered(self._options, routes))

        def use() -> None:
            self.rules = rules
            self.find = find

        return use

    def _resolved(self, options: HardenOptions) -> tuple[Rules, Find | None]:
        rules = _rules(options, self.rate_limits)
        classes = [
            (part.routes, _rules(options, self.rate_limits, part)) for part in options.routes
        ]
        return rules, route_table(classes, rules) if classes else None

    def _tally(self) -> Iterable[Sample]:
        return runtime.tally(self.running.loop)

    def _whose(self, scope: Scope) -> tuple[str, str] | None:
        request = request_of(scope)
        if request is None:
            return None
        path = local_path(scope["path"], request.root_path)
        return request.route or self.template(scope, request, path), request.request_id

    def _beat(self, late: float) -> None:
        self._watch.beat()
        holders.look()
        self.shedding.beat(late)
        limiter = self.shedding.limiter
        limiter.share(self.running.yield_slots() if limiter.is_short else {})
        self.observe(LoopLagged(late))

    def _look_inside(self) -> None:
        """See what the application does itself: its routes are all there by now."""
        note_taken(self.app, self.doors, metrics_path=self._metrics_path)
        rules = cors_rules(self.app) if self.cors is None else None
        if rules is not None:
            self.permit: Callable[[HttpExchange], Awaitable[bool]] | None = partial(permit, rules)

    async def _serve_other(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_first = not self._served
        self._served = self._later
        if is_first:
            self._look_inside()
        if scope["type"] == "lifespan":
            if IS_SLOW:
                LOGGER.warning(SLOW_COOKIES_WARNING)
            await self._lifespan(scope, receive, send)
            return
        if is_first:
            LOGGER.error(NO_LIFESPAN)
        serve = self if scope["type"] in self._served else super()._serve_other
        await serve(scope, receive, send)


harden = Hardened
"""Put all parts around an application, in their order: the library in one call."""


for _name in _OF_THE_APPLICATION:
    setattr(Hardened, _name, _OfTheApplication(_name))


def _rates(options: HardenOptions, *, observer: Observer, clock: Clock) -> RatePlan | None:
    """Make the limits of all routes, if there are any, or clients to be known behind proxies."""
    if not (options.all_rate_limits or options.trusted_proxies):
        return None
    limits = check_rate_limits("HardenOptions.rate_limits", options.all_rate_limits)
    make = partial(LimitRule, store=options.rate_limit_store, observer=observer, clock=clock)
    proxies = TrustedProxies(options.trusted_proxies)
    return RatePlan([make(limit) for limit in limits], proxies=proxies, luck=LUCK)


def _rules(options: HardenOptions, rates: RatePlan | None, of: RouteOptions | None = None) -> Rules:
    """Resolve what the requests of some routes are given, or all others."""

    def resolved(name: str) -> Any:
        override = None if of is None else getattr(of, name)
        return getattr(options, name) if override is None else override

    is_free = (
        rates is not None and of is not None and of.rate_limits is not None and not of.rate_limits
    )
    return Rules(
        limits=resolved("limits"),
        timeout=any_of_none(resolved("request_timeout")),
        stream_timeout=any_of_none(resolved("stream_timeout")),
        cancels=resolved("cancel_on_disconnect"),
        rates=None if rates is None else rates.only(resolved("rate_limits")),
        grants=of is not None and (is_free or of.priority is Priority.CRITICAL_PLUS),
        **({} if of is None else _only_of(of)),
    )


def _only_of(route: RouteOptions) -> dict[str, Any]:
    """Resolve what only routes are given."""
    rules: dict[str, Any] = {
        "waits": route.waits,
        "stream_idle": any_of_none(route.stream_idle),
        "heartbeat": any_of_none(route.heartbeat),
    }
    if route.request_timeout is not None:
        rules["handshake"] = route.request_timeout  # Its team knows better.
    if route.priority is not None:
        rules["priority"] = route.priority
    if route.shedding is not None:
        rules["shedding"] = Mode(route.shedding)
    if route.drain is not None:
        rules["farewell"] = route.drain == "farewell"
    if route.drain == "cut":
        rules["drain_timeout"] = 0.0
    elif route.drain_timeout is not None:
        rules["drain_timeout"] = route.drain_timeout
    return rules
