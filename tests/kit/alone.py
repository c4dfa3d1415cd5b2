"""A kernel with one part of `harden`, for tests of that part: an application with it alone around.

Of the `options`, those of `harden`, each reads its own. Each binds the context of a request. For a
second part in the same kernel, give the kernel's own options, such as `answers=True`, as `parts`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from postfacta_core.asgi._concurrency import Shedding
from postfacta_core.asgi._cors import Cors, CorsRules
from postfacta_core.asgi._kernel import Kernel, RouteOf
from postfacta_core.asgi._problem import Render
from postfacta_core.asgi._ratelimit import LimitRule, RatePlan, check_rate_limits
from postfacta_core.asgi._rules import Rules, any_of_none
from postfacta_core.asgi._types import ASGIApp
from postfacta_core.asgi.options import HardenOptions
from postfacta_core.clock import LUCK, MONOTONIC, PROCESS, Clock, Luck
from postfacta_core.deadlines._limits import TransferLimits
from postfacta_core.deadlines.requests import RunningRequests
from postfacta_core.drain.lifecycle import Lifecycle
from postfacta_core.events import Observer, ignore
from postfacta_core.limits._overload import OverloadLimiter
from postfacta_core.limits.address import TrustedProxies
from postfacta_core.limits.rate import RateCounter
from postfacta_core.telemetry.exchange import Recorder

_DEFAULTS: Final = HardenOptions()


class WithTelemetry(Kernel):
    """Record each request."""

    def __init__(
        self,
        app: ASGIApp,
        recorders: Sequence[Recorder],
        options: HardenOptions = _DEFAULTS,
        *,
        route_of: RouteOf | None = None,
        clock: Clock = MONOTONIC,
        observer: Observer = ignore,
        **parts: Any,
    ) -> None:
        super().__init__(
            app,
            recorders=recorders,
            route_of=route_of,
            quiet=frozenset(options.quiet),
            traffic_key=options.traffic_key,
            trusted_traces=TrustedProxies(options.trusted_traces),
            clock=clock,
            observer=observer,
            **parts,
        )


class WithHeaders(Kernel):
    """Add headers to responses."""

    def __init__(self, app: ASGIApp, options: HardenOptions = _DEFAULTS, **parts: Any) -> None:
        super().__init__(app, response_headers=options.response_headers, **parts)


class WithCors(Kernel):
    """Answer preflights, and grant origins."""

    def __init__(self, app: ASGIApp, cors: Cors, *, render: Render | None = None) -> None:
        super().__init__(app, cors=CorsRules(cors), render=render)


class WithErrors(Kernel):
    """Answer for what raises."""

    def __init__(self, app: ASGIApp, *, render: Render | None = None, **parts: Any) -> None:
        super().__init__(app, answers=True, render=render, **parts)


class WithLifecycle(Kernel):
    """Close connections in a drain."""

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        super().__init__(app, process=lifecycle)


class WithTransfer(Kernel):
    """Bound what clients send and read."""

    def __init__(
        self,
        app: ASGIApp,
        limits: TransferLimits = _DEFAULTS.limits,
        *,
        render: Render | None = None,
        clock: Clock = MONOTONIC,
        **parts: Any,
    ) -> None:
        super().__init__(app, rules=Rules(limits=limits), render=render, clock=clock, **parts)


class WithRates(Kernel):
    """Refuse what is over a rate."""

    def __init__(
        self,
        app: ASGIApp,
        options: HardenOptions = _DEFAULTS,
        *,
        render: Render | None = None,
        observer: Observer = ignore,
        clock: Clock = MONOTONIC,
        luck: Luck = LUCK,
        **parts: Any,
    ) -> None:
        limits = check_rate_limits("rate_limits", options.all_rate_limits)
        make = partial(LimitRule, store=options.rate_limit_store, observer=observer, clock=clock)
        self.plan = RatePlan(
            [make(limit) for limit in limits],
            proxies=TrustedProxies(options.trusted_proxies),
            luck=luck,
        )
        rules = Rules(rates=self.plan)
        super().__init__(app, rules=rules, render=render, observer=observer, clock=clock, **parts)

    @property
    def limiters(self) -> dict[str, RateCounter]:
        return dict(self.plan.limiters)


class WithDeadline(Kernel):
    """Cancel what is out of time."""

    def __init__(
        self,
        app: ASGIApp,
        running: RunningRequests,
        options: HardenOptions = _DEFAULTS,
        *,
        render: Render | None = None,
        observer: Observer = ignore,
        **parts: Any,
    ) -> None:
        rules = Rules(
            timeout=any_of_none(options.request_timeout),
            stream_timeout=any_of_none(options.stream_timeout),
            cancels=options.cancel_on_disconnect,
        )
        super().__init__(
            app,
            requests=running,
            rules=rules,
            render=render,
            observer=observer,
            clock=running.clock,
            **parts,
        )


class WithShedding(Shedding, Kernel):
    """Admit requests, and refuse others."""

    def __init__(
        self,
        app: ASGIApp,
        limiter: OverloadLimiter | None = None,
        options: HardenOptions = _DEFAULTS,
        *,
        spares: Callable[[float], bool] | None = None,
        render: Render | None = None,
        observer: Observer = ignore,
        clock: Clock = MONOTONIC,
        processor: Clock = PROCESS,
        luck: Luck = LUCK,
    ) -> None:
        Kernel.__init__(self, app, admission=self, render=render, observer=observer, clock=clock)
        Shedding.__init__(
            self,
            limiter or OverloadLimiter("requests", options.concurrency, explores=True),
            options.shedding,
            priority_of=options.priority_of,
            key=options.priority_key,
            spares=spares,
            render=render,
            observer=observer,
            clock=clock,
            processor=processor,
            luck=luck,
        )
