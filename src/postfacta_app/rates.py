"""Rate limits of callers, and what requests are given by their routes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from starlette.requests import Request

from postfacta_core.asgi import RateLimit, RouteOptions
from postfacta_core.clock import LUCK, Luck
from postfacta_core.context import current_request
from postfacta_core.deadlines._transfer import TransferLimits
from postfacta_core.events import Observer
from postfacta_core.limits._rates import Decision, Rate
from postfacta_core.limits.rate import RateLimiter, parse_rates
from postfacta_core.limits.store import SharedStore

from .errors import RateLimitedError
from .principal import ANONYMOUS, Principal
from .settings import Settings
from .web.routes import Authenticate, RouteClass, Rule, Spend

_KINDS: Final = ("read", "write", "ingest")
_PER_SITE: Final = 10  # The networks of one IPv6 /48 count as this many addresses.


def shared_store(settings: Settings) -> SharedStore | None:
    return SharedStore(settings.rate_store.get_secret_value()) if settings.rate_store else None


def route_options(settings: Settings, rules: Iterable[Rule]) -> list[RouteOptions]:
    """Return what requests are given before routing.

    A path without parameters has the body limit and priority of its route's class. For others the method decides: a
    read is `READ`, a write `WRITE`. Probes have no rate limit by address, nor do routes whose callers retry only
    after 5xx, for which there is `limit_retrying`.
    """
    classes: dict[tuple[RouteClass, bool, bool], list[str]] = {}
    for rule in rules:
        if "{" not in rule.path:
            classes.setdefault((rule.route_class, rule.method == "GET", rule.only_5xx), []).append(
                f"{rule.method} {rule.path}"
            )
    return [
        *(
            RouteOptions(
                routes=routes,
                limits=transfer_limits(settings, RouteClass.READ if is_read else of),
                cancel_on_disconnect=is_read,
                priority=of.priority,
                rate_limits=() if only_5xx or of is RouteClass.PROBE else None,
            )
            for (of, is_read, only_5xx), routes in classes.items()
        ),
        RouteOptions(
            routes=["GET /{path:path}"],
            limits=transfer_limits(settings, RouteClass.READ),
            cancel_on_disconnect=True,
            priority=RouteClass.READ.priority,
        ),
        RouteOptions(routes=["OPTIONS /{path:path}"], limits=transfer_limits(settings, RouteClass.READ)),
    ]


def transfer_limits(settings: Settings, of: RouteClass = RouteClass.WRITE) -> TransferLimits:
    return TransferLimits(max_header_bytes=settings.max_header_bytes, max_body_bytes=of.body_bytes)


def address_limits(settings: Settings) -> list[RateLimit]:
    """Return the rate limit by client address. It responds with 429."""
    rate = settings.rate("address")
    if not rate:
        return []
    of_site = [Rate(amount=it.amount * _PER_SITE, period=it.period) for it in parse_rates(rate)]
    # A /48 contains 65,536 networks.
    return [RateLimit(rate, name="address"), RateLimit(of_site, name="site", per="site")]


def limit_retrying(
    authenticate: Authenticate,
    settings: Settings,
    rules: Iterable[Rule],
    *,
    store: SharedStore | None,
    observer: Observer,
    luck: Luck = LUCK,
) -> Authenticate:
    """Return the rate limit by address of routes that respond with 503, applied before authentication."""
    rate, paths = settings.rate("address"), {rule.path for rule in rules if rule.only_5xx}
    if not rate or not paths:
        return authenticate
    limiter = RateLimiter("address_retrying", rate, store=store, observer=observer)

    async def limited(request: Request) -> Principal:
        if request.scope["path"] in paths:
            known = current_request()
            decision = await limiter.hit(known.client if known else "")
            if not decision.allowed:
                raise _refusal("ask", decision, luck())
        return await authenticate(request)

    return limited


def principal_limits(
    settings: Settings, *, store: SharedStore | None, observer: Observer, luck: Luck = LUCK
) -> Spend | None:
    """Return the rate limit of authenticated callers, over all addresses and tokens; None for no limit.

    Reads and searches share one budget, writes have another. Anonymous callers are limited by address only.
    """
    limiters = {
        kind: RateLimiter(kind, rate, store=store, observer=observer)
        for kind in _KINDS
        if (rate := settings.rate(kind))
    }

    async def spend(principal: Principal, route_class: RouteClass) -> None:
        limiter = limiters.get(route_class.rate)
        if limiter is None or not principal.is_signed_in or principal is ANONYMOUS:
            return
        decision = await limiter.hit(principal.actor)
        if not decision.allowed:
            raise _refusal(limiter.name, decision, luck())

    return spend if limiters else None


def _refusal(kind: str, decision: Decision, luck: float) -> RateLimitedError:
    # Jitter, so that clients rejected together do not return together.
    wait = math.ceil(decision.retry_after + luck * max(1.0, decision.retry_after / 10))
    return RateLimitedError(
        f'Rate limit for "{kind}" exceeded; retry after {max(1, wait)} s',
        headers={
            "Retry-After": str(max(1, wait)),
            "RateLimit-Policy": f'"{kind}";q={decision.limit};w={math.ceil(decision.period)}',
            "RateLimit": f'"{kind}";r={decision.remaining};t={max(1, wait)}',
        },
    )
