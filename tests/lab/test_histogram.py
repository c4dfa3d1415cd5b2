"""Histograms of latencies keep three digits, and can be merged."""

from __future__ import annotations

from hypothesis import given, strategies as st

from postfacta_lab.load.gate import percentile
from postfacta_lab.load.histogram import Histogram

LATENCIES = st.lists(st.floats(0.0, 3600.0), min_size=1, max_size=50)


@given(LATENCIES, st.floats(0.0, 1.0))
def test_a_percentile_has_three_digits(values: list[float], share: float) -> None:
    exact, found = percentile(values, share), Histogram.of(values).percentile(share)
    assert exact - 1e-6 <= found <= exact * 1.001 + 2e-6


@given(LATENCIES, LATENCIES)
def test_two_that_are_merged_are_one_of_all(first: list[float], second: list[float]) -> None:
    merged = Histogram.of(first)
    merged.add(Histogram.of(second))
    assert merged.as_json() == Histogram.of(first + second).as_json()
    assert Histogram({int(bucket): count for bucket, count in merged.as_json().items()}).count == merged.count


def test_nothing_has_no_percentile() -> None:
    assert Histogram().percentile(0.99) == 0.0


def test_a_spectrum_ends_with_the_largest() -> None:
    spectrum = Histogram.of([0.001, 0.002, 4.0]).spectrum()
    assert spectrum[0] == (0.0, 0.001)
    assert spectrum[-1][0] == 1.0
    assert 4.0 <= spectrum[-1][1] <= 4.004
