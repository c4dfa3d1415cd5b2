"""Counts what a piece of code leaves to the cyclic garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable

__all__ = ["garbage"]


async def garbage(once: Callable[[], Awaitable[object]], times: int = 50) -> int:
    """Count the objects that only the cyclic collector can free, made by `times` runs.

    What is there already is frozen: the collector does not look at it, so it costs no time and is
    not counted. It stays frozen: the tests that follow do not pay for it either.
    """
    await once()
    gc.disable()
    gc.freeze()
    try:
        for _ in range(times):
            await once()
        return gc.collect()
    finally:
        gc.enable()
