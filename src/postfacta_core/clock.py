"""Time and luck, as values that are passed in, so that a test can set both."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import Final

__all__ = ["LUCK", "MONOTONIC", "WALL", "Clock", "Ids", "Luck", "random_id"]

Clock = Callable[[], float]
"""Seconds since some fixed point."""

Luck = Callable[[], float]
"""A number from 0 up to, not including, 1."""

Ids = Callable[[], str]
"""A new identifier that nobody has had before."""

MONOTONIC: Final[Clock] = time.monotonic
"""For every decision and every duration: it never steps back."""

WALL: Final[Clock] = time.time  # noqa: TID251 - this is the one place that may
"""Seconds since the epoch, for what people and other machines read; never for a decision."""

LUCK: Final[Luck] = random.random
"""For jitter. Not for secrets."""


def random_id() -> str:
    """Make 128 random bits as 32 hex digits: a tenth of the cost of a UUID object."""
    return os.urandom(16).hex()
