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

__all__ = ["LARGE", "aside"]

P = ParamSpec("P")
T = TypeVar("T")

_SMALL: Final = (
    32_768  # With so many bytes a few milliseconds of work are done, which are not worth a thread.
)
LARGE: Final = _SMALL + 1
"""The size of what may be large."""

_THREADS: Final = 2  # Each holds what it builds, up to some 100 MB.
_LIMITER: RunVar[CapacityLimiter] = RunVar("postfacta_aside")


async def aside(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do the work here if it is small, else in a thread; two are at work at once, and others wait.

    Who is cancelled while the work goes on waits for its end.

    Args:
        size: About how many bytes of JSON or text it reads or writes.
        work: Must touch nothing that the loop changes meanwhile.
        args: What it is called with.
        kwargs: What it is called with.
    """
    if size <= _SMALL:
        return work(*args, **kwargs)
    limiter = _LIMITER.get(None)
    if limiter is None:
        _LIMITER.set(limiter := CapacityLimiter(_THREADS))
    return await run_sync(lambda: work(*args, **kwargs), limiter=limiter)
