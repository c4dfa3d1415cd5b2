"""Keep callers within their rates, in this process or in a store that several share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, cast

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
from ._rates import (
    LONGEST_KEY,
    MAX_KEYS,
    BucketSet,
    Counts,
    Decision,
    Rate,
    StoreFailure,
    shorten,
    strictest,
    without_store,
)
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

    In memory it is a token bucket for each key (see `limits._rates`), at a microsecond for a hit. With a shared
    store, that one's strategy decides, and a hit waits for it twice for each rate. Several rates hold together:
    what one refuses is not spent from the others.

    Args:
        name: Names it in metrics, events and the RateLimit fields.
        rates: Such as `100/minute`, or `10/second;1000/hour`.
        store: A shared store or its address; None keeps the counts in this process.
        on_store_failure: What decides while the store is away: `local`, `allow` or `deny`.
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
        on_store_failure: StoreFailure | str = StoreFailure.LOCAL,
        max_keys: int = MAX_KEYS,
        mode: Mode | str = Mode.ENFORCE,
        observer: Observer | None = process_observer,
        clock: Clock = MONOTONIC,
    ) -> None:
        # It stands in the RateLimit fields, where quotes would have to be escaped.
        self.name: str = validation.name(
            "RateLimiter.name", name, example='RateLimiter("partner", "10/second")'
        )
        self.rates: tuple[Rate, ...] = parse_rates(rates, field="RateLimiter.rates")
        validation.functions("RateLimiter", clock=clock)
        if isinstance(store, str):
            store = SharedStore(store, clock=clock)
        if store is not None:
            validation.instance(
                "RateLimiter.store", store, SharedStore, example='"async+valkey://valkey:6379"'
            )
        self.store: Final = store
        self.items: tuple[RateLimitItem, ...] = () if store is None else tuple(map(_item, self.rates))
        self.buckets: BucketSet = BucketSet(self.rates, max_keys)
        self.on_store_failure: StoreFailure = validation.choice(
            "RateLimiter.on_store_failure", on_store_failure, StoreFailure
        )
        self.clock: Clock = clock
        self.counts: Counts = Counts()
        self._spend = self.buckets.spend
        self._observe = observing("RateLimiter", name, observer)
        self._set_mode(validation.choice("RateLimiter.mode", mode, Mode))
        if store is not None:
            store.subscribe(self._store_changed)
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
        """Spend a cost for a key, if it is within all rates.

        It never raises because of the store, and waits no longer for it than the store's timeout.

        Args:
            key: The key that spends; the end of a key of more than 128 characters becomes its hash.
            cost: From 0 up: below that it is a ValueError. One above the burst is never allowed.
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
        if decision.allowed:
            self.counted["allowed"] += 1
            return decision
        self.counted["limited"] += 1
        return decision if self.enforces else decision._replace(allowed=True)

    def charge(self, key: str, cost: int = 1) -> Charge:
        """Prepare one hit, to be made together with those of other limiters by `hit_all`."""
        if cost < 0:
            raise ValueError(_NEGATIVE)
        is_here = self.store is None and not self.is_off
        return Charge(self, shorten(key), cost, None if self.is_off else self.store, is_here)

    def tally(self) -> Iterator[Sample]:
        """Yield the present counts."""
        yield from self.counts.samples(self.name)
        yield Sample("postfacta_ratelimit_keys", (self.name,), len(self.buckets))
        if self.store is not None:
            yield Sample("postfacta_ratelimit_store_up", (self.name,), float(self.store.is_up))

    def _store_changed(self, available: bool, error: str) -> None:  # noqa: FBT001 - the store's state
        self._observe(StoreChanged(self.name, available, self.on_store_failure, error))


class HitPlan:
    """Hits in this process's memory whose limiters, costs and kinds of key are known beforehand.

    The usual case, that all of them are allowed, then needs no object for each of them.

    Args:
        hits: For each a limiter without a store, a cost, and which of the keys is spent from.
    """

    __slots__ = ("_clock", "_firsts", "_last")

    def __init__(self, hits: Sequence[tuple[RateLimiter, int, int]]) -> None:
        *firsts, last = [
            (place, limiter, cost, key, limiter.buckets.test, limiter.buckets.spend)
            for place, (limiter, cost, key) in enumerate(hits)
        ]
        self._firsts = tuple(reversed(firsts))
        self._last = last
        self._clock = hits[0][0].clock

    def hit(self, *keys: str) -> tuple[int, Decision] | None:
        """Spend all of them for a request's keys; return the place of the one that has the least left, and its decision.

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
        if not found.allowed:
            limiter.counted["limited"] += not self._firsts
            return None if self._firsts else (least, found)
        limiter.counted["allowed"] += 1
        for place, limiter, cost, key, _, spend in self._firsts:
            decision = spend(keys[key], cost, now)
            limiter.counted["allowed"] += 1
            if decision.remaining <= found.remaining:
                least, found = place, decision
        return least, found


@dataclass(slots=True, eq=False)
class Charge:
    """One hit on its way to a decision. It is made by `RateLimiter.charge`, for `hit_all`, once."""

    limiter: RateLimiter
    key: str
    cost: int
    store: SharedStore | None
    is_here: bool
    decision: Decision = _UNLIMITED
    label: str = ""

    @property
    def refuses(self) -> bool:
        """Whether nothing is to be spent, because this is over its rate."""
        return not self.decision.allowed and self.limiter.enforces

    def test_here(self) -> None:
        """Decide from the counts in this process, if those decide."""
        if self.is_here:
            self.decision = self.limiter.buckets.test(self.key, self.cost, self.limiter.clock())

    def fall_back(self) -> None:
        """Decide without the store."""
        decision = without_store(self.limiter.on_store_failure, self.limiter.rates[0])
        if decision is None:
            self.is_here = True
            self.test_here()
            self.label = "local" if self.decision.allowed else ""
        else:
            self.decision = decision
            self.label = "store_error_allowed" if decision.allowed else "store_error_denied"

    def settle(self, *, spends: bool) -> Decision:
        """Spend what is counted here, count the decision, and return it as the limiter's mode has it."""
        limiter = self.limiter
        if limiter.is_off:
            return _UNLIMITED
        if spends and self.is_here:
            self.decision = limiter.buckets.spend(self.key, self.cost, limiter.clock())
        decision = self.decision
        if decision is not _UNLIMITED:
            limiter.counted[self.label or ("allowed" if decision.allowed else "limited")] += 1
        return decision if limiter.enforces else decision._replace(allowed=True)


async def hit_all(charges: Sequence[Charge], *, spend: bool = True) -> list[Decision]:
    """Make several hits, if each is within its limiter's rates; else none. The decisions come in the same order.

    What a shared store counts is one question to it, with one timeout; so they all share one, or it is a ValueError.

    Args:
        charges: What to spend.
        spend: Whether to spend it; False only returns whether that would be allowed.
    """
    for charge in charges:
        charge.test_here()
    shared = [charge for charge in charges if charge.store is not None]
    if shared and not _refuse(charges):
        await _ask(shared, spend=spend)
    spends = spend and not _refuse(charges)
    return [charge.settle(spends=spends) for charge in charges]


async def _ask(charges: Sequence[Charge], *, spend: bool) -> None:
    store, *others = {charge.store for charge in charges}
    if store is None or others:
        raise ValueError("limiters that are hit together share one store: give all of them the same one")
    if not await store.ask(partial(_test_and_hit, store, charges, spend=spend)):
        for charge in charges:
            charge.fall_back()


async def _test_and_hit(store: SharedStore, charges: Sequence[Charge], *, spend: bool) -> None:
    for charge in charges:
        name, items = charge.limiter.name, charge.limiter.items
        charge.decision = strictest([await store.test(item, charge.cost, name, charge.key) for item in items])
    if not spend or _refuse(charges):
        return
    for charge in charges:
        for item in charge.limiter.items if charge.decision.allowed else ():
            if not await store.hit(item, charge.cost, charge.limiter.name, charge.key):
                # Another request was quicker since the test.
                wait = charge.decision.reset_after
                charge.decision = charge.decision._replace(allowed=False, remaining=0, retry_after=wait)


def _refuse(charges: Sequence[Charge]) -> bool:
    # A loop: any() with a generator costs twice as much for so few.
    for charge in charges:  # noqa: SIM110 - see above
        if charge.refuses:
            return True
    return False


def _item(rate: Rate) -> RateLimitItem:
    if rate.size != rate.amount or rate.period != int(rate.period):
        validation.refuse(
            "RateLimiter.rates",
            rate,
            "without a burst, and of whole seconds, where a store is shared",
            example="'100/minute'",
        )
    from limits import RateLimitItemPerSecond  # noqa: PLC0415 - see `ratelimit_store`

    return RateLimitItemPerSecond(rate.amount, int(rate.period), namespace="POSTFACTA")
