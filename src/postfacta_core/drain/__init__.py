"""How a process ends without a failed request."""

from __future__ import annotations

from ._course import DrainLimits
from .lifecycle import Lifecycle

__all__ = ["DrainLimits", "Lifecycle"]
