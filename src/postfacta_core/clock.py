"""Time and randomness as values that are passed in, so that a test sets both or skips waits."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

Clock = Callable[[], float]
"""Seconds since some fixed point."""

Luck = Callable[[], float]
"""A number from 0 up to, not including, 1."""

MONOTONIC: Final[Clock] = time.monotonic
"""For every decision and every duration: it never steps back."""

PROCESS: Final[Clock] = time.process_time
"""Processor time that this process has used.

Beside the elapsed time it shows what other processes took.
"""


def processor_of(thread: int) -> Clock:
    """Return what reads the processor time of a thread; where nothing can, the time."""
    find = getattr(time, "pthread_getcpuclockid", None)
    if find is None:
        return time.monotonic
    clock: int = find(thread)
    return lambda: time.clock_gettime(clock)


WALL: Final[Clock] = time.time  # noqa: TID251 - this is the one place that may
"""Seconds since the epoch, for what people and other machines read; never for a decision."""

LUCK: Final[Luck] = random.random
"""For jitter. Not for secrets."""


def random_id() -> str:
    """Return 128 random bits as 32 hex digits: a tenth of the cost of a UUID object."""
    return os.urandom(16).hex()


# For the whole process: a context variable would not reach async fixtures and servers in other
# threads.
_HASTE: Final[list[float]] = []


def present_haste() -> float | None:
    """Return the most tries of a call in a test, which skips its waits; None outside of tests."""
    return _HASTE[-1] if _HASTE else None


@contextmanager
def hasten(attempts: float) -> Generator[None]:
    """Skip the waits between tries inside of the block; the innermost block counts."""
    _HASTE.append(attempts)
    try:
        yield
    finally:
        _HASTE.remove(attempts)
