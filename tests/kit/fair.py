"""Fair time: a clock for tests that leaves out the time in which the whole process stood still.

A busy machine, a stopped container or a paused guest takes a process away for seconds. A time-out
of the product that is shorter than this ends a test that is about something else. So the clock of
all tests, `MONOTONIC` as well as that of both event loops, gets its beats from a thread: between
two of them it advances by at most `MOST` seconds, however long the machine took.

A thread, because only then a loop that the product blocks is late by the whole time that it was
blocked: the thread beats on, and tests of a late loop need no clock of their own.

It must be imported before any module that binds `MONOTONIC`; `tests/conftest.py` does it.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import time
from _thread import start_new_thread
from collections.abc import Mapping
from typing import Any, Final

import trio

import postfacta_core.clock

__all__ = ["MOST", "FairLoop", "in_fair_time", "now"]

MOST: Final = 0.07
"""Seconds that a standstill takes at most."""

# Seconds between two beats. A thread that computes gives the lock of the interpreter away after 5
# ms.
_BEAT: Final = 0.02
# Seconds by which this clock is ahead of the machine's: what compares the two fails at once.
_AHEAD: Final = 3600.0

# The machine's time of the last beat, and how much of it is left out. One value, so that a reader
# sees both of one moment; only the thread writes. Before the first beat nothing is left out.
_beat: tuple[float, float] = (math.inf, -_AHEAD)


def now() -> float:
    """Return the seconds since some fixed point, without the standstills. It never steps back."""
    beat, lost = _beat
    return min(time.monotonic(), beat + MOST) - lost


class FairLoop(asyncio.SelectorEventLoop):
    """An event loop of asyncio in fair time."""

    def time(self) -> float:
        """Return the fair time."""
        return now()


class _FairClock(trio.abc.Clock):
    """The clock of a loop of trio in fair time."""

    def start_clock(self) -> None:
        """Begin nothing: the clock runs already."""

    def current_time(self) -> float:
        """Return the fair time."""
        return now()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Return how long to wait; a standstill in the wait makes the loop wait once more."""
        return deadline - now()


def in_fair_time(backend: str) -> tuple[str, Mapping[str, Any]]:
    """Return the name and options of a loop in fair time, for anyio."""
    if backend == "trio":
        return backend, {"clock": _FairClock()}
    return backend, {"loop_factory": FairLoop}


def _run() -> None:
    global _beat  # noqa: PLW0603 - there is one process, and so one beat
    beat, lost = time.monotonic(), -_AHEAD
    while True:
        _beat = (beat, lost)
        time.sleep(_BEAT)  # noqa: TID251 - in a thread of its own
        real = time.monotonic()
        lost += max(0.0, real - beat - MOST)
        beat = real


def _end() -> None:
    """Read the machine's clock, in a child that was forked: the thread is not in it."""
    global _beat  # noqa: PLW0603
    _beat = (math.inf, _beat[1])


def _begin() -> None:
    early = [name for name, module in sys.modules.items() if _binds_monotonic(name, module)]
    if early:
        raise ImportError(f"imported before the clock of the tests: {', '.join(early)}")
    setattr(postfacta_core.clock, "MONOTONIC", now)  # noqa: B010 - it is final to all others
    # Not one of `threading`: coverage would measure it, and tests count those.
    start_new_thread(_run, ())
    os.register_at_fork(after_in_child=_end)


def _binds_monotonic(name: str, module: object) -> bool:
    is_ours = name.startswith("postfacta_") and name != postfacta_core.clock.__name__
    return is_ours and "MONOTONIC" in getattr(module, "__dict__", ())


_begin()
