"""The arithmetic of error budgets: how much may fail, how fast it is spent, what is left, and the names of all that.

Shares are from 0 to 1, times are seconds. Nothing here knows how a rule is written, but for the names of the series.
"""

from __future__ import annotations

import math
from typing import Final

from .model import DAY, PRESENT, Objective, RatioIndicator, SloError, Tier

__all__ = [
    "REPORTED",
    "allowed_seconds",
    "error_series",
    "failures_series",
    "fires_after",
    "in_words",
    "percent",
    "span",
    "spent_at",
    "threshold",
    "unit",
    "windows_of",
]

# The windows that each objective's error share is recorded over, beside those of its own.
REPORTED: Final = (PRESENT, 3_600, 6 * 3_600, 3 * DAY, 30 * DAY)
_UNITS: Final = ((DAY, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def span(seconds: int, compress: int = 1) -> str:
    """Return a length of time as Prometheus writes it: `5m`, `30d`, compressed also `2500ms`."""
    if seconds % compress:
        thousandths = round(seconds * 1_000 / compress)
        if thousandths < 1:
            raise SloError(f"compressed {compress} times, {seconds} s is nothing")
        return f"{thousandths}ms"
    length = seconds // compress
    size, name = next(((size, name) for size, name in _UNITS if not length % size), _UNITS[-1])
    return f"{length // size}{name}" if length else "0s"


def in_words(seconds: float) -> str:
    """Return an approximate duration for readers: `50 h`, `7.2 h`, `never` for infinity."""
    if math.isinf(seconds):
        return "never"
    for size, name in ((2 * DAY, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / min(size, DAY):.3g} {name}"
    return f"{seconds:.3g} s"


def percent(share: float) -> str:
    return f"{share * 100:.4g} %"


def windows_of(objective: Objective) -> tuple[int, ...]:
    """Return the windows that the objective's error share is recorded over, ascending."""
    own = {objective.period, *(w for tier in objective.tiers for w in (tier.short, tier.long))}
    return tuple(sorted(own | set(REPORTED)))


def error_series(window: int) -> str:
    """Return the name of the series with the error share over a window; compression does not change it."""
    return f"slo:sli_error:ratio_rate{span(window)}"


def failures_series(window: int) -> str:
    return f"slo:sli_error:increase{span(window)}"


def unit(objective: Objective) -> str:
    """Return what the objective counts, in the plural."""
    if objective.slices:
        return "slices"
    return "events" if isinstance(objective.indicator, RatioIndicator) else "samples"


def threshold(objective: Objective, tier: Tier) -> float:
    return round(tier.factor * objective.budget, 12)


def allowed_seconds(objective: Objective) -> float:
    return objective.period * objective.budget


def spent_at(objective: Objective, tier: Tier) -> float:
    """Return the share of the budget that is spent when the tier's long window has just filled at its rate."""
    return round(tier.factor * tier.long / objective.period, 12)


def fires_after(objective: Objective, tier: Tier, failing: float) -> float:
    """Return how long after a clean time the tier fires when this share fails; infinite if never.

    It is a lower bound: scrapes and evaluations come on top, and the slice in which the fault begins.
    """
    share = threshold(objective, tier)
    if failing <= share:
        return math.inf
    return tier.long * share / failing + tier.hold
