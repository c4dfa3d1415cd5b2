"""The wait for a second try follows the latency, and costs the same however many calls there were."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, strategies as st

from postfacta_core.guards._delay import QuantileDelay
from tests.kit.every import every

VALUES = st.floats(min_value=0, max_value=1e6)
QUANTILES = st.floats(min_value=0.01, max_value=0.99)
DRAWS: dict[str, Callable[[random.Random], float]] = {
    "even": lambda luck: luck.random(),
    "exponential": lambda luck: luck.expovariate(10.0),
    "heavy": lambda luck: luck.lognormvariate(-3.0, 0.8),
    "normal": lambda luck: luck.gauss(100.0, 5.0),
}


def latencies(delay: QuantileDelay, seconds: float, count: int) -> None:
    for number in range(count):
        delay.record(seconds * (0.5 + number % 100 / 100))


def test_the_wait_is_the_initial_one_until_enough_is_known() -> None:
    delay = QuantileDelay(0.95, initial=0.3)
    latencies(delay, 0.01, 39)
    assert delay.seconds == 0.3
    delay.record(0.01)
    assert delay.seconds < 0.02


def test_the_wait_is_beyond_the_given_share_of_the_calls() -> None:
    delay = QuantileDelay(0.95)
    latencies(delay, 0.1, 900)
    assert delay.seconds == pytest.approx(0.145, abs=0.004)


def test_the_wait_follows_a_dependency_that_gets_slower_within_two_windows() -> None:
    delay = QuantileDelay(0.95, window=200)
    latencies(delay, 0.01, 10_000)
    assert delay.seconds == pytest.approx(0.0145, abs=0.001)
    latencies(delay, 1.0, 400)
    assert delay.seconds == pytest.approx(1.45, abs=0.08)


def test_the_wait_stands_still_within_a_window() -> None:
    delay = QuantileDelay(0.5, window=100)
    latencies(delay, 0.01, 100)
    before = delay.seconds
    latencies(delay, 1.0, 99)
    assert delay.seconds == before
    latencies(delay, 1.0, 1)
    assert delay.seconds > 0.5


def test_the_wait_never_goes_below_the_minimum() -> None:
    delay = QuantileDelay(0.5)
    latencies(delay, 0.00001, 500)
    assert delay.seconds == 0.001


def test_the_wait_is_that_of_the_first_tries_though_the_second_cuts_some_off() -> None:
    luck = random.Random(5)  # noqa: S311 - a fixed series, no secret
    delay, slower = QuantileDelay(0.95, initial=0.3, window=500), 0
    for number in range(5000):
        first, second = luck.expovariate(10.0), luck.expovariate(10.0)
        hedged_at = delay.seconds
        delay.record(min(first, hedged_at + second) if first > hedged_at else first)
        slower += number >= 500 and first > hedged_at
    # 5 % more calls, and not a share that grows as the wait follows its own cuts down.
    assert slower / 4500 == pytest.approx(0.05, abs=0.015)


@given(st.lists(VALUES, min_size=1, max_size=300))
def test_no_wait_is_below_0_or_without_end(values: list[float]) -> None:
    delay = QuantileDelay(0.5, window=50)
    for value in values:
        delay.record(value)
        assert 0 < delay.seconds <= max(0.1, 0.001, *values)


def test_a_moving_wait_that_makes_no_sense_is_refused_at_once() -> None:
    cases: list[dict[str, Any]] = [
        {"quantile": 0.0},
        {"quantile": 1.0},
        {"quantile": math.nan},
        {"initial": 0.0},
        {"initial": math.inf},
        {"initial": math.nan},
        {"quantile": 0.95, "window": 39},
        {"quantile": 0.1, "window": 4},
    ]
    with every() as case:
        for wrong in cases:
            with case(wrong), pytest.raises(ValueError, match=r"QuantileDelay\.\w+ must be a"):
                QuantileDelay(**wrong)


def test_a_wait_is_the_exact_quantile_of_its_window() -> None:
    delay = QuantileDelay(0.9, window=100)
    for number in range(100):
        delay.record(float(number * 37 % 100))
    assert delay.seconds == 89.0
