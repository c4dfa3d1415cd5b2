"""The middlewares, each by itself: the kernel with one part.

They stand in the order of `stack`. What a part decides stands in a module of its own; here are its options, checked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal

from ..clock import LUCK, MONOTONIC, PROCESS, Clock, Ids, Luck, random_id
from ..context import current_request
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
from ._problem import Render, request_of
from ._ratelimit import (
    Key,
    LimitRule,
    RateLimit,
    RatePlan,
    check_rate_limits,
    name_of,
    teller,
)
from ._route import RouteReader, local_path
from ._rules import Rules, Timeout
from ._secret import Secret
from ._settings import settings
from ._types import ASGIApp, Receive, Scope, Send

__all__ = [
    "ContextMiddleware", "CorsMiddleware", "DeadlineMiddleware", "ErrorMiddleware", "LifecycleMiddleware",
    "LoadSheddingMiddleware", "RateLimitMiddleware", "ResponseHeadersMiddleware", "RouteProbe",
    "TelemetryMiddleware", "TransferMiddleware", "encode_headers",
]  # fmt: skip


class ContextMiddleware(Kernel):
    """Bind a fresh `RequestContext` for each HTTP request and WebSocket. It belongs outermost.

    The context is the scope's `postfacta.request` too, where layers find it even if a task in between runs
    in another context. The response carries its `X-Request-ID`, and so does the request inside. A server may run a
    request in the variables of an earlier one: uvicorn 0.54 does on the asyncio loop, once a body above 64 KiB was
    read on the connection. So nothing found at entry is trusted.

    Args:
        app: The application to wrap.
        resetters: For variables of others, such as `structlog.contextvars.clear_contextvars` and
            `Tracing.fresh_context`. They must be quick and must not raise.
        clock: Monotonic seconds.
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
        settings.application("ContextMiddleware", app)
        for resetter in resetters:
            settings.function_or_none("ContextMiddleware.resetters", resetter)
        validation.functions("ContextMiddleware", clock=clock, ids=ids)
        super().__init__(app, ids=ids, resetters=resetters, clock=clock)


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
        clock: Clock = MONOTONIC,
        observer: Observer = ignore,
    ) -> None:
        settings.application("TelemetryMiddleware", app, route_of=route_of)
        validation.texts("TelemetryMiddleware.quiet", quiet, example='["/ping"]')
        settings.secret("TelemetryMiddleware.traffic_key", traffic_key)
        validation.functions("TelemetryMiddleware", clock=clock, observer=observer)
        super().__init__(
            app,
            recorders=recorders,
            route_of=route_of,
            quiet=quiet,
            traffic_key=traffic_key,
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


def encode_headers(field: str, given: object) -> list[tuple[bytes, bytes]]:
    """Check headers, and write them as ASGI does, with their names in lower case."""
    pairs = settings.headers(field, given)
    return [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in pairs]


class ResponseHeadersMiddleware(Kernel):
    """Add headers to each response that does not set them itself.

    Args:
        app: The application to wrap.
        headers: Names and values; sent in this order.

    Raises:
        ValueError: If one is no header that a response can have.
    """

    def __init__(self, app: ASGIApp, headers: Iterable[tuple[str, str]]) -> None:
        settings.application("ResponseHeadersMiddleware", app)
        super().__init__(app, response_headers=encode_headers("ResponseHeadersMiddleware.headers", headers))


class CorsMiddleware(Kernel):
    """Answer preflights, and put the CORS headers on every answer, including refusals and crashes.

    What an application inside decides by itself is replaced.

    Args:
        app: The application to wrap.
        cors: What is allowed.
        render: Another shape of problem, for a preflight that is refused.
    """

    def __init__(self, app: ASGIApp, cors: Cors, *, render: Render | None = None) -> None:
        settings.application("CorsMiddleware", app, render=render)
        validation.instance("CorsMiddleware.cors", cors, Cors, example="Cors(" + EXAMPLE + ")")
        super().__init__(app, cors=CorsRules(cors), render=render)


class ErrorMiddleware(Kernel):
    """Send a problem when the application raises before its response starts.

    A refusal of this library ends there, since it is an answer like any other. Any other exception is a crash:
    it goes on to the layers outside and to the server, which count and log it.

    Args:
        app: The application to answer for.
        render: Another shape of problem, for APIs that have one.
    """

    def __init__(self, app: ASGIApp, *, render: Render | None = None) -> None:
        settings.application("ErrorMiddleware", app, render=render)
        super().__init__(app, answers=True, render=render)


class LifecycleMiddleware(Kernel):
    """Put `Connection: close` on every HTTP/1 response that starts while the service drains.

    So each client learns in time that its connection will be closed. Without it a client finds out by sending a
    request into a connection that the server has closed, and that request fails.

    Args:
        app: The application to wrap.
        lifecycle: Holds whether the service drains. It must be entered by the code that made it.
    """

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        super().__init__(app, lifecycle=lifecycle)


LimitsOf = Callable[[Scope], TransferLimits]


class TransferMiddleware(Kernel):
    """Answer 431 to oversized headers, 413 to oversized bodies and 408 to slow ones; drop clients that do not read.

    A body whose `Content-Length` is too large is refused before the application sees it; one of unknown length
    is counted. The time for it runs only while the application waits in `receive`. A client that is refused in
    mid-body gets its answer, or if a response had begun, a broken one; its connection is closed, and the
    application sees it disconnect.

    Of a response, what lies beyond the first 64 KiB is handed on in pieces of that size. A piece that does not
    get away within the write timeout means that the client is gone: `send` raises `ConnectionAbortedError`, an
    OSError, then and ever after. That frees the handler; the socket is the server's, and ASGI cannot close it.
    Smaller responses get no timer, which would cost more than all the rest of this layer: they fit into buffers.
    A client that pipelines requests and reads no answers can fill those; the request's deadline covers that.

    A request without a body costs no timer either. In `harden` one that has a body costs none, as the sweep of deadlines
    ends its waits; alone, each message costs some 7 µs.

    WebSockets pass untouched. Header reading is over before any application is called: that is for the server,
    or a proxy.

    Args:
        app: The application to protect.
        limits: One set of limits, or a function that returns them for a scope. It must be quick.
        render: Another shape of problem, for APIs that have one.
        clock: Monotonic seconds.

    Attributes:
        render: The shape of problem.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: TransferLimits | LimitsOf | None = None,
        *,
        render: Render | None = None,
        clock: Clock = MONOTONIC,
    ) -> None:
        settings.application("TransferMiddleware", app, render=render)
        if limits is not None and not callable(limits):
            validation.instance(
                "TransferMiddleware.limits", limits, TransferLimits, example="TransferLimits()"
            )
        validation.functions("TransferMiddleware", clock=clock)
        super().__init__(app, rules=Rules(limits=limits or TransferLimits()), render=render, clock=clock)


class RateLimitMiddleware(Kernel):
    """Answer 429 to a request that is over a limit, before the application sees it.

    A request that one limit refuses is spent from none of them. A WebSocket counts when it is opened; if it is
    refused, it is closed with 1013 before the handshake, which a server answers with 403.

    The answer has `Retry-After`, a little later than needed, so that those who were refused together do not come
    back together; and with every answer come `RateLimit-Policy`, with all limits that apply, and `RateLimit`, with
    the one that has the least left (draft-ietf-httpapi-ratelimit-headers-10). A limit in shadow is not shown.

    The key of a limit never holds the URL. Who asks and which route it is for are not known before the application
    runs: for limits per principal or route, pass functions that get them from a scope. A function that raises bypasses
    nothing: then the request is counted for one key that all such requests share, and costs 1.

    Args:
        app: The application to wrap.
        rules: Limits, or texts such as `100/minute per client`. Each has a name of its own.
        trusted_proxies: Whose `X-Forwarded-For` is trusted: networks, or `TrustedProxies` for `Forwarded`. If the
            server itself replaces the address by that of such a field, leave this empty.
        store: A store that several processes share, or its address; by default each process counts by itself.
        principal_of: Returns the caller; None if unknown: then it is counted by address.
        route_of: The template of a route; None for none.
        headers: Whether the RateLimit fields come with `always` or with `refused` alone.
        max_keys: The most callers kept in memory for each rate.
        render: Another shape of problem, for APIs that have one.
        observer: Receives changes of the store and functions that raise. It may raise.
        clock: Monotonic seconds.
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
        principal_of: Key | None = None,
        route_of: Key | None = None,
        headers: Literal["always", "refused"] = "always",
        max_keys: int = MAX_KEYS,
        render: Render | None = None,
        observer: Observer = ignore,
        clock: Clock = MONOTONIC,
        luck: Luck = LUCK,
    ) -> None:
        settings.application(
            "RateLimitMiddleware", app, render=render, principal_of=principal_of, route_of=route_of
        )
        limits = check_rate_limits("RateLimitMiddleware.rules", rules)
        validation.one_of("RateLimitMiddleware.headers", headers, ("always", "refused"))
        validation.whole("RateLimitMiddleware.max_keys", max_keys, example="max_keys=100_000")
        validation.functions("RateLimitMiddleware", observer=observer, clock=clock, luck=luck)
        if isinstance(store, str):
            store = SharedStore(store, clock=clock)

        limit_rules = [
            LimitRule(
                limit,
                RateLimiter(
                    name_of(limit),
                    limit.rate,
                    store=store,
                    on_store_failure=limit.on_store_failure,
                    max_keys=max_keys,
                    mode=limit.mode,
                    observer=observer,
                    clock=clock,
                ),
                tell=teller(limit, principal_of, route_of),
                observe=fan_out([observer]),
            )
            for limit in limits
        ]
        self.limiters: Mapping[str, RateLimiter] = {rule.limiter.name: rule.limiter for rule in limit_rules}
        if not isinstance(trusted_proxies, TrustedProxies):
            trusted_proxies = TrustedProxies(trusted_proxies)
        self.plan: RatePlan = RatePlan(
            limit_rules, proxies=trusted_proxies, always=headers == "always", luck=luck
        )
        super().__init__(app, rules=Rules(rates=self.plan), render=render, observer=observer, clock=clock)


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
        settings.application("DeadlineMiddleware", app, render=render)
        validation.instance(
            "DeadlineMiddleware.running", running, RunningRequests, example="RunningRequests()"
        )
        settings.limit("DeadlineMiddleware.timeout", timeout)
        if stream_timeout is not None:
            validation.seconds("DeadlineMiddleware.stream_timeout", stream_timeout, example="600.0, or None")
        settings.switch("DeadlineMiddleware.cancel_on_disconnect", cancel_on_disconnect)
        validation.functions("DeadlineMiddleware", observer=observer, clock=clock)
        super().__init__(
            app,
            running=running,
            rules=Rules(timeout=timeout, stream_timeout=stream_timeout, cancels=cancel_on_disconnect),
            render=render,
            observer=observer,
            clock=clock,
        )


class LoadSheddingMiddleware(Shedding, Kernel):
    """Admit a request, queue it for a moment, or answer 503 with `Retry-After` before any other work is done for it.

    * After its admission a request yields to the event loop once. A handler that keeps the processor busy runs
      to its end in one step: without this, no limit would ever see more than one request at once. While `beat` shows
      that the loop is hardly ever late, there is no queue, and a request skips that yield.
    * A request gives its slot back with the first piece of its response, and counts as answered then: a stream may
      last for hours, and so may a client that does not read.
    * An answer from 500 up, an exception, a deadline and a cancellation count as lost at the age that the request had.
    * Time that a request waited, `RequestContext.waited`, counts as a queue and not as work.
    * Nor does a request hold a slot while it waits for its client's body: else a hundred slow clients would be all that
      is served. If that takes 20 ms or more, the request's duration does not count.
    * A request that came more than 20 ms ago is dropped before it begins if the server says that its client has left.
    * A handler that waits without working, such as a long poll, releases its slot by `aside`.
    * A WebSocket is admitted or refused (close code 1013) at its handshake, and gives its slot back once it is
      accepted. Its duration does not count.

    It belongs innermost, around the application: what it measures must be the application's work.

    Args:
        app: The application.
        limiter: By default one named `requests`. It belongs to one middleware alone.
        priority_of: Returns the priority for a scope, such as by path.
        priority_key: A caller that gives this secret in `X-Priority-Key` may say in `X-Priority` how much its
            request matters: `critical_plus`, `critical`, `sheddable_plus` or `sheddable`. That goes first. Empty
            trusts no caller.
        spares: Returns whether a request that would be shed is served all the same, by the latest moment at which it
            reached the process: one that was under way when a drain began has nowhere else to go.
        trusts: Returns for a scope whether its `X-Priority` counts, besides callers that know the key.
        mode: `shadow` counts requests that would be shed, and admits all immediately.
        render: Another shape of problem, for APIs that have one. Without it a refusal is cheaper.
        observer: Receives the limiter's announcement, and changes of the mode. It may raise.
        clock: Monotonic seconds; it must be the clock of the request contexts.
        processor: Seconds of processor time that the process used: less than a late loop took, if others had the rest.
        luck: Spreads `Retry-After`.

    Attributes:
        limiter: The one that decides.
        calm: Decides which requests skip the yield.
        clock: Monotonic seconds.
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
        settings.application(
            "LoadSheddingMiddleware",
            app,
            priority_of=priority_of,
            spares=spares,
            trusts=trusts,
            render=render,
        )
        if limiter is not None:
            validation.instance("LoadSheddingMiddleware.limiter", limiter, OverloadLimiter, example="None")
        validation.secret(
            "LoadSheddingMiddleware.priority_key", priority_key, example="a text, or leave it out"
        )
        validation.functions(
            "LoadSheddingMiddleware", observer=observer, clock=clock, processor=processor, luck=luck
        )
        limiter = limiter or OverloadLimiter("requests")
        limiter.mode = validation.choice("LoadSheddingMiddleware.mode", mode, Mode)
        Kernel.__init__(self, app, shedding=self, render=render, observer=observer, clock=clock)
        Shedding.__init__(self, limiter, priority_of, priority_key, spares, trusts, processor, luck)
        self.observe(PolicyCreated(self.limiter.name, self.limiter.tally))
