"""The cost of a policy is measured beside the peers, in one run, and garbage is seen."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.bench_policy import measure, table
from benchmarks.policy_peers import OURS, rows
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


def test_ours_stands_first_in_each_row_and_some_peer_beside_it() -> None:
    for start in (
        "breaker",
        "retry",
        "bulkhead",
        "timeout",
        "hedge",
        "pipeline",
        "rate limit, 1 key",
    ):
        ((row, ways),) = asyncio.run(rows(start)).items()
        assert next(iter(ways)) == OURS, row
        assert len(ways) > 1, row


@pytest.mark.long
def test_a_row_is_measured_and_shown_with_a_line_for_each_way() -> None:
    figures = asyncio.run(measure(1, "bulkhead"))
    ((row, ways),) = figures.items()
    assert ways[OURS]["ratio"] == 1.0
    # The policies must leave nothing to the collector.
    assert ways[OURS]["cyclic_objects"] == 0.0
    lines = list(table({"asyncio": figures}))
    assert len(lines) == 2 + len(ways)
    assert lines[2].startswith(f"| {row} | {OURS} |")
