"""What a service holds while it serves, from Linux's ``/proc``; whether that grows."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean, linear_regression

from ..engine.processes import descendants

__all__ = ["Look", "drift", "look", "slope", "watch"]

Look = tuple[float, int, int, int]
"""Seconds after the start, and what a service holds then."""

_FEWEST = 10
_MOST_PER_HOUR = 0.01
_HOUR = 3600.0
_Z = 1.96  # for an interval of 95 %


async def watch(pid: int, seen: list[Look], *, every: float) -> None:
    """Look at a process, if one is named, until cancelled."""
    began = time.monotonic()
    while pid:
        seen.append((time.monotonic() - began, *look(pid)))
        await asyncio.sleep(every)


def look(pid: int) -> tuple[int, int, int]:
    """Return what a process and all below it hold: bytes of resident memory, files, threads."""
    memory = files = threads = 0
    for one in (pid, *descendants(pid)):
        process = Path(f"/proc/{one}")
        with suppress(OSError):
            memory += int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            files += len(list((process / "fd").iterdir()))
            threads += len(list((process / "task").iterdir()))
    return memory, files, threads


def slope(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Fit a line by least squares; return its slope, and half the width of the slope's 95 % interval."""
    found, start = linear_regression(x, y)
    left = sum((at_y - start - found * at_x) ** 2 for at_x, at_y in zip(x, y, strict=True))
    middle = fmean(x)
    return found, _Z * math.sqrt(left / max(len(x) - 2, 1) / sum((at_x - middle) ** 2 for at_x in x))


def drift(seen: Sequence[Look]) -> list[str]:
    """Return what grows by more than 1 % an hour, beyond the doubt of the fit."""
    steady = seen[len(seen) // 4 :]  # a service grows into its load first
    if len(steady) < _FEWEST:
        return []
    moments, *held = zip(*steady, strict=True)
    found: list[str] = []
    for name, values in zip(("memory", "files", "threads"), held, strict=True):
        rise, doubt = slope(moments, values)
        mean = fmean(values)
        if mean and (rise - doubt) * _HOUR / mean > _MOST_PER_HOUR:
            found.append(f"{name} grows by {rise * _HOUR / mean:.1%} an hour")
    return found
