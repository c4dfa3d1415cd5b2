"""Measure CPU time by rounds that take turns, so that a slow moment of the machine hits all that is compared alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Final

__all__ = ["Work", "cpu_seconds", "cyclic_objects", "interleaved", "marked", "medians", "rounds_of"]

Work = Callable[[int], Awaitable[object]]
"""Does a thing this many times."""

_OWNED: Final = 0.9  # of a core


@contextmanager
def marked(
    cpu: Callable[[], float] = time.process_time, wall: Callable[[], float] = time.perf_counter
) -> Generator[None]:
    """Mark what is printed as invalid if the process had less than 0.9 of a core while the block ran."""
    used = cpu()
    began = wall()
    yield
    share = (cpu() - used) / (wall() - began)
    if share < _OWNED:
        print(  # noqa: T201 - its job
            f"INVALID: this process had {share:.2f} of a core, not {_OWNED}. Measure on a quiet"
            " machine."
        )


async def cpu_seconds(work: Work, repeats: int) -> float:
    """CPU seconds for one repetition, without the cyclic collector.

    Of the whole process: what a library leaves to a thread of its own is not free.
    """
    gc.collect()
    gc.disable()
    try:
        started = time.process_time_ns()
        await work(repeats)
        return (time.process_time_ns() - started) / repeats / 1e9
    finally:
        gc.enable()


async def cyclic_objects(work: Work, repeats: int) -> float:
    """Objects for each repetition that only the cyclic collector can free."""
    await work(min(repeats, 100))
    gc.collect()
    gc.disable()
    try:
        await work(repeats)
        return gc.collect() / repeats
    finally:
        gc.enable()


async def interleaved(
    works: Mapping[str, Work], rounds: int, repeats: Mapping[str, int]
) -> dict[str, list[float]]:
    """Measure each work once a round; return its CPU seconds for one repetition, round by round."""
    times: dict[str, list[float]] = {name: [] for name in works}
    # What lives already need not be looked through before each measurement.
    gc.collect()
    gc.freeze()
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(await cpu_seconds(work, repeats[name]))
    return times


async def rounds_of(
    works: Mapping[str, Work], rounds: int, *, seconds: float, most: int = 100_000
) -> dict[str, list[float]]:
    """Measure each work once a round, for as long as each other.

    Return its CPU seconds for one repetition, round by round.

    Args:
        works: What is compared.
        rounds: How often each is measured.
        seconds: How long one of them takes in one round, about.
        most: The most repetitions in one round.
    """
    repeats: dict[str, int] = {}
    for name, work in works.items():
        await work(3)
        once = await cpu_seconds(work, 10)
        # A first guess is too slow: caches are cold.
        once = await cpu_seconds(work, max(1, min(1000, int(seconds / 4 / max(once, 1e-9)))))
        repeats[name] = max(1, min(most, int(seconds / max(once, 1e-9))))
    return await interleaved(works, rounds, repeats)


async def medians(works: Mapping[str, Work], rounds: int, *, seconds: float) -> dict[str, float]:
    """Return the median CPU seconds for one repetition of each work; see `rounds_of`."""
    times = await rounds_of(works, rounds, seconds=seconds)
    return {name: statistics.median(spent) for name, spent in times.items()}
