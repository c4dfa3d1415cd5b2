"""A percentile of the latest calls: exact, of enough of them, and not pulled down by what it cuts."""

from __future__ import annotations

import math
import random

from hypothesis import given, strategies as st

from postfacta_core.guards._latencies import Latencies
from tests.kit.every import every


def test_below_five_values_beyond_it_there_is_no_percentile() -> None:
    with every() as case:
        for share, needed in ((0.5, 10), (0.9, 50), (0.95, 100), (0.99, 500)):
            with case(f"{share}"):
                latencies = Latencies(share)
                assert latencies.needed == needed
                for _ in range(needed - 1):
                    latencies.add(1.0)
                    assert latencies.percentile() == math.inf
                latencies.add(1.0)
                assert latencies.percentile() == 1.0


@given(st.randoms(use_true_random=False), st.integers(500, 1300), st.integers(1, 2000))
def test_it_is_the_percentile_of_the_last_thousand(
    luck: random.Random, number: int, different: int
) -> None:
    values = [float(luck.randrange(different)) for _ in range(number)]
    for share in (0.5, 0.75, 0.9, 0.95, 0.99):
        latencies = Latencies(share)
        for value in values:
            latencies.add(value)
        latest = values[-1000:]
        found = latencies.percentile()
        assert sum(value <= found for value in latest) >= share * len(latest) - 1e-6
        assert sum(value < found for value in latest) < share * len(latest)


def hedged(latencies: Latencies, luck: random.Random, *, mean: float, calls: int) -> int:
    """Run calls of exponential lengths through a hedge; return how many had a second try."""
    seconds = 0
    for _ in range(calls):
        delay = latencies.percentile()
        first = luck.expovariate(1 / mean)
        if first > delay:
            seconds += 1
            first = min(first, delay + luck.expovariate(1 / mean))
        latencies.add(first)
    return seconds


def test_one_call_in_twenty_is_hedged_though_the_slowest_are_cut_short() -> None:
    latencies = Latencies(0.95)
    luck = random.Random(7)  # noqa: S311 - the same calls in each run
    assert hedged(latencies, luck, mean=0.02, calls=100) == 0
    hedged(latencies, luck, mean=0.02, calls=900)
    # The standard deviation of the share in 20,000 calls is 0.15 %.
    assert 0.045 < hedged(latencies, luck, mean=0.02, calls=20_000) / 20_000 < 0.055
    assert 0.05 < latencies.percentile() < 0.07  # 0.02 * ln 20 is 0.06


def test_it_follows_a_dependency_that_becomes_slower_and_faster() -> None:
    latencies = Latencies(0.95)
    luck = random.Random(7)  # noqa: S311 - the same calls in each run
    hedged(latencies, luck, mean=0.02, calls=1_000)
    hedged(latencies, luck, mean=0.2, calls=2_000)
    assert 0.5 < latencies.percentile() < 0.7
    assert 0.02 < hedged(latencies, luck, mean=0.2, calls=1_000) / 1_000 < 0.08
    hedged(latencies, luck, mean=0.02, calls=1_000)
    assert 0.05 < latencies.percentile() < 0.07
