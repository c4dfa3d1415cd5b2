"""Wait for a condition, with a bound that only a hung test reaches."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio

__all__ = ["until", "wait_until"]

_PATIENCE = 40.0


async def until(condition: Callable[[], object], within: float = _PATIENCE) -> None:
    """Wait in a task until the condition holds; raise `TimeoutError` after `within` seconds."""
    with anyio.fail_after(within):
        while not condition():
            await anyio.sleep(0.002)


def wait_until(condition: Callable[[], object], what: str = "", within: float = _PATIENCE) -> None:
    """Wait outside of an event loop until the condition holds.

    Fail with `what` after `within` seconds.
    """
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)  # noqa: TID251 - there is no loop to block
