"""In virtual time, requests that only wait are served, and a queue beside them is still bounded."""

from __future__ import annotations

import pytest

from benchmarks.waiting import cells, compared, play
from tests.kit.every import every

SEED = 4711  # Not tuned on: if a change needs another one, the change is wrong.
CELLS = {cell.name: cell for cell in cells()}
WAITING = [
    "40 sleepers of 5 s of many, fresh",
    "40 sleepers of 5 s of one client, fresh",
    "sign-in flood of 7/s beside 25 reads/s",
    "a fifth hangs of 35/s at 0.8x",
    "streams beside a semaphore of 35/s at 0.8x",
]


def test_waiting_that_a_bare_server_serves_is_not_refused() -> None:
    with every() as case:
        for name in WAITING:
            with case(name):
                assert [row.refused for row in play(CELLS[name], seed=SEED)] == [0, 0]


@pytest.mark.parametrize(
    ("name", "possible"),
    [
        ("semaphore of 50/s at 12x, cold", 50 * 20),
        ("light traffic, then a semaphore of 20/s at 5x", 20 * 20),
        ("all behind one bulkhead of 8, 150/s at 5x", 150 * 20),
    ],
)
def test_a_queue_is_bounded_and_its_capacity_is_used(name: str, possible: int) -> None:
    (row,) = play(CELLS[name], seed=SEED)
    assert row.good >= 0.9 * possible


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("first token 4 s instead of 0.05 s, 20/s for 20 s", 100),
        ("a dependency ten times slower, 20/s", 0),
        ("a dependency ten times slower, 150/s", 2500),
        ("100 socket.io clients at 20/s", 10_000),
    ],
)
def test_what_becomes_slow_is_mostly_served(name: str, most: int) -> None:
    assert sum(row.refused for row in play(CELLS[name], seed=SEED)) <= most


def test_a_processor_serves_beside_streams_what_a_bare_one_does_not() -> None:
    cell = CELLS["streams beside a processor of 190/s at 3x"]
    _, ours = play(cell, seed=SEED)
    _, bare = play(cell, seed=SEED, bare=True)
    assert ours.good > 3000
    assert bare.good < 300


def test_the_same_seed_gives_the_same_rows() -> None:
    cell = CELLS["100 socket.io clients at 50/s"]
    assert play(cell, seed=3) == play(cell, seed=3)
    assert play(cell, seed=3) != play(cell, seed=4)


def test_a_line_has_the_limiter_and_the_bare_service_side_by_side() -> None:
    cell = CELLS["200 streams at once on a fresh process"]
    (line,) = compared(cell, [SEED])
    assert line.startswith("| 200 streams at once on a fresh process | stream | ")
    assert "| 0.0% of " in line
