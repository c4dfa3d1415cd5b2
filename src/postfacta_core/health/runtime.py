"""Report the process's tasks, memory and processors, with their limits.

The numbers are read at the scrape, in the scrape's thread: between two of them they cost nothing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from ..events import Observer, PolicyCreated, Sample, fan_out, ignore

_ROOT: Final = Path("/")
# The kernel's own count of what a process may use of a cgroup without a limit: pages up to the end of all numbers.
_UNLIMITED: Final = 1 << 62


class Runtime:
    """Reports the number of tasks, and the limits of memory and processors.

    An async context manager, for the service's lifespan: it remembers the event loop that it is entered in. Of tasks
    it reports nothing on trio, whose loop no other thread may read.

    Args:
        observer: Receives its announcement once. It may raise.
        root: Where the file system begins.
    """

    def __init__(self, *, observer: Observer = ignore, root: Path = _ROOT) -> None:
        self._root = root
        self._loop: asyncio.AbstractEventLoop | None = None
        fan_out([observer])(PolicyCreated("runtime", self.tally))

    def tally(self) -> Iterable[Sample]:
        """Return the numbers; it may be called from any thread, and takes some 0.1 ms, or 1 ms for 2,000 tasks."""
        if (loop := self._loop) is not None:
            yield Sample("postfacta_asyncio_tasks", (), len(asyncio.all_tasks(loop)))
        yield Sample("postfacta_memory_limit_bytes", (), memory_limit(self._root))
        yield Sample("postfacta_cpu_limit_cores", (), cpu_limit(self._root))

    async def __aenter__(self) -> Self:
        # There is none on trio.
        with suppress(RuntimeError):
            self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._loop = None


def memory_limit(root: Path = _ROOT) -> int:
    """Read the bytes that this process may use: what its cgroups say (version 1 or 2), or else what the machine has."""
    there_is = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    said = [
        int(text)
        for place in _cgroups(root)
        for file in ("memory.max", "memory.limit_in_bytes")
        if (text := _read(place / file)).isdigit()
    ]
    return min([there_is, *(limit for limit in said if limit < _UNLIMITED)])


def cpu_limit(root: Path = _ROOT) -> float:
    """Read how many processors this process may keep busy, by its cgroups and by what it is bound to."""
    # Only Linux binds processes to processors.
    bound_to = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return min([float(len(bound_to)), *map(_quota, _cgroups(root))])


def _quota(place: Path) -> float:
    words = _read(place / "cpu.max").split()
    if not words:
        words = [_read(place / "cpu.cfs_quota_us"), _read(place / "cpu.cfs_period_us")]
    # Without a bound the first says `max`, or -1; without a file, nothing.
    if len(words) == 2 and all(word.isdigit() and int(word) for word in words):  # noqa: PLR2004 - quota and period in microseconds
        return int(words[0]) / int(words[1])
    return float("inf")


def _cgroups(root: Path) -> Iterator[Path]:
    """List where limits of this process may be: those of a group hold for all that are in it, at any depth."""
    base = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        # In a container the path may be the machine's, of which only the lowest folder is there, as the top.
        relative = Path(path.lstrip("/"))
        for mount in {base / controllers, *(base / name for name in controllers.split(","))}:
            yield from (mount / part for part in (relative, *relative.parents))


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
