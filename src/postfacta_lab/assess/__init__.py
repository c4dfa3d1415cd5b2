"""Grades any HTTP service by what it does when things are done to it."""

from .bench import Bench
from .model import Outcome, Verdict, check

__all__ = ["Bench", "Outcome", "Verdict", "check"]
