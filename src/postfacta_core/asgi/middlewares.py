"""The middlewares, each by itself: the kernel with one part, in the order of `stack`.

What a part decides stands in a module of its own. Of the `options`, those of `harden`, each reads
its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Final

from ..clock import LUCK, MONOTONIC, PROCESS, Clock, Luck
from ..deadlines._limits import TransferLimits
from ..deadlines.requests import RunningRequests
from ..drain.lifecycle import Lifecycle
from ..events import Mode, Observer, PolicyCreated, ignore
from ..health._verdict import HealthReport
from ..health.registry import NO_LIFESPAN, HealthRegistry
from ..limits._overload import OverloadLimiter
from ..limits.address import TrustedProxies
from ..limits.rate import RateCounter
from ..telemetry.exchange import Recorder
from ..validation import validation
from ._concurrency import Shedding
from ._cors import EXAMPLE, Cors, CorsRules
from ._doors import Doors
from ._kernel import Kernel, RouteOf
from ._problem import Problem, Render, send_problem, send_whole
from ._ratelimit import LimitRule, RatePlan, check_rate_limits
from ._rules import Rules, any_of_none
from ._settings import check_options, instance_of
from ._types import ASGIApp, Scope, Send
from .options import HardenOptions

_JSON: Final = b"application/json"
_PROBLEM_JSON: Final = b"application/problem+json"
_NOT_FOUND: Final = Problem(status=404, code="not-found", title="Not Found")
_WRONG_METHOD: Final = b'{"type":"about:blank","title":"Method Not Allowed","status":405}'
_DEFAULTS: Final = HardenOptions()
_check: Final = instance_of(HardenOptions)


class ContextMiddleware(Kernel):
    """Bind a fresh `RequestContext` for each HTTP request and WebSocket. It belongs outermost.

    It is the scope's `postfacta.request` too, where layers find it even if a task in between runs
    in another context. The response carries its `X-Request-ID`. A server may run a request in the
    variables of an earlier one, so nothing found at entry is trusted.
    """

    def __init__(self, app: ASGIApp, *, clock: Clock = MONOTONIC) -> None:
        super().__init__(app, identifies=True, clock=clock)


class TelemetryMiddleware(Kernel):
    """Make one `Exchange` of each HTTP request or WebSocket.

    What the application raises is recorded, and raised again.

    It belongs right inside of `ContextMiddleware`; without that it makes a request context of its
    own. A layer that answers before the application may set, on the scope's `postfacta.request`,
    `route` to `_prerouting` (or its own path) and `error_type` to the reason. Where a layer copies
    the scope, one inside of it sets the `route`.

    Args:
        recorders: Each is called when the exchange begins, is answered and ends.
        options: Their `quiet`, `traffic_key` and `trusted_traces`.
    """

    def __init__(
        self,
        app: ASGIApp,
        recorders: Sequence[Recorder],
        options: HardenOptions = _DEFAULTS,
        *,
        route_of: RouteOf | None = None,
        clock: Clock = MONOTONIC,
        observer: Observer = ignore,
    ) -> None:
        _check("TelemetryMiddleware.options", options)
        quiet = frozenset(options.quiet)
        key = options.traffic_key
        super().__init__(
            app,
            recorders=recorders,
            route_of=route_of,
            quiet=quiet,
            traffic_key=key,
            trusted_traces=TrustedProxies(options.trusted_traces),
            clock=clock,
            observer=observer,
        )


class ResponseHeadersMiddleware(Kernel):
    """Add the `response_headers` of its options to each response that does not set them itself."""

    def __init__(self, app: ASGIApp, options: HardenOptions = _DEFAULTS) -> None:
        _check("ResponseHeadersMiddleware.options", options)
        super().__init__(app, response_headers=options.response_headers)


class CorsMiddleware(Kernel):
    """Answer preflights, and put the CORS headers on every answer, refusals and crashes too.

    What an application inside decides by itself is replaced.
    """

    def __init__(self, app: ASGIApp, cors: Cors, *, render: Render | None = None) -> None:
        validation.instance("CorsMiddleware.cors", cors, Cors, example="Cors(" + EXAMPLE + ")")
        super().__init__(app, cors=CorsRules(cors), render=render)


class ErrorMiddleware(Kernel):
    """Send a problem when the application raises before its response starts.

    A refusal of this library ends there, since it is an answer like any other. Any other exception
    is a crash: it goes on to the layers outside and to the server, which count and log it.
    """

    def __init__(self, app: ASGIApp, *, render: Render | None = None) -> None:
        super().__init__(app, answers=True, render=render)


class LifecycleMiddleware(Kernel):
    """Put `Connection: close` on every HTTP/1 response that starts while the service drains.

    Else a client finds out by sending a request into a connection that the server has closed, which
    fails.

    Args:
        lifecycle: Holds whether the service drains. It must be entered by the code that made it.
    """

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        super().__init__(app, process=lifecycle)


class HealthMiddleware(Doors):
    """Serve `live`, `ready`, `startup`, and to permitted callers `deps`, below a prefix.

    `live` depends on nothing but the loop and is 200 while draining too; `ready` and `startup` are
    200 or
    503. All else goes on to the application, the bare prefix too.

    Args:
        registry: It must be entered by the code that made it.
        options: Their `health_prefix` and `allow_health_detail`.
    """

    def __init__(
        self, app: ASGIApp, registry: HealthRegistry, options: HardenOptions = _DEFAULTS
    ) -> None:
        _check("HealthMiddleware.options", options)
        validation.instance(
            "HealthMiddleware.registry", registry, HealthRegistry, example="HealthRegistry()"
        )
        self._registry = registry
        self._allow_detail = options.allow_health_detail
        probes = options.probes if self._allow_detail is not None else options.probes[:-1]
        super().__init__(
            app, {path: partial(self._answer, path.rpartition("/")[2]) for path in probes}
        )

    async def _answer(self, probe: str, scope: Scope, send: Send) -> None:
        if probe == "deps" and not self._may_see_detail(scope):
            await send_problem(scope, send, _NOT_FOUND)
        elif scope["method"] not in {"GET", "HEAD"}:
            await send_whole(
                scope, send, 405, _PROBLEM_JSON, _WRONG_METHOD, (b"allow", b"GET, HEAD")
            )
        else:
            status, members = self._verdict(probe, self._registry.snapshot())
            await send_whole(
                scope, send, status, _JSON, json.dumps(members, separators=(",", ":")).encode()
            )

    def _may_see_detail(self, scope: Scope) -> bool:
        try:
            return self._allow_detail is not None and self._allow_detail(scope) is True
        except Exception:  # noqa: BLE001 - it is foreign code, and who cannot be judged is not let in
            return False

    def _verdict(self, probe: str, report: HealthReport) -> tuple[int, Mapping[str, object]]:
        state = "ready" if report.ready else "draining" if report.draining else "unready"
        match probe:
            case "live":
                is_well = report.live
                state = "live" if report.live else "dead"
            case "startup":
                is_well = report.started
                state = "started" if report.started else "starting"
            case "ready":
                is_well = report.ready
                if not (self._registry.is_entered or report.draining):
                    return 503, {"status": "unready", "detail": NO_LIFESPAN}
            case _:
                # Always 200: it answers a person's question, and no machine acts on it.
                members = {
                    name: getattr(report, name) for name in ("live", "ready", "started", "draining")
                }
                return 200, {
                    "status": state,
                    **members,
                    "checks": [asdict(check) for check in report.checks],
                }
        return (200 if is_well else 503), {"status": state}


class TransferMiddleware(Kernel):
    """Answer 431 and 414 to large heads, 413 to large and 408 to slow bodies.

    Drop clients that do not read.

    A body whose `Content-Length` is too large is refused before the application sees it; one of
    unknown length is counted. Of a response, what lies beyond the first 64 KiB is handed on in
    pieces of that size. Where one does not get away in time, `send` raises
    `ConnectionAbortedError`, an OSError, then and ever after. Alone, each message of a body costs
    some 7 µs for a timer. What else holds for slow clients stands in reference/slow-clients.md.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: TransferLimits = _DEFAULTS.limits,
        *,
        render: Render | None = None,
        clock: Clock = MONOTONIC,
    ) -> None:
        check_options("TransferMiddleware", limits=limits)
        super().__init__(app, rules=Rules(limits=limits), render=render, clock=clock)


class RateLimitMiddleware(Kernel):
    """Answer 429 to a request that is over a limit, before the application sees it.

    A request that one limit refuses is spent from none of them. A WebSocket counts when it is
    opened; if it is refused, it is closed with 1013 before the handshake, which a server answers
    with 403. Where a function of a limit raises, the request is counted for one key that all such
    requests share, and costs 1.

    Args:
        options: Their `rate_limits`, `trusted_proxies` and `rate_limit_store`.

    Attributes:
        limiters: The limiters by name; their `mode` may be set at any time.
    """

    def __init__(
        self,
        app: ASGIApp,
        options: HardenOptions = _DEFAULTS,
        *,
        render: Render | None = None,
        observer: Observer = ignore,
        clock: Clock = MONOTONIC,
        luck: Luck = LUCK,
    ) -> None:
        owner = "RateLimitMiddleware"
        _check(f"{owner}.options", options)
        check_options(owner, observer=observer, clock=clock, luck=luck)
        limits = check_rate_limits(f"{owner}.options", options.all_rate_limits)
        make = partial(LimitRule, store=options.rate_limit_store, observer=observer, clock=clock)
        limiters = [make(limit) for limit in limits]
        self.limiters: Mapping[str, RateCounter] = {limiter.name: limiter for limiter in limiters}
        self.plan: RatePlan = RatePlan(
            limiters, proxies=TrustedProxies(options.trusted_proxies), luck=luck
        )
        super().__init__(
            app, rules=Rules(rates=self.plan), render=render, observer=observer, clock=clock
        )


class DeadlineMiddleware(Kernel):
    """Cancel a request at its deadline, wait for it to end, and answer 504 if nothing was sent.

    A caller may shorten the limit by `X-Request-Timeout`, a handler set its own by
    `deadlines.requests.time_limit`. Streams, WebSockets, threads and background tasks: see
    how-to/deadlines.md. A response that has begun stays unfinished, so that its client knows. In a
    drain what still runs is cancelled in the same way: then the answer is 503, a WebSocket is
    closed with 1012, and events to a client that resumes by itself, as a browser's EventSource
    does, end with a `retry:`.

    Args:
        running: Looks after the deadlines while it is entered, by its clock. Before that, limits
            hold by a timer for each request, handlers cannot change them, and nothing is drained.
        options: Their `request_timeout`, `stream_timeout` and `cancel_on_disconnect`.
    """

    def __init__(
        self,
        app: ASGIApp,
        running: RunningRequests,
        options: HardenOptions = _DEFAULTS,
        *,
        render: Render | None = None,
        observer: Observer = ignore,
    ) -> None:
        instance_of(RunningRequests)("DeadlineMiddleware.running", running)
        _check("DeadlineMiddleware.options", options)
        limit = any_of_none(options.request_timeout)
        stream_limit = any_of_none(options.stream_timeout)
        rules = Rules(
            timeout=limit, stream_timeout=stream_limit, cancels=options.cancel_on_disconnect
        )
        super().__init__(
            app,
            requests=running,
            rules=rules,
            render=render,
            observer=observer,
            clock=running.clock,
        )


class LoadSheddingMiddleware(Shedding, Kernel):
    """Admit a request, queue it for a moment, or answer 503 with `Retry-After` before other work.

    It belongs innermost, around the application: what it measures must be the application's work.
    More stands in how-to/load-shedding.md.

    Args:
        limiter: By default one named `requests`. It belongs to one middleware alone.
        options: Their `shedding`, `concurrency`, `priority_of` and `priority_key`.
        spares: Returns whether a request that would be shed is served all the same, by the latest
            moment at which it reached the process: one that was under way when a drain began has
            nowhere else to go.
        processor: Seconds of processor time that the process used: less than a late loop took, if
            others had the rest.

    Attributes:
        mode: It may be set at any time; waiting requests are still decided.
        beat: To be called with how many seconds late the event loop is, as
            `RunningRequests.on_beat` does.
    """

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
        owner = "LoadSheddingMiddleware"
        _check(f"{owner}.options", options)
        check_options(owner, spares=spares, processor=processor, luck=luck)
        limiter = (
            OverloadLimiter("requests", options.concurrency, explores=True)
            if limiter is None
            else limiter
        )
        validation.instance(f"{owner}.limiter", limiter, OverloadLimiter, example="None")
        limiter.mode = Mode(options.shedding)
        Kernel.__init__(self, app, admission=self, render=render, observer=observer, clock=clock)
        key = options.priority_key
        Shedding.__init__(self, limiter, options.priority_of, key, spares, processor, luck)
        self.observe(PolicyCreated(self.limiter.name, self.limiter.tally))
