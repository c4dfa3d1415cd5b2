"""Run long synchronous work in a thread, so that probes are answered in the meantime."""

from __future__ import annotations

import sys
from asyncio import wrap_future
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_SMALL: Final = 32_768  # This many bytes take a few milliseconds, less than a thread is worth.
LARGE: Final = _SMALL + 1  # Always runs in a thread.
# A thread that works gives way this many seconds after the event loop asks for its turn, which it
# does some three times for a request. With Python's 5 ms a probe waited for 15 ms beside one thread
# at work.
_GIVE_WAY: Final = 0.000_5

# Each thread can hold some 100 MB, so there are few, even when their callers have left.
_threads: Final = partial(
    ThreadPoolExecutor, 2, initializer=sys.setswitchinterval, initargs=(_GIVE_WAY,)
)
_READS: Final = _threads("postfacta-read")
_WRITES: Final = _threads("postfacta-write")


async def aside(size: int, work: Callable[[*Ts], T], *args: *Ts, has_lock: bool = False) -> T:
    """Run small work inline, other work in one of two threads; `size` is about its bytes of text.

    It must not touch what the event loop may change. Callers that hold a lock have two threads of
    their own.
    """
    if size <= _SMALL:
        return work(*args)
    return await wrap_future((_WRITES if has_lock else _READS).submit(work, *args))
