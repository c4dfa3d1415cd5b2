"""How many run at once, and how often a caller may ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._face import lazy

if TYPE_CHECKING:
    from ._address import TrustedProxies as TrustedProxies
    from ._overload import (
        Ending as Ending,
        OverloadConfig as OverloadConfig,
        OverloadLimiter as OverloadLimiter,
        Priority as Priority,
    )
    from ._rates import Decision as Decision, Rate as Rate, StoreFailure as StoreFailure
    from .rate import RateLimiter as RateLimiter, Rates as Rates
    from .store import SharedStore as SharedStore, Strategy as Strategy
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
