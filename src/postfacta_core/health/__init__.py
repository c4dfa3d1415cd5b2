"""How the process is: checks, and what the event loop shows."""

from __future__ import annotations

from ._verdict import CheckReport, HealthReport
from .registry import HealthRegistry

__all__ = ["CheckReport", "HealthRegistry", "HealthReport"]
