"""Histograms of latencies keep three digits, and can be merged."""

from __future__ import annotations

from hypothesis import given, strategies as st

from postfacta_lab.load.gate import percentile
from postfacta_lab.load.report import histogram, quantile

LATENCIES = st.lists(st.floats(0.0, 3600.0), min_size=1, max_size=50)


@given(LATENCIES, st.floats(0.0, 1.0))
def test_a_percentile_has_three_digits(values: list[float], share: float) -> None:
    exact, found = percentile(values, share), quantile(histogram(values), share)
    assert exact - 1e-6 <= found <= exact * 1.001 + 2e-6


@given(LATENCIES, LATENCIES)
def test_two_that_are_merged_are_one_of_all(first: list[float], second: list[float]) -> None:
    assert histogram(first) + histogram(second) == histogram(first + second)


def test_nothing_has_no_percentile() -> None:
    assert quantile(histogram([]), 0.99) == 0.0


def test_the_largest_is_the_last() -> None:
    counts = histogram([0.001, 0.002, 4.0])
    assert quantile(counts, 0.0) == 0.001
    assert 4.0 <= quantile(counts, 1.0) <= 4.004
