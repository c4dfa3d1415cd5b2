"""The events given to promtool are those of the arithmetic."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import example, given, strategies as st

from postfacta_slo.proofs.detection import Stretch, Sums, Traffic
from postfacta_slo.proofs.scenario import Sample, notation

Samples = list[Sample]


@st.composite
def stretches(draw: st.DrawFn) -> Stretch:
    total = draw(st.integers(0, 500))
    return Stretch(draw(st.integers(0, 30)), total, draw(st.integers(0, total)))


TRAFFIC = st.lists(stretches(), min_size=1, max_size=5).map(lambda some: Traffic(tuple(some)))


def read(text: str) -> Samples:
    """Read the notation as promtool's manual tells it."""
    samples: Samples = []
    for item in text.split():
        if run := re.fullmatch(r"(-?\d+)([+-]\d+)x(\d+)", item):
            samples.extend(int(run[1]) + int(run[2]) * step for step in range(int(run[3]) + 1))
        elif gap := re.fullmatch(r"_x(\d+)", item):
            samples.extend([None] * int(gap[1]))
        else:
            samples.append(item if item == "stale" else int(item))
    return samples


@given(st.lists(st.integers(-3, 3) | st.none() | st.just("stale")))
@example([0, 0, 300, 600, 600])
@example([None, None, "stale", "stale", 5, None])
def test_promtool_reads_the_samples_that_were_written(samples: Samples) -> None:
    assert read(notation(samples)) == samples


@pytest.mark.parametrize(
    ("samples", "text"),
    [
        ([0, 300, 600, 900], "0+300x3"),
        ([1, 1, 1, 0, 0], "1+0x2 0+0x1"),
        ([None, None, 7, "stale"], "_x2 7 stale"),
        ([3, 2, 1, 5], "3-1x2 5"),
        ([0.5, 0.5, 1], "0.5+0x1 1"),
    ],
)
def test_equal_steps_are_written_as_one_run(samples: Samples, text: str) -> None:
    assert notation(samples) == text


@given(TRAFFIC)
def test_a_counter_never_falls_and_the_good_and_the_bad_are_all_there_are(traffic: Traffic) -> None:
    assert len(traffic.totals) == len(traffic.bads) == len(traffic.goods) == traffic.scrapes + 1
    for counter in (traffic.totals, traffic.bads, traffic.goods):
        assert all(one <= other for one, other in pairwise(counter))
    grown = [counter[-1] - counter[0] for counter in (traffic.totals, traffic.bads, traffic.goods)]
    assert (
        grown[0] == grown[1] + grown[2] == sum(one.scrapes * one.total for one in traffic.stretches)
    )


@given(TRAFFIC, st.integers(2, 50), st.booleans())
def test_a_window_that_is_full_counts_what_happened_in_it(
    traffic: Traffic,
    width: int,
    closed: bool,  # noqa: FBT001
) -> None:
    sums = traffic.sums(width, range(traffic.scrapes + 1), closed=closed)
    assert all(0 <= ratio <= 1 for ratio in sums.ratios)
    if closed:
        for at in range(width, traffic.scrapes + 1):
            assert sums.totals[at] == traffic.totals[at] - traffic.totals[at - width]
            assert sums.bads[at] == traffic.bads[at] - traffic.bads[at - width]


@pytest.mark.parametrize("closed", [True, False])
def test_steady_traffic_comes_to_the_same_however_a_window_is_read(closed: bool) -> None:  # noqa: FBT001
    sums = Traffic((Stretch(100, 300, 30),)).sums(20, range(100, 101), closed=closed)
    assert [*sums.totals, *sums.bads, *sums.ratios] == pytest.approx([6000, 600, 0.1])


def test_a_fault_is_seen_one_scrape_after_it_began() -> None:
    traffic = Traffic((Stretch(10, 100), Stretch(5, 100, 100)))
    assert traffic.sums(4, range(10, 15), closed=True).ratios == [0, 0.25, 0.5, 0.75, 1]
    assert traffic.sums(4, range(10, 13), closed=False).ratios == [
        0,
        pytest.approx(1 / 3),
        pytest.approx(2 / 3),
    ]


@pytest.mark.parametrize("closed", [True, False])
def test_before_anything_was_scraped_twice_a_window_is_empty(closed: bool) -> None:  # noqa: FBT001
    assert Traffic((Stretch(3, 5, 1),)).sums(4, range(1), closed=closed) == Sums((0,), (0,))
    assert Sums((0,), (0,)).ratios == [0]


def test_samples_that_do_not_count_on_are_added_up_one_by_one() -> None:
    traffic = Traffic((Stretch(5, 10, 2), Stretch(1, 10, 10)), counted=False)
    assert traffic.sums(3, range(6, 7), closed=True) == Sums((40,), (16,))
    assert traffic.sums(3, range(6, 7), closed=False) == Sums((30,), (14,))
    assert (
        traffic.sums(0, range(6, 7), closed=True)
        == traffic.sums(0, range(6, 7), closed=False)
        == Sums((10,), (10,))
    )
