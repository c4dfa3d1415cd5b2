"""Until when: the deadline of a request, and the requests under way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..face import lazy

if TYPE_CHECKING:
    from ._limits import TransferLimits as TransferLimits
    from .present import current_deadline as current_deadline
    from .requests import time_limit as time_limit
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "_limits": ("TransferLimits",),
            "present": ("current_deadline",),
            "requests": ("time_limit",),
        },
    )
