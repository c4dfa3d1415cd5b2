"""A loop counts as calm only as long as that is known."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from postfacta_core.limits._calm import Calm


def _spared(calm: Calm, now: float, requests: int = 20) -> int:
    return sum(calm.spares(now) for _ in range(requests))


def test_no_request_is_spared_before_the_first_beat() -> None:
    assert not Calm().spares(0.0)
    assert not Calm().spares(1e9)


def test_sixteen_are_spared_between_two_beats_and_not_one_more() -> None:
    calm = Calm()
    calm.beat(0.0, 10.0, 0.05)
    assert [calm.spares(10.01) for _ in range(20)] == [True] * 16 + [False] * 4
    calm.beat(0.0, 10.05, 0.05)
    assert _spared(calm, 10.06) == 16


def test_a_loop_without_recent_beats_is_not_calm() -> None:
    calm = Calm()
    calm.beat(0.0, 10.0, 0.05)
    assert calm.spares(math.nextafter(10.25, 0))
    assert not calm.spares(10.25)


def test_five_milliseconds_are_late_and_what_is_less_is_not() -> None:
    calm = Calm()
    calm.beat(math.nextafter(0.005, 0), 10.0, 0.05)
    assert calm.spares(10.01)
    calm.beat(0.005, 10.05, 0.05)
    assert not calm.spares(10.06)


def test_a_loop_that_was_late_is_watched_for_a_second() -> None:
    calm = Calm()
    calm.beat(0.1, 10.0, 0.05)
    calm.beat(0.0, 10.9, 0.05)
    assert not calm.spares(11.0)
    assert calm.spares(math.nextafter(11.0, 12))


def test_each_late_beat_begins_the_second_anew() -> None:
    calm = Calm()
    calm.beat(0.1, 10.0, 0.05)
    calm.beat(0.1, 10.5, 0.05)
    calm.beat(0.0, 11.4, 0.05)
    assert not calm.spares(11.41)
    calm.beat(0.0, 11.5, 0.05)
    assert calm.spares(11.51)


def test_a_beat_in_the_watched_second_still_counts() -> None:
    calm = Calm()
    calm.beat(0.1, 10.0, 0.05)
    calm.beat(0.0, 10.99, 0.05)
    assert calm.spares(11.01)


@given(st.lists(st.tuples(st.floats(0, 0.02), st.integers(0, 40)), min_size=1, max_size=60))
def test_no_one_is_spared_within_a_second_of_a_late_beat(beats: list[tuple[float, int]]) -> None:
    calm, now, late_at = Calm(), 0.0, -math.inf
    for late, requests in beats:
        now += 0.05
        calm.beat(late, now, 0.05)
        late_at = now if late >= 0.005 else late_at
        expected = 0 if now <= late_at + 1.0 else min(16, requests)
        assert _spared(calm, now, requests) == expected


def _cost(calm: Calm, seconds: float, *, requests: int = 16, refused: int = 0) -> None:
    """Let requests cost so much processor time each, on a late loop."""
    for _ in range(requests):
        calm.spares(0.0)
    for _ in range(refused):
        calm.refused()
    calm.beat(1.0, 0.0, requests * seconds)


def test_all_skip_the_turn_where_requests_cost_next_to_nothing() -> None:
    calm = Calm()
    assert not calm.spares(0.5)
    _cost(calm, 0.0004)
    assert _spared(calm, 0.5, 1000) == 1000
    _cost(calm, 0.01, requests=1100)
    assert _spared(calm, 0.5) == 0


def test_half_a_millisecond_is_not_next_to_nothing() -> None:
    calm = Calm()
    _cost(calm, 0.0005)
    assert not calm.spares(0.5)


def test_a_cost_is_the_mean_of_sixteen_requests_or_more() -> None:
    calm = Calm()
    _cost(calm, 0.0001, requests=15)
    assert not calm.spares(0.5)
    _cost(calm, 0.0001, requests=1)
    assert calm.spares(0.5)


def test_what_refusals_cost_is_not_held_against_the_served() -> None:
    calm = Calm()
    _cost(calm, 0.0009, refused=64)
    assert calm.spares(0.5)
    _cost(calm, 0.0009, requests=15, refused=200)
    assert calm.spares(0.5)


@pytest.mark.parametrize(
    ("late", "busy", "own"), [(0.06, 0.006, 0.55), (0.06, 0.06, 1.0), (0.06, 0.5, 1.0), (0.004, 0.0, 1.0)]
)
def test_lag_is_the_processs_own_as_far_as_it_had_the_processor(late: float, busy: float, own: float) -> None:
    calm = Calm()
    calm.beat(late, 0.0, busy)
    assert calm.own == pytest.approx(own)


def test_a_loop_in_time_owns_its_lag_again() -> None:
    calm = Calm()
    calm.beat(0.1, 0.0, 0.0)
    calm.beat(0.0, 0.1, 0.0)
    assert calm.own == 0.75
