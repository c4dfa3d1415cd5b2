"""A loop counts as calm only as long as that is known."""

from __future__ import annotations

import math

from hypothesis import given, strategies as st

from postfacta_core.policy.calm import Calm


def _spared(calm: Calm, now: float, requests: int = 20) -> int:
    return sum(calm.spares(now) for _ in range(requests))


def test_nobody_is_spared_before_the_first_beat() -> None:
    assert not Calm().spares(0.0)
    assert not Calm().spares(1e9)


def test_sixteen_are_spared_between_two_beats_and_not_one_more() -> None:
    calm = Calm()
    calm.beat(0.0, 10.0)
    assert [calm.spares(10.01) for _ in range(20)] == [True] * 16 + [False] * 4
    calm.beat(0.0, 10.05)
    assert _spared(calm, 10.06) == 16


def test_a_loop_that_is_no_longer_heard_is_not_calm() -> None:
    calm = Calm()
    calm.beat(0.0, 10.0)
    assert calm.spares(math.nextafter(10.25, 0))
    assert not calm.spares(10.25)


def test_five_milliseconds_are_late_and_what_is_less_is_not() -> None:
    calm = Calm()
    calm.beat(math.nextafter(0.005, 0), 10.0)
    assert calm.spares(10.01)
    calm.beat(0.005, 10.05)
    assert not calm.spares(10.06)


def test_a_loop_that_was_late_is_watched_for_a_second() -> None:
    calm = Calm()
    calm.beat(0.1, 10.0)
    calm.beat(0.0, 10.9)
    assert not calm.spares(11.0)
    assert calm.spares(math.nextafter(11.0, 12))


def test_each_late_beat_begins_the_second_anew() -> None:
    calm = Calm()
    calm.beat(0.1, 10.0)
    calm.beat(0.1, 10.5)
    calm.beat(0.0, 11.4)
    assert not calm.spares(11.41)
    calm.beat(0.0, 11.5)
    assert calm.spares(11.51)


def test_a_beat_in_the_watched_second_still_counts_as_heard() -> None:
    calm = Calm()
    calm.beat(0.1, 10.0)
    calm.beat(0.0, 10.99)
    assert calm.spares(11.01)


@given(st.lists(st.tuples(st.floats(0, 0.02), st.integers(0, 40)), min_size=1, max_size=60))
def test_no_one_is_spared_within_a_second_of_a_late_beat(beats: list[tuple[float, int]]) -> None:
    calm, now, late_at = Calm(), 0.0, -math.inf
    for late, requests in beats:
        now += 0.05
        calm.beat(late, now)
        late_at = now if late >= 0.005 else late_at
        expected = 0 if now <= late_at + 1.0 else min(16, requests)
        assert _spared(calm, now, requests) == expected


def test_all_are_spared_where_requests_take_next_to_no_time() -> None:
    calm = Calm()
    for _ in range(35):
        calm.took(0.0)
    assert not calm.spares(1.0)  # 5 ms were assumed; a sixteenth of it goes with each.
    calm.took(0.0)
    assert _spared(calm, 1.0, 1000) == 1000
    calm.beat(1.0, 1.0)
    assert _spared(calm, 1.5, 1000) == 1000


def test_one_long_request_ends_that_for_a_while() -> None:
    calm = Calm()
    for _ in range(200):
        calm.took(0.0001)
    assert calm.spares(1.0)
    calm.took(0.015)
    spared = [calm.spares(1.0)]
    for _ in range(20):
        calm.took(0.0001)
        spared.append(calm.spares(1.0))
    assert spared == [False] * 14 + [True] * 7


def test_half_a_millisecond_is_not_next_to_nothing() -> None:
    calm = Calm()
    for _ in range(2000):
        calm.took(0.0005)
    assert not calm.spares(1.0)
