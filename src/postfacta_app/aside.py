"""Do what takes long in a thread of its own, so that the loop goes on answering others.

Python runs one thread at a time, but changes between them every few milliseconds: what is done here takes as long as
it did, and a probe that comes meanwhile is answered.
"""

from __future__ import annotations

from asyncio import wrap_future
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

__all__ = ["LARGE", "aside", "aside_locked"]

P = ParamSpec("P")
T = TypeVar("T")

_SMALL: Final = 32_768  # This many bytes take a few milliseconds, which are not worth a thread.
LARGE: Final = _SMALL + 1
"""The size of what may be large."""

# Each thread holds what it builds, up to some 100 MB: so there are few, also if those who asked have left meanwhile.
_READS: Final = ThreadPoolExecutor(2, "postfacta-read")
_WRITES: Final = ThreadPoolExecutor(2, "postfacta-write")


async def aside(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do the work here if it is small, else in a thread; two are at work at once, and others wait.

    If the caller is cancelled, it is not begun; what has begun goes on to its end, and its result is dropped.

    Args:
        size: About how many bytes of JSON or text it reads or writes.
        work: Must touch nothing that the loop changes meanwhile.
        args: What it is called with.
        kwargs: What it is called with.
    """
    if size <= _SMALL:
        return work(*args, **kwargs)
    return await wrap_future(_READS.submit(work, *args, **kwargs))


async def aside_locked(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do the same for callers that hold a lock, which must not wait behind reads."""
    if size <= _SMALL:
        return work(*args, **kwargs)
    return await wrap_future(_WRITES.submit(work, *args, **kwargs))
