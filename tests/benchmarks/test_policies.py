"""The cost of a policy is measured beside the peers, in one run, and garbage is seen."""

from __future__ import annotations

import asyncio

from benchmarks.rounds import cyclic_objects


async def _circles(repeats: int) -> None:
    for _ in range(repeats):
        circle: list[object] = []
        circle.append(circle)


async def _sum(repeats: int) -> None:
    for _ in range(repeats):
        sum(range(200))


def test_a_circle_is_counted_and_other_garbage_is_not() -> None:
    assert asyncio.run(cyclic_objects(_circles, 100)) == 1.0
    assert asyncio.run(cyclic_objects(_sum, 100)) == 0.0
