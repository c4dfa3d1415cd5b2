"""How the process is: checks, and what the event loop shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._face import lazy

if TYPE_CHECKING:
    from ._verdict import CheckReport as CheckReport, HealthReport as HealthReport
    from .registry import HealthRegistry as HealthRegistry
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {"_verdict": ("CheckReport", "HealthReport"), "registry": ("HealthRegistry",)},
    )
