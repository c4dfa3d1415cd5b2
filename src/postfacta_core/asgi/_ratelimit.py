"""Decide whether callers are within their rates, and write the RateLimit fields."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Final, Literal, NamedTuple, TypeVar, cast, get_args

from ..clock import Luck
from ..context import RequestContext
from ..errors import RateLimitExceededError
from ..events import ListenerFailed, Mode, Observer
from ..limits._address import TrustedProxies, client_address, site_of
from ..limits._rates import LONGEST_KEY, Decision, strictest
from ..limits.rate import Charge, RateLimiter, Rates, hit_all, parse_rates
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
_NOBODY: Final = "?"  # The key of requests whose own key is unknown.
_JITTER: Final = 0.1  # Of the wait, and one second at least: the field has whole seconds.

_with_scope = re.compile(rf"(.*\S)\s+per\s+({'|'.join(_KEYS)})", re.IGNORECASE | re.DOTALL).fullmatch


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A rate, and the key that it is counted by.

    Attributes:
        rate: Such as `100/minute`, or `10/second;1000/hour`.
        per: The key of each budget: each `client` address, each `site` (an IPv6 /48; an IPv4 client has none), all
            together (`global`), or what a function returns for a scope; there None means that this limit does not apply.
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
            validation.whole("RateLimit.cost", self.cost, at_least=0, example="cost=1, or a function")
        functions = {name: it for name, it in (("per", self.per), ("cost", self.cost)) if callable(it)}
        check_options("RateLimit", applies_to=self.applies_to, **functions)
        object.__setattr__(self, "mode", validation.choice("RateLimit.mode", self.mode, Mode))


def parse_rate_limit(text: str, *, field: str = "rate limit") -> RateLimit:
    """Parse a limit such as `100/minute per client`, or raise ValueError; without a scope it is per client."""
    found = _with_scope(text)
    try:
        return RateLimit(found[1], per=cast("Scopes", found[2].lower())) if found else RateLimit(text)
    except ValueError:
        rule = f"a rate, and what it is per: {', '.join(_KEYS)}"
        validation.refuse(field, text, rule, example="'100/minute per client'")


def check_rate_limits(field: str, rules: object) -> list[RateLimit]:
    """Parse a list of limits or texts; a ValueError names the field if one cannot be read, or two have one name."""
    if isinstance(rules, str) or not isinstance(rules, Sequence):
        validation.refuse(field, rules, "a list of rate limits", example="['100/minute per client']")
    names: dict[str, object] = {}
    limits: list[RateLimit] = []
    for rule in cast("Sequence[object]", rules):
        limit = parse_rate_limit(rule, field=field) if isinstance(rule, str) else rule
        if not isinstance(limit, RateLimit):
            validation.refuse(field, rule, "a list of rate limits", example="['100/minute per client']")
        name = name_of(limit)
        if name in names:
            msg = (
                f"{field} must be of different names, and {names[name]!r} and {rule!r} are both named {name!r}: a "
                "text that does not name what it is per is per client. For example '1000/minute per global', "
                "'10/second;100/minute per client' for both at once, or RateLimit('100/minute', name='slow')"
            )
            raise ValueError(msg)
        names[name] = rule
        limits.append(limit)
    return limits


def name_of(limit: RateLimit) -> str:
    return limit.name or str(limit.per)


class RatePlan:
    """The limits of some routes, and how their requests are judged."""

    def __init__(self, rules: Sequence[LimitRule], *, proxies: TrustedProxies, luck: Luck) -> None:
        self._rules = rules
        self._proxies = proxies
        self._luck = luck
        is_known = all(rule.key is not None for rule in rules)
        of_address = [rule for rule in rules if rule.key != _SITE]
        self._by_address = FastPlan(of_address) if is_known and of_address else None
        self._by_site = FastPlan(rules) if is_known and rules else None

    def only(self, limits: Sequence[RateLimit | str]) -> RatePlan:
        names = {name_of(each) for each in check_rate_limits("rate_limits", limits)}
        some = [rule for rule in self._rules if rule.limiter.name in names]
        return RatePlan(some, proxies=self._proxies, luck=self._luck)

    async def judge(self, scope: Scope, request: RequestContext) -> Verdict | None:
        """Spend what a request costs; None if nothing limits it. Its client is known from then on."""
        peer = scope.get("client")
        client = client_address(peer[0] if peer else None, scope["headers"], self._proxies)
        request.client = client
        site = site_of(client) if ":" in client else None
        fast = self._by_address if site is None else self._by_site
        if fast is not None and (verdict := fast.hit(client, site or "", "")) is not None:
            return verdict
        asked = [(rule, charge) for rule in self._rules if (charge := rule.charge(scope, client)) is not None]
        if not asked:
            return None
        decisions = await hit_all([charge for _, charge in asked])
        told = [(rule, one) for (rule, _), one in zip(asked, decisions, strict=True) if rule.limiter.enforces]
        if not told:
            return None
        strict = strictest([decision for _, decision in told])
        # Compared by identity: two decisions may well be equal.
        rule = [rule for rule, decision in told if decision is strict][0]  # noqa: RUF015 - a generator costs more
        return Verdict(rule, strict, b", ".join([rule.policy for rule, _ in told]))

    def told(self, verdict: Verdict) -> Fields:
        """Return the RateLimit fields of an answer to a request that may pass."""
        return verdict.fields(verdict.decision.reset_after) if verdict.rule.limiter.enforces else ()

    def refusal(self, verdict: Verdict, request: RequestContext) -> tuple[Problem, Fields]:
        rule, decision, _ = verdict
        wait: float | None = None
        if decision.retry_after < math.inf:
            wait = decision.retry_after + self._luck() * max(1.0, _JITTER * decision.retry_after)
        problem = problem_of(RateLimitExceededError(rule.limiter.name, wait))
        request.route, request.error_type = "_prerouting", problem.error_type
        # The draft requires that both give the same moment.
        return problem, verdict.fields(decision.reset_after if wait is None else max(1.0, wait))


class FastPlan:
    """Limits whose keys and costs are known beforehand: they need no charges, as long as all of them allow a request."""

    __slots__ = ("_clock", "_firsts", "_last", "_policy")

    def __init__(self, rules: Sequence[LimitRule]) -> None:
        known = [(rule, rule.limiter.buckets) for rule in rules]
        *firsts, self._last = [
            (rule, rule.limiter, rule.cost, rule.key or 0, buckets.test, buckets.spend)
            for rule, buckets in known
        ]
        self._firsts = tuple(reversed(firsts))
        self._clock = rules[0].limiter.clock
        self._policy = b", ".join([rule.policy for rule in rules])

    def hit(self, *keys: str) -> Verdict | None:
        """Spend all of them for a request's keys; the limit that has the least left is the one that callers see.

        None if one of several would refuse, or one does not enforce its rates: then nothing is spent, and `hit_all`
        decides.
        """
        now = self._clock()
        for _, limiter, cost, key, test, _ in self._firsts:
            if not limiter.enforces or not test(keys[key], cost, now).allowed:
                return None
        least, limiter, cost, key, _, spend = self._last
        if not limiter.enforces or len(keys[0]) > LONGEST_KEY:
            return None
        found = spend(keys[key], cost, now)
        if not found.allowed and self._firsts:
            return None
        limiter.counted["allowed" if found.allowed else "limited"] += 1
        for rule, limiter, cost, key, _, spend in self._firsts:
            decision = spend(keys[key], cost, now)
            limiter.counted["allowed"] += 1
            if decision.remaining <= found.remaining:
                least, found = rule, decision
        return _new(Verdict, (least, found, self._policy))


class LimitRule:
    """A limit as it is asked: `policy` is its part of the field, `key` is which of `_KEYS` it has, if no function says so."""

    __slots__ = ("_items", "_observe", "_rule", "cost", "key", "limiter", "policy")

    def __init__(self, rule: RateLimit, limiter: RateLimiter, observe: Observer) -> None:
        self.limiter: RateLimiter = limiter
        self.cost: int = 1 if callable(rule.cost) else rule.cost
        has_functions = callable(rule.cost) or rule.applies_to is not None
        is_known = not callable(rule.per) and not has_functions and limiter.store is None
        self.key: int | None = _KEYS.index(cast("Scopes", rule.per)) if is_known else None
        self._rule = rule
        self._observe = observe
        windows = {(rate.amount, rate.period): math.ceil(rate.period) for rate in limiter.rates}
        self._items = {
            rate: f'"{limiter.name}-{window}s"' if len(windows) > 1 else f'"{limiter.name}"'
            for rate, window in windows.items()
        }
        policy = ", ".join(f"{self._items[rate]};q={rate[0]};w={window}" for rate, window in windows.items())
        self.policy: bytes = policy.encode("ascii")

    def item(self, decision: Decision) -> str:
        # It has none of them if it was off when that was decided.
        return self._items.get((decision.limit, decision.period), f'"{self.limiter.name}"')

    def charge(self, scope: Scope, client: str) -> Charge | None:
        """Return the charge for a request; None if this limit does not apply to it."""
        rule = self._rule
        if self.limiter.mode is Mode.OFF:
            return None
        if rule.applies_to is not None and not self._safely(rule.applies_to, scope, default=True):
            return None
        key: str | None = ""
        if callable(rule.per):
            key = self._safely(rule.per, scope, default=cast("str | None", _NOBODY))
        elif rule.per != "global":
            key = client if rule.per == "client" else site_of(client)
        if key is None:
            return None
        cost = self._safely(partial(_cost, rule.cost), scope, default=1) if callable(rule.cost) else rule.cost
        return self.limiter.charge(str(key), cost)

    def _safely(self, function: Callable[[Scope], T], scope: Scope, *, default: T) -> T:
        try:
            return function(scope)
        except Exception as error:  # noqa: BLE001 - it is foreign code, and may raise anything
            self._observe(ListenerFailed(self.limiter.name, repr(error)))
            return default


class Verdict(NamedTuple):
    """The result for a request: the limit and the decision that callers see, and the policy field."""

    rule: LimitRule
    decision: Decision
    policy: bytes

    def fields(self, seconds: float) -> Fields:
        item = f"{self.rule.item(self.decision)};r={self.decision.remaining};t={math.ceil(seconds)}"
        return (b"ratelimit-policy", self.policy), (b"ratelimit", item.encode("ascii"))


# As in `limits._rates`.
_new: Final[Callable[[type[Verdict], tuple[object, ...]], Verdict]] = vars(tuple)["__new__"]


def _cost(tell: Callable[[Scope], int], scope: Scope) -> int:
    return max(0, int(tell(scope)))
