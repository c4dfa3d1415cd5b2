"""Decide whether a call that failed is tried again, and after which wait.

1. An error is retryable, or it is not; only the caller knows whether a call may be made twice. What was
   refused before it began may always be.
2. A retryable error may carry a wait of its own, `retry_after`. The next try comes no sooner, and some jitter
   later: callers that were given the same moment must not return at the same moment. A wait below 0, infinite or
   nan says: do not try again. (gRPC's gRFC A6 reads a negative pushback so.)
3. At most `max_attempts` tries are made, and none whose wait would end at the deadline or after it.
4. The budget is asked last, so a retry refused for another reason costs no token.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, cast

from ..backoff import Backoff
from ..clock import Clock
from ..errors import (
    BodyTooLargeError,
    BodyTooSlowError,
    DrainingError,
    HeadersTooLargeError,
    RejectedError,
)
from ..events import Observer, PolicyCreated, Sample, ignore
from ..validation import validation

__all__ = [
    "RetryBudget",
    "RetryOutcome",
    "RetryPlan",
    "RetryRules",
    "Retryable",
    "Throttled",
    "asked_wait",
    "may_repeat",
]

# Refused for what the request is, or for good: it is safe to send it again, and of no use.
_FUTILE: Final = (BodyTooLargeError, BodyTooSlowError, HeadersTooLargeError, DrainingError)

Retryable = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]
"""Which errors a call may be made again after: types, beside those of `may_repeat`, or a function that alone decides."""

Throttled = Callable[[Exception], float | None]
"""How many seconds an error asks to wait: None if it does not say, `math.inf` for no other try at all."""


class RetryOutcome(StrEnum):
    """How one try ended. Each try has exactly one; a cancelled one has none.

    `SUCCESS` is a first try that answered, `RECOVERED` a later one. After `RETRIED` another try was scheduled.
    Nothing followed the others: `FAILURE` is an error that is not retryable; `EXHAUSTED` was the last try;
    `BUDGET_REFUSED` found the budget empty; `DEADLINE` had a wait that was too long; `NESTED` was tried again
    further in already; `SHADOW` would have been tried again, but for the mode.
    """

    SUCCESS = "success"
    RECOVERED = "recovered"
    RETRIED = "retried"
    FAILURE = "failure"
    EXHAUSTED = "exhausted"
    BUDGET_REFUSED = "budget_refused"
    DEADLINE = "deadline"
    NESTED = "nested"
    SHADOW = "shadow"


class RetryBudget:
    """How many retries a dependency gets: a share of the calls, and some each second besides.

    One budget for one dependency, shared by all that try it again: with the dependency down, it sees no more
    than `1 + ratio` times the calls, and the floor. In any stretch of time, whatever happens in it, there are at
    most `burst + ratio * calls + floor * seconds` further tries.

    A share with a floor is that of Finagle's `RetryBudget` and of chapter 21 of Google's SRE book. Finagle forgets
    what is older than 10 seconds; here a token bucket with a cap does the same in constant time and space. It
    starts full.

    Threads may share it. `deposit` and `try_withdraw` hold no call and no loop between reading and writing the
    tokens, and CPython changes threads nowhere else: with the GIL, each is atomic. Without it, two threads may
    now and then spend one token twice, and nothing worse.

    Args:
        name: The dependency's, as metrics show it.
        ratio: Further tries for each call. With the number of tries less 1 it never refuses.
        floor: Further tries a second besides, so that a few calls an hour can be tried again too.
        burst: The most that is saved up: by default what the default floor gives in Finagle's 10 seconds.

    Attributes:
        is_fed: A `Retry` pays in for its calls. Then a `Hedge` does not: its calls are, as a rule, tries of those.

    Raises:
        ValueError: If a number is below 0 or infinite, if nothing would ever come in, or if the burst is below 1.
    """

    __slots__ = (
        "__weakref__",
        "_at",
        "_burst",
        "_clock",
        "_floor",
        "_ratio",
        "_tokens",
        "is_fed",
        "name",
    )

    def __init__(self, name: str, *, ratio: float = 0.2, floor: float = 10.0, burst: float = 100.0) -> None:
        self.name: str = validation.name("RetryBudget.name", name)
        validation.number("RetryBudget.ratio", ratio, at_least=0, example="ratio=0.2")
        validation.number("RetryBudget.floor", floor, at_least=0, example="floor=10.0")
        validation.number("RetryBudget.burst", burst, at_least=1, example="burst=100.0")
        if ratio == floor == 0:
            validation.refuse("RetryBudget.ratio", ratio, "above 0 where the floor is 0", example="ratio=0.2")
        self.is_fed: bool = False
        self._ratio = ratio
        self._floor = floor
        self._burst = burst
        self._tokens = burst
        # Before any moment: the first one fills what is full. Not -inf, of which a floor of 0 would make a nan.
        self._at = -sys.float_info.max
        self._clock: Clock | None = None

    def deposit(self) -> None:
        """Add the share of one call, whatever its outcome. The excess over the burst is dropped later."""
        self._tokens += self._ratio

    def try_withdraw(self, now: float) -> bool:
        """Take a token for one retry; False if there is none."""
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

    def announce(self, observer: Observer, clock: Clock) -> None:
        """Announce the budget to an observer. Each guard that spends from it offers its own; the first one gets it.

        Args:
            observer: `ignore` counts as none.
            clock: The time of each read.
        """
        if observer is ignore or self._clock is not None:
            return
        self._clock = clock
        observer(PolicyCreated(self.name, self.tally))

    def tally(self) -> Iterable[Sample]:
        """Yield its counts, for metrics; none before it was announced."""
        if self._clock is not None:
            yield Sample("postfacta_retry_budget_tokens", (self.name,), self.tokens(self._clock()))


def may_repeat(error: Exception) -> bool:
    """Return whether a call that failed so may be made again, whatever it does.

    That is so after a `RejectedError`, as the work never began; but not if it is about the request itself, such as a
    body that is too large, or about this service that stops. And after an error that says so by its `is_repeatable`, as
    `Outgoing` has it.
    """
    is_repeatable = getattr(error, "is_repeatable", None)
    if isinstance(is_repeatable, bool):
        return is_repeatable
    return isinstance(error, RejectedError) and not isinstance(error, _FUTILE)


def asked_wait(error: Exception) -> float | None:
    """Read the error's `retry_after`, if it has one that is a number."""
    seconds = getattr(error, "retry_after", None)
    return float(seconds) if isinstance(seconds, int | float) else None


@dataclass(frozen=True, slots=True)
class RetryPlan:
    """The decision after a failed try: another after `delay` seconds if the outcome is `RETRIED`, else none."""

    outcome: RetryOutcome
    delay: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRules:
    """Which errors are tried again, how often, and after which waits.

    Attributes:
        attempts: The most tries of one call, the first included; 1 only counts.
        backoff: The waits between them.
        max_wait: The longest wait in seconds, also where no deadline bounds it: a dependency that asks for more
            is not tried again. The answer is late, and the caller's own retry is better.
        retryable: Types of errors beside those of `may_repeat`, or a function that alone decides.
        throttled: Reads how long an error asks to wait.
    """

    attempts: int = 3
    backoff: Backoff = Backoff()  # noqa: RUF009 - it is frozen
    max_wait: float = 30.0
    retryable: Retryable = ()
    throttled: Throttled = asked_wait

    def __post_init__(self) -> None:
        validation.whole("Retry.attempts", self.attempts, example="attempts=3")
        validation.instance("Retry.backoff", self.backoff, Backoff, example="Backoff(base=0.1)")
        validation.seconds("Retry.max_wait", self.max_wait, example="max_wait=30.0")
        if isinstance(cast("object", self.retryable), type | tuple) or not callable(self.retryable):
            validation.error_types("Retry.retryable", self.retryable, example="retryable=ConnectionError")
        validation.function("Retry.throttled", self.throttled, example="throttled=asked_wait")

    def plan(self, error: Exception, attempt: int, *, now: float, deadline: float, luck: float) -> RetryPlan:
        """Decide about a retry, apart from the budget. Both functions may raise anything.

        Args:
            error: What the try raised.
            attempt: Which try it was, from 1.
            now: Monotonic seconds.
            deadline: On the same clock; `math.inf` for none.
            luck: From 0 up to, not including, 1.
        """
        if not self._is_retryable(error):
            return RetryPlan(RetryOutcome.FAILURE)
        asked = self.throttled(error)
        if asked is not None and not 0 <= asked < math.inf:
            return RetryPlan(RetryOutcome.FAILURE)
        if attempt >= self.attempts:
            return RetryPlan(RetryOutcome.EXHAUSTED)
        delay = (asked or 0.0) + self.backoff.delay(attempt, luck)
        if delay > self.max_wait or now + delay >= deadline:
            return RetryPlan(RetryOutcome.DEADLINE)
        return RetryPlan(RetryOutcome.RETRIED, delay)

    def _is_retryable(self, error: Exception) -> bool:
        if isinstance(cast("object", self.retryable), type | tuple):
            return may_repeat(error) or isinstance(error, cast("tuple[type[Exception], ...]", self.retryable))
        return cast("Callable[[Exception], bool]", self.retryable)(error)
