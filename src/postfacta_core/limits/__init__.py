"""How many run at once, and how often a caller may ask."""

from __future__ import annotations

from ._overload import OverloadConfig
from ._waiting import Priority

__all__ = [
    "OverloadConfig",
    "Priority",
]
