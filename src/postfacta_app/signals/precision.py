"""The precision of times."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

__all__ = ["PRECISIONS", "Precision"]


class Precision(StrEnum):
    """The precision of a time, coarsest first."""

    DAY = "day"
    HOUR = "hour"
    MINUTE = "minute"
    SECOND = "second"
    EXACT = "exact"

    @property
    def width(self) -> int:
        """The length of a time of this precision in microseconds, from its start."""
        return _WIDTHS[self]

    @property
    def rank(self) -> int:
        """Its rank: of equal times, the coarser sorts first."""
        return _RANKS[self]

    def floor(self, at: int) -> int:
        """Cut a time to this precision."""
        return at - at % _WIDTHS[self]


_WIDTHS: Final = {
    Precision.DAY: 86_400_000_000,
    Precision.HOUR: 3_600_000_000,
    Precision.MINUTE: 60_000_000,
    Precision.SECOND: 1_000_000,
    Precision.EXACT: 1,
}
PRECISIONS: Final = tuple(Precision)
"""All of them, by their rank."""
_RANKS: Final = {precision: rank for rank, precision in enumerate(Precision)}
