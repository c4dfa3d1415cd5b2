"""How a process ends without a failed request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._face import lazy

if TYPE_CHECKING:
    from ._course import DrainLimits, RecycleLimits
    from .lifecycle import Lifecycle
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "_course": ("DrainLimits", "RecycleLimits"),
            "lifecycle": ("Lifecycle",),
        },
    )

__all__ = [
    "DrainLimits",
    "Lifecycle",
    "RecycleLimits",
]
