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
from dataclasses import dataclass
from enum import StrEnum

from ..backoff import Backoff
from ..errors import RejectedError


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
    """Return whether a call that failed so may be made again, whatever it does: an error says so, or it never began."""
    is_repeatable = getattr(error, "is_repeatable", None)
    if isinstance(is_repeatable, bool):
        return is_repeatable
    return isinstance(error, RejectedError)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How often, and after which waits, what may be tried again is.

    `max_wait` holds also where no deadline bounds a wait: then the answer is late, and the caller's own retry is better.
    """

    attempts: int
    backoff: Backoff
    max_wait: float

    def plan(
        self, asked: float | None, attempt: int, *, now: float, deadline: float, luck: float
    ) -> tuple[RetryOutcome, float]:
        """Decide about a retry, apart from the budget: its outcome, and the wait before the next try.

        `asked` is the wait that the outcome asks for; `attempt` counts from 1, `deadline` is `math.inf` for none, `luck`
        from 0 up to 1.
        """
        if asked is not None and not 0 <= asked < math.inf:
            return RetryOutcome.FAILURE, 0.0
        if attempt >= self.attempts:
            return RetryOutcome.EXHAUSTED, 0.0
        delay = (asked or 0.0) + self.backoff.delay(attempt, luck)
        if delay > self.max_wait or now + delay >= deadline:
            return RetryOutcome.DEADLINE, 0.0
        return RetryOutcome.RETRIED, delay
