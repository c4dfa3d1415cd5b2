"""Grades any HTTP service by what it does when things are done to it."""

from .bench import Bench
from .model import CheckResult, Outcome, check

__all__ = ["Bench", "CheckResult", "Outcome", "check"]
