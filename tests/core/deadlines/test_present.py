"""The deadline of the present work is the earlier one of its request's and its bound call's."""

from __future__ import annotations

import math
from collections.abc import Generator

import pytest

from postfacta_core.context import RequestContext, bind_request, release_request
from postfacta_core.deadlines.present import BOUND, Bound, current_deadline, present_limit, time_to_wait


@pytest.fixture
def request_until_8() -> Generator[RequestContext]:
    request = RequestContext("7", 0.0)
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
    assert (present_limit(), current_deadline()) == (math.inf, None)


def test_the_earlier_of_both_counts(request_until_8: RequestContext) -> None:
    assert present_limit() == 8.0
    for at, expected in ((5.0, 5.0), (9.0, 8.0)):
        BOUND.set(Bound(at, request_until_8))
        assert present_limit() == expected
    deadline = current_deadline()
    assert deadline is not None
    assert deadline.at == 8.0


def test_a_bound_of_another_request_is_ignored(request_until_8: RequestContext) -> None:
    BOUND.set(Bound(5.0, None))
    assert present_limit() == 8.0


def test_who_waits_does_so_no_longer_than_its_work_can(request_until_8: RequestContext) -> None:
    assert [time_to_wait(2.0, now) for now in (0.0, 6.0, 8.0, 9.0)] == [2.0, pytest.approx(1.9), 0.0, 0.0]
    request_until_8.deadline = math.inf
    assert (time_to_wait(2.0, 6.0), time_to_wait(math.inf, 6.0)) == (2.0, math.inf)
