"""How slow this machine is, in the measure of a fixed piece of Python.

Seconds of processor say little by themselves.

Some machines take five times as long for the same, and twice as long in one second as in the next.
"""

from __future__ import annotations

import time

__all__ = ["slowness", "work"]

_USUAL = 0.0007  # seconds of processor that the work takes on the machine on which bounds were set


def work() -> float:
    """Do a fixed piece of work; return the seconds of processor that it took."""
    began = time.thread_time()
    sum(number * number for number in range(20_000))
    return time.thread_time() - began


def slowness(took: float | None = None) -> float:
    """Return how many times longer than usual the work takes, or took; 1 at least."""
    return max(1.0, (work() if took is None else took) / _USUAL)
