"""Charts: no mark lies, and none lies outside."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import example, given, strategies as st

from postfacta_app.web.charts import DotPlot, Point, WeekChart, dot_plot, length, week_chart

SEVERITIES = ["HIGH", "LOW"]
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
WEEK = timedelta(days=7)

moments = st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds the zone
lengths = st.one_of(st.just(0.0), st.floats(1e-6, 1e11))
points = st.lists(
    st.builds(Point, st.just("INC-1"), st.sampled_from(SEVERITIES), moments, lengths), min_size=1, max_size=30
)


def weeks_of(*incidents: tuple[datetime, str]) -> WeekChart:
    chart = week_chart(incidents, SEVERITIES)
    assert chart is not None
    return chart


def plot_of(found: list[Point], median: float | None = None) -> DotPlot:
    plot = dot_plot(found, median)
    assert plot is not None
    return plot


def test_without_incidents_there_is_no_chart() -> None:
    assert week_chart([], SEVERITIES) is None
    assert dot_plot([], None) is None


# How often


def test_a_week_lasts_from_monday_to_sunday_in_utc() -> None:
    chart = weeks_of(
        (MONDAY, "LOW"),
        (MONDAY - timedelta(microseconds=1), "LOW"),
        (MONDAY + WEEK - timedelta(microseconds=1), "HIGH"),
        (datetime(2026, 3, 1, 22, tzinfo=timezone(-3 * timedelta(hours=1))), "LOW"),
    )
    counts = dict(chart.rows)
    assert counts[date(2026, 2, 23)] == [0, 1]
    assert counts[date(2026, 3, 2)] == [1, 2]
    assert chart.most == 2


def test_a_week_without_incidents_has_its_place_and_no_bar() -> None:
    chart = weeks_of((MONDAY, "LOW"), (MONDAY + 5 * WEEK, "LOW"))
    assert [sum(counts) for _, counts in chart.rows] == [1, 0, 0, 0, 0, 1]
    assert [len(lane.bars) for lane in chart.lanes] == [0, 2]


def test_bars_are_as_high_as_their_counts_on_one_scale() -> None:
    chart = weeks_of((MONDAY, "LOW"), *[(MONDAY, "HIGH")] * 4, *[(MONDAY + WEEK, "LOW")] * 2)
    high, low = chart.lanes
    (four,), (one, two) = high.bars, low.bars
    assert four.height == pytest.approx(4 * one.height)
    assert two.height == pytest.approx(2 * one.height)
    assert (high.total, low.total) == (4, 3)
    assert four.label == "4 high in the week of 2026-03-02"


def test_of_many_years_the_last_53_weeks_are_shown_and_the_rest_is_counted() -> None:
    chart = weeks_of((MONDAY, "LOW"), (MONDAY - 52 * WEEK, "HIGH"), (MONDAY - 53 * WEEK, "LOW"))
    assert len(chart.rows) == 53
    assert chart.earlier == 1
    assert sum(lane.total for lane in chart.lanes) == 2


@given(st.lists(st.tuples(moments, st.sampled_from(SEVERITIES)), min_size=1, max_size=50))
def test_each_incident_is_counted_once_and_each_bar_lies_in_its_lane(
    incidents: list[tuple[datetime, str]],
) -> None:
    chart = weeks_of(*incidents)
    assert sum(sum(counts) for _, counts in chart.rows) + chart.earlier == len(incidents)
    for lane in chart.lanes:
        for bar in lane.bars:
            assert chart.left <= bar.x <= bar.x + bar.width <= chart.right
            assert lane.y - 56 < bar.y < bar.y + bar.height == pytest.approx(lane.y)


# How long


@given(points)
@example([Point("INC-1", "LOW", MONDAY, 0.0)])
@example([Point("INC-1", "LOW", MONDAY, 60.0)])
@example([Point("INC-1", "LOW", MONDAY, 1e11)])
def test_every_dot_lies_inside_and_longer_lies_higher(found: list[Point]) -> None:
    plot = plot_of(found)
    assert len(plot.dots) == len(found)
    assert len(plot.lengths) >= 2
    for dot in plot.dots:
        assert plot.left < dot.x < plot.right
        assert 0 < dot.y < plot.bottom
    pairs = sorted(zip(found, plot.dots, strict=True), key=lambda pair: pair[0].seconds)
    assert [dot.y for _, dot in pairs] == sorted((dot.y for _, dot in pairs), reverse=True)
    later = sorted(zip(found, plot.dots, strict=True), key=lambda pair: pair[0].declared_at)
    assert [dot.x for _, dot in later] == sorted(dot.x for _, dot in later)


def test_equal_ratios_are_equal_distances() -> None:
    found = [Point("INC-1", "LOW", MONDAY, seconds) for seconds in (60.0, 600.0, 6000.0)]
    one, ten, hundred = (dot.y for dot in plot_of(found).dots)
    assert one - ten == pytest.approx(ten - hundred)


def test_a_dot_of_a_tick_stands_on_its_line_and_so_does_the_median() -> None:
    found = [Point("INC-1", "LOW", MONDAY, seconds) for seconds in (60.0, 3600.0, 86400.0)]
    plot = plot_of(found, 3600.0)
    lines = {tick.label: tick.at for tick in plot.lengths}
    assert [dot.y for dot in plot.dots] == pytest.approx([lines["1 min"], lines["1 h"], lines["1 d"]])
    assert plot.median is not None
    assert plot.median.at == pytest.approx(lines["1 h"])
    assert plot.median.label == "1 h 00 min"
    assert plot_of(found).median is None


def test_one_day_is_written_once_below_the_plot() -> None:
    found = [Point("INC-1", "LOW", MONDAY + timedelta(hours=at), 60.0) for at in range(3)]
    assert [tick.label for tick in plot_of(found).times] == ["2026-03-02"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.0, "under 1 s"), (0.9, "under 1 s"), (1.0, "1 s"), (90, "1 min")]
)
def test_a_duration_in_words_is_never_empty(seconds: float, words: str) -> None:
    assert length(seconds) == words
