"""The middlewares, each by itself: the kernel with one part.

They stand in the order of `stack`. What a part decides stands in a module of its own; here are its options, checked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from ..clock import LUCK, MONOTONIC, PROCESS, Clock, Ids, Luck, random_id
from ..deadlines._transfer import TransferLimits
from ..deadlines.requests import RunningRequests
from ..drain.lifecycle import Lifecycle
from ..events import Mode, Observer, PolicyCreated, fan_out, ignore
from ..limits._address import TrustedProxies
from ..limits._overload import OverloadLimiter
from ..limits._rates import MAX_KEYS
from ..limits.rate import RateLimiter
from ..limits.store import SharedStore
from ..telemetry.exchange import Recorder
from ..validation import validation
from ._concurrency import PriorityOf, Shedding
from ._cors import EXAMPLE, Cors, CorsRules
from ._kernel import Kernel, Resetter, RouteOf
from ._problem import Render
from ._ratelimit import LimitRule, RateLimit, RatePlan, check_rate_limits, name_of
from ._rules import Rules, any_of_none
from ._secret import Secret
from ._settings import check_options
from ._types import ASGIApp, Scope


class ContextMiddleware(Kernel):
    """Bind a fresh `RequestContext` for each HTTP request and WebSocket. It belongs outermost.

    The context is the scope's `postfacta.request` too, where layers find it even if a task in between runs
    in another context. The response carries its `X-Request-ID`, and so does the request inside. A server may run a
    request in the variables of an earlier one: uvicorn 0.54 does on the asyncio loop, once a body above 64 KiB was
    read on the connection. So nothing found at entry is trusted.

    Args:
        resetters: For variables of others, such as `structlog.contextvars.clear_contextvars` and
            `Tracing.fresh_context`. They must be quick and must not raise.
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
        check_options("ContextMiddleware", ids=ids)
        super().__init__(app, ids=ids, resetters=resetters, clock=clock)


class TelemetryMiddleware(Kernel):
    """Make one `Exchange` of each HTTP request or WebSocket. What the application raises is recorded, and raised again.

    It belongs outside of all that may answer or refuse, and right inside of `ContextMiddleware`; without that
    it makes a request context of its own. A layer that answers before the application may set, on the
    scope's `postfacta.request`, `route` to `_prerouting` (or its own path) and `error_type` to the reason. A copy
    of the scope hides what the router puts there: then a layer inside of the one that copies sets the `route`.

    Args:
        recorders: Each is called when the exchange begins, is answered and ends.
        route_of: Returns the route for a framework that is neither Starlette, FastAPI nor Litestar.
        quiet: Paths of probes and scrapes: without span and log line.
        traffic_key: The secret that a caller must give in `X-Traffic-Key` for its `X-Traffic-Class` to count, or a
            function that returns all that hold now. Without one, all traffic is `user`.
    """

    def __init__(
        self,
        app: ASGIApp,
        recorders: Sequence[Recorder],
        *,
        route_of: RouteOf | None = None,
        quiet: Collection[str] = (),
        traffic_key: Secret = "",
        clock: Clock = MONOTONIC,
        observer: Observer = ignore,
    ) -> None:
        super().__init__(
            app,
            recorders=recorders,
            route_of=route_of,
            quiet=quiet,
            traffic_key=traffic_key,
            clock=clock,
            observer=observer,
        )


class ResponseHeadersMiddleware(Kernel):
    """Add headers to each response that does not set them itself.

    Args:
        headers: Names and values; sent in this order.

    Raises:
        ValueError: If one is no header that a response can have.
    """

    def __init__(self, app: ASGIApp, headers: Collection[tuple[str, str]]) -> None:
        check_options("ResponseHeadersMiddleware", headers=headers)
        super().__init__(app, response_headers=headers)


class CorsMiddleware(Kernel):
    """Answer preflights, and put the CORS headers on every answer, including refusals and crashes.

    What an application inside decides by itself is replaced.

    Args:
        cors: What is allowed.
    """

    def __init__(self, app: ASGIApp, cors: Cors, *, render: Render | None = None) -> None:
        validation.instance("CorsMiddleware.cors", cors, Cors, example="Cors(" + EXAMPLE + ")")
        super().__init__(app, cors=CorsRules(cors), render=render)


class ErrorMiddleware(Kernel):
    """Send a problem when the application raises before its response starts.

    A refusal of this library ends there, since it is an answer like any other. Any other exception is a crash:
    it goes on to the layers outside and to the server, which count and log it.
    """

    def __init__(self, app: ASGIApp, *, render: Render | None = None) -> None:
        super().__init__(app, answers=True, render=render)


class LifecycleMiddleware(Kernel):
    """Put `Connection: close` on every HTTP/1 response that starts while the service drains.

    So each client learns in time that its connection will be closed. Without it a client finds out by sending a
    request into a connection that the server has closed, and that request fails.

    Args:
        lifecycle: Holds whether the service drains. It must be entered by the code that made it.
    """

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        super().__init__(app, lifecycle=lifecycle)


class TransferMiddleware(Kernel):
    """Answer 431 to oversized headers, 413 to oversized bodies and 408 to slow ones; drop clients that do not read.

    A body whose `Content-Length` is too large is refused before the application sees it; one of unknown length
    is counted. Of a response, what lies beyond the first 64 KiB is handed on in pieces of that size. Where one does not
    get away in time, `send` raises `ConnectionAbortedError`, an OSError, then and ever after. Smaller responses get no
    timer: they fit into buffers. A client that pipelines requests and reads no answers can fill those; the request's
    deadline covers that.

    In `harden` a request that has a body costs no timer, as the sweep of deadlines ends its waits; alone, each message
    costs some 7 µs. What else holds for slow clients stands in reference/slow-clients.md.

    Args:
        limits: For all requests.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: TransferLimits | None = None,
        *,
        render: Render | None = None,
        clock: Clock = MONOTONIC,
    ) -> None:
        limits = TransferLimits() if limits is None else limits
        check_options("TransferMiddleware", limits=limits)
        super().__init__(app, rules=Rules(limits=limits), render=render, clock=clock)


class RateLimitMiddleware(Kernel):
    """Answer 429 to a request that is over a limit, before the application sees it.

    A request that one limit refuses is spent from none of them. A WebSocket counts when it is opened; if it is
    refused, it is closed with 1013 before the handshake, which a server answers with 403. The fields of an answer
    stand in how-to/rate-limits.md; a limit in shadow is not shown.

    The key of a limit never holds the URL. A function that raises bypasses nothing: then the request is counted for one
    key that all such requests share, and costs 1.

    Args:
        rules: Limits, or texts such as `100/minute per client`. Each has a name of its own.
        trusted_proxies: Whose `X-Forwarded-For` is trusted: networks, or `TrustedProxies` for `Forwarded`. If the
            server itself replaces the address by that of such a field, leave this empty.
        store: A store that several processes share, or its address; by default each process counts by itself.
        max_keys: The most callers kept in memory for each rate.
        luck: Spreads `Retry-After`.

    Attributes:
        limiters: The limiters by name; their `mode` may be set at any time.
        plan: How requests are judged.

    Raises:
        ValueError: If a rule or a network cannot be read, or a name is used twice.
    """

    def __init__(
        self,
        app: ASGIApp,
        rules: Sequence[RateLimit | str],
        *,
        trusted_proxies: Sequence[str] | TrustedProxies = (),
        store: SharedStore | str | None = None,
        max_keys: int = MAX_KEYS,
        render: Render | None = None,
        observer: Observer = ignore,
        clock: Clock = MONOTONIC,
        luck: Luck = LUCK,
    ) -> None:
        owner = "RateLimitMiddleware"
        check_options(owner, observer=observer, clock=clock, luck=luck)
        limits = check_rate_limits(f"{owner}.rules", rules)
        validation.whole(f"{owner}.max_keys", max_keys, example="max_keys=100_000")
        if isinstance(store, str):
            store = SharedStore(store, clock=clock)

        make = partial(RateLimiter, store=store, max_keys=max_keys, observer=observer, clock=clock)
        limit_rules = [
            LimitRule(
                limit,
                make(name_of(limit), limit.rate, on_store_failure=limit.on_store_failure, mode=limit.mode),
                fan_out([observer]),
            )
            for limit in limits
        ]
        self.limiters: Mapping[str, RateLimiter] = {rule.limiter.name: rule.limiter for rule in limit_rules}
        if not isinstance(trusted_proxies, TrustedProxies):
            trusted_proxies = TrustedProxies(trusted_proxies)
        self.plan: RatePlan = RatePlan(limit_rules, proxies=trusted_proxies, luck=luck)
        super().__init__(app, rules=Rules(rates=self.plan), render=render, observer=observer, clock=clock)


class DeadlineMiddleware(Kernel):
    """Cancel a request at its deadline, wait for it to end, and answer 504 if nothing was sent.

    A caller may shorten the limit by `X-Request-Timeout` or `grpc-timeout`. One that has no time left is refused
    before the application sees it. A handler may give its route a limit of its own: `deadlines.requests.time_limit`.
    How streams, WebSockets, threads and background tasks are treated stands in how-to/deadlines.md.

    It is also the door of a drain: while the service stops, what still runs is cancelled in the same way. Then
    the answer is 503, a WebSocket is closed with 1012, and server-sent events end with a `retry:` of 3 seconds.

    Args:
        running: Looks after the deadlines while it is entered. Before that, limits hold by a timer for each
            request, handlers cannot change them, and nothing is drained.
        timeout: The limit of a request, from its beginning.
        stream_timeout: The limit of a stream, from the request's beginning.
        cancel_on_disconnect: Whether a handler is cancelled when its client goes away. It begins to be watched after
            0.2 seconds, so that a quick request does not pay.
    """

    def __init__(
        self,
        app: ASGIApp,
        running: RunningRequests,
        *,
        timeout: float | None = 30.0,
        stream_timeout: float | None = None,
        cancel_on_disconnect: bool = False,
        render: Render | None = None,
        observer: Observer = ignore,
        clock: Clock = MONOTONIC,
    ) -> None:
        owner = "DeadlineMiddleware"
        validation.instance(f"{owner}.running", running, RunningRequests, example="RunningRequests()")
        check_options(
            owner, timeout=timeout, stream_timeout=stream_timeout, cancel_on_disconnect=cancel_on_disconnect
        )
        super().__init__(
            app,
            running=running,
            rules=Rules(
                timeout=any_of_none(timeout),
                stream_timeout=any_of_none(stream_timeout),
                cancels=cancel_on_disconnect,
            ),
            render=render,
            observer=observer,
            clock=clock,
        )


class LoadSheddingMiddleware(Shedding, Kernel):
    """Admit a request, queue it for a moment, or answer 503 with `Retry-After` before any other work is done for it.

    After its admission a request yields to the event loop once. A handler that keeps the processor busy runs
    to its end in one step: without this, no limit would ever see more than one request at once. While `beat` shows
    that the loop is hardly ever late, there is no queue, and a request skips that yield. What is treated how stands in
    how-to/load-shedding.md.

    It belongs innermost, around the application: what it measures must be the application's work.

    Args:
        limiter: By default one named `requests`. It belongs to one middleware alone.
        priority_of: Returns the priority for a scope, such as by path.
        priority_key: A caller that gives this secret in `X-Priority-Key` may say in `X-Priority` how much its
            request matters: `critical_plus`, `critical`, `sheddable_plus` or `sheddable`. That goes first. Empty
            trusts no caller.
        spares: Returns whether a request that would be shed is served all the same, by the latest moment at which it
            reached the process: one that was under way when a drain began has nowhere else to go.
        trusts: Returns for a scope whether its `X-Priority` counts, besides callers that know the key.
        mode: `shadow` counts requests that would be shed, and admits all immediately.
        render: Without it a refusal is cheaper.
        processor: Seconds of processor time that the process used: less than a late loop took, if others had the rest.
        luck: Spreads `Retry-After`.

    Attributes:
        limiter: The one that decides.
        calm: Decides which requests skip the yield.
        mode: How the decisions are used. It may be set at any time; waiting requests are still decided.
        beat: To be called with how many seconds late the event loop is, as `RunningRequests.on_beat` does.
    """

    def __init__(
        self,
        app: ASGIApp,
        limiter: OverloadLimiter | None = None,
        *,
        priority_of: PriorityOf | None = None,
        priority_key: str = "",
        spares: Callable[[float], bool] | None = None,
        trusts: Callable[[Scope], bool] | None = None,
        mode: Mode | str = Mode.ENFORCE,
        render: Render | None = None,
        observer: Observer = ignore,
        clock: Clock = MONOTONIC,
        processor: Clock = PROCESS,
        luck: Luck = LUCK,
    ) -> None:
        owner = "LoadSheddingMiddleware"
        check_options(owner, priority_of=priority_of, priority_key=priority_key, spares=spares, trusts=trusts)
        check_options(owner, processor=processor, luck=luck)
        limiter = OverloadLimiter("requests") if limiter is None else limiter
        validation.instance(f"{owner}.limiter", limiter, OverloadLimiter, example="None")
        limiter.mode = validation.choice(f"{owner}.mode", mode, Mode)
        Kernel.__init__(self, app, shedding=self, render=render, observer=observer, clock=clock)
        Shedding.__init__(self, limiter, priority_of, priority_key, spares, trusts, processor, luck)
        self.observe(PolicyCreated(self.limiter.name, self.limiter.tally))
