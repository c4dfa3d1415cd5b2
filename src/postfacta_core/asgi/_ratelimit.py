"""Decide whether callers are within their rates, and write the RateLimit fields."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Final, Literal, NamedTuple, TypeVar, cast, get_args

from ..clock import LUCK, MONOTONIC, Clock, Luck
from ..context import RequestContext
from ..errors import RateLimitExceededError
from ..events import ListenerFailed, Mode, Observer, fan_out, ignore
from ..limits._address import TrustedProxies, client_address
from ..limits._rates import MAX_KEYS, Decision, Rate, StoreFailure, strictest
from ..limits.rate import Charge, HitPlan, RateLimiter, Rates, hit_all, parse_rates
from ..limits.store import SharedStore
from ..validation import validation
from ._problem import Problem, problem_of
from ._settings import settings
from ._types import Scope

__all__ = ["Fields", "Key", "RateLimit", "RateRules", "Verdict", "check_rate_limits", "parse_rate_limit"]

Scopes = Literal["client", "global", "principal", "route"]
Key = Callable[[Scope], str | None]
"""Returns the key that a request is counted for, or None if there is none."""

_SCOPES: Final[dict[str, Scopes]] = {scope: scope for scope in get_args(Scopes)}
Fields = tuple[tuple[bytes, bytes], ...]
T = TypeVar("T")

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
        per: The key of each budget: each `client` address, each `principal`, each `route`, all together
            (`global`), or what a function returns for a scope; there None means that this limit does not apply.
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


def parse_rate_limit(text: str) -> RateLimit:
    """Parse a limit such as `100/minute per client`; without a scope it is per client.

    Raises:
        ValueError: If it cannot be read.
    """
    return _read("rate limit", text)


def _read(field: str, text: str) -> RateLimit:
    found = _with_scope(text)
    per = _SCOPES.get(found[2].lower()) if found is not None else None
    try:
        return RateLimit(text) if found is None or per is None else RateLimit(found[1], per=per)
    except ValueError as error:
        rule = f"a rate, and what it is per: {', '.join(_SCOPES)}"
        msg = f"{field} must be {rule}, not {text!r}; for example '100/minute per client'"
        raise ValueError(msg) from error


def check_rate_limits(field: str, rules: object) -> list[RateLimit]:
    """Parse a list of limits, and refuse two of one name.

    Args:
        field: For the refusal.
        rules: Limits or texts.

    Raises:
        ValueError: If one cannot be read, or two have one name.
    """
    if isinstance(rules, str) or not isinstance(rules, Sequence):
        validation.refuse(field, rules, "a list of rate limits", example="['100/minute per client']")
    names: dict[str, object] = {}
    limits: list[RateLimit] = []
    for rule in cast("Sequence[object]", rules):
        limit = _read(field, rule) if isinstance(rule, str) else rule
        if not isinstance(limit, RateLimit):
            validation.refuse(field, rule, "a list of rate limits", example="['100/minute per client']")
        name = _name_of(limit)
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


def _name_of(limit: RateLimit) -> str:
    return limit.name or str(limit.per)


class RateRules:
    """Limits for the requests of one service, as `RateLimitMiddleware` says; the options are that one's."""

    def __init__(
        self,
        rules: Sequence[RateLimit | str],
        *,
        trusted_proxies: Sequence[str] | TrustedProxies = (),
        store: SharedStore | str | None = None,
        principal_of: Key | None = None,
        route_of: Key | None = None,
        headers: Literal["always", "refused"] = "always",
        max_keys: int = MAX_KEYS,
        observer: Observer = ignore,
        clock: Clock = MONOTONIC,
        luck: Luck = LUCK,
    ) -> None:
        limits = check_rate_limits("RateLimitMiddleware.rules", rules)
        validation.one_of("RateLimitMiddleware.headers", headers, ("always", "refused"))
        settings.function_or_none("RateLimitMiddleware.principal_of", principal_of)
        settings.function_or_none("RateLimitMiddleware.route_of", route_of)
        validation.whole("RateLimitMiddleware.max_keys", max_keys, example="max_keys=100_000")
        validation.functions("RateLimitMiddleware", observer=observer, clock=clock, luck=luck)
        self._proxies = (
            trusted_proxies
            if isinstance(trusted_proxies, TrustedProxies)
            else TrustedProxies(trusted_proxies)
        )
        if isinstance(store, str):
            store = SharedStore(store, clock=clock)
        self._observe = fan_out([observer])
        self._rules: list[_Rule] = []
        for rule in limits:
            tell = _teller(rule, principal_of, route_of)
            limiter = RateLimiter(
                _name_of(rule),
                rule.rate,
                store=store,
                on_store_failure=rule.on_store_failure,
                max_keys=max_keys,
                mode=rule.mode,
                observer=observer,
                clock=clock,
            )
            self._rules.append(_Rule(rule, limiter, tell=tell, observe=self._observe))
        self._limiters = {rule.limiter.name: rule.limiter for rule in self._rules}
        # With one plain rule in memory there is nothing to collect, and nothing to wait for.
        only = self._rules[0] if len(self._rules) == 1 else None
        self._only = only if only is not None and only.is_plain and store is None else None
        # So are several, as long as all of them allow a request.
        is_planned = len(self._rules) > 1 and store is None and all(rule.is_planned for rule in self._rules)
        hits = [(rule.limiter, rule.cost, rule.is_plain) for rule in self._rules]
        self._plan = HitPlan(hits) if is_planned else None
        self._policy = b", ".join([rule.policy for rule in self._rules])
        self._always = headers == "always"
        self._luck = luck

    @property
    def limiters(self) -> Mapping[str, RateLimiter]:
        """The limiters by name; their `mode` may be set at any time."""
        return self._limiters

    async def judge(self, scope: Scope, request: RequestContext) -> Verdict | None:
        """Spend what a request costs; None if nothing limits it. Its client is known from then on."""
        peer = scope.get("client")
        client = client_address(peer[0] if peer else None, scope["headers"], self._proxies)
        request.client = client
        if self._plan is not None and (hit := self._plan.hit(client)) is not None:
            place, decision = hit
            return Verdict(self._rules[place], decision, self._policy)
        if (only := self._only) is not None:
            return Verdict(only, only.limiter.hit_now(client, only.cost), only.policy)
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
        """Return the answer to a request that is over a limit."""
        rule, decision, _ = verdict
        wait: float | None = None
        if decision.retry_after < math.inf:
            wait = decision.retry_after + self._luck() * max(1.0, _JITTER * decision.retry_after)
        problem = problem_of(RateLimitExceededError(rule.limiter.name, wait))
        request.route, request.error_type = "_prerouting", problem.error_type
        # The draft requires that both give the same moment.
        return problem, verdict.fields(decision.reset_after if wait is None else max(1.0, wait))


class _Rule:
    """A limit as it is asked: `policy` is its part of the field."""

    __slots__ = ("_items", "_observe", "_rule", "_tell", "cost", "limiter", "policy")

    def __init__(self, rule: RateLimit, limiter: RateLimiter, *, tell: Key | None, observe: Observer) -> None:
        self.limiter: RateLimiter = limiter
        self.cost: int = 1 if callable(rule.cost) else rule.cost
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
    def is_plain(self) -> bool:
        """Whether it is for each client, at one cost, without exception."""
        rule = self._rule
        return rule.per == "client" and not callable(rule.cost) and rule.applies_to is None

    @property
    def is_planned(self) -> bool:
        """Whether it is for each client or for all of them together, at one cost, without exception."""
        rule = self._rule
        return rule.per in {"client", "global"} and not callable(rule.cost) and rule.applies_to is None

    @property
    def is_told(self) -> bool:
        """Whether its headers are sent: not while it is in shadow."""
        return self.limiter.enforces

    def item(self, decision: Decision) -> str:
        """Name the rate that a decision is about."""
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

    rule: _Rule
    decision: Decision
    policy: bytes

    def fields(self, seconds: float) -> Fields:
        """Write the RateLimit fields."""
        item = f"{self.rule.item(self.decision)};r={self.decision.remaining};t={math.ceil(seconds)}"
        return (b"ratelimit-policy", self.policy), (b"ratelimit", item.encode("ascii"))


def _teller(rule: RateLimit, principal_of: Key | None, route_of: Key | None) -> Key | None:
    """Return the function for the key, for a limit that needs one."""
    if callable(rule.per):
        return rule.per
    if rule.per in {"client", "global"}:
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
