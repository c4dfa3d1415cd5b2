"""In virtual time, an overload costs a service little of what it can do."""

from __future__ import annotations

from benchmarks.simulate import Cell, play


def test_the_same_seed_gives_the_same_result() -> None:
    cell = Cell("pool", "leave", 20, 3)
    assert play(cell, seed=3) == play(cell, seed=3)


def test_a_small_service_answers_in_time_where_the_bare_one_does_not() -> None:
    cell = Cell("io", "leave", 20, 5)
    ours, bare = play(cell, seed=11), play(cell, seed=11, bare=True)
    assert ours.early >= 0.8
    assert ours.late >= 0.9
    assert ours.refusal <= 0.2
    assert bare.late < 0.1
