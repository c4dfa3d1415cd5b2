"""How many run at once, and how often a caller may ask."""

from __future__ import annotations

from ._overload import Ending, OverloadConfig, OverloadLimiter
from ._waiting import Priority
from .address import TrustedProxies

__all__ = [
    "Ending",
    "OverloadConfig",
    "OverloadLimiter",
    "Priority",
    "TrustedProxies",
]
