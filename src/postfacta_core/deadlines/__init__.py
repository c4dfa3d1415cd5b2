"""Until when: the deadline of a request, and the requests under way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._face import lazy

if TYPE_CHECKING:
    from ._deadline import Deadline as Deadline
    from ._transfer import TransferLimits as TransferLimits
    from .present import current_deadline as current_deadline
    from .requests import limit_request as limit_request, time_limit as time_limit
else:
    # fmt: off
    __getattr__, __dir__ = lazy(__name__, {
        "_deadline": ("Deadline",), "_transfer": ("TransferLimits",), "present": ("current_deadline",),
        "requests": ("limit_request", "time_limit"),
    })
    # fmt: on
