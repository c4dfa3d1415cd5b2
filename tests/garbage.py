"""Counts what a piece of code leaves to the cyclic garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable

__all__ = ["garbage"]


async def garbage(once: Callable[[], Awaitable[object]], times: int = 100) -> int:
    """Count the objects that only the cyclic collector can free, made by so many runs."""
    await once()
    gc.collect()
    gc.disable()
    try:
        for _ in range(times):
            await once()
        return gc.collect()
    finally:
        gc.enable()
