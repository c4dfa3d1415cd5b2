"""How many further tries a dependency gets from all that call it."""

from __future__ import annotations

import sys
import threading

from ..events import Sample
from ..validation import validation


class RetryBudget:
    """How many retries a dependency gets: a share of the calls, and some each second besides.

    One budget for one dependency, shared by all that try it again, in tasks or threads. In any
    stretch of time there are at most `burst + ratio * calls + floor * seconds` further tries.

    A share with a floor is that of Finagle's `RetryBudget` and of chapter 21 of Google's SRE book;
    here it is a token bucket, which starts full.

    Args:
        name: The dependency's, as metrics show it.
        ratio: Further tries for each call, above 0 without a floor. The number of tries less 1,
            with a `burst` of that times the calls at once, refuses none.
        floor: Further tries a second besides, so that a few calls an hour can be tried again too;
            from 0 up.
        burst: The most that is saved up, from 1 up: by default what the default floor gives in
            Finagle's 10 seconds.

    Attributes:
        is_fed: A `Retry` pays in for its calls. Then a `Hedge` does not: its calls are, as a rule,
            tries of those.
    """

    def __init__(
        self, name: str, *, ratio: float = 0.2, floor: float = 10.0, burst: float = 100.0
    ) -> None:
        self.name: str = validation.name("RetryBudget.name", name)
        validation.number("RetryBudget.ratio", ratio, at_least=0, example="ratio=0.2")
        validation.number("RetryBudget.floor", floor, at_least=0, example="floor=10.0")
        validation.number("RetryBudget.burst", burst, at_least=1, example="burst=100.0")
        if ratio == floor == 0:
            validation.refuse(
                "RetryBudget.ratio", ratio, "above 0 where the floor is 0", example="ratio=0.2"
            )
        self.is_fed: bool = False
        self._ratio = ratio
        self._floor = floor
        self._burst = burst
        self._tokens = burst
        # Before any moment: the first one fills what is full. Not -inf, of which a floor of 0 would
        # make a nan.
        self._at = -sys.float_info.max
        self._lock = threading.Lock()

    def deposit(self) -> None:
        """Add the share of one call, whatever its outcome, without a lock.

        A share may be lost where there is no GIL.
        """
        self._tokens += self._ratio

    def try_withdraw(self, now: float) -> bool:
        """Take a token for one retry; False if there is none."""
        with self._lock:
            # No call stands between reading and writing the tokens: CPython lets no `deposit` come
            # between.
            tokens = self._tokens
            if now > self._at:
                tokens += (now - self._at) * self._floor
                self._at = now
            tokens = tokens if tokens < self._burst else self._burst  # noqa: FURB136 - min() is a call
            allowed = tokens >= 1.0
            self._tokens = tokens - 1.0 if allowed else tokens
        return allowed

    def tokens(self, now: float) -> float:
        """Return how many retries could be made now, without taking any."""
        return min(self._burst, self._tokens + max(0.0, now - self._at) * self._floor)

    def sample(self, now: float) -> Sample:
        """Return its tokens, for metrics: each guard that spends from it shows them."""
        return Sample("postfacta_retry_budget_tokens", (self.name,), self.tokens(now))
