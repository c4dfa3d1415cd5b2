"""Grades any HTTP service by what it does when things are done to it."""

from __future__ import annotations

from .bench import Bench
from .groups import check
from .model import Outcome, Verdict

__all__ = ["Bench", "Outcome", "Verdict", "check"]
