"""Have a circuit decide whether a connection is lent, and tell it how that ended."""

from __future__ import annotations

from typing import Final

from postfacta_core import CircuitBreaker
from postfacta_core.context import current_request
from postfacta_core.errors import ResilienceError
from postfacta_core.guards import Block

from ._leases import sizes as sizes
from ._verdicts import (
    QUERY_CANCELED,
    error_of as error_of,
    is_to_blame,
    outcome_of as outcome_of,
    sqlstate_of as sqlstate_of,
)

# What is no Exception is no outcome for a breaker. It is never raised.
_NO_OUTCOME: Final = GeneratorExit("no answer, and not the database's fault")


def first_word(sql: str) -> str:
    """Return the name of a statement in metrics that was given none."""
    return sql.split(None, 1)[0].upper() if sql.strip() else ""


class Loan:
    """A circuit's permit, which may be given back in another task than it was taken in."""

    __slots__ = ("_block", "_breaker", "_is_answered")

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = breaker
        self._block: Block | None = None
        self._is_answered = False

    def _take_permit(self) -> None:
        """Take a permit, or raise CircuitOpenError."""
        block = self._breaker.block()
        block.__enter__()
        self._block = block

    def _leave(self, error: Exception | None = None) -> None:
        """Give it back, once.

        It is a failure with an error, and a success if the last statement was answered.
        """
        block = self._block
        self._block = None
        if block is not None:
            outcome = error or (None if self._is_answered else _NO_OUTCOME)
            block.__exit__(None, outcome, None)

    def _judge(self, sqlstate: str, meaning: ResilienceError | None, limit: float | None) -> None:
        """Note that a statement failed; give the permit back if the database is to blame."""
        request = current_request()
        is_callers = request is not None and request.deadline_is_callers
        if is_to_blame(sqlstate, meaning, limit=limit, is_callers=is_callers):
            self._leave(meaning)
        # What a driver finds wrong by itself has no SQLSTATE, and may never have been sent.
        self._is_answered = sqlstate not in {"", QUERY_CANCELED}
