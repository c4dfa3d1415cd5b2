"""What a service holds while it serves, from Linux's ``/proc``; whether that grows."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

from ..engine.processes import descendants

__all__ = ["Resources", "drift", "look", "slope"]

_FEWEST = 10
_MOST_PER_HOUR = 0.01
_HOUR = 3600.0
_Z = 1.96  # for an interval of 95 %


@dataclass(frozen=True, slots=True)
class Resources:
    """What a process and all below it hold, some seconds after the start; memory is what is resident, in bytes."""

    at: float
    memory: int
    files: int
    threads: int


def look(pid: int, at: float) -> Resources:
    memory = files = threads = 0
    for one in (pid, *descendants(pid)):
        process = Path(f"/proc/{one}")
        with suppress(OSError):
            memory += int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            files += len(list((process / "fd").iterdir()))
            threads += len(list((process / "task").iterdir()))
    return Resources(at, memory, files, threads)


def slope(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Fit a line by least squares; return its slope, and half the width of the slope's 95 % interval."""
    count = len(points)
    middle = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    spread = sum((x - middle[0]) ** 2 for x, _ in points)
    if not spread:
        return 0.0, math.inf
    found = sum((x - middle[0]) * (y - middle[1]) for x, y in points) / spread
    left = sum((y - middle[1] - found * (x - middle[0])) ** 2 for x, y in points)
    return found, _Z * math.sqrt(left / max(count - 2, 1) / spread)


def drift(seen: Sequence[Resources]) -> list[str]:
    """Return what grows by more than 1 % an hour, beyond the doubt of the fit."""
    # A service grows into its load first.
    steady = seen[len(seen) // 4 :]
    if len(steady) < _FEWEST:
        return []
    found: list[str] = []
    for field in fields(Resources)[1:]:
        values = [(it.at, float(getattr(it, field.name))) for it in steady]
        mean = sum(value for _, value in values) / len(values)
        rise, doubt = slope(values)
        if mean and (rise - doubt) * _HOUR / mean > _MOST_PER_HOUR:
            found.append(f"{field.name} grows by {rise * _HOUR / mean:.1%} an hour")
    return found
