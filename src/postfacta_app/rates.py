"""Rate limits of callers, and what requests are given by their routes."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from starlette.requests import Request

from postfacta_adapters.limits import SharedStore
from postfacta_core.asgi import RateLimit, RouteOptions
from postfacta_core.clock import LUCK, Luck
from postfacta_core.context import current_request
from postfacta_core.errors import LoadShedError
from postfacta_core.events import Observer
from postfacta_core.limits.rate import Rate, RateCounter, parse_rates

from .errors import RateLimitedError
from .principal import ANONYMOUS, Principal
from .settings import RateOf, Settings
from .web.routes import Admit, RouteClass, Rule

_PER_SITE: Final = 10  # The networks of one IPv6 /48 count as this many addresses.


def route_options(rules: Iterable[Rule]) -> list[RouteOptions]:
    """Return what requests are given before routing.

    A path without parameters, and each that signals come in by, has what its route's class has; for
    others the method decides. Probes have no rate limit by address, nor do routes whose callers
    retry only after 5xx, which `limited` counts.
    """
    read = RouteClass.READ
    return [
        *(
            RouteOptions(
                routes=[f"{rule.method} {rule.path}"],
                limits=rule.route_class.limits,
                cancel_on_disconnect=rule.method == "GET",
                priority=rule.route_class.priority,
                rate_limits=() if rule.only_5xx or rule.route_class is RouteClass.PROBE else None,
            )
            for rule in rules
            if "{" not in rule.path or rule.route_class is RouteClass.INGEST
        ),
        RouteOptions(
            routes=["GET /incidents/{ref}/events"],
            limits=read.limits,
            cancel_on_disconnect=True,
            priority=read.priority,
            heartbeat=15.0,  # Proxies end what is silent for a minute.
        ),
        RouteOptions(
            routes=["GET /{path:path}"],
            limits=read.limits,
            cancel_on_disconnect=True,
            priority=read.priority,
        ),
        RouteOptions(routes=["OPTIONS /{path:path}"], limits=read.limits),
    ]


def address_limits(settings: Settings) -> list[RateLimit]:
    """Return the rate limit by client address. It responds with 429."""
    text = settings.rate("address")
    if not text:
        return []
    site_rates = [
        Rate(amount=rate.amount * _PER_SITE, period=rate.period) for rate in parse_rates(text)
    ]
    # A /48 contains 65,536 networks.
    return [RateLimit(text, name="address"), RateLimit(site_rates, name="site", per="site")]


def limited(
    authenticate: Callable[[Request], Awaitable[Principal]],
    settings: Settings,
    *,
    store: SharedStore | None,
    observer: Observer,
    luck: Luck = LUCK,
) -> Admit:
    """Return what authenticates a sender, and counts it against the limits of signed-in callers.

    Those hold over all addresses and tokens. Routes that answer 503 are limited by address here,
    before.
    """
    names: dict[str, RateOf] = {"read": "read", "write": "write", "ingest": "ingest"}
    names["address_retrying"] = "address"
    limiters = {
        name: RateCounter(name, rate, store=store, observer=observer)
        for name, setting in names.items()
        if (rate := settings.rate(setting))
    }

    async def spend(rule: Rule, name: str, key: str) -> None:
        """Count a request of this key; raise if the limit of this name is exceeded."""
        if name not in limiters:
            return
        decision = await limiters[name].hit(key)
        if decision.allowed:
            return
        # Jitter of up to a tenth, so that clients rejected together do not return together.
        jitter = luck() * max(1.0, decision.retry_after / 10)
        wait = max(1, math.ceil(decision.retry_after + jitter))
        if rule.only_5xx:
            raise LoadShedError(rule.route_class, float(wait))
        raise RateLimitedError(
            f'Rate limit for "{name}" exceeded; retry after {wait} s',
            headers={
                "Retry-After": str(wait),
                "RateLimit-Policy": f'"{name}";q={decision.limit};w={math.ceil(decision.period)}',
                "RateLimit": f'"{name}";r={decision.remaining};t={wait}',
            },
        )

    async def admit(request: Request, rule: Rule) -> Principal:
        if rule.only_5xx:
            context = current_request()
            await spend(rule, "address_retrying", context.client if context else "")
        principal = await authenticate(request)
        if principal.is_signed_in and principal is not ANONYMOUS:
            await spend(rule, rule.route_class.rate, principal.actor)
        return principal

    return admit
