"""Keep callers within their rates, in this process or in a store that several share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from ..clock import MONOTONIC, Clock
from ..events import (
    Mode,
    ModeChanged,
    Observer,
    PolicyCreated,
    Sample,
    StoreChanged,
    observing,
    process_observer,
)
from ..validation import validation
from ._rates import LONGEST_KEY, MAX_KEYS, BucketSet, Counts, Decision, Rate, shorten, strictest
from .store import SharedStore

if TYPE_CHECKING:
    from limits import RateLimitItem

Rates = str | Rate | Sequence[Rate]
"""One or more rates: in the notation of `limits`, such as `10/second;1000/hour`, or as `Rate`."""

_EXAMPLE: Final = "'100/minute', '10/second;1000/hour' or Rate(amount=100, period=60.0)"
_UNLIMITED: Final = Decision(True, 0, 0, 0.0, 0.0, 0.0)  # noqa: FBT003 - a record
_NEGATIVE: Final = "nothing costs less than 0"


def parse_rates(rates: Rates, *, field: str = "rates") -> tuple[Rate, ...]:
    """Parse rates.

    Raises:
        ValueError: If they are none, with the field in its text.
    """
    if isinstance(rates, Rate):
        return (rates,)
    if isinstance(rates, str):
        from limits import parse_many  # noqa: PLC0415 - see `ratelimit_store`

        with suppress(ValueError):
            return tuple(
                Rate(amount=item.amount, period=float(item.get_expiry())) for item in parse_many(rates)
            )
    elif isinstance(cast("object", rates), Sequence) and rates:
        return tuple(validation.instance(field, rate, Rate, example=_EXAMPLE) for rate in rates)
    return validation.refuse(field, rates, "one or more rates", example=_EXAMPLE)


class RateLimiter:
    """Limits the rate of each caller.

    In memory it is a token bucket for each key (see `limits._rates`), at a microsecond for a hit. A shared store is
    asked twice for each rate; while it is away each process counts by itself, beginning with full budgets. Several
    rates hold together: what one refuses is not spent from the others.

    Args:
        name: Names it in metrics, events and the RateLimit fields.
        rates: Such as `100/minute`, or `10/second;1000/hour`.
        store: A shared store or its address; None keeps the counts in this process.
        max_keys: The most callers kept in memory for each rate.
        mode: In `shadow` it counts, and lets all pass; in `off` it does not even count.
        observer: Receives changes of the store's availability and of the mode. It may raise. By default the
            process's, see `asgi.Telemetry`; None for none.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        rates: Rates,
        *,
        store: SharedStore | str | None = None,
        max_keys: int = MAX_KEYS,
        mode: Mode | str = Mode.ENFORCE,
        observer: Observer | None = process_observer,
        clock: Clock = MONOTONIC,
    ) -> None:
        # It stands in the RateLimit fields, where quotes would have to be escaped.
        example = 'RateLimiter("partner", "10/second")'
        self.name: str = validation.name("RateLimiter.name", name, example=example)
        self.rates: tuple[Rate, ...] = parse_rates(rates, field="RateLimiter.rates")
        validation.functions("RateLimiter", clock=clock)
        if isinstance(store, str):
            store = SharedStore(store, clock=clock)
        self.store: Final = store
        self.items: tuple[RateLimitItem, ...] = ()
        if store is not None:
            example = '"async+valkey://valkey:6379"'
            validation.instance("RateLimiter.store", store, SharedStore, example=example)
            self.items = tuple(map(_item, self.rates))
            store.subscribe(lambda is_up, error: self._observe(StoreChanged(name, is_up, error)))
        self.buckets: BucketSet = BucketSet(self.rates, max_keys)
        self.clock: Clock = clock
        self.counts: Counts = Counts()
        self._spend = self.buckets.spend
        self._observe = observing("RateLimiter", name, observer)
        self._set_mode(validation.choice("RateLimiter.mode", mode, Mode))
        self._observe(PolicyCreated(name, self.tally))

    @property
    def mode(self) -> Mode:
        """How its decisions are used; it may be set at any time."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode | str) -> None:
        old, new = self._mode, validation.choice("RateLimiter.mode", mode, Mode)
        self._set_mode(new)
        if new is not old:
            self._observe(ModeChanged(self.name, old, new))

    def _set_mode(self, mode: Mode) -> None:
        self._mode = mode
        self.counts.turn_to(mode)
        self.counted: dict[str, int] = self.counts.now
        self.is_off: bool = mode is Mode.OFF
        self.enforces: bool = mode is Mode.ENFORCE

    async def hit(self, key: str, cost: int = 1) -> Decision:
        """Spend a cost for a key, if it is within all rates; a store is waited for no longer than its timeout.

        Args:
            key: The key that spends; the end of a key of more than 128 characters becomes its hash.
            cost: From 0 up: below that it is a ValueError. One above the amount is never allowed.
        """
        if self.store is None:
            return self.hit_now(key, cost)
        return (await hit_all((self.charge(key, cost),)))[0]

    def hit_now(self, key: str, cost: int = 1) -> Decision:
        """Do the same in this process's memory, without a wait; a shared store is not asked."""
        if self.is_off:
            return _UNLIMITED
        if cost < 0:
            raise ValueError(_NEGATIVE)
        if len(key) > LONGEST_KEY:
            key = shorten(key)
        decision = self._spend(key, cost, self.clock())
        if not decision.allowed:
            return self.settle(decision)
        self.counted["allowed"] += 1
        return decision

    def charge(self, key: str, cost: int = 1) -> Charge:
        """Prepare one hit, to be made together with those of other limiters by `hit_all`."""
        if cost < 0:
            raise ValueError(_NEGATIVE)
        return Charge(self, shorten(key), cost, self.is_off)

    def settle(self, decision: Decision, *, is_local: bool = False) -> Decision:
        """Count a decision, and return it as the mode has it; `is_local` if it was made in place of a store."""
        self.counted["limited" if not decision.allowed else "local" if is_local else "allowed"] += 1
        return decision if decision.allowed or self.enforces else decision._replace(allowed=True)

    def tally(self) -> Iterator[Sample]:
        """Yield the present counts."""
        yield from self.counts.samples(self.name)
        yield Sample("postfacta_ratelimit_keys", (self.name,), len(self.buckets))
        if self.store is not None:
            yield Sample("postfacta_ratelimit_store_up", (self.name,), float(self.store.is_up))


class Charge(NamedTuple):
    """One hit on its way to a decision: made by `RateLimiter.charge`, for `hit_all`."""

    limiter: RateLimiter
    key: str
    cost: int
    is_off: bool


async def hit_all(charges: Sequence[Charge], *, spend: bool = True) -> list[Decision]:
    """Make several hits, if each is within its limiter's rates; else none. The decisions come in the same order.

    A shared store is asked once, with one timeout; so limiters that are hit together have the same store or none, or it
    is a ValueError.

    Args:
        charges: What to spend.
        spend: Whether to spend it; False only returns whether that would be allowed.
    """
    asked = [charge for charge in charges if not charge.is_off]
    stores = {charge.limiter.store for charge in asked}
    if len(stores) > 1:
        raise ValueError("limiters that are hit together share one store: give all of them the same one")
    store = stores.pop() if stores else None
    found: list[Decision] = []
    is_local = store is not None and not await store.ask(
        partial(_hit_there, store, asked, found, spend=spend)
    )
    if store is None or is_local:
        found = _hit_here(asked, spend=spend)
    decisions = iter(found)
    return [
        _UNLIMITED if charge.is_off else charge.limiter.settle(next(decisions), is_local=is_local)
        for charge in charges
    ]


def _hit_here(charges: Sequence[Charge], *, spend: bool) -> list[Decision]:
    found = [it.limiter.buckets.test(it.key, it.cost, it.limiter.clock()) for it in charges]
    if spend and not _refuse(charges, found):
        for limiter, key, cost, _ in charges:
            limiter.buckets.spend(key, cost, limiter.clock())
    return found


async def _hit_there(
    store: SharedStore, charges: Sequence[Charge], found: list[Decision], *, spend: bool
) -> None:
    for limiter, key, cost, _ in charges:
        found.append(strictest([await store.test(item, cost, limiter.name, key) for item in limiter.items]))
    if not spend or _refuse(charges, found):
        return
    for place, (limiter, key, cost, _) in enumerate(charges):
        for item in limiter.items if found[place].allowed else ():
            if not await store.hit(item, cost, limiter.name, key):
                # Another request was quicker since the test.
                wait = found[place].reset_after
                found[place] = found[place]._replace(allowed=False, remaining=0, retry_after=wait)


def _refuse(charges: Sequence[Charge], found: Sequence[Decision]) -> bool:
    return any(
        not decision.allowed and charge.limiter.enforces
        for charge, decision in zip(charges, found, strict=True)
    )


def _item(rate: Rate) -> RateLimitItem:
    if rate.period != int(rate.period):
        rule = "of whole seconds, where a store is shared"
        validation.refuse("RateLimiter.rates", rate, rule, example="'100/minute'")
    from limits import RateLimitItemPerSecond  # noqa: PLC0415 - see `ratelimit_store`

    return RateLimitItemPerSecond(rate.amount, int(rate.period), namespace="POSTFACTA")
