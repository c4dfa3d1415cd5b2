"""A wait is spread evenly, never nothing, never longer than it says.

And only what may be is tried again.
"""

from __future__ import annotations

import math
import random
from functools import partial
from typing import Any, Final

import pytest
from hypothesis import given, strategies as st

from postfacta_core import errors
from postfacta_core.backoff import Backoff
from postfacta_core.context import RequestContext, bind_request, release_request
from postfacta_core.errors import (
    CircuitOpenError,
    DeadlineExceededError,
    FailedResponseError,
    RejectedError,
    ResilienceError,
)
from postfacta_core.guards._guard import On, Outcome, asked_by
from postfacta_core.guards.retry import Retry, may_repeat
from tests.kit.every import every

SECONDS = st.floats(min_value=1e-9, max_value=1e9)
LUCK = st.floats(min_value=0, max_value=1, exclude_max=True)
ATTEMPTS = st.integers(min_value=1, max_value=10**9) | st.integers(
    min_value=10**300, max_value=10**400
)


@st.composite
def backoffs(draw: st.DrawFn) -> Backoff:
    base, cap = sorted((draw(SECONDS), draw(SECONDS)))
    return Backoff(base=base, cap=cap, multiplier=draw(st.floats(min_value=1, max_value=1e12)))


@given(backoffs(), ATTEMPTS, LUCK)
def test_a_wait_is_above_0_and_never_above_the_cap(
    backoff: Backoff, attempt: int, luck: float
) -> None:
    assert 0 < backoff.delay(attempt, luck) <= backoff.cap


@given(backoffs(), ATTEMPTS, LUCK)
def test_waits_grow_with_each_try_and_vary_by_jitter(
    backoff: Backoff, attempt: int, luck: float
) -> None:
    assert backoff.delay(attempt, luck) <= backoff.delay(attempt + 1, luck)
    assert backoff.delay(attempt, luck) <= backoff.delay(attempt, luck / 2)


def test_the_longest_wait_doubles_up_to_the_cap() -> None:
    cases: list[tuple[int, float]] = [
        (1, 0.1),
        (2, 0.2),
        (3, 0.4),
        (6, 3.2),
        (7, 5.0),
        (10**6, 5.0),
    ]
    with every() as case:
        for attempt, longest in cases:
            with case(attempt, longest):
                assert Backoff().delay(attempt, 0.0) == pytest.approx(longest)


@given(LUCK)
def test_the_jitter_is_full_at_the_cap_too(luck: float) -> None:
    assert Backoff().delay(10**6, luck) == 5.0 * (1 - luck)


def test_waits_are_spread_evenly_over_the_whole_length() -> None:
    luck = random.Random(7)  # noqa: S311 - a fixed series, no secret
    waits = [Backoff().delay(50, luck.random()) for _ in range(4000)]
    quarters = [
        sum(1 for wait in waits if low < wait <= low + 1.25) for low in (0, 1.25, 2.5, 3.75)
    ]
    assert all(900 < quarter < 1100 for quarter in quarters)


def test_a_multiplier_of_1_keeps_the_wait_at_the_base() -> None:
    assert Backoff(multiplier=1.0).delay(10**400, 0.0) == 0.1


@pytest.mark.parametrize("attempt", [0, -1])
def test_tries_are_counted_from_1(attempt: int) -> None:
    with pytest.raises(ValueError, match="counts tries from 1"):
        Backoff().delay(attempt, 0.5)


REFUSALS: Final[list[type[ResilienceError]]] = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, RejectedError) and kind is not RejectedError
]


def test_what_never_began_may_be_tried_again() -> None:
    with every() as case:
        for kind in REFUSALS:
            with case(kind):
                assert may_repeat(kind("db"))


def test_a_failed_response_to_an_idempotent_request_may_be_tried_again() -> None:
    assert may_repeat(FailedResponseError("db", is_repeatable=True))
    assert not may_repeat(FailedResponseError("db"))


@pytest.mark.parametrize("error", [DeadlineExceededError("db"), OSError(), KeyError()], ids=repr)
def test_what_may_have_begun_is_not_safe_to_try_again(error: Exception) -> None:
    assert not may_repeat(error)


class Asks(Exception):  # noqa: N818 - it is no error of ours
    """A foreign error that asks for a wait of some sort."""

    def __init__(self, retry_after: object) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after


def test_the_wait_that_an_error_asks_for_is_read_if_it_is_a_number() -> None:
    cases: list[tuple[Exception, float | None]] = [
        (CircuitOpenError("db", 2.5), 2.5),
        (CircuitOpenError("db"), None),
        (Asks(3), 3.0),
        (Asks("3"), None),
        (Asks(None), None),
        (OSError(), None),
    ]
    with every() as case:
        for error, seconds in cases:
            with case(error, seconds):
                assert asked_by(Outcome(error=error)) == seconds


def plan(
    error: Exception,
    attempt: int = 1,
    *,
    deadline: float = math.inf,
    luck: float = 0.0,
    **settings: Any,
) -> tuple[str, float]:
    """Return what a retry decides about a try that failed at the moment 1000, and its wait."""
    request = RequestContext("0123456789abcdef", 0.0, lambda: 1000.0)
    request.deadline = deadline
    token = bind_request(request)
    try:
        retry: Any = Retry("db", luck=lambda: luck, **settings)
        planned: tuple[str, float] = retry._plan(Outcome(error=error), attempt)  # noqa: SLF001
    finally:
        release_request(token)
    return planned


def is_os_error(outcome: Outcome[object]) -> bool:
    return isinstance(outcome.error, OSError)


def test_only_what_the_caller_names_and_what_never_began_is_tried_again() -> None:
    cases: list[tuple[On, Exception, str]] = [
        ((), RejectedError("db"), "retried"),
        ((), OSError(), "failure"),
        ((), DeadlineExceededError("db"), "failure"),
        (OSError, ConnectionError(), "retried"),
        (OSError, RejectedError("db"), "retried"),
        (OSError, ValueError(), "failure"),
        ((OSError, KeyError), KeyError(), "retried"),
        (is_os_error, OSError(), "retried"),
        (is_os_error, RejectedError("db"), "failure"),
    ]
    with every() as case:
        for on, error, outcome in cases:
            with case(on, error, outcome):
                answers = [error, "answer"]

                def ask(answers: list[Any] = answers) -> str:
                    if isinstance(answer := answers.pop(0), Exception):
                        raise answer
                    return str(answer)

                retry = Retry("db", on=on, sleep=lambda _: None)
                if outcome == "retried":
                    assert retry.call_sync(ask) == "answer"
                else:
                    with pytest.raises(type(error)):
                        retry.call_sync(ask)
                counted = {sample.labels[-1]: sample.value for sample in retry.collect()}
                assert (counted[outcome], len(answers)) == (1, 0 if outcome == "retried" else 1)


@given(st.floats(min_value=0, max_value=29.8), LUCK)
def test_a_throttled_caller_waits_longer_than_retry_after(asked: float, luck: float) -> None:
    _, delay = plan(RejectedError("db", asked), luck=luck)
    assert asked <= delay <= asked + 0.1
    assert delay == pytest.approx(asked + 0.1 * (1 - luck))


@pytest.mark.parametrize("never", [-1.0, math.inf, -math.inf, math.nan])
def test_an_error_that_says_never_again_stops_the_tries(never: float) -> None:
    assert plan(RejectedError("db", never)) == ("failure", 0.0)


def test_the_callers_own_reading_of_the_wait_counts() -> None:
    waits: list[float] = []
    retry = Retry("db", attempts=2, retry_after=lambda _: 7.0, luck=lambda: 0.0, sleep=waits.append)

    def ask() -> None:
        raise RejectedError("db", 1.0)

    with pytest.raises(RejectedError):
        retry.call_sync(ask)
    assert waits == [pytest.approx(7.1)]


def test_the_last_try_is_the_last() -> None:
    outcomes = [plan(RejectedError("db"), attempt)[0] for attempt in (1, 2, 3, 4)]
    assert outcomes == ["retried", "retried", "exhausted", "exhausted"]
    assert plan(RejectedError("db"), attempts=1)[0] == "exhausted"


def test_waits_grow_with_the_tries() -> None:
    delays = [plan(RejectedError("db"), attempt)[1] for attempt in (1, 2)]
    assert delays == pytest.approx([0.1, 0.2])


def test_no_try_begins_at_the_deadline_or_after_it() -> None:
    # The wait is 0.125 s: exact in a float.
    exact = partial(plan, backoff=Backoff(base=0.125))
    assert exact(RejectedError("db"), deadline=1000.125)[0] == "deadline"
    assert exact(RejectedError("db"), deadline=math.nextafter(1000.125, 2000))[0] == "retried"
    assert exact(RejectedError("db", 1.0), deadline=1001.0)[0] == "deadline"


def test_a_wait_that_is_too_long_is_not_begun_though_no_deadline_forbids_it() -> None:
    bounded = partial(plan, backoff=Backoff(base=0.125), max_wait=1.125)
    assert bounded(RejectedError("db", 1.0))[0] == "retried"
    assert bounded(RejectedError("db", 1.01))[0] == "deadline"


def test_a_longest_wait_may_be_shorter_than_a_second() -> None:
    bounded = partial(plan, backoff=Backoff(base=0.125), max_wait=0.5)
    assert bounded(RejectedError("db", 0.25))[0] == "retried"
    assert bounded(RejectedError("db", 0.5))[0] == "deadline"
