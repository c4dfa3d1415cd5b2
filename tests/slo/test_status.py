"""What is left of a budget, and for how long."""

from __future__ import annotations

from dataclasses import replace

import pytest

from postfacta_slo.status.query import ENOUGH, SloStatus

DAY = 86_400.0
MONTH = 30 * DAY
# A month at 99 % has 432 minutes; 108 of them are spent.
ONE = SloStatus(
    service="shop",
    slo="availability",
    objective=0.99,
    window=MONTH,
    unit="minutes",
    coverage=1.0,
    error=108 / 43_200,
    total=43_200,
)


def test_a_quarter_of_the_budget_spent_leaves_three() -> None:
    assert ONE.allowed == 0.01
    assert ONE.achieved == pytest.approx(0.9975)
    assert ONE.remaining == pytest.approx(0.75)
    assert replace(ONE, error=0.02).remaining == pytest.approx(-1.0)


@pytest.mark.parametrize("coverage", [0.0, ENOUGH - 0.001])
def test_with_too_little_of_the_window_recorded_nothing_is_known(coverage: float) -> None:
    assert not replace(ONE, coverage=coverage).is_known
    assert replace(ONE, coverage=ENOUGH).is_known


def test_where_nothing_happened_nothing_is_known() -> None:
    assert not replace(ONE, error=None).is_known


@pytest.mark.parametrize(
    ("burn", "error", "left"),
    [
        # What is left of a month's budget lasts for as much of a month, at the rate that spends all
        # of it in one.
        (1.0, 0.0025, 0.75 * MONTH),
        (14.4, 0.0025, 0.75 * MONTH / 14.4),
        (0.0, 0.0025, None),
        (0.0, 0.01, 0.0),
        (3.0, 0.02, 0.0),
    ],
)
def test_the_rate_of_six_hours_says_when_it_is_exhausted(
    burn: float, error: float, left: float | None
) -> None:
    one = replace(ONE, error=error, burn={"1h": 99.0, "6h": burn, "3d": 99.0})
    assert one.exhausted_in == (None if left is None else pytest.approx(left))


def test_without_a_rate_it_is_not_said_when() -> None:
    assert ONE.exhausted_in is None
