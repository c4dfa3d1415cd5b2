"""How many run at once, and how often a caller may ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._face import lazy

if TYPE_CHECKING:
    from ._address import TrustedProxies
    from ._overload import Ending, OverloadConfig, OverloadLimiter, Priority
    from ._rates import Decision, Rate, StoreFailure
    from .rate import RateLimiter, Rates
    from .store import SharedStore, Strategy
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "_address": ("TrustedProxies",),
            "_overload": ("Ending", "OverloadConfig", "OverloadLimiter", "Priority"),
            "_rates": ("Decision", "Rate", "StoreFailure"),
            "rate": ("RateLimiter", "Rates"),
            "store": ("SharedStore", "Strategy"),
        },
    )

__all__ = [
    "Decision",
    "Ending",
    "OverloadConfig",
    "OverloadLimiter",
    "Priority",
    "Rate",
    "RateLimiter",
    "Rates",
    "SharedStore",
    "StoreFailure",
    "Strategy",
    "TrustedProxies",
]
