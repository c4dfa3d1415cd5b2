"""Charts: no mark lies, and none lies outside."""

from __future__ import annotations

import pytest
from hypothesis import example, given, strategies as st

from postfacta_app.durations import Plot, Point, plot
from postfacta_app.timeline.model import moment

DAY = 86_400_000_000

lengths = st.one_of(st.just(0.0), st.floats(1e-6, 1e11))
times = st.integers(0, 47_482 * DAY)


def plot_of(*places: tuple[int, float], median: float | None = None) -> Plot:
    found = plot([Point(incident="INC-1", x=moment(x), y=y) for x, y in places], median)
    assert found is not None
    return found


def test_without_incidents_there_is_no_chart() -> None:
    assert plot([], None) is None


# How long


@given(st.lists(st.tuples(times, lengths), min_size=1, max_size=30), st.none() | lengths)
@example([(DAY, 0.0)], None)
@example([(DAY, 60.0)], None)
@example([(DAY, 1e11)], 1e11)
@example([(DAY, 1.0)], 86_400.0)
def test_every_dot_lies_inside_and_longer_lies_higher(
    places: list[tuple[int, float]], median: float | None
) -> None:
    found = plot_of(*sorted(places, reverse=True), median=median)
    assert len(found.dots) == len(places)
    assert len(found.lengths) >= 2
    ups = [up for _, up, _ in found.dots] + ([] if found.median is None else [found.median])
    assert all(0 <= along <= 1 for along, _, _ in found.dots)
    assert all(0 <= up <= 1 for up in ups)
    by_length = sorted(found.dots, key=lambda dot: dot[2].y)
    assert [up for _, up, _ in by_length] == sorted(up for _, up, _ in found.dots)
    by_time = sorted(found.dots, key=lambda dot: dot[2].x)
    assert [along for along, _, _ in by_time] == sorted(along for along, _, _ in found.dots)


def test_equal_ratios_are_equal_distances() -> None:
    one, ten, hundred = (up for _, up, _ in plot_of((0, 60.0), (0, 600.0), (0, 6000.0)).dots)
    assert ten - one == pytest.approx(hundred - ten)


def test_a_dot_of_a_tick_stands_on_its_line_and_so_does_the_median() -> None:
    places = [(0, 60.0), (0, 3600.0), (0, 86400.0)]
    found = plot_of(*places, median=3600.0)
    lines = {words: up for up, words in found.lengths}
    assert [up for _, up, _ in found.dots] == pytest.approx(
        [lines["1 min"], lines["1 h"], lines["1 d"]]
    )
    assert found.median == pytest.approx(lines["1 h"])
    assert plot_of(*places).median is None
