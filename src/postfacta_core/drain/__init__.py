"""How a process ends without a failed request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._face import lazy

if TYPE_CHECKING:
    from ._course import DrainLimits as DrainLimits
    from .lifecycle import Lifecycle as Lifecycle
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "_course": ("DrainLimits",),
            "lifecycle": ("Lifecycle",),
        },
    )
