"""Report the process's tasks, memory and processors, with their limits, at the scrape."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..events import Sample

_ROOT: Final = Path("/")


def tally(loop: asyncio.AbstractEventLoop | None, root: Path = _ROOT) -> Iterator[Sample]:
    """Return the numbers.

    It may be called from any thread, and takes some 0.1 ms, or 1 ms for 2,000 tasks.

    Tasks are those of asyncio: trio's loop may be read by no other thread.
    """
    if loop is not None:
        yield Sample("postfacta_asyncio_tasks", (), len(asyncio.all_tasks(loop)))
    yield Sample("postfacta_memory_limit_bytes", (), memory_limit(root))
    yield Sample("postfacta_cpu_limit_cores", (), cpu_limit(root))


def memory_limit(root: Path = _ROOT) -> int:
    """Read the bytes that this process may use.

    What its cgroups (version 2) say, or else what the machine has.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder in _cgroups(root):
        # Without a limit it says `max`.
        limit = _read(folder / "memory.max")
        if limit.isdigit():
            limits.append(int(limit))
    return min(limits)


def cpu_limit(root: Path = _ROOT) -> float:
    """Read how many processors this process may use, by cgroups (version 2) and affinity."""
    count = os.cpu_count() or 1
    # Only Linux binds processes to processors.
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    limits = [float(count)]
    for folder in _cgroups(root):
        # Without a limit it says `max` in place of the quota.
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit():
            limits.append(int(quota) / int(period))
    return min(limits)


def _cgroups(root: Path) -> Iterator[Path]:
    """List where limits of this process may be.

    Those of a group hold for all that are in it, at any depth.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        if line.startswith("0::/"):
            # In a container the path may be the machine's, of which only the lowest folder is
            # there, as the top.
            relative = Path(line.removeprefix("0::/"))
            for folder in (relative, *relative.parents):
                yield root / "sys/fs/cgroup" / folder


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
