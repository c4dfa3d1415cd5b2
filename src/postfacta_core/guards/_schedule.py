"""Decide whether a call that failed is tried again, and after which wait.

1. An outcome is retryable, or it is not; only the caller knows whether a call may be made twice. What was
   refused before it began may always be.
2. A retryable outcome may carry a wait of its own, `retry_after`. The next try comes no sooner, and some jitter
   later: callers that were given the same moment must not return at the same moment. A wait below 0, infinite or
   nan says: do not try again. (gRPC's gRFC A6 reads a negative pushback so.)
3. At most `max_attempts` tries are made, and none whose wait would end at the deadline or after it.
4. The budget is asked last, so a retry refused for another reason costs no token.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from ..backoff import Backoff
from ..errors import (
    BodyTooLargeError,
    BodyTooSlowError,
    DrainingError,
    HeadersTooLargeError,
    RejectedError,
)
from ..validation import validation
from ._outcome import On, Outcome, asked_by, check_on

# Refused for what the request is, or for good: it is safe to send it again, and of no use.
_FUTILE: Final = (BodyTooLargeError, BodyTooSlowError, HeadersTooLargeError, DrainingError)


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


@dataclass(frozen=True, slots=True)
class RetryPlan:
    """The decision after a failed try: another after `delay` seconds if the outcome is `RETRIED`, else none."""

    outcome: RetryOutcome
    delay: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRules:
    """Which outcomes are tried again, how often, and after which waits: the arguments of `Retry` of these names.

    `max_wait` holds also where no deadline bounds a wait: then the answer is late, and the caller's own retry is better.
    """

    attempts: int = 3
    backoff: Backoff = Backoff()  # noqa: RUF009 - it is frozen
    max_wait: float = 30.0
    on: On = ()
    retry_after: Callable[[Outcome[Any]], float | None] = asked_by

    def __post_init__(self) -> None:
        validation.whole("Retry.attempts", self.attempts, example="attempts=3")
        validation.instance("Retry.backoff", self.backoff, Backoff, example="Backoff(base=0.1)")
        validation.seconds("Retry.max_wait", self.max_wait, example="max_wait=30.0")
        check_on("Retry.on", self.on, example="on=ConnectionError")
        validation.function("Retry.retry_after", self.retry_after, example="retry_after=asked_by")

    def plan(
        self, outcome: Outcome[Any], attempt: int, *, now: float, deadline: float, luck: float
    ) -> RetryPlan:
        """Decide about a retry, apart from the budget; both functions may raise anything.

        `attempt` counts from 1, `deadline` is `math.inf` for none, `luck` from 0 up to 1. A result is one that `on` has named.
        """
        if outcome.error is not None and not self._is_retryable(outcome, outcome.error):
            return RetryPlan(RetryOutcome.FAILURE)
        asked = self.retry_after(outcome)
        if asked is not None and not 0 <= asked < math.inf:
            return RetryPlan(RetryOutcome.FAILURE)
        if attempt >= self.attempts:
            return RetryPlan(RetryOutcome.EXHAUSTED)
        delay = (asked or 0.0) + self.backoff.delay(attempt, luck)
        if delay > self.max_wait or now + delay >= deadline:
            return RetryPlan(RetryOutcome.DEADLINE)
        return RetryPlan(RetryOutcome.RETRIED, delay)

    def _is_retryable(self, outcome: Outcome[Any], error: Exception) -> bool:
        types, predicate = check_on("Retry.on", self.on, example="")
        return predicate(outcome) if predicate else may_repeat(error) or isinstance(error, types)
