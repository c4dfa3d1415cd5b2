"""How a process ends without a failed request."""

from __future__ import annotations

from ._course import DrainLimits
from .work import spawn

__all__ = ["DrainLimits", "spawn"]
