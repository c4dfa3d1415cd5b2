"""Both event loops in virtual time.

A sleep costs no time, and what waits for the real world is refused.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from postfacta_core.clock import Clock
from postfacta_core.testing.virtual import VirtualTimeLoop

__all__ = ["in_virtual_time", "loop_clock", "on_real_loops"]

on_real_loops = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
"""For a test that waits for a thread or a process, in a module that runs in virtual time."""


def in_virtual_time(backend: str) -> tuple[str, dict[str, Any]]:
    """Return what a fixture `anyio_backend` returns for a loop whose clock jumps whenever all wait."""
    if backend == "trio":
        return backend, {"clock": MockClock(autojump_threshold=0)}
    return backend, {"loop_factory": VirtualTimeLoop}


def loop_clock() -> Clock:
    """Return the clock of the loop that runs; it may be read in threads and in callbacks too."""
    try:
        return asyncio.get_running_loop().time
    except RuntimeError:
        return trio.lowlevel.current_clock().current_time
