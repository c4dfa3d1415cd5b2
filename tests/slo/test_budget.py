"""The arithmetic of budgets agrees with the tables that people know it by."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from postfacta_slo.promise.model import error_series, in_words, percent, span
from postfacta_slo.promise.promql import SloError
from tests.kit.every import every

from .files import APP, objective

AVAILABILITY = objective("availability", APP)
RATE = objective("success-rate", APP)


def test_a_length_is_written_as_prometheus_writes_it() -> None:
    cases: list[tuple[int, int, str]] = [
        (0, 1, "0s"),
        (15, 1, "15s"),
        (60, 1, "1m"),
        (90, 1, "90s"),
        (300, 1, "5m"),
        (3600, 1, "1h"),
        (7200, 1, "2h"),
        (86400, 1, "1d"),
        (2592000, 1, "30d"),
        (2592000, 60, "12h"),
        (300, 60, "5s"),
        (15, 60, "250ms"),
        (60, 7, "8571ms"),
        (0, 7, "0s"),
    ]
    with every() as case:
        for seconds, compress, text in cases:
            with case(seconds, compress, text):
                assert span(seconds, compress) == text


def test_nothing_is_compressed_to_nothing() -> None:
    with pytest.raises(SloError, match="compressed 40000 times, 15 s is nothing"):
        span(15, 40_000)


@given(st.integers(1, 10_000_000))
def test_no_two_windows_have_one_name(seconds: int) -> None:
    size = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    text = span(seconds)
    assert int(text[:-1]) * size[text[-1]] == seconds


def test_series_are_named_by_their_nominal_window() -> None:
    assert error_series(1800) == "slo:sli_error:ratio_rate30m"
    assert error_series(300, "increase") == "slo:sli_error:increase5m"


def test_each_window_that_an_alert_or_a_report_asks_for_is_recorded() -> None:
    names = [span(window) for window in AVAILABILITY.windows]
    assert names == ["5m", "30m", "1h", "2h", "6h", "1d", "3d", "30d"]
    assert [span(window) for window in RATE.windows] == ["1m", "5m", "30m", "1h", "6h", "3d", "30d"]


def test_the_budget_of_the_availability_is_as_long_as_the_assessment_says() -> None:
    assert AVAILABILITY.period * AVAILABILITY.budget == pytest.approx(432 * 60)


@pytest.mark.parametrize(
    ("tier", "spent", "share"),
    [("fast", 0.02, 0.144), ("medium", 0.05, 0.06), ("slow", 0.1, 0.03), ("long", 0.1, 0.01)],
)
def test_the_tiers_of_thirty_days_are_those_of_the_workbook(
    tier: str, spent: float, share: float
) -> None:
    one = next(one for one in AVAILABILITY.tiers if one.name == tier)
    assert AVAILABILITY.spent_at(one) == spent
    assert AVAILABILITY.threshold(one) == share


@pytest.mark.parametrize(("tier", "share"), [(0, 0.06), (1, 0.01)])
def test_the_tiers_of_an_hour_spend_all_of_it(tier: int, share: float) -> None:
    assert RATE.spent_at(RATE.tiers[tier]) == 1
    assert RATE.threshold(RATE.tiers[tier]) == share


def test_the_classic_fast_tier_needs_ten_minutes_for_a_total_outage() -> None:
    fast = AVAILABILITY.tiers[0]
    assert AVAILABILITY.fires_after(fast, failing=1) == pytest.approx(8.64 * 60 + 120)
    assert AVAILABILITY.fires_after(fast, failing=0.144) == math.inf


@pytest.mark.parametrize(("failing", "seconds"), [(1, 78), (0.5, 96), (0.2, 150), (0.1, 240)])
def test_the_hourly_tier_pages_within_five_minutes(failing: float, seconds: float) -> None:
    assert RATE.fires_after(RATE.tiers[0], failing=failing) == pytest.approx(seconds)


def test_what_is_counted_has_a_name() -> None:
    assert AVAILABILITY.unit == "slices"
    assert RATE.unit == "events"
    assert objective("queue-is-short").unit == "samples"
    assert replace(RATE, slices=AVAILABILITY.slices, tiers=()).unit == "slices"


def test_a_time_is_written_in_words() -> None:
    cases: list[tuple[float, str]] = [
        (math.inf, "never"),
        (30 * 86400, "30 d"),
        (50 * 3600, "2.08 d"),
        (7.2 * 3600, "7.2 h"),
        (638.4, "10.6 min"),
        (59, "59 s"),
        (0, "0 s"),
    ]
    with every() as case:
        for seconds, words in cases:
            with case(seconds, words):
                assert in_words(seconds) == words


def test_a_share_is_written_in_percent() -> None:
    assert percent(0.144) == "14.4 %"
    assert percent(3 / 28) == "10.71 %"
