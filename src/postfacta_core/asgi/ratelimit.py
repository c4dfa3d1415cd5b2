"""Keep callers within their rates: 429, and the RateLimit fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..clock import LUCK, MONOTONIC, Clock, Luck
from ..events import Observer, ignore
from ..limits._address import TrustedProxies
from ..limits._rates import MAX_KEYS
from ..limits.store import SharedStore
from ._kernel import Kernel
from ._problem import Render
from ._ratelimit import Key, RateLimit, RateRules, check_rate_limits, parse_rate_limit
from ._settings import settings
from ._types import ASGIApp

__all__ = ["Key", "RateLimit", "RateLimitMiddleware", "check_rate_limits", "parse_rate_limit"]


class RateLimitMiddleware(RateRules, Kernel):
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
        settings.application("RateLimitMiddleware", app)
        settings.function_or_none("RateLimitMiddleware.render", render)
        RateRules.__init__(
            self,
            rules,
            trusted_proxies=trusted_proxies,
            store=store,
            principal_of=principal_of,
            route_of=route_of,
            headers=headers,
            max_keys=max_keys,
            observer=observer,
            clock=clock,
            luck=luck,
        )
        Kernel.__init__(self, app, rates=self, render=render, observer=observer, clock=clock)
