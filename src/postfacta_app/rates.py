"""Say how much each caller may ask for, and how much each request matters."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, Literal

from starlette.requests import Request

from postfacta_core.aio.ratelimit import RateLimiter, parse_rates
from postfacta_core.aio.ratelimit_store import SharedStore
from postfacta_core.asgi import RateLimit, Scope
from postfacta_core.asgi.concurrency import PriorityOf
from postfacta_core.clock import LUCK, Luck
from postfacta_core.context import current_request
from postfacta_core.events import Observer
from postfacta_core.policy.ratelimit import Decision, Rate
from postfacta_core.policy.waiting import Priority

from .errors import RateLimitedError
from .identity.throttle import site_of
from .principal import ANONYMOUS, Principal
from .routes import Authenticate, RouteClass, Rule, Spend
from .settings import Settings

__all__ = ["address_limits", "limit_retrying", "principal_limits", "priorities", "shared_store"]

_PROBE: Final = "/healthz"
_KINDS: Final[dict[RouteClass, Literal["read", "write", "ingest"]]] = {
    RouteClass.READ: "read",
    RouteClass.SEARCH: "read",
    RouteClass.WRITE: "write",
    RouteClass.INGEST: "ingest",
}
_PRIORITIES: Final = {
    RouteClass.PROBE: Priority.CRITICAL_PLUS,
    RouteClass.READ: Priority.SHEDDABLE_PLUS,
    RouteClass.SEARCH: Priority.SHEDDABLE,
    RouteClass.WRITE: Priority.CRITICAL,
    RouteClass.INGEST: Priority.SHEDDABLE_PLUS,
    RouteClass.AUTH: Priority.CRITICAL,
}
_PER_SITE: Final = 10  # Addresses that the networks of one IPv6 /48 count for.
_READS: Final = frozenset({"GET", "HEAD"})


def shared_store(settings: Settings) -> SharedStore | None:
    """Make the store in which several processes count together, if there is one."""
    return SharedStore(settings.rate_store.get_secret_value()) if settings.rate_store else None


def address_limits(settings: Settings, rules: Iterable[Rule]) -> list[RateLimit]:
    """Limit what comes from one address, whoever sends it; a probe is never refused.

    Where callers try again after 5xx alone, `limit_retrying` does it: what is refused here is told by 429.
    """
    rate, others = settings.rate("address"), {_PROBE, *_retrying(rules)}
    if not rate:
        return []
    of_site = [Rate(amount=it.amount * _PER_SITE, period=it.period) for it in parse_rates(rate)]

    def site(scope: Scope) -> str | None:
        known = current_request()
        client = known.client if known else ""
        found = site_of(client)
        return found if found != client else None

    def applies(scope: Scope) -> bool:
        return scope["path"] not in others

    return [
        RateLimit(rate, name="address", applies_to=applies),
        # A /48 holds 65,536 networks.
        RateLimit(of_site, name="site", per=site, applies_to=applies),
    ]


def limit_retrying(
    authenticate: Authenticate,
    settings: Settings,
    rules: Iterable[Rule],
    *,
    store: SharedStore | None,
    observer: Observer,
    luck: Luck = LUCK,
) -> Authenticate:
    """Limit what comes from one address to the routes that answer it by 503, before anybody is asked who he is."""
    rate, paths = settings.rate("address"), _retrying(rules)
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


def _retrying(rules: Iterable[Rule]) -> set[str]:
    return {rule.path for rule in rules if rule.only_5xx}


def principal_limits(
    settings: Settings, *, store: SharedStore | None, observer: Observer, luck: Luck = LUCK
) -> Spend | None:
    """Limit what one who is signed in may do, from all addresses and with all tokens; None for no limit.

    To read and to search is one budget, to write another. Nobody who is anonymous has one: the address counts.
    """
    limiters = {
        kind: RateLimiter(kind, rate, store=store, observer=observer)
        for kind in dict.fromkeys(_KINDS.values())
        if (rate := settings.rate(kind))
    }
    by_class = {of: limiters[kind] for of, kind in _KINDS.items() if kind in limiters}

    async def spend(principal: Principal, route_class: RouteClass) -> None:
        limiter = by_class.get(route_class)
        if limiter is None or not principal.is_signed_in or principal is ANONYMOUS:
            return
        decision = await limiter.hit(principal.actor)
        if not decision.allowed:
            raise _refusal(limiter.name, decision, luck())

    return spend if by_class else None


def _refusal(kind: str, decision: Decision, luck: float) -> RateLimitedError:
    # A little later than needed: who was refused together should not come back together.
    wait = math.ceil(decision.retry_after + luck * max(1.0, decision.retry_after / 10))
    return RateLimitedError(
        f"You {kind} too often: wait as long as Retry-After says, and then do it less often",
        headers={
            "Retry-After": str(max(1, wait)),
            "RateLimit-Policy": f'"{kind}";q={decision.limit};w={math.ceil(decision.period)}',
            "RateLimit": f'"{kind}";r={decision.remaining};t={max(1, wait)}',
        },
    )


def priorities(rules: Iterable[Rule]) -> PriorityOf:
    """Tell how much a request matters, before any route sees it.

    A path without parameters has the priority of its route's class. All others are told by the method: to read one
    thing is `READ`, and what may write is critical, with the preflight that a browser sends before it.
    """
    exact = {
        (rule.method, rule.path): _PRIORITIES[rule.route_class] for rule in rules if "{" not in rule.path
    }
    exact |= {("HEAD", path): of for (method, path), of in exact.items() if method == "GET"}

    def priority_of(scope: Scope) -> Priority:
        method = scope["method"]
        found = exact.get((method, scope["path"]))
        if found is not None:
            return found
        return Priority.SHEDDABLE_PLUS if method in _READS else Priority.CRITICAL

    return priority_of
