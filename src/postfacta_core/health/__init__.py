"""How the process is: checks, and what the event loop shows."""

from __future__ import annotations

from .registry import HealthRegistry

__all__ = ["HealthRegistry"]
