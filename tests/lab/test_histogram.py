"""Histograms of latencies keep three digits, and can be merged."""

from __future__ import annotations

from hypothesis import given, strategies as st

from postfacta_lab.load.command import histogram
from postfacta_lab.load.gate import percentile

LATENCIES = st.lists(st.floats(0.0, 3600.0), min_size=1, max_size=50)


@given(LATENCIES, st.floats(0.0, 1.0))
def test_a_percentile_has_three_digits(values: list[float], share: float) -> None:
    exact, found = percentile(values, share), percentile([*histogram(values).elements()], share) / 1e6
    assert exact * 0.999 - 1e-6 <= found <= exact * 1.001 + 1e-6


@given(LATENCIES, LATENCIES)
def test_two_that_are_merged_are_one_of_all(first: list[float], second: list[float]) -> None:
    assert histogram(first) + histogram(second) == histogram(first + second)


def test_what_is_counted_can_be_read() -> None:
    assert histogram([0.0, 0.001, 0.001, 4.00049]) == {0: 1, 1000: 2, 4_000_000: 1}
