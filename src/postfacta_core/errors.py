"""The errors this library raises, in one tree.

The split is the one a caller needs: can my work have had an effect? After a RejectedError it
cannot: the default of `Retry` tries again, and nothing else. Each error is about the call that
raised it: where a function makes two calls, the first may have been done when the second is
rejected.
"""

from __future__ import annotations

import math
from typing import Any


class ResilienceError(Exception):
    """Any refusal or failure decided by a policy of this library.

    Args:
        policy: The name of the policy, pool or dependency.
        retry_after: Seconds after which a new try makes sense, if that is known.
    """

    _reason: str = "the call was refused or ended"  # Follows the name of the policy in its text.

    def __init__(self, policy: str, retry_after: float | None = None) -> None:
        # Both go to Exception by position, so that the error survives pickle and copy.
        super().__init__(policy, retry_after)
        self.policy = policy
        self.retry_after = retry_after

    def __str__(self) -> str:
        seconds = self.retry_after
        if seconds is None or not 0 < seconds < math.inf:
            return f"{self.policy}: {self._reason}"
        return (
            f"{self.policy}: {self._reason}; try again in"
            f" {f'{seconds:.3f}'.rstrip('0').rstrip('.')} s"
        )


class RejectedError(ResilienceError):
    """The work had no effect: it was refused before it began, or undone as a whole.

    Another try is safe.
    """

    _reason = "the call was refused, and had no effect"


class PoolTimeoutError(RejectedError):
    """No connection of the pool came free in time, or too many wait for one."""

    _reason = "no connection of the pool came free in time"


class DatabaseUnavailableError(RejectedError):
    """There is no connection to the database, or it broke before anything was sent or committed."""

    _reason = "there is no connection to the database"


class ReadOnlyDatabaseError(RejectedError):
    """The database accepts no writes, as in the middle of a failover."""

    _reason = "the database accepts no writes"


class LockTimeoutError(RejectedError):
    """Others held a lock that a statement needs for longer than it may wait.

    Its transaction writes nothing.
    """

    _reason = "another transaction held a lock for too long; nothing was written"


class CircuitOpenError(RejectedError):
    """The circuit is open: the dependency has been failing, and is not called for a while."""

    _reason = "the circuit is open, and the dependency is not called"


class BulkheadFullError(RejectedError):
    """Too many work with the dependency already, and too many wait, or the wait was too long."""

    _reason = "all slots are taken, and no other call may wait, or wait longer"


class RateLimitExceededError(RejectedError):
    """The caller has used up its rate for now."""

    _reason = "the rate is used up"


class LoadShedError(RejectedError):
    """The service has more work than it can do in time, and serves higher priorities."""

    _reason = "the service is overloaded, and refuses a part of the calls"


class DeadlineExceededError(ResilienceError):
    """The time ran out. The work may have begun."""

    _reason = "the time ran out; the work may have begun"


class StreamStalledError(DeadlineExceededError):
    """A dependency sent no piece of its response that counts for as long as it may.

    The work may have begun.
    """

    _reason = "no piece of the response that counts came in time; the work may have begun"


class FailedResponseError(ResilienceError):
    """A dependency answered that it failed, such as by a 500. The work may have begun.

    Args:
        policy: The dependency.
        retry_after: As for every error.
        response: What it answered.
        is_repeatable: Whether the request was idempotent (RFC 9110, section 9.2.2), so that it may
            be sent again.
    """

    _reason = "the dependency answered that it failed"

    def __init__(
        self,
        policy: str,
        retry_after: float | None = None,
        *,
        response: Any = None,
        is_repeatable: bool = False,
    ) -> None:
        super().__init__(policy, retry_after)
        self.response = response
        status = getattr(response, "status_code", None)
        if isinstance(status, int):
            self._reason = f"{self._reason}, with status {status}"
        self.is_repeatable = is_repeatable


class StoppedError(ResilienceError):
    """The service stopped before the work was done. It may have begun."""

    _reason = "the service stopped before the work was done"


class OutcomeUnknownError(ResilienceError):
    """The work was sent, and its answer was lost: it may have been done, once.

    Check before it is sent again.
    """

    _reason = "the answer was lost; the work may have been done: check before it is sent again"


class OutcomeTimeoutError(OutcomeUnknownError, DeadlineExceededError):
    """The time ran out after the work was sent: it may have been done."""

    _reason = (
        "the time ran out after the work was sent; it may have been done: check before it is sent"
        " again"
    )


class InvalidInputError(ResilienceError):
    """A value is none that the database can store, such as a text with NUL.

    Sent again, it fails again.
    """

    _reason = "a value cannot be stored; sent again, it fails again"
