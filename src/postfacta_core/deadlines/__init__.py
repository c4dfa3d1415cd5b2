"""Until when: the deadline of a request, and the requests under way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._face import lazy

if TYPE_CHECKING:
    from ._deadline import Deadline
    from ._transfer import TransferLimits
    from .present import current_deadline
    from .requests import limit_request, time_limit
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "_deadline": ("Deadline",),
            "_transfer": ("TransferLimits",),
            "present": ("current_deadline",),
            "requests": ("limit_request", "time_limit"),
        },
    )

__all__ = ["Deadline", "TransferLimits", "current_deadline", "limit_request", "time_limit"]
