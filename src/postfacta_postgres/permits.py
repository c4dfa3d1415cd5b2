"""Have a circuit decide whether a connection is lent, and tell it how that ended."""

from __future__ import annotations

from contextvars import copy_context
from typing import Final

from postfacta_core import CircuitBreaker
from postfacta_core.context import current_request

# What is no Exception is no outcome for a breaker. It is never raised.
_NO_OUTCOME: Final = GeneratorExit("no answer, and not the database's fault")


def first_word(sql: str) -> str:
    """Return the name of a statement in metrics that was given none."""
    return sql.split(None, 1)[0].upper() if sql.strip() else ""


def is_the_callers_wish() -> bool:
    """Return whether the request's deadline was set by its caller."""
    request = current_request()
    return request is not None and request.deadline_is_callers


class Permit:
    """A circuit's permit, which may be given back in another task than it was taken in.

    Raises:
        CircuitOpenError: If the circuit refuses.
    """

    __slots__ = ("_breaker", "_context")

    def __init__(self, breaker: CircuitBreaker) -> None:
        # The breaker keeps it in a context: this is one of its own.
        self._breaker = breaker
        self._context = copy_context()
        self._context.run(breaker.__enter__)

    def leave(self, error: Exception | None = None, *, is_answered: bool = True) -> None:
        """Give it back: with the database's failure, as a success, or as neither."""
        outcome = error or (None if is_answered else _NO_OUTCOME)
        kind = None if outcome is None else type(outcome)
        self._context.run(self._breaker.__exit__, kind, outcome, None)
