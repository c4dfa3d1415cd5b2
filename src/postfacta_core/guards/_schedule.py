"""Decide whether another try is made, and after which wait."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from ..backoff import Backoff

Plan = Literal["retried", "failure", "exhausted", "deadline"]


class Schedule(NamedTuple):
    """How many tries there are at most, how far apart, and the longest wait that is worth it."""

    attempts: float
    backoff: Backoff
    max_wait: float

    def plan(
        self, retry_after: float, attempt: int, *, left: float, luck: float
    ) -> tuple[Plan, float]:
        """Return what follows a try, counted from 1, and the wait.

        No shorter than was asked for, and less than is left.
        """
        # A wait below 0, infinite or nan says: do not try again. (gRPC's gRFC A6 reads a negative
        # pushback so.)
        if not 0 <= retry_after < math.inf:
            return "failure", 0.0
        if attempt >= self.attempts:
            return "exhausted", 0.0
        # Callers that were given the same moment must not return at it.
        delay = retry_after + self.backoff.delay(attempt, luck)
        if delay > self.max_wait or delay >= left:
            return "deadline", 0.0
        return "retried", delay
