"""The deadline of the present work is the earlier one of its request's and its bound call's, each on its own clock."""

from __future__ import annotations

import math
from collections.abc import Generator

import pytest

from postfacta_core.context import RequestContext, bind_request, release_request
from postfacta_core.deadlines.present import BOUND, Bound, current_deadline, time_left, time_to_wait
from postfacta_core.testing import ManualClock
from tests.kit.every import every

CLOCK = ManualClock(0.0)


@pytest.fixture
def request_until_8() -> Generator[RequestContext]:
    CLOCK.now = 0.0
    request = RequestContext("7", 0.0, CLOCK)
    request.deadline = 8.0
    token = bind_request(request)
    yield request
    release_request(token)


@pytest.fixture(autouse=True)
def unbound() -> Generator[None]:
    token = BOUND.set(None)
    yield
    BOUND.reset(token)


def test_nothing_limits_what_has_neither() -> None:
    assert (time_left(), current_deadline()) == (math.inf, None)


def test_the_earlier_of_both_counts(request_until_8: RequestContext) -> None:
    assert time_left() == 8.0
    for at, expected in ((5.0, 5.0), (9.0, 8.0)):
        BOUND.set(Bound(at, CLOCK, request_until_8))
        assert time_left() == expected
        deadline = current_deadline()
        assert deadline is not None
        assert deadline.at == expected


def test_deadlines_on_clocks_hours_apart_are_compared_by_what_is_left(
    request_until_8: RequestContext,
) -> None:
    with every() as case:
        for start in (-1e5, 0.0, 1e5):
            for left, expected in ((5.0, 5.0), (9.0, 8.0), (-1.0, -1.0)):
                with case(start, left):
                    other = ManualClock(start)
                    BOUND.set(Bound(start + left, other, request_until_8))
                    assert time_left() == expected
                    deadline = current_deadline()
                    assert deadline is not None
                    assert deadline.clock is (CLOCK if expected == 8.0 else other)
                    assert deadline.remaining() == max(0.0, expected)


def test_a_bound_of_another_request_is_ignored(request_until_8: RequestContext) -> None:
    BOUND.set(Bound(5.0, CLOCK, None))
    assert time_left() == 8.0
    deadline = current_deadline()
    assert deadline is not None
    assert deadline.at == 8.0


def test_who_waits_does_so_no_longer_than_its_work_can(request_until_8: RequestContext) -> None:
    for now, expected in ((0.0, 2.0), (6.0, 1.9), (8.0, 0.0), (9.0, 0.0)):
        CLOCK.now = now
        assert time_to_wait(2.0) == pytest.approx(expected)
    request_until_8.deadline = math.inf
    assert (time_to_wait(2.0), time_to_wait(math.inf)) == (2.0, math.inf)
