"""Do what takes long in a thread of its own, so that the loop goes on answering others.

Python runs one thread at a time, but changes between them every few milliseconds: what is done here takes as long as
it did, and a probe that comes meanwhile is answered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from anyio import CapacityLimiter
from anyio.lowlevel import RunVar
from anyio.to_thread import run_sync

__all__ = ["LARGE", "aside", "aside_locked"]

P = ParamSpec("P")
T = TypeVar("T")

_SMALL: Final = (
    32_768  # With so many bytes a few milliseconds of work are done, which are not worth a thread.
)
LARGE: Final = _SMALL + 1
"""The size of what may be large."""

_THREADS: Final = 2  # Each holds what it builds, up to some 100 MB.
_READS: RunVar[CapacityLimiter] = RunVar("postfacta_reads_aside")
_WRITES: RunVar[CapacityLimiter] = RunVar("postfacta_writes_aside")


async def aside(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do the work here if it is small, else in a thread; two are at work at once, and others wait.

    Who is cancelled while the work goes on waits for its end.

    Args:
        size: About how many bytes of JSON or text it reads or writes.
        work: Must touch nothing that the loop changes meanwhile.
        args: What it is called with.
        kwargs: What it is called with.
    """
    return await _aside(_READS, size, lambda: work(*args, **kwargs))


async def aside_locked(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do the same for whoever holds a lock that others wait for, and so must not wait behind those who read."""
    return await _aside(_WRITES, size, lambda: work(*args, **kwargs))


async def _aside(threads: RunVar[CapacityLimiter], size: int, work: Callable[[], T]) -> T:
    if size <= _SMALL:
        return work()
    limiter = threads.get(None)
    if limiter is None:
        threads.set(limiter := CapacityLimiter(_THREADS))
    return await run_sync(work, limiter=limiter)
