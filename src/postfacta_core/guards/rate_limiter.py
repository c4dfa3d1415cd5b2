"""Keep calls to a dependency within its rate: wait in order, or refuse."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from functools import partial
from typing import Any, ClassVar, Final

from ..clock import MONOTONIC, Clock
from ..context import add_wait
from ..deadlines.present import time_to_wait
from ..errors import RateLimitExceededError
from ..events import Mode, Observer, process_observer
from ..limits._rates import Rate, buckets_of, shorten
from ..limits.rate import Rates, parse_rates
from ..validation import validation
from ._guard import BlockGuard, innermost
from ._waits import Waiting, Wake

_LATER: Final = 1e-6  # Sums of floats may be off by less.


class RateLimiter(BlockGuard):
    """Let calls through at the rate that a partner allows, let others wait, and refuse the rest.

    The rate is this process's; for a limit of requests that come in see `HardenOptions`.

    * A caller waits no longer than its request or an outer `Timeout` gives it. One that would have
      to is refused at once.
    * Turns of a key are given in FIFO order. A caller that is cancelled while it waits has used up
      its own.

    Args:
        rates: One or more, such as `"10/second;1000/hour"`.
        max_wait: How long a caller may wait, in seconds; 0 refuses.
        key: Makes a key from the arguments of the call, each with a rate of its own; by default all
            calls share it.
        mode: `SHADOW` counts what it would refuse or hold up, `OFF` does nothing.
    """

    kind = "rate_limiter"
    metric = "postfacta_ratelimit_decisions_total"
    kinds: ClassVar[tuple[str, ...]] = ("allowed", "limited")

    def __init__(
        self,
        name: str,
        rates: Rates,
        *,
        max_wait: float = 0.0,
        key: Callable[..., str] | None = None,
        mode: Mode | str = Mode.ENFORCE,
        observer: Observer | None = process_observer,
        clock: Clock = MONOTONIC,
    ) -> None:
        super().__init__(name, mode=mode, observer=observer, clock=clock)
        self.rates: tuple[Rate, ...] = parse_rates(rates, field="RateLimiter.rates")
        self._max_wait = validation.number(
            "RateLimiter.max_wait", max_wait, at_least=0, example="max_wait=2.0"
        )
        if key is not None:
            validation.function("RateLimiter.key", key, example="key=lambda tenant: tenant")
        self._key = key
        self._may_wait = max_wait > 0
        self._buckets = buckets_of(self.rates)
        self._waiting = 0
        self._numbers = {"rates": rates, "max_wait": max_wait}
        self._announce(
            rates=";".join(f"{rate.amount}/{rate.period:g}s" for rate in self.rates),
            max_wait=max_wait,
        )

    def status(self) -> Mapping[str, object]:
        """Return how many callers wait."""
        return {"waiting": self._waiting}

    def _adopt(self, draft: RateLimiter) -> None:
        self._max_wait = draft._max_wait
        self._may_wait = draft._may_wait
        if draft.rates != self.rates:
            self.rates = draft.rates
            self._buckets = draft._buckets

    def _enter(self, function: Any, args: Any, kwargs: Any) -> Waiting[None] | None:
        if self._mode is Mode.OFF:
            return None
        key = ""
        if self._key is not None and function is not None:
            _, args, kwargs = innermost(function, args, kwargs)
            key = shorten(self._key(*args, **kwargs))
        self._acquire()
        try:
            now = self._clock()
            decision = self._buckets.spend(key, 1, now)
            if decision.allowed:
                self._counts["allowed"] += 1
                return None
            wait = decision.retry_after
            enforces = self._mode is Mode.ENFORCE
            if enforces and self._max_wait > 0 and wait <= time_to_wait(self._max_wait):
                # Its turn is spent now: who comes after it gets a later one.
                self._buckets.spend(key, 1, now + wait + _LATER)
                self._counts["allowed"] += 1
                return partial(self._wait, now + wait + _LATER)
            self._counts["limited"] += 1
        finally:
            self._release()
        if enforces:
            raise RateLimitExceededError(self.name, wait if 0 < wait < math.inf else None)
        return None

    def _wait(self, turn: float, wake: Wake) -> Generator[float, None, None]:
        began = self._clock()
        # Without the lock: no call stands between reading and writing it.
        self._waiting += 1
        try:
            while (left := turn - self._clock()) > 0:
                yield left
        finally:
            self._waiting -= 1
            add_wait(self._clock() - began)
