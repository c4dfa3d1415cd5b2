"""Too many lines become fewer, and say for how many they stand."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, strategies as st

from postfacta_core.clock import Luck
from postfacta_core.telemetry.sampling import AccessSampler


def lucky(seed: int = 7) -> Luck:
    """Return random numbers that are the same each time."""
    return random.Random(seed).random  # noqa: S311 - it guards nothing


def weights(sampler: AccessSampler, requests: int, *, second: float) -> list[int]:
    """Send this many requests within one second, and keep the lines that are written."""
    given = (sampler.weigh(0.01, second + number / requests) for number in range(requests))
    return [weight for weight in given if weight]


def test_up_to_a_hundred_lines_a_second_are_all_written() -> None:
    sampler = AccessSampler(luck=lambda: 0.999)
    for second in range(5):
        assert weights(sampler, 100, second=1000.0 + second) == [1] * 100


def test_above_that_one_in_n_is_written_and_says_so() -> None:
    sampler = AccessSampler(luck=lucky())
    weights(sampler, 5_000, second=1000.0)
    kept = weights(sampler, 5_000, second=1001.0)
    assert set(kept) == {50}
    assert 70 < len(kept) < 130


def test_a_sudden_crowd_is_noticed_within_its_first_second() -> None:
    kept = weights(AccessSampler(luck=lucky()), 10_000, second=1000.0)
    assert kept[:100] == [1] * 100
    assert len(kept) < 700


def test_after_a_pause_the_crowd_of_before_says_nothing() -> None:
    sampler = AccessSampler(luck=lambda: 0.999)
    weights(sampler, 10_000, second=1000.0)
    assert weights(sampler, 10, second=1002.0) == [1] * 10


def test_what_was_slow_is_always_written() -> None:
    sampler = AccessSampler(luck=lambda: 0.999)
    weights(sampler, 10_000, second=1000.0)
    assert sampler.weigh(0.501, 1001.0) == 1
    assert sampler.weigh(0.5, 1001.0) == 0


def test_a_step_back_is_no_new_second() -> None:
    sampler = AccessSampler(1, luck=lambda: 0.999)
    assert [sampler.weigh(0.0, now) for now in (1000.9, 1000.1, 1000.9, 1000.0)] == [1, 0, 0, 0]


def test_two_requests_that_take_turns_are_both_seen() -> None:
    sampler = AccessSampler(luck=lucky())
    weights(sampler, 2_000, second=1000.0)
    seen = [number % 2 for number in range(2_000) if sampler.weigh(0.01, 1001.0 + number / 2_000)]
    assert 0.3 < sum(seen) / len(seen) < 0.7


@given(st.lists(st.integers(0, 3_000), min_size=1, max_size=8), st.integers(0, 2**32))
def test_the_sum_of_what_lines_stand_for_is_about_the_number_of_requests(
    seconds: list[int], seed: int
) -> None:
    sampler = AccessSampler(luck=lucky(seed))
    stood_for = sum(
        sum(weights(sampler, requests, second=1000.0 + number))
        for number, requests in enumerate(seconds)
    )
    # Each term has a standard deviation below the square root of 30 times its size; this is nine of
    # them.
    assert abs(stood_for - sum(seconds)) <= 9 * (30 * sum(seconds)) ** 0.5


@pytest.mark.parametrize("most", [0, -1])
def test_no_line_at_all_is_no_sample(most: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        AccessSampler(most)
