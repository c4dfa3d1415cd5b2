"""How many run at once, and how often a caller may ask."""

from __future__ import annotations

from ._overload import Ending, OverloadConfig, OverloadLimiter
from ._rates import Decision, Rate
from ._waiting import Priority
from .address import TrustedProxies
from .rate import RateLimiter, Rates, Store

__all__ = [
    "Decision",
    "Ending",
    "OverloadConfig",
    "OverloadLimiter",
    "Priority",
    "Rate",
    "RateLimiter",
    "Rates",
    "Store",
    "TrustedProxies",
]
