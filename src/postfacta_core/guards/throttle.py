"""Keep calls to a dependency within its rate: wait in order, or refuse."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, ClassVar

from ..clock import MONOTONIC, Clock
from ..context import add_wait
from ..deadlines.present import time_to_wait
from ..errors import RateLimitExceededError
from ..events import Mode, Observer, process_observer
from ..limits._rates import BucketSet, Rate, shorten
from ..limits.rate import Rates, parse_rates
from ..validation import validation
from ._guard import BlockGuard, Waiting, Wake, innermost


class Throttle(BlockGuard):
    """Let calls through at the rate that a partner allows, let others wait for their turn, and refuse the rest.

    The rate is this process's; for a limit of requests that come in see `RateLimitMiddleware`.

    * A caller waits no longer than its request or an outer `Timeout` gives it. One that would have to is refused at once.
    * Callers of a key are admitted in FIFO order. A call counts when it begins, whatever becomes of it.

    Args:
        rates: One or more, such as `"10/second;1000/hour"`.
        max_wait: How long a caller may wait, in seconds; 0 refuses.
        key: Makes a key from the arguments of the call, each with a rate of its own; by default all calls share it.
        mode: `SHADOW` counts what it would refuse or hold up, `OFF` does nothing.
    """

    kind = "throttle"
    metric = "postfacta_ratelimit_decisions_total"
    kinds: ClassVar[tuple[str, ...]] = ("allowed", "limited")
    example = 'Throttle("partner", "10/second")'

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
        self.rates: tuple[Rate, ...] = parse_rates(rates, field="Throttle.rates")
        validation.number("Throttle.max_wait", max_wait, at_least=0, example="max_wait=2.0")
        if key is not None:
            validation.function("Throttle.key", key, example="key=lambda tenant: tenant")
        self._max_wait = max_wait
        self._key = key
        self._buckets = BucketSet(self.rates)
        # Those who wait for a key, in order: how each is woken.
        self._lines: dict[str, deque[Wake]] = {}
        self._mode_was_set()
        shown = ";".join(f"{rate.amount}/{rate.period:g}s" for rate in self.rates)
        self._announce(rates=shown, max_wait=max_wait)

    def status(self) -> Mapping[str, object]:
        """Return how many callers wait."""
        return {"waiting": sum(map(len, tuple(self._lines.values())))}

    def _enter(self, function: Any, args: Any, kwargs: Any) -> Waiting[None] | None:
        if self._mode is Mode.OFF:
            return None
        key = ""
        if self._key is not None and function is not None:
            _, args, kwargs = innermost(function, args, kwargs)
            key = shorten(self._key(*args, **kwargs))
        self._acquire()
        try:
            wait = self._wait_for(key) if key not in self._lines else 0.0
            if wait is None:
                return None
            if self._mode is not Mode.ENFORCE:
                self._counts["limited"] += 1
                return None
            if wait > self._max_wait or self._max_wait == 0:
                raise self._refusal(wait)
        finally:
            self._release()
        return self._wait(key)

    def _wait_for(self, key: str) -> float | None:
        """Spend one call, and return None; or return the seconds until there may be one."""
        decision = self._buckets.spend(key, 1, self._clock())
        if decision.allowed:
            self._counts["allowed"] += 1
            return None
        return decision.retry_after

    def _refusal(self, wait: float) -> RateLimitExceededError:
        self._counts["limited"] += 1
        return RateLimitExceededError(self.name, wait if 0 < wait < math.inf else None)

    def _wait(self, key: str) -> Waiting[None]:
        wake = yield 0.0
        began = self._clock()
        patience = time_to_wait(self._max_wait, began)
        with self._lock:
            line = self._lines.setdefault(key, deque())
            line.append(wake)
        try:
            while True:
                left = began + patience - self._clock()
                with self._lock:
                    is_first = line[0] is wake
                    wait = self._wait_for(key) if is_first else left
                    if wait is None or self._mode is not Mode.ENFORCE:
                        return
                    if wait > left or left <= 0:
                        raise self._refusal(wait)
                yield wait
        finally:
            add_wait(self._clock() - began)
            with self._lock:
                was_first = line[0] is wake
                line.remove(wake)
                if not line:
                    del self._lines[key]
                elif was_first:
                    # One whose event loop is closed leaves when its coroutine is closed, and wakes the next.
                    with suppress(RuntimeError):
                        line[0]()
