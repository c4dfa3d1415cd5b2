"""A burst is not refused, an overload makes none wait for long, and higher priorities go first in both."""

from __future__ import annotations

import math

import pytest

from postfacta_core.limits._waiting import Priority, Shed, Wait, WaitingLine

PLUS, CRITICAL, SHEDDABLE_PLUS, SHEDDABLE = Priority
SHED = Shed(1.0)


def line_of(*arrivals: tuple[Priority, float]) -> tuple[WaitingLine, list[Wait]]:
    line = WaitingLine(0.1, 0.5)
    return line, [line.enter(priority, at, shed=SHED) for priority, at in arrivals]


def test_an_empty_queue_has_none_next_and_none_to_displace() -> None:
    line, _ = line_of()
    assert line.first(0.0) is None
    assert line.displaced_by(PLUS, 0.0) is None
    assert not line.is_full(0.0)


def test_a_burst_is_served_in_order_of_arrival() -> None:
    line, waits = line_of((CRITICAL, 0.0), (CRITICAL, 0.1), (CRITICAL, 0.2))
    order: list[Wait] = []
    while (wait := line.first(0.3)) is not None:
        order.append(wait)
        line.remove(wait)
    assert order == waits
    assert line.count == 0


def test_the_newest_goes_first_once_the_oldest_has_run_out_of_patience() -> None:
    line, (oldest, newest) = line_of((CRITICAL, 0.0), (CRITICAL, 0.4))
    assert line.first(0.499) is oldest
    line.pace(10.0, 0.0)
    newer = line.enter(CRITICAL, 0.5, shed=SHED)
    assert line.first(0.5) is oldest  # it has waited to the end, and makes place
    line.remove(oldest)
    assert line.first(0.5) is newest
    line.remove(newest)
    late = line.enter(CRITICAL, 1.01, shed=SHED)
    assert line.first(1.02) is late
    assert newer.until == pytest.approx(2.1)


def test_a_refusal_begins_an_overload_of_a_second() -> None:
    line, _ = line_of()
    assert not line.is_overloaded(0.0)
    line.refuse(1.0)
    assert line.is_overloaded(1.999)
    assert not line.is_overloaded(2.0)


def test_in_an_overload_the_newest_goes_first_and_waits_less_long() -> None:
    line, (_, newest) = line_of((CRITICAL, 0.0), (CRITICAL, 0.1))
    line.refuse(0.1)
    assert line.first(0.11) is newest
    assert line.enter(CRITICAL, 0.2, shed=SHED).until == pytest.approx(0.3)


def test_who_waited_to_the_end_comes_first_to_be_refused() -> None:
    line, (old, _) = line_of((CRITICAL, 0.0), (CRITICAL, 0.45))
    line.refuse(0.5)
    assert line.first(0.5) is old


@pytest.mark.parametrize(
    ("rate", "places", "longest"),
    [(0, 16, 0.5), (5, 16, 3.2), (2, 16, 4.0), (20, 16, 0.8), (400, 200, 0.5)],
)
def test_a_burst_is_as_long_as_sixteen_answers_or_patience(
    rate: float, places: int, longest: float
) -> None:
    line, _ = line_of()
    line.pace(rate, 0.0)
    for _ in range(places):
        assert not line.is_full(0.0)
        assert line.enter(CRITICAL, 0.0, shed=SHED).until == pytest.approx(longest)
    assert line.is_full(0.0)


@pytest.mark.parametrize(
    ("rate", "possible", "places"),
    [(5, 100, 50), (5, 3200, 256), (5, 20, 16), (800, 1000, 400)],
)
def test_a_service_that_was_asked_for_little_has_places_for_what_may_be_possible(
    rate: float, possible: float, places: int
) -> None:
    line, _ = line_of()
    line.pace(rate, 0.0, possible)
    for _ in range(places):
        assert not line.is_full(0.0)
        line.enter(CRITICAL, 0.0, shed=SHED)
    assert line.is_full(0.0)


@pytest.mark.parametrize(("rate", "places"), [(0, 2), (5, 2), (400, 40)])
def test_an_overload_has_places_for_what_is_answered_in_spare(rate: float, places: int) -> None:
    line, _ = line_of()
    line.pace(rate, 0.0)
    line.refuse(0.0)
    for _ in range(places):
        assert not line.is_full(0.0)
        line.enter(CRITICAL, 0.0, shed=SHED)
    assert line.is_full(0.0)


@pytest.mark.parametrize(("lag", "longest"), [(0.0, 0.1), (0.02, 0.06), (0.05, 0.02), (9.0, 0.02)])
def test_what_the_loop_takes_shortens_the_wait_in_an_overload(lag: float, longest: float) -> None:
    line, _ = line_of()
    line.pace(400.0, lag)
    line.refuse(0.0)
    assert line.enter(CRITICAL, 0.0, shed=SHED).until == pytest.approx(longest)


def test_higher_priorities_go_first_and_take_the_places_of_lower_ones() -> None:
    line, (low, high) = line_of((SHEDDABLE, 0.0), (CRITICAL, 0.1))
    assert line.first(0.2) is high
    assert line.displaced_by(SHEDDABLE_PLUS, 0.2) is low
    line.remove(low)
    assert line.displaced_by(SHEDDABLE, 0.2) is None
    assert line.displaced_by(PLUS, 0.2) is high


def test_equals_take_a_place_only_in_an_overload() -> None:
    line, (oldest, _) = line_of((CRITICAL, 0.0), (CRITICAL, 0.1))
    assert line.displaced_by(CRITICAL, 0.2) is None
    line.refuse(0.2)
    assert line.displaced_by(CRITICAL, 0.2) is oldest


def test_a_wait_without_an_owner_wakes_none() -> None:
    _, (wait,) = line_of((CRITICAL, 0.0))
    assert wait.wake() is None
    assert (wait.verdict, wait.decided, wait.priority) == (None, 0.0, CRITICAL)


def test_at_the_very_moment_an_overload_ends_a_burst_is_a_burst_again() -> None:
    line, _ = line_of(*[(PLUS, 0.5)] * 4)
    line.refuse(0.0)
    before, end = math.nextafter(1.0, 0.0), 1.0
    assert line.is_full(before)
    assert not line.is_full(end)
    assert line.enter(CRITICAL, before, shed=SHED).until < 1.2
    assert line.enter(CRITICAL, end, shed=SHED).until == 1.5
