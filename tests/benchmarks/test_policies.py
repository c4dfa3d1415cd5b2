"""The cost of a policy is measured beside the peers, in one run, and garbage is seen."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.bench_policy import measure, table
from benchmarks.policy_peers import OURS, rows
from benchmarks.rounds import cyclic_objects, marked, medians


async def _circles(repeats: int) -> None:
    for _ in range(repeats):
        circle: list[object] = []
        circle.append(circle)


async def _sum(repeats: int) -> None:
    for _ in range(repeats):
        sum(range(200))


async def _sums(repeats: int) -> None:
    await _sum(10 * repeats)


@pytest.mark.long
def test_what_is_ten_times_the_work_is_several_times_as_dear() -> None:
    spent = asyncio.run(medians({"sum": _sum, "sums": _sums}, 5, seconds=0.002))
    assert 5 < spent["sums"] / spent["sum"] < 20


def test_a_circle_is_counted_and_other_garbage_is_not() -> None:
    assert asyncio.run(cyclic_objects(_circles, 100)) == 1.0
    assert asyncio.run(cyclic_objects(_sum, 100)) == 0.0


@pytest.mark.parametrize(("cpu", "is_marked"), [(8.9, True), (9.1, False)])
def test_figures_of_a_process_without_its_core_are_marked(
    capsys: pytest.CaptureFixture[str], cpu: float, *, is_marked: bool
) -> None:
    with marked(iter([0.0, cpu]).__next__, iter([0.0, 10.0]).__next__):
        pass
    assert (
        capsys.readouterr().out.startswith("INVALID: this process had 0.89 of a core") is is_marked
    )


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
