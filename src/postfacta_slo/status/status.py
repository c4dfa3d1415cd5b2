"""The state of an objective over a window of time, from its recorded series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

__all__ = ["ENOUGH", "Hours", "SloStatus", "Unit"]

# The share of a window that must be recorded; with less, its figures would claim more than is known.
ENOUGH: Final = 0.9

_PRESENT: Final = "6h"  # The burn that is taken for the present one: that of an hour swings with each minute.


class Unit(StrEnum):
    """What a budget is counted in."""

    MINUTES = "minutes"
    EVENTS = "events"


@dataclass(frozen=True, slots=True)
class Hours:
    """In how many hours of a window an objective by the hour was met, and of how many that is known."""

    met: float
    known: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SloStatus:
    """One objective over one window."""

    service: str  # Whose it is.
    slo: str  # Its name.
    objective: float  # The share of good minutes or events that is aimed at, above 0 and below 1.
    window: float  # Seconds.
    unit: Unit  # What `total` counts.
    coverage: float  # The share of the window that was recorded, from 0 to 1.
    # The share of bad minutes or events in what was recorded; None if there were none to judge.
    error: float | None
    # All minutes or events of the window; None if only shares of them were recorded.
    total: float | None = None
    # The share of slices with enough events to judge them; None if there are no slices.
    judged: float | None = None
    # By the length of a window that ends now: how many times faster than allowed the budget is spent. A
    # window without events is missing.
    burn: Mapping[str, float] = field(default_factory=dict[str, float])
    hours: Hours | None = None  # How many hours met the objective; None if it is not one by the hour.
    # The share of the budget spent up to a moment, in seconds since the epoch; in order, for a plot.
    spent: Sequence[tuple[float, float]] = ()
    routes: Sequence[tuple[str, float]] = ()  # Those with most failures and how many each, if that is known.

    @property
    def allowed(self) -> float:
        """The share that may be bad, without the dust of binary fractions."""
        return round(1 - self.objective, 12)

    @property
    def is_known(self) -> bool:
        """Whether enough was recorded for `achieved` and what is left of the budget to mean anything."""
        return self.coverage >= ENOUGH and self.error is not None

    @property
    def achieved(self) -> float:
        """The share of good minutes or events."""
        return 1 - (self.error or 0.0)

    @property
    def remaining(self) -> float:
        """The share of the budget that is left; below 0 if it is overspent."""
        return 1 - (self.error or 0.0) / self.allowed

    @property
    def exhausted_in(self) -> float | None:
        """Seconds until nothing is left, if it goes on as in the last six hours; None for never, or if that is not known.

        What falls out of the window meanwhile is left aside, so that it is the earliest moment, not the likeliest.
        """
        if self.remaining <= 0:
            return 0.0
        present = self.burn.get(_PRESENT, 0.0)
        return self.remaining * self.window / present if present > 0 else None
