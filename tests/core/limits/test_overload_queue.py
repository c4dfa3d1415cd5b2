"""Who waits is served in order, by priority, and refused before it has waited for nothing."""

from __future__ import annotations

import pytest

from postfacta_core.limits._waiting import ADMIT, Priority, Shed, Wait
from tests.core.limits.limiters import (
    CRITICAL,
    PLUS,
    SHEDDABLE,
    SHEDDABLE_PLUS,
    end,
    fill,
    learn,
    limiter_of,
    samples,
    waiting,
)


def test_a_burst_on_a_quiet_service_is_not_refused() -> None:
    limiter = limiter_of()
    now = learn(limiter, 0.005, every=0.2)
    decisions = [limiter.arrive(CRITICAL, now) for _ in range(200)]
    queued = [each for each in decisions if each is not ADMIT]
    # To refuse one, the limiter may also take another out of the queue: its verdict says so.
    assert [isinstance(each, Wait) and each.verdict is None for each in queued] == [True] * 184


def test_a_burst_is_served_in_order_and_not_refused() -> None:
    limiter = limiter_of(4)
    fill(limiter, 4)
    woken: list[str] = []
    first, second = waiting(limiter, CRITICAL, 0.0), waiting(limiter, CRITICAL, 0.01)
    first.wake = lambda: woken.append("first")
    second.wake = lambda: woken.append("second")
    limiter.finish(0.02, 0.0)
    assert woken == ["first"]
    assert (first.verdict, first.decided, second.verdict) == (ADMIT, 0.02, None)
    assert samples(limiter, "queue_time_seconds_total") == {("test",): pytest.approx(0.02)}
    limiter.beat(0.02)
    assert not samples(limiter, "overloaded")


def test_the_seventeenth_who_waits_is_refused_and_begins_an_overload() -> None:
    limiter = limiter_of(4)
    fill(limiter, 4)
    waits = [waiting(limiter, CRITICAL, 0.0) for _ in range(17)]
    assert [wait.verdict is None for wait in waits] == [False] + [True] * 16
    limiter.beat(0.01)
    assert samples(limiter, "overloaded") == {("test",): 1}


def test_who_waited_to_the_end_is_refused_and_not_served() -> None:
    limiter = limiter_of(4)
    fill(limiter, 4)
    wait = waiting(limiter, CRITICAL, 0.0)
    limiter.finish(0.5, 0.0)
    assert isinstance(wait.verdict, Shed)
    assert limiter.in_flight == 3
    assert samples(limiter, "decisions_total")["test", "critical", "shed", "enforce"] == 1


def test_an_arrival_and_a_beat_refuse_those_who_waited_to_the_end() -> None:
    limiter = limiter_of(4)
    fill(limiter, 4)
    first = waiting(limiter, CRITICAL, 0.0)
    second = waiting(limiter, CRITICAL, 0.7)
    assert isinstance(first.verdict, Shed)
    limiter.beat(5.0)
    assert isinstance(second.verdict, Shed)


def test_who_gives_up_is_refused_once_and_keeps_a_slot_that_came_before() -> None:
    limiter = limiter_of(4)
    fill(limiter, 4)
    gone, lucky = waiting(limiter, CRITICAL, 0.0), waiting(limiter, CRITICAL, 0.0)
    assert isinstance(limiter.give_up(gone, 0.01), Shed)
    assert limiter.give_up(gone, 0.02) is gone.verdict
    limiter.finish(0.03, 0.0)
    assert limiter.give_up(lucky, 0.04) is ADMIT
    assert (limiter.in_flight, limiter.waiting) == (4, 0)
    assert samples(limiter, "decisions_total")["test", "critical", "shed", "enforce"] == 1


def test_a_higher_limit_admits_who_waits_at_once() -> None:
    limiter = limiter_of(16)
    now = learn(limiter, 0.05)
    fill(limiter, 16, now)
    waits = [waiting(limiter, CRITICAL, now) for _ in range(10)]
    end(limiter, 8, now + 0.06, age=0.06)
    assert limiter.limit == 32
    assert all(wait.verdict is ADMIT for wait in waits)


@pytest.mark.parametrize(
    ("priority", "room"), [(PLUS, 110), (CRITICAL, 100), (SHEDDABLE_PLUS, 90), (SHEDDABLE, 80)]
)
def test_lower_priorities_may_use_part_of_the_limit_and_the_highest_has_a_reserve(
    priority: Priority, room: int
) -> None:
    limiter = limiter_of(100)
    for _ in range(room):
        assert limiter.arrive(priority, 0.0) is ADMIT
    assert isinstance(limiter.arrive(priority, 0.0), Wait)


@pytest.mark.parametrize("priority", list(Priority))
def test_each_priority_is_served_at_the_smallest_limit(priority: Priority) -> None:
    assert limiter_of(1).arrive(priority, 0.0) is ADMIT


def test_higher_priorities_go_first() -> None:
    limiter = limiter_of(4)
    fill(limiter, 4)
    waits = [waiting(limiter, priority, 0.0) for priority in (SHEDDABLE, SHEDDABLE_PLUS, CRITICAL)]
    limiter.finish(0.01, 0.0)
    assert [wait.verdict for wait in waits] == [None, None, ADMIT]
    # What is free now is not for the next one: it may use less of the limit.
    limiter.finish(0.02, 0.0)
    assert [wait.verdict for wait in waits] == [None, None, ADMIT]
    limiter.finish(0.03, 0.0)
    assert [wait.verdict for wait in waits] == [None, ADMIT, ADMIT]
