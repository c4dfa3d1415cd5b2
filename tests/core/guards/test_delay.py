"""The wait for a second try follows the latency, and costs the same however many calls there were."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from postfacta_core.guards._delay import FixedDelay, P2Quantile, QuantileDelay
from tests.kit.every import every

VALUES = st.floats(min_value=0, max_value=1e6)
QUANTILES = st.floats(min_value=0.01, max_value=0.99)
DRAWS: dict[str, Callable[[random.Random], float]] = {
    "even": lambda luck: luck.random(),
    "exponential": lambda luck: luck.expovariate(10.0),
    "heavy": lambda luck: luck.lognormvariate(-3.0, 0.8),
    "normal": lambda luck: luck.gauss(100.0, 5.0),
}


def estimate(quantile: float, values: list[float]) -> P2Quantile:
    estimator = P2Quantile(quantile)
    for value in values:
        estimator.record(value)
    return estimator


@given(QUANTILES, st.lists(VALUES, min_size=1, max_size=200))
@example(0.5, [0.0] * 30)
@example(0.95, [1.0, 1.0, 1.0, 1.0, 1.0, 1e6])
def test_an_estimate_lies_among_the_values(quantile: float, values: list[float]) -> None:
    assert min(values) <= estimate(quantile, values).value <= max(values)


@given(QUANTILES, st.lists(VALUES, min_size=1, max_size=5))
def test_of_a_few_values_the_quantile_is_exact(quantile: float, values: list[float]) -> None:
    rank = next(rank for rank in range(1, 6) if rank >= quantile * len(values))
    assert estimate(quantile, values).value == sorted(values)[rank - 1]


def test_about_as_many_values_lie_below_the_estimate_as_should() -> None:
    with every() as case:
        for quantile in (0.5, 0.9, 0.95, 0.99):
            for name, draw in DRAWS.items():
                for seed in (1, 2, 3):
                    with case(quantile, name, seed):
                        luck = random.Random(seed)  # noqa: S311 - a fixed series, no secret
                        values = [draw(luck) for _ in range(4000)]
                        found = estimate(quantile, values).value
                        share = sum(value <= found for value in values) / len(values)
                        assert share == pytest.approx(quantile, abs=0.012)


def test_the_worked_example_of_the_paper_comes_out() -> None:
    # Jain and Chlamtac, CACM 28(10), 1985, table I: the median of twenty values.
    values = [
        0.02, 0.15, 0.74, 3.39, 0.83, 22.37, 10.15, 15.43, 38.62, 15.92,
        34.60, 10.28, 1.47, 0.40, 0.05, 11.39, 0.27, 0.42, 0.09, 11.37,
    ]  # fmt: skip
    assert estimate(0.5, values).value == pytest.approx(4.44, abs=0.01)


@pytest.mark.parametrize("descending", [False, True])
def test_values_in_order_do_not_lead_it_astray(descending: bool) -> None:  # noqa: FBT001 - a table
    values = [float(number) for number in range(2000)]
    found = estimate(0.9, values[::-1] if descending else values).value
    assert found == pytest.approx(1800, abs=60)


def test_an_estimate_of_nothing_is_0() -> None:
    assert P2Quantile(0.5).value == 0
    assert P2Quantile(0.5).count == 0


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
    delay = QuantileDelay(0.5, minimum=0.02)
    latencies(delay, 0.001, 500)
    assert delay.seconds == 0.02


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


def test_a_fixed_wait_is_fixed() -> None:
    delay = FixedDelay(0.05)
    delay.record(10.0)
    assert delay.seconds == 0.05


@pytest.mark.parametrize("seconds", [-0.1, math.inf, math.nan])
def test_a_fixed_wait_that_makes_no_sense_is_refused_at_once(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"FixedDelay\.seconds must be a"):
        FixedDelay(seconds)


def test_a_moving_wait_that_makes_no_sense_is_refused_at_once() -> None:
    cases: list[dict[str, Any]] = [
        {"quantile": 0.0},
        {"quantile": 1.0},
        {"quantile": math.nan},
        {"minimum": -0.1},
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


def test_equal_values_and_long_series_come_out_to_the_last_digit() -> None:
    # Values repeat, so that a marker meets its own height; the series is the same in each version of Python.
    values = [float((number * number * 7919) % 53) for number in range(400)]
    found = {quantile: estimate(quantile, values).value for quantile in (0.1, 0.5, 0.9, 0.99)}
    assert found == {
        0.1: 5.000283873440783,
        0.5: 26.14108716853262,
        0.9: 47.80298343721448,
        0.99: 50.99966555611379,
    }
