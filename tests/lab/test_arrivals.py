"""The schedule is made before the run, and nothing that was to be sent is forgotten."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from postfacta_lab.load.gate import Sample
from postfacta_lab.load.generator import MOST_ARRIVALS, Meter, moments


def poisson(rate: float, seconds: float, *, seed: int) -> tuple[float, ...]:
    return moments("poisson", rate, seconds, seed=seed)


def test_constant_arrivals_are_evenly_spaced() -> None:
    assert moments("constant", 4, 1) == (0.0, 0.25, 0.5, 0.75)


@given(st.floats(1, 200), st.floats(0.5, 50), st.integers(0, 1000))
def test_poisson_arrivals_rise_lie_in_the_run_and_can_be_had_again(
    rate: float, seconds: float, seed: int
) -> None:
    found = poisson(rate, seconds, seed=seed)
    assert list(found) == sorted(found)
    assert all(0 < moment < seconds for moment in found)
    assert found == poisson(rate, seconds, seed=seed)


def test_poisson_arrivals_come_at_the_rate_and_bunch_up_as_people_do() -> None:
    found = poisson(100, 100, seed=7)
    assert 9500 < len(found) < 10_500
    gaps = [later - earlier for earlier, later in pairwise(found)]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert 0.9 < spread / mean < 1.1  # 1 for independent arrivals, 0 for even ones


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (1, 0), (-1, 1), (MOST_ARRIVALS, 2)])
def test_a_run_without_end_or_beginning_is_refused(rate: float, seconds: float) -> None:
    with pytest.raises(ValueError, match=r"arrivals|above 0"):
        moments("constant", rate, seconds)
    with pytest.raises(ValueError, match=r"arrivals|above 0"):
        poisson(rate, seconds, seed=1)


def test_what_would_pile_up_is_dropped_and_counted() -> None:
    meter = Meter(cap=2)
    assert [meter.admit(at) for at in (0.0, 0.1, 0.2)] == [True, True, False]
    assert meter.dropped == [0.2]
    meter.finish(Sample("GET /", 0.0, 0.0, 0.5))
    assert meter.admit(0.6)
    assert (meter.waiting, len(meter.samples)) == ([0.1, 0.6], 1)


def test_latency_counts_from_the_intended_start() -> None:
    assert Sample("GET /", intended=1.0, began=4.0, ended=5.0).latency == 4.0
