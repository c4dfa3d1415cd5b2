"""Until when: the deadline of a request, and the requests under way."""

from __future__ import annotations

from ._deadline import Deadline
from ._transfer import TransferLimits
from .present import current_deadline
from .requests import limit_request, time_limit

__all__ = ["Deadline", "TransferLimits", "current_deadline", "limit_request", "time_limit"]
