"""Keep callers within their rates, in this process or in a store that several share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Final, Protocol, cast, runtime_checkable

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
    Buckets,
    BucketSet,
    Decision as Decision,
    Rate as Rate,
    buckets_of,
    shorten,
    strictest as strictest,
)

Rates = str | Rate | Sequence[Rate]
"""One or more rates: in the notation of `limits`, such as `10/second;1000/hour`, or as `Rate`."""

DECISIONS: Final[tuple[str, ...]] = ("allowed", "limited", "local")
"""How a hit can end; `local` if it was allowed while the store is away."""

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
        # As slow to import as a quarter of all else that `harden` imports.
        from limits import parse_many  # noqa: PLC0415

        with suppress(ValueError):
            return tuple(
                Rate(amount=item.amount, period=float(item.get_expiry()))
                for item in parse_many(rates)
            )
    elif isinstance(cast("object", rates), Sequence) and rates:
        return tuple(validation.instance(field, rate, Rate, example=_EXAMPLE) for rate in rates)
    return validation.refuse(field, rates, "one or more rates", example=_EXAMPLE)


@runtime_checkable
class Store(AbstractAsyncContextManager[object], Protocol):
    """Counts that several processes share, such as `postfacta_adapters.limits.SharedStore`.

    Attributes:
        is_up: Whether it answered last.
    """

    is_up: bool

    def subscribe(self, rates: Sequence[Rate], tell: Callable[[bool, str], None]) -> None:
        """Get ready for these rates, and report each change.

        Whether it is there, and the class of the error.

        Raises:
            ValueError: If it cannot count one of them.
        """

    async def decide(self, charges: Sequence[Charge], *, spend: bool) -> list[Decision] | None:
        """Decide as `hit_all` does, soon, and without raising; None if it is away."""


def check_store(field: str, store: object) -> None:
    """Raise ValueError if it is neither a store nor None.

    An address may hold a password, so no error repeats it.
    """
    if store is not None and not isinstance(store, Store):
        example = 'SharedStore("async+valkey://valkey:6379") of postfacta_adapters.limits'
        validation.refuse(field, type(store), "a Store, or None", example=example)


class RateCounter:
    """Limits the rate of each caller.

    In memory it is a token bucket for each key (see `limits._rates`), at a microsecond for a hit. A
    shared store is asked twice for each rate; while it is away each process counts by itself,
    beginning with full budgets. Several rates hold together: what one refuses is not spent from the
    others.

    Args:
        name: Names it in metrics, events and the RateLimit fields.
        rates: Such as `100/minute`, or `10/second;1000/hour`.
        store: A shared store; None keeps the counts in this process.
        max_keys: The most callers kept in memory for each rate.
        mode: In `shadow` it counts, and lets all pass; in `off` it does not even count.
        observer: Receives changes of the store's availability and of the mode. It may raise. By
            default the process's, see `asgi.Telemetry`; None for none.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        rates: Rates,
        *,
        store: Store | None = None,
        max_keys: int = MAX_KEYS,
        mode: Mode | str = Mode.ENFORCE,
        observer: Observer | None = process_observer,
        clock: Clock = MONOTONIC,
    ) -> None:
        # It stands in the RateLimit fields, where quotes would have to be escaped.
        example = 'RateCounter("partner", "10/second")'
        self.name: str = validation.name("RateCounter.name", name, example=example)
        self.rates: tuple[Rate, ...] = parse_rates(rates, field="RateCounter.rates")
        validation.functions("RateCounter", clock=clock)
        check_store("RateCounter.store", store)
        self.store: Store | None = store
        if store is not None:
            store.subscribe(
                self.rates, lambda is_up, error: self._observe(StoreChanged(name, is_up, error))
            )
        self.buckets: Buckets | BucketSet = buckets_of(self.rates, max_keys)
        self.clock: Clock = clock
        self._counts: dict[Mode, dict[str, int]] = {
            mode: dict.fromkeys(DECISIONS, 0) for mode in Mode
        }
        self._spend = self.buckets.spend
        # Any thread may hit it: a table of keys is no atomic thing.
        self.lock: threading.RLock = threading.RLock()
        self._observe = observing("RateCounter", name, observer)
        self._set_mode(validation.choice("RateCounter.mode", mode, Mode))
        self._observe(PolicyCreated(name, self.tally))

    @property
    def mode(self) -> Mode:
        """How its decisions are used; it may be set at any time."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode | str) -> None:
        old = self._mode
        new = validation.choice("RateCounter.mode", mode, Mode)
        self._set_mode(new)
        if new is not old:
            self._observe(ModeChanged(self.name, old, new))

    def _set_mode(self, mode: Mode) -> None:
        self._mode = mode
        self.counted: dict[str, int] = self._counts[mode]
        self.is_off: bool = mode is Mode.OFF
        self.enforces: bool = mode is Mode.ENFORCE

    async def hit(self, key: str, cost: int = 1) -> Decision:
        """Spend a cost for a key, if it is within all rates.

        A store is waited for no longer than its timeout.

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
        with self.lock:
            decision = self._spend(key, cost, self.clock())
            self.counted["allowed" if decision.allowed else "limited"] += 1
        return decision if decision.allowed or self.enforces else decision._replace(allowed=True)

    def charge(self, key: str, cost: int = 1) -> Charge:
        """Prepare one hit, to be made together with those of other limiters by `hit_all`."""
        if cost < 0:
            raise ValueError(_NEGATIVE)
        return self, shorten(key), cost

    def tally(self) -> Iterator[Sample]:
        """Yield the counts that are not 0, and those of the present mode in any case."""
        for mode, numbers in self._counts.items():
            for decision, number in numbers.items():
                if number or (numbers is self.counted and decision in DECISIONS[:2]):
                    yield Sample(
                        "postfacta_ratelimit_decisions_total", (self.name, decision, mode), number
                    )
        yield Sample("postfacta_ratelimit_keys", (self.name,), len(self.buckets))
        if self.store is not None:
            yield Sample("postfacta_ratelimit_store_up", (self.name,), float(self.store.is_up))


Charge = tuple[RateCounter, str, int]
"""One hit on its way to a decision, as `RateCounter.charge` makes it.

Who counts it, its key and its cost.
"""


async def hit_all(charges: Sequence[Charge], *, spend: bool = True) -> list[Decision]:
    """Make several hits, if each is within its limiter's rates; else none.

    The decisions come in the same order.

    A shared store is asked once, with one timeout; so limiters that are hit together have the same
    store or none, or it is a ValueError.

    Args:
        charges: What to spend.
        spend: Whether to spend it; False only returns whether that would be allowed.
    """
    are_off = [limiter.is_off for limiter, _, _ in charges]
    active = [charge for charge, is_off in zip(charges, are_off, strict=True) if not is_off]
    stores = {limiter.store for limiter, _, _ in active}
    if len(stores) > 1:
        raise ValueError(
            "limiters that are hit together share one store: give all of them the same one"
        )
    store = stores.pop() if stores else None
    results = None if store is None else await store.decide(active, spend=spend)
    if results is None:
        results = hit_here(active, spend=spend, allowed="allowed" if store is None else "local")
    else:
        for (limiter, _, _), decision in zip(active, results, strict=True):
            limiter.counted["allowed" if decision.allowed else "limited"] += 1
    decisions = iter(results)
    all_decisions = [_UNLIMITED if is_off else next(decisions) for is_off in are_off]
    return [
        decision if decision.allowed or limiter.enforces else decision._replace(allowed=True)
        for (limiter, _, _), decision in zip(charges, all_decisions, strict=True)
    ]


def hit_here(
    charges: Sequence[Charge], *, spend: bool = True, allowed: str = "allowed"
) -> list[Decision]:
    """Make several hits of limiters that are on, in this process's memory.

    Shadows refuse here, too.
    """
    # All are spent, and given back if one refuses. Another thread may be refused in between.
    decisions: list[Decision] = []
    is_refused = not spend
    for limiter, key, cost in charges:
        with limiter.lock:
            decision = limiter.buckets.spend(key, cost, limiter.clock())
            limiter.counted[allowed if decision.allowed else "limited"] += 1
        decisions.append(decision)
        is_refused = is_refused or (not decision.allowed and limiter.enforces)
    if is_refused:
        for (limiter, key, cost), decision in zip(charges, decisions, strict=True):
            if decision.allowed:
                with limiter.lock:
                    limiter.buckets.refund(key, cost, limiter.clock())
    return decisions
