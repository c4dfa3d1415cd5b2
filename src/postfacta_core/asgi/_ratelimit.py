"""Decide whether callers are within their rates, and write the RateLimit fields."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Final, Literal, NamedTuple, TypeVar, cast, get_args

from ..clock import Clock, Luck
from ..context import RequestContext
from ..errors import RateLimitExceededError
from ..events import ListenerFailed, Mode, Observer
from ..limits._rates import Decision, shorten, strictest
from ..limits.address import TrustedProxies, client_address, site_of
from ..limits.rate import RateCounter, Rates, Store, hit_all, hit_here, parse_rates
from ..telemetry.exchange import PREROUTING
from ..validation import validation
from ._problem import Problem, problem_of
from ._settings import check_options
from ._types import Scope

Scopes = Literal["client", "site", "global"]
Fields = tuple[tuple[bytes, bytes], ...]
T = TypeVar("T")

# What the keys of a request are, in this order; others are asked of functions.
_KEYS: Final[tuple[Scopes, ...]] = get_args(Scopes)
_SITE: Final = 1
_UNKNOWN_KEY: Final[str | None] = "?"  # The key of requests whose own key is unknown.
_ALL_LEFT: Final = Decision(True, 0, sys.maxsize, 0.0, 0.0, 0.0)  # noqa: FBT003 - a record
_JITTER: Final = 0.1  # Of the wait, and one second at least: the field has whole seconds.

_with_scope = re.compile(
    rf"(.*\S)\s+per\s+({'|'.join(_KEYS)})", re.IGNORECASE | re.DOTALL
).fullmatch


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A rate, and the key that it is counted by.

    Attributes:
        rate: Such as `100/minute`, or `10/second;1000/hour`.
        per: The key of each budget: each `client` address, each `site` (an IPv6 /48; an IPv4 client
            has none), all together (`global`), or what a function returns for a scope; there None
            means that this limit does not apply.
        name: Names it in metrics and in the RateLimit fields; by default what it is per.
        cost: What a request costs, or a function that returns it for a scope.
        applies_to: Returns whether it applies to a scope; by default to all.
        mode: In `shadow` it counts, and lets all pass; in `off` it does nothing.
    """

    rate: Rates
    _: KW_ONLY
    per: Scopes | Callable[[Scope], str | None] = "client"
    name: str = ""
    cost: int | Callable[[Scope], int] = 1
    applies_to: Callable[[Scope], bool] | None = None
    mode: Mode | str = Mode.ENFORCE

    def __post_init__(self) -> None:
        parse_rates(self.rate, field="RateLimit.rate")
        if not callable(self.per):
            validation.one_of("RateLimit.per", self.per, _KEYS)
        if self.name or callable(self.per):
            validation.name("RateLimit.name", self.name, example="name='tenant'")
        if not callable(self.cost):
            validation.whole(
                "RateLimit.cost", self.cost, at_least=0, example="cost=1, or a function"
            )
        functions: dict[str, object] = {"applies_to": self.applies_to}
        if callable(self.per):
            functions["per"] = self.per
        if callable(self.cost):
            functions["cost"] = self.cost
        check_options("RateLimit", **functions)
        object.__setattr__(self, "name", self.name or str(self.per))
        object.__setattr__(self, "mode", validation.choice("RateLimit.mode", self.mode, Mode))


def parse_rate_limit(text: str, *, field: str = "rate limit") -> RateLimit:
    """Parse a limit such as `100/minute per client`, or raise ValueError.

    Without a scope it is per client.
    """
    match = _with_scope(text)
    try:
        if match is None:
            return RateLimit(text)
        return RateLimit(match[1], per=cast("Scopes", match[2].lower()))
    except ValueError:
        rule = f"a rate, and what it is per: {', '.join(_KEYS)}"
        validation.refuse(field, text, rule, example="'100/minute per client'")


def check_rate_limits(field: str, rules: object) -> list[RateLimit]:
    """Parse a list of limits or texts.

    A ValueError names the field if one cannot be read, or two have one name.
    """
    example = "['100/minute per client']"
    if isinstance(rules, str) or not isinstance(rules, Sequence):
        validation.refuse(field, rules, "a list of rate limits", example=example)
    names: dict[str, object] = {}
    limits: list[RateLimit] = []
    for rule in cast("Sequence[object]", rules):
        limit = parse_rate_limit(rule, field=field) if isinstance(rule, str) else rule
        if not isinstance(limit, RateLimit):
            validation.refuse(field, rule, "a list of rate limits", example=example)
        if limit.name in names:
            msg = (
                f"{field} must be of different names, and {names[limit.name]!r} and {rule!r} are"
                f" both named {limit.name!r}: a text that does not name what it is per is per"
                " client. For example '1000/minute per global', '10/second;100/minute per client'"
                " for both at once, or RateLimit('100/minute', name='slow')"
            )
            raise ValueError(msg)
        names[limit.name] = rule
        limits.append(limit)
    return limits


class RatePlan:
    """The limits of some routes, and how their requests are judged.

    A request that one limit refuses is spent from none of them. A WebSocket counts when it is
    opened; if it is refused, it is closed with 1013 before the handshake, which a server answers
    with 403. Where a function of a limit raises, the request is counted for one key that all such
    requests share, and costs 1.

    Attributes:
        limiters: The limiters by name; their `mode` may be set at any time.
    """

    def __init__(self, rules: Sequence[LimitRule], *, proxies: TrustedProxies, luck: Luck) -> None:
        self.limiters: Mapping[str, RateCounter] = {rule.name: rule for rule in rules}
        self._rules = rules
        self._proxies = proxies
        self._luck = luck
        self._is_shared = any(rule.store is not None for rule in rules)
        self._by_address = None
        self._by_site = None
        calls_functions = any(rule.asks for rule in rules)
        if rules and not self._is_shared and not calls_functions:
            self._by_site = fast_plan(rules)
            # An IPv4 client has no site.
            of_address = [rule for rule in rules if rule.key != _SITE]
            if of_address:
                self._by_address = fast_plan(of_address)

    def only(self, limits: Sequence[RateLimit | str]) -> RatePlan:
        names = {limit.name for limit in check_rate_limits("rate_limits", limits)}
        rules = [rule for rule in self._rules if rule.name in names]
        return RatePlan(rules, proxies=self._proxies, luck=self._luck)

    async def judge(self, scope: Scope, request: RequestContext) -> RateDecision | None:
        """Spend what a request costs; None if nothing limits it.

        Its client is known from then on.
        """
        peer = scope.get("client")
        client = client_address(peer[0] if peer else None, scope["headers"], self._proxies)
        request.client = client
        site = site_of(client) if ":" in client else None
        fast = self._by_address if site is None else self._by_site
        if fast is not None:
            rated = fast(client, site or "", "")
            if rated is not None:
                return rated
        if not self._rules:
            return None
        keys = (client, site, "")
        charges: list[tuple[LimitRule, str, int]] = []
        for rule in self._rules:
            charge = rule.charge_for(scope, keys)
            if charge is not None:
                charges.append(charge)
        decisions = await hit_all(charges) if self._is_shared else hit_here(charges)
        return _of_enforced(charges, decisions)

    def refusal(self, rated: RateDecision, request: RequestContext) -> tuple[Problem, Fields]:
        rule, decision, _ = rated
        wait: float | None = None
        if decision.retry_after < math.inf:
            wait = decision.retry_after + self._luck() * max(1.0, _JITTER * decision.retry_after)
        problem = problem_of(RateLimitExceededError(rule.name, wait))
        request.route = PREROUTING
        request.error_type = problem.error_type
        # The draft requires that both give the same moment.
        reset_after = decision.reset_after if wait is None else max(1.0, wait)
        return problem, rated.fields(reset_after)


def _of_enforced(
    charges: Sequence[tuple[LimitRule, str, int]], decisions: Sequence[Decision]
) -> RateDecision | None:
    """Return the strictest decision of the limits that are enforced; None if there are none."""
    rules: list[LimitRule] = []
    enforced: list[Decision] = []
    for (rule, _, _), decision in zip(charges, decisions, strict=True):
        if rule.enforces:
            rules.append(rule)
            enforced.append(decision)
    if not enforced:
        return None
    strict = strictest(enforced)
    # Compared by identity: two decisions may well be equal.
    place = [decision is strict for decision in enforced].index(True)
    policy = b", ".join([rule.policy for rule in rules])
    return RateDecision(rules[place], strict, policy)


def fast_plan(
    rules: Sequence[LimitRule],
) -> Callable[[str, str, str], RateDecision | None]:
    """Return how limits whose keys and costs are known beforehand are hit by a request's keys.

    Without charges.

    The limit that has the least left is the one that callers see. It returns None if one of several
    would refuse, or one does not enforce its rates: then nothing is spent, and the limits are hit
    with charges.
    """
    plan = [(rule, rule.cost, rule.key, rule.buckets.spend) for rule in rules]
    clock = rules[0].clock
    policy = b", ".join([rule.policy for rule in rules])
    is_one = len(rules) == 1

    def hit(*keys: str) -> RateDecision | None:
        now = clock()
        tightest = rules[0]
        least = _ALL_LEFT
        for rule, cost, key, spend in plan:
            if not rule.enforces:
                break
            decision = spend(keys[key], cost, now)
            if not (decision.allowed or is_one):
                break
            if decision.remaining < least.remaining:
                tightest = rule
                least = decision
        else:
            for rule in rules:
                rule.counted["allowed" if least.allowed else "limited"] += 1
            return _new(RateDecision, (tightest, least, policy))
        for spent, cost, key, _ in plan:
            if spent is rule:
                break
            spent.buckets.refund(keys[key], cost, now)
        return None

    return hit


class LimitRule(RateCounter):
    """The limiter of requests.

    `policy` is its part of the field, `key` which of `_KEYS` it has, if no function says so.
    """

    def __init__(
        self, limit: RateLimit, *, store: Store | None, observer: Observer, clock: Clock
    ) -> None:
        super().__init__(
            limit.name, limit.rate, store=store, mode=limit.mode, observer=observer, clock=clock
        )
        self._limit = limit
        self.cost: int = 1 if callable(limit.cost) else limit.cost
        self.key: int = 0 if callable(limit.per) else _KEYS.index(limit.per)
        self.asks: bool = (
            callable(limit.per) or callable(limit.cost) or limit.applies_to is not None
        )
        windows = {(rate.amount, rate.period): math.ceil(rate.period) for rate in self.rates}
        self.items: dict[tuple[int, float], str] = {
            rate: f'"{self.name}-{window}s"' if len(windows) > 1 else f'"{self.name}"'
            for rate, window in windows.items()
        }
        policy = ", ".join(
            f"{self.items[rate]};q={rate[0]};w={window}" for rate, window in windows.items()
        )
        self.policy: bytes = policy.encode("ascii")

    def charge_for(
        self, scope: Scope, keys: Sequence[str | None]
    ) -> tuple[LimitRule, str, int] | None:
        """Return the charge for a request; None if this limit does not apply to it."""
        if self.is_off:
            return None
        applies = self._limit.applies_to
        if applies is not None and not self._safely(lambda: applies(scope), default=True):
            return None
        per = self._limit.per
        if callable(per):
            key = self._safely(lambda: per(scope), default=_UNKNOWN_KEY)
        else:
            key = keys[self.key]
        if key is None:
            return None
        cost = self.cost
        cost_of = self._limit.cost
        if callable(cost_of):
            cost = self._safely(lambda: max(0, int(cost_of(scope))), default=1)
        return self, shorten(str(key)), cost

    def _safely(self, function: Callable[[], T], *, default: T) -> T:
        try:
            return function()
        except Exception as error:  # noqa: BLE001 - it is foreign code, and may raise anything
            self._observe(ListenerFailed(self.name, repr(error)))
            return default


class RateDecision(NamedTuple):
    """The result for a request.

    The limit and the decision that callers see, and the policy field.
    """

    rule: LimitRule
    decision: Decision
    policy: bytes

    def fields(self, seconds: float) -> Fields:
        decision = self.decision
        policy = self.rule.items[decision.limit, decision.period]
        item = f"{policy};r={decision.remaining};t={math.ceil(seconds)}"
        return (b"ratelimit-policy", self.policy), (b"ratelimit", item.encode("ascii"))


# As in `limits._rates`.
_New = Callable[[type[RateDecision], tuple[object, ...]], RateDecision]
_new: Final[_New] = vars(tuple)["__new__"]
