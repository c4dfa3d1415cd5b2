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
from ..limits._rates import Decision, Rate, StoreFailure, strictest
from ..limits.rate import Charge, HitPlan, RateLimiter, Rates, hit_all, parse_rates
from ..validation import validation
from ._problem import Problem, problem_of
from ._settings import settings
from ._types import Scope

Scopes = Literal["client", "site", "global", "principal", "route"]
Key = Callable[[Scope], str | None]
"""Returns the key that a request is counted for, or None if there is none."""

_SCOPES: Final[dict[str, Scopes]] = {scope: scope for scope in get_args(Scopes)}
Fields = tuple[tuple[bytes, bytes], ...]
T = TypeVar("T")

# What the keys of a request are, in this order; others are asked of functions.
_KEYS: Final = ("client", "site", "global")
_SITE: Final = 1
# The key of requests whose own key is unknown.
_NOBODY: Final = "?"
_UNMATCHED: Final = "_unmatched"
# Of the wait, and one second at least: the field has whole seconds.
_JITTER: Final = 0.1

_with_scope = re.compile(r"(.*\S)\s+per\s+([a-z]+)", re.IGNORECASE | re.DOTALL).fullmatch


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A rate, and the key that it is counted by.

    Attributes:
        rate: Such as `100/minute`, or `10/second;1000/hour`.
        per: The key of each budget: each `client` address, each `site` (an IPv6 /48; an IPv4 client has none), each
            `principal`, each `route`, all together (`global`), or what a function returns for a scope; there None
            means that this limit does not apply.
        name: Names it in metrics and in the RateLimit fields; by default what it is per.
        cost: What a request costs, or a function that returns it for a scope.
        applies_to: Returns whether it applies to a scope; by default to all.
        on_store_failure: What decides while a shared store is away: `local`, `allow` or `deny`.
        mode: In `shadow` it counts, and lets all pass; in `off` it does nothing.
    """

    rate: Rates
    _: KW_ONLY
    per: Scopes | Key = "client"
    name: str = ""
    cost: int | Callable[[Scope], int] = 1
    applies_to: Callable[[Scope], bool] | None = None
    on_store_failure: StoreFailure | str = StoreFailure.LOCAL
    mode: Mode | str = Mode.ENFORCE

    def __post_init__(self) -> None:
        parse_rates(self.rate, field="RateLimit.rate")
        per = cast("object", self.per)
        if not callable(per) and (not isinstance(per, str) or per not in _SCOPES):
            known = ", ".join(map(repr, _SCOPES))
            validation.refuse(
                "RateLimit.per",
                self.per,
                f"one of {known} or a function of the scope",
                example="per='client'",
            )
        if self.name or callable(self.per):
            validation.name("RateLimit.name", self.name, example="name='tenant'")
        if not callable(self.cost):
            validation.whole(
                "RateLimit.cost", self.cost, at_least=0, example="cost=1, or a function of the scope"
            )
        settings.function_or_none("RateLimit.applies_to", self.applies_to)
        failure = validation.choice("RateLimit.on_store_failure", self.on_store_failure, StoreFailure)
        object.__setattr__(self, "on_store_failure", failure)
        object.__setattr__(self, "mode", validation.choice("RateLimit.mode", self.mode, Mode))


def parse_rate_limit(text: str, *, field: str = "rate limit") -> RateLimit:
    """Parse a limit such as `100/minute per client`; without a scope it is per client.

    Raises:
        ValueError: If it cannot be read.
    """
    found = _with_scope(text)
    per = _SCOPES.get(found[2].lower()) if found is not None else None
    try:
        return RateLimit(text) if found is None or per is None else RateLimit(found[1], per=per)
    except ValueError as error:
        rule = f"a rate, and what it is per: {', '.join(_SCOPES)}"
        msg = f"{field} must be {rule}, not {text!r}; for example '100/minute per client'"
        raise ValueError(msg) from error


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
    """The limits of some routes, and how their requests are judged; `always` is whether answers have the fields."""

    def __init__(
        self, rules: Sequence[LimitRule], *, proxies: TrustedProxies, always: bool, luck: Luck
    ) -> None:
        self._rules = rules
        self._proxies = proxies
        self._always = always
        self._luck = luck
        self._by_address = _Fast.of([rule for rule in rules if rule.key != _SITE])
        self._by_site = _Fast.of(rules) if any(rule.key == _SITE for rule in rules) else self._by_address

    def only(self, limits: Sequence[RateLimit | str]) -> RatePlan:
        names = {name_of(each) for each in check_rate_limits("rate_limits", limits)}
        some = [rule for rule in self._rules if rule.limiter.name in names]
        return RatePlan(some, proxies=self._proxies, always=self._always, luck=self._luck)

    async def judge(self, scope: Scope, request: RequestContext) -> Verdict | None:
        """Spend what a request costs; None if nothing limits it. Its client is known from then on."""
        peer = scope.get("client")
        client = client_address(peer[0] if peer else None, scope["headers"], self._proxies)
        request.client = client
        site = site_of(client) if ":" in client else None
        fast = self._by_address if site is None else self._by_site
        if fast is not None and (hit := fast.plan.hit(client, site or "", "")) is not None:
            place, decision = hit
            return _new(Verdict, (fast.rules[place], decision, fast.policy))
        asked = [(rule, charge) for rule in self._rules if (charge := rule.charge(scope, client)) is not None]
        if not asked:
            return None
        decisions = await hit_all([charge for _, charge in asked])
        told = [(rule, one) for (rule, _), one in zip(asked, decisions, strict=True) if rule.is_told]
        if not told:
            return None
        strict = strictest([decision for _, decision in told])
        # Compared by identity: two decisions may well be equal.
        rule = [rule for rule, decision in told if decision is strict][0]  # noqa: RUF015 - a generator costs more
        return Verdict(rule, strict, b", ".join([rule.policy for rule, _ in told]))

    def told(self, verdict: Verdict) -> Fields:
        """Return the RateLimit fields of an answer to a request that may pass."""
        is_told = self._always and verdict.rule.limiter.enforces
        return verdict.fields(verdict.decision.reset_after) if is_told else ()

    def refusal(self, verdict: Verdict, request: RequestContext) -> tuple[Problem, Fields]:
        rule, decision, _ = verdict
        wait: float | None = None
        if decision.retry_after < math.inf:
            wait = decision.retry_after + self._luck() * max(1.0, _JITTER * decision.retry_after)
        problem = problem_of(RateLimitExceededError(rule.limiter.name, wait))
        request.route, request.error_type = "_prerouting", problem.error_type
        # The draft requires that both give the same moment.
        return problem, verdict.fields(decision.reset_after if wait is None else max(1.0, wait))


class _Fast(NamedTuple):
    """Limits whose keys and costs are known beforehand: they need no charges, as long as all of them allow a request."""

    plan: HitPlan
    rules: Sequence[LimitRule]
    policy: bytes

    @classmethod
    def of(cls, rules: Sequence[LimitRule]) -> _Fast | None:
        """Plan these; None if one of them has a store or a function to ask, or if there is none."""
        hits = [(rule.limiter, rule.cost, rule.key) for rule in rules if rule.key is not None]
        if not hits or len(hits) < len(rules):
            return None
        return cls(HitPlan(hits), rules, b", ".join([rule.policy for rule in rules]))


class LimitRule:
    """A limit as it is asked: `policy` is its part of the field, `key` is which of `_KEYS` it has, if no function says so."""

    __slots__ = ("_items", "_observe", "_rule", "_tell", "cost", "key", "limiter", "policy")

    def __init__(self, rule: RateLimit, limiter: RateLimiter, *, tell: Key | None, observe: Observer) -> None:
        self.limiter: RateLimiter = limiter
        self.cost: int = 1 if callable(rule.cost) else rule.cost
        has_functions = callable(rule.cost) or rule.applies_to is not None
        is_known = rule.per in _KEYS and not has_functions and limiter.store is None
        self.key: int | None = _KEYS.index(str(rule.per)) if is_known else None
        self._rule = rule
        self._tell = tell
        self._observe = observe
        alone = len(limiter.rates) == 1
        self._items = {
            (rate.amount, rate.period): f'"{limiter.name}"'
            if alone
            else f'"{limiter.name}-{_seconds(rate)}s"'
            for rate in limiter.rates
        }
        self.policy: bytes = ", ".join(
            f"{self._items[rate.amount, rate.period]};q={rate.amount};w={_seconds(rate)}"
            for rate in limiter.rates
        ).encode("ascii")

    @property
    def is_told(self) -> bool:
        """Whether its headers are sent: not while it is in shadow."""
        return self.limiter.enforces

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
        key = self._key(scope, client)
        if key is None:
            return None
        cost = self._safely(partial(_cost, rule.cost), scope, default=1) if callable(rule.cost) else rule.cost
        return self.limiter.charge(key, cost)

    def _key(self, scope: Scope, client: str) -> str | None:
        per = self._rule.per
        if per == "client":
            return client
        if per == "global":
            return ""
        if per == "site":
            return site_of(client)
        nobody: str | None = _NOBODY
        return self._safely(partial(self._foreign_key, client), scope, default=nobody)

    def _foreign_key(self, client: str, scope: Scope) -> str | None:
        if self._tell is None:
            raise AssertionError("a limit of this kind has a function")
        key: object = self._tell(scope)
        match self._rule.per:
            case "principal":
                # Marked, so that no principal has the name of an address.
                return client if key is None else f"={key}"
            case "route":
                return _UNMATCHED if key is None else str(key)
            case _:
                return None if key is None else str(key)

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


def teller(rule: RateLimit, principal_of: Key | None, route_of: Key | None) -> Key | None:
    """Return the function for the key, for a limit that needs one."""
    if callable(rule.per):
        return rule.per
    if rule.per in _KEYS:
        return None
    tell = principal_of if rule.per == "principal" else route_of
    if tell is None:
        msg = (
            f"a limit per {rule.per} comes before the application: pass a function that gets it from a scope,"
            f" {rule.per}_of=..., or limit per client or per a function"
        )
        raise ValueError(msg)
    return tell


def _cost(tell: Callable[[Scope], int], scope: Scope) -> int:
    return max(0, int(tell(scope)))


def _seconds(rate: Rate) -> int:
    return math.ceil(rate.period)
