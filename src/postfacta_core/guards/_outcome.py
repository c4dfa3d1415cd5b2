"""How a call ended, and which ends a guard acts on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, cast

from ..validation import validation

T = TypeVar("T")

RAISE: Final[Any] = object()
"""What a guard answers to an error that it lets pass."""


@dataclass(slots=True, eq=False, repr=False)
class Outcome(Generic[T]):
    """The end of a call. A cancelled one has no outcome.

    Attributes:
        result: What it returned; None if it raised.
        error: What it raised; None if it returned.
    """

    result: T | None = None
    error: Exception | None = None

    def __repr__(self) -> str:
        return f"Outcome({self.result!r})" if self.error is None else f"Outcome(error={self.error!r})"


Predicate = Callable[[Outcome[Any]], bool]

On = type[Exception] | tuple[type[Exception], ...] | Predicate
"""Which outcomes a guard acts on: types of errors, or a function of the `Outcome` that alone decides."""


def check_on(field: str, on: On, *, example: str) -> tuple[tuple[type[Exception], ...], Predicate | None]:
    """Split it into types and a function, of which one is empty.

    Raises:
        ValueError: If it is neither. A cancellation is no outcome: `BaseException` is refused.
    """
    if isinstance(cast("object", on), type | tuple) or not callable(on):
        return validation.error_types(field, on, example=example), None
    return (), cast("Predicate", on)


def asked_by(outcome: Outcome[Any]) -> float | None:
    """Read how many seconds an outcome asks to wait: its error's or result's `retry_after`, if that is a number."""
    seconds: object = getattr(outcome.result if outcome.error is None else outcome.error, "retry_after", None)
    return float(seconds) if isinstance(seconds, int | float) else None
