"""Decide whether a caller is within its rate, in a bounded memory whose cost does not grow.

1. A rate is a token bucket, kept as one moment a key: the one at which all that it spent has come
   back (GCRA, the "theoretical arrival time" of ITU-T I.371). In no window of `t` seconds a key
   gets more than `amount + t * amount / period`. What is refused costs nothing.
2. Only keys whose moment has passed are forgotten, so that no client can push out a caller by
   inventing others.
3. When the table is full, an unknown key is counted in one of 1,024 coarse buckets, picked by its
   hash, together with the others there. So it never gets more than its rate, but may get less.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, NamedTuple

from ..validation import validation

MAX_KEYS: Final = 100_000  # Some 18 MB for each rate, if they are addresses.
# Moments that keys share, by their hash, once the table is full.
COARSE: Final = 1024
LONGEST_KEY: Final = 128  # Characters: see `shorten`.
# Up to here a float counts without a gap.
_MOST: Final = 2**53
# The old keys checked with each new one: more than one, so that a table shrinks as well as it
# grows.
_LOOKS: Final = 2
_LOOKS_AT_THE_BOUND: Final = 8  # Of a full table: a new key finds a place more often.
# Of one interval: sums of floats may be off by less, and it never adds up to one more.
_ROUNDING: Final = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """An amount per period.

    Attributes:
        amount: What comes back in each period, and may be spent at once.
        period: Seconds.
    """

    amount: int
    period: float

    def __post_init__(self) -> None:
        validation.whole("Rate.amount", self.amount, at_most=_MOST, example="amount=100")
        validation.seconds("Rate.period", self.period, example="period=60.0")


class Decision(NamedTuple):
    """A decision, and what the caller has left.

    Attributes:
        allowed: Whether it may; then the cost is spent.
        limit: The amount of the rate that this is about: of several, the one that refused, or has
            the least left.
        remaining: What could be spent right now, in whole units.
        reset_after: Seconds until nothing counts as spent any more.
        retry_after: Seconds until the same could be allowed: 0 if it was, `math.inf` if its cost is
            above the amount.
        period: Seconds of the rate that this is about.
    """

    allowed: bool
    limit: int
    remaining: int
    reset_after: float
    retry_after: float
    period: float


# A named tuple's own constructor is a Python function: twice as long.
_new: Final[Callable[[type[Decision], tuple[float, ...]], Decision]] = vars(tuple)["__new__"]


def shorten(key: str) -> str:
    """Bound the memory that a key takes: the end of a long one becomes its hash."""
    if len(key) <= LONGEST_KEY:
        return key
    # Not `hash`, which differs by process: in a shared store each would count for itself.
    digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{key[:64]}#{digest}"


class Buckets:
    """One rate, for each of a bounded number of keys."""

    __slots__ = (
        "_amount",
        "_coarse",
        "_interval",
        "_max_keys",
        "_per_second",
        "_period",
        "_span",
        "until",
    )

    def __init__(self, rate: Rate, max_keys: int = MAX_KEYS) -> None:
        self._amount = rate.amount
        self._period = rate.period
        self.until: OrderedDict[str, float] = OrderedDict()  # The moment of each key.
        self._max_keys = validation.whole(
            "RateCounter.max_keys", max_keys, example="max_keys=100_000"
        )
        self._interval = rate.period / rate.amount
        self._per_second = rate.amount / rate.period
        self._span = (rate.amount + _ROUNDING) * self._interval
        self._coarse = [-math.inf] * COARSE

    def __len__(self) -> int:
        return len(self.until)

    def spend(self, key: str, cost: int, now: float) -> Decision:
        """Spend it if that is within the rate; a refusal changes nothing."""
        until = self.until.get(key)
        previous = self._coarse[hash(key) % COARSE] if until is None else until
        after = max(now, previous) + cost * self._interval
        if after > now + self._span:
            spent = after - cost * self._interval
            left = int(max(0.0, now + self._span - spent) * self._per_second)
            wait = math.inf if cost > self._amount else after - self._span - now
            return _new(Decision, (False, self._amount, left, spent - now, wait, self._period))
        if until is not None:
            self.until[key] = after
        elif not self.admit(key, after, now):
            self._coarse[hash(key) % COARSE] = after
        left = int((now + self._span - after) * self._per_second)
        return _new(Decision, (True, self._amount, left, after - now, 0.0, self._period))

    def refund(self, key: str, cost: int, now: float) -> None:
        back = cost * self._interval
        if key not in self.until:
            self._coarse[hash(key) % COARSE] -= back
        elif (until := self.until[key] - back) > now:
            self.until[key] = until
        else:
            del self.until[key]

    def admit(self, key: str, until: float, now: float) -> bool:
        """Add a key that is not there.

        False if there is no room, and none of those looked at may go.
        """
        moments = self.until
        looks = _LOOKS if len(moments) < self._max_keys else _LOOKS_AT_THE_BOUND
        for _ in range(min(looks, len(moments))):
            first = next(iter(moments))
            if moments[first] > now:
                moments.move_to_end(first)
            else:
                del moments[first]
        if len(moments) >= self._max_keys:
            return False
        moments[key] = until
        return True


class BucketSet:
    """Several rates that hold together: what one refuses is spent from none."""

    __slots__ = ("_buckets",)

    def __init__(self, buckets: Sequence[Buckets]) -> None:
        self._buckets = buckets

    def __len__(self) -> int:
        return max(map(len, self._buckets))

    def spend(self, key: str, cost: int, now: float) -> Decision:
        decisions = [buckets.spend(key, cost, now) for buckets in self._buckets]
        strict = strictest(decisions)
        if not strict.allowed:
            for buckets, decision in zip(self._buckets, decisions, strict=True):
                if decision.allowed:
                    buckets.refund(key, cost, now)
        return strict

    def refund(self, key: str, cost: int, now: float) -> None:
        for buckets in self._buckets:
            buckets.refund(key, cost, now)


def buckets_of(rates: Sequence[Rate], max_keys: int = MAX_KEYS) -> Buckets | BucketSet:
    """Return the budgets of one rate or more: one alone, the common case, pays for no other."""
    buckets = [Buckets(rate, max_keys) for rate in rates]
    return buckets[0] if len(buckets) == 1 else BucketSet(buckets)


def strictest(decisions: Sequence[Decision]) -> Decision:
    """Return the decision with the longest wait, or else the least left."""
    strict, *more = decisions
    for decision in more:
        if not decision.allowed:
            if strict.allowed or decision.retry_after > strict.retry_after:
                strict = decision
        elif strict.allowed and decision.remaining < strict.remaining:
            strict = decision
    return strict
