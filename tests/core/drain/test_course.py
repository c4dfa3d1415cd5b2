"""A life goes one way only, whatever interrupts it, and each part of its end has its moment."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, strategies as st

from postfacta_core.drain._course import Course, DrainLimits, Phase
from tests.kit.every import every

LIMITS = DrainLimits(drain_delay=5, drain_timeout=20, close_timeout=4)
ORDER = list(Phase)
STEPS: dict[str, Callable[[Course, float], object]] = {
    "start": Course.start,
    "drain": Course.drain,
    "stop": Course.stop,
    "end": Course.end,
}


def ready() -> Course:
    course = Course(LIMITS)
    assert course.start(1.0)
    return course


def names(course: Course) -> list[str]:
    return [change.new for change in course.news()]


def test_a_signal_sets_the_three_moments() -> None:
    course = ready()
    assert (course.server_stops_at, course.cancels_at, course.gone_at, course.drain_began_at) == (
        math.inf,
    ) * 4
    assert course.drain(100.0)
    assert (course.drain_began_at, course.server_stops_at, course.cancels_at, course.gone_at) == (
        100,
        105,
        125,
        129,
    )
    assert course.gone_at - 100 == LIMITS.total
    assert course.is_draining


def test_a_second_signal_ends_the_delay_and_a_third_changes_nothing() -> None:
    course = ready()
    course.drain(100.0)
    assert not course.drain(101.0)
    assert (course.server_stops_at, course.cancels_at) == (101, 121)
    assert not course.drain(103.0)
    assert (course.server_stops_at, course.drain_began_at) == (101, 100)


def test_a_drain_at_once_has_no_delay_and_ends_one_that_runs() -> None:
    course = ready()
    assert course.drain(100.0, at_once=True)
    assert (course.drain_began_at, course.server_stops_at, course.cancels_at) == (100, 100, 120)
    course = ready()
    course.drain(100.0)
    assert not course.drain(102.0, at_once=True)
    assert (course.drain_began_at, course.server_stops_at) == (100, 102)


def test_a_second_signal_after_the_delay_does_not_put_the_end_off() -> None:
    course = ready()
    course.drain(100.0)
    course.drain(110.0)
    assert course.server_stops_at == 105


def test_a_signal_during_startup_waits_for_no_load_balancer_and_the_service_is_never_ready() -> (
    None
):
    course = Course(LIMITS)
    assert course.drain(3.0)
    assert course.server_stops_at == 3
    assert not course.start(4.0)
    assert course.phase is Phase.DRAINING


def test_a_server_that_stops_by_itself_is_not_waited_for() -> None:
    course = ready()
    course.drain(100.0)
    assert course.stop(102.0)
    assert (course.phase, course.server_stops_at, course.cancels_at) == (Phase.STOPPING, 102, 122)
    unasked = ready()
    assert unasked.stop(50.0)
    assert (unasked.server_stops_at, unasked.drain_began_at, unasked.is_draining) == (50, 50, True)


def test_phases_are_reported_once() -> None:
    course = ready()
    assert names(course) == ["ready"]
    course.drain(100.0)
    course.stop(105.0)
    course.end(107.0)
    changes = [(change.old, change.new, change.at) for change in course.news()]
    assert changes == [
        ("ready", "draining", 100),
        ("draining", "stopping", 105),
        ("stopping", "stopped", 107),
    ]
    assert names(course) == []


@pytest.mark.parametrize(
    ("now", "by"),
    [(106.0, 110.0), (125.0, 129.0), (127.0, 129.0), (200.0, 200.0)],
)
def test_resources_close_within_their_time_and_not_beyond_the_whole(now: float, by: float) -> None:
    course = ready()
    course.drain(100.0)
    assert course.closes_by(now) == by


def test_without_a_drain_resources_have_their_own_time_alone() -> None:
    assert ready().closes_by(1000.0) == 1004


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=12))
def test_no_order_of_events_leads_back_or_unsettles_a_moment(steps: list[str]) -> None:
    course = Course(LIMITS)
    for number, step in enumerate(steps):
        before, server_stops_at, was_draining = (
            course.phase,
            course.server_stops_at,
            course.is_draining,
        )
        STEPS[step](course, float(number))
        assert ORDER.index(course.phase) >= ORDER.index(before)
        assert course.server_stops_at <= server_stops_at
        assert course.is_draining is (ORDER.index(course.phase) >= ORDER.index(Phase.DRAINING))
        assert course.is_draining >= was_draining
    told = names(course)
    assert told == [phase for phase in ORDER if phase in told]
    assert ([Phase.STARTING.value, *told])[-1] == course.phase
    if course.phase is Phase.STOPPED:
        assert Phase.STOPPING in told


class Interrupted(Course):
    """A course in which a signal comes in the midst of every step, as often as it may."""

    def __init__(self, at: int) -> None:
        self._reads = itertools.count()
        self._at = at
        self._busy = False
        super().__init__(LIMITS)

    def __getattribute__(self, name: str) -> Any:
        if name == "_since" and not object.__getattribute__(self, "_busy"):
            self._busy = True
            if next(self._reads) == self._at:
                self.drain(100.0)
            self._busy = False
        return object.__getattribute__(self, name)


def test_a_signal_in_the_midst_of_a_step_is_not_lost() -> None:
    with every() as case:
        for step in ("start", "drain", "stop"):
            for at in range(6):
                with case(step, at):
                    course = Interrupted(at)
                    STEPS[step](course, 100.0)
                    interrupted = next(object.__getattribute__(course, "_reads")) > at
                    if interrupted:
                        assert course.is_draining
                        assert ORDER.index(course.phase) >= ORDER.index(Phase.DRAINING)
                        assert course.server_stops_at <= 105


def test_no_delay_and_no_time_for_requests_are_possible_but_resources_need_some() -> None:
    assert DrainLimits(drain_delay=0, drain_timeout=0).total == 5
    with pytest.raises(
        ValueError, match=r"DrainLimits\.close_timeout must be a finite number above 0"
    ):
        DrainLimits(close_timeout=0)
