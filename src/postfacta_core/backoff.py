"""Exponential waits with jitter, for whatever tries again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .validation import validation

# Past this many tries the exponent stands still: every larger int that fits a float is even, and no caller lives so long.
_MAX_EXPONENT: Final = 2**53


def longest_wait(first: float, cap: float, *, multiplier: float, attempt: int) -> float:
    """Return the bound of the wait after a try, counted from 1: it grows by the multiplier, up to the cap."""
    try:
        return min(cap, first * multiplier ** min(attempt - 1, _MAX_EXPONENT))
    except OverflowError:
        return cap


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential waits with full jitter, in seconds.

    Full jitter spreads callers that failed together over the whole wait; at the cap too, where a fixed wait
    would let them come back together for ever.

    Attributes:
        base: The longest wait after the first try.
        cap: The longest wait of all.
        multiplier: How much longer each wait may be than the one before; 1 keeps it at the base.
    """

    base: float = 0.1
    cap: float = 5.0
    multiplier: float = 2.0

    def __post_init__(self) -> None:
        validation.seconds("Backoff.base", self.base, example="base=0.1")
        validation.seconds("Backoff.cap", self.cap, example="cap=5.0")
        validation.number("Backoff.multiplier", self.multiplier, at_least=1, example="multiplier=2.0")
        if self.cap < self.base:
            validation.refuse("Backoff.cap", self.cap, f"at least the base, {self.base:g}", example="cap=5.0")

    def delay(self, attempt: int, luck: float) -> float:
        """Return the seconds to wait after a try that failed: above 0, and up to the wait's bound.

        Args:
            attempt: Which try failed, from 1. It may be as large as it likes.
            luck: From 0 up to, not including, 1.

        Raises:
            ValueError: If the attempt is below 1.
        """
        if attempt < 1:
            raise ValueError(f"counts tries from 1: {attempt}")
        # `1 - luck` is never 0: a wait of nothing would turn a loop of tries into a spin.
        return longest_wait(self.base, self.cap, multiplier=self.multiplier, attempt=attempt) * (1.0 - luck)
