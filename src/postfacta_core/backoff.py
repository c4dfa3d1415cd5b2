"""Exponential waits with jitter, for whatever tries again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .validation import validation

# Past this many tries the exponent stands still: an int may be too large for a float.
_MAX_EXPONENT: Final = 2**53


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential waits with full jitter, in seconds.

    Callers that failed together do not come back together.

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
        validation.number(
            "Backoff.multiplier", self.multiplier, at_least=1, example="multiplier=2.0"
        )
        if self.cap < self.base:
            validation.refuse(
                "Backoff.cap", self.cap, f"at least the base, {self.base:g}", example="cap=5.0"
            )

    def delay(self, attempt: int, luck: float) -> float:
        """Return the seconds to wait after a try that failed, counted from 1.

        Above 0, and up to the wait's bound.

        `luck` is from 0 up to 1; at 0 it is the bound. Raise `ValueError` if the attempt is below
        1.
        """
        if attempt < 1:
            raise ValueError(f"counts tries from 1: {attempt}")
        try:
            longest = min(self.cap, self.base * self.multiplier ** min(attempt - 1, _MAX_EXPONENT))
        except OverflowError:
            longest = self.cap
        # `1 - luck` is never 0: a wait of nothing would turn a loop of tries into a spin.
        return longest * (1.0 - luck)
