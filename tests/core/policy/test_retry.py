"""A wait is spread evenly, is never nothing, and is never longer than it says."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, strategies as st

from postfacta_core.policy.retry import Backoff

SECONDS = st.floats(min_value=1e-9, max_value=1e9)
LUCK = st.floats(min_value=0, max_value=1, exclude_max=True)
ATTEMPTS = st.integers(min_value=1, max_value=10**9) | st.integers(min_value=10**300, max_value=10**400)


@st.composite
def backoffs(draw: st.DrawFn) -> Backoff:
    base, cap = sorted((draw(SECONDS), draw(SECONDS)))
    return Backoff(base=base, cap=cap, multiplier=draw(st.floats(min_value=1, max_value=1e12)))


@given(backoffs(), ATTEMPTS, LUCK)
def test_a_wait_is_above_0_and_never_above_the_cap(backoff: Backoff, attempt: int, luck: float) -> None:
    assert 0 < backoff.delay(attempt, luck) <= backoff.cap


@given(backoffs(), ATTEMPTS, LUCK)
def test_waits_get_longer_with_each_try_and_shorter_with_more_luck(
    backoff: Backoff, attempt: int, luck: float
) -> None:
    assert backoff.delay(attempt, luck) <= backoff.delay(attempt + 1, luck)
    assert backoff.delay(attempt, luck) <= backoff.delay(attempt, luck / 2)


@pytest.mark.parametrize(
    ("attempt", "longest"), [(1, 0.1), (2, 0.2), (3, 0.4), (6, 3.2), (7, 5.0), (10**6, 5.0)]
)
def test_the_longest_wait_doubles_up_to_the_cap(attempt: int, longest: float) -> None:
    assert Backoff().delay(attempt, 0.0) == pytest.approx(longest)


@given(LUCK)
def test_the_jitter_is_full_at_the_cap_too(luck: float) -> None:
    assert Backoff().delay(10**6, luck) == 5.0 * (1 - luck)


def test_waits_are_spread_evenly_over_the_whole_length() -> None:
    luck = random.Random(7)  # noqa: S311 - a fixed series, no secret
    waits = [Backoff().delay(50, luck.random()) for _ in range(4000)]
    quarters = [sum(1 for wait in waits if low < wait <= low + 1.25) for low in (0, 1.25, 2.5, 3.75)]
    assert all(900 < quarter < 1100 for quarter in quarters)


def test_a_multiplier_of_1_keeps_the_wait_at_the_base() -> None:
    assert Backoff(multiplier=1.0).delay(10**400, 0.0) == 0.1


@pytest.mark.parametrize("attempt", [0, -1])
def test_tries_are_counted_from_1(attempt: int) -> None:
    with pytest.raises(ValueError, match="counts tries from 1"):
        Backoff().delay(attempt, 0.5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"base": 0.0},
        {"base": -1.0},
        {"base": math.nan},
        {"base": 6.0},
        {"cap": 0.05},
        {"cap": math.inf},
        {"cap": math.nan},
        {"multiplier": 0.99},
        {"multiplier": math.inf},
        {"multiplier": math.nan},
    ],
)
def test_a_backoff_that_makes_no_sense_is_refused_at_once(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="needs a base"):
        Backoff(**wrong)
