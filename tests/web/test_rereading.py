"""A source is read once before the block, and then again and again until it ends."""

from __future__ import annotations

import threading

import anyio.lowlevel

from postfacta_web._rereading import reread_in_intervals
from tests.kit.waiting import until


class Source:
    """Counts its readings, and the threads in which they were."""

    def __init__(self, every: float) -> None:
        self.every = every
        self.readings = 0
        self.threads: set[int] = set()

    def reread(self) -> None:
        self.readings += 1
        self.threads.add(threading.get_ident())


async def test_it_is_read_in_a_thread_before_the_block_begins() -> None:
    source = Source(every=600)
    async with reread_in_intervals(source, name="source"):
        assert source.readings == 1
    assert threading.get_ident() not in source.threads


async def test_it_is_read_again_until_the_block_ends() -> None:
    source = Source(every=0.001)
    async with reread_in_intervals(source, name="source"):
        await until(lambda: source.readings >= 3)
        source.every = 600
    readings = source.readings
    for _ in range(10):
        await anyio.lowlevel.checkpoint()
    assert source.readings == readings
