"""A wait is spread evenly, never nothing, never longer than it says; and a dependency gets no more than the budget."""

from __future__ import annotations

import dis
import math
import random
import sys
import threading
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Final

import pytest
from hypothesis import example, given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from postfacta_core import errors
from postfacta_core.backoff import Backoff
from postfacta_core.errors import (
    CircuitOpenError,
    DeadlineExceededError,
    FailedResponseError,
    RejectedError,
    ResilienceError,
)
from postfacta_core.events import PolicyCreated, ignore
from postfacta_core.guards._schedule import (
    Retryable,
    RetryBudget,
    RetryOutcome,
    RetryPlan,
    RetryRules,
    asked_wait,
    may_repeat,
)
from postfacta_core.testing import ManualClock, RecordingObserver
from tests.kit.every import every

SECONDS = st.floats(min_value=1e-9, max_value=1e9)
LUCK = st.floats(min_value=0, max_value=1, exclude_max=True)
ATTEMPTS = st.integers(min_value=1, max_value=10**9) | st.integers(min_value=10**300, max_value=10**400)


@st.composite
def backoffs(draw: st.DrawFn) -> Backoff:
    base, cap = sorted((draw(SECONDS), draw(SECONDS)))
    return Backoff(base=base, cap=cap, multiplier=draw(st.floats(min_value=1, max_value=1e12)))


@given(backoffs(), ATTEMPTS, LUCK)
def test_a_wait_is_above_0_and_never_above_the_cap(backoff: Backoff, attempt: int, luck: float) -> None:
    assert 0 < backoff.delay(attempt, luck) <= backoff.cap


@given(backoffs(), ATTEMPTS, LUCK)
def test_waits_grow_with_each_try_and_vary_by_jitter(backoff: Backoff, attempt: int, luck: float) -> None:
    assert backoff.delay(attempt, luck) <= backoff.delay(attempt + 1, luck)
    assert backoff.delay(attempt, luck) <= backoff.delay(attempt, luck / 2)


def test_the_longest_wait_doubles_up_to_the_cap() -> None:
    cases: list[tuple[int, float]] = [(1, 0.1), (2, 0.2), (3, 0.4), (6, 3.2), (7, 5.0), (10**6, 5.0)]
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
    quarters = [sum(1 for wait in waits if low < wait <= low + 1.25) for low in (0, 1.25, 2.5, 3.75)]
    assert all(900 < quarter < 1100 for quarter in quarters)


def test_a_multiplier_of_1_keeps_the_wait_at_the_base() -> None:
    assert Backoff(multiplier=1.0).delay(10**400, 0.0) == 0.1


@pytest.mark.parametrize("attempt", [0, -1])
def test_tries_are_counted_from_1(attempt: int) -> None:
    with pytest.raises(ValueError, match="counts tries from 1"):
        Backoff().delay(attempt, 0.5)


def test_a_backoff_that_makes_no_sense_is_refused_at_once() -> None:
    cases: list[dict[str, float]] = [
        {"base": 0.0},
        {"base": -1.0},
        {"base": math.nan},
        {"base": 6.0},
        {"cap": 0.05},
        {"cap": math.inf},
        {"cap": math.nan},
        {"multiplier": 0.99},
        {"multiplier": math.inf},
        {"multiplier": math.nan},
    ]
    with every() as case:
        for wrong in cases:
            with case(wrong), pytest.raises(ValueError, match=r"Backoff\.\w+ must be a"):
                Backoff(**wrong)


# In sixty-fourths every sum is exact, so that the oracle and the budget may not differ at all.
EXACT = st.integers(min_value=0, max_value=200).map(lambda number: Fraction(number, 64))


class Spending(RuleBasedStateMachine):
    """Calls, further tries and time in any order, beside an oracle that reads the whole history each time."""

    @initialize(ratio=EXACT.filter(bool), floor=EXACT, burst=EXACT.map(lambda number: 1 + number))
    def begin(self, ratio: Fraction, floor: Fraction, burst: Fraction) -> None:
        self.ratio, self.floor, self.burst = ratio, floor, burst
        self.budget = RetryBudget("db", ratio=float(ratio), floor=float(floor), burst=float(burst))
        self.now = Fraction(1000)
        self.history: list[Fraction] = []

    def level(self) -> Fraction:
        """Return what is there: no more than the burst at any moment, and what came and went since then."""
        lowest = total = Fraction(0)
        for step in reversed(self.history):
            total += step
            lowest = min(lowest, total)
        return self.burst + lowest

    @rule()
    def call(self) -> None:
        self.budget.deposit()
        self.history.append(self.ratio)

    @rule()
    def try_again(self) -> None:
        allowed = self.level() >= 1
        assert self.budget.try_withdraw(float(self.now)) is allowed
        if allowed:
            self.history.append(Fraction(-1))

    @rule(seconds=EXACT)
    def let_time_pass(self, seconds: Fraction) -> None:
        self.now += seconds
        self.history.append(self.floor * seconds)

    @rule(seconds=EXACT, calls=st.booleans())
    def come_from_a_thread_that_read_the_clock_earlier(self, seconds: Fraction, *, calls: bool) -> None:
        self.try_again()
        before = self.now
        self.now -= seconds
        if calls:
            self.call()
        else:
            self.try_again()
        self.now = before

    @invariant()
    def the_level_is_that_of_the_oracle(self) -> None:
        if hasattr(self, "budget"):
            assert self.budget.tokens(float(self.now)) == self.level()


TestSpending = Spending.TestCase
TestSpending.settings = settings(stateful_step_count=40)


def amplified(steps: list[float | None], budget: RetryBudget) -> list[tuple[float, int, int]]:
    """Play calls (None) and waits, with as many further tries as can be had; return the sums at each moment."""
    now, calls, tries = 0.0, 0, 0
    sums = [(now, calls, tries)]
    for step in steps:
        if step is None:
            calls += 1
            budget.deposit()
        else:
            now += step
        for _ in range(3):
            tries += budget.try_withdraw(now)
        sums.append((now, calls, tries))
    return sums


@given(
    st.lists(st.none() | st.floats(min_value=0, max_value=20), max_size=60),
    st.floats(min_value=0.01, max_value=2),
    st.floats(min_value=0, max_value=20),
    st.floats(min_value=1, max_value=20),
)
@example([None] * 60, 0.2, 0.0, 1.0)
def test_no_stretch_of_time_has_more_further_tries_than_ratio_and_floor_and_burst_allow(
    steps: list[float | None], ratio: float, floor: float, burst: float
) -> None:
    sums = amplified(steps, RetryBudget("db", ratio=ratio, floor=floor, burst=burst))
    for place, (began, calls_before, tries_before) in enumerate(sums):
        for ended, calls, tries in sums[place:]:
            allowed = burst + ratio * (calls - calls_before) + floor * (ended - began)
            assert tries - tries_before <= allowed + 1e-6


def test_a_budget_starts_full_and_is_used_up() -> None:
    budget = RetryBudget("db", burst=3)
    assert [budget.try_withdraw(0.0) for _ in range(5)] == [True, True, True, False, False]


def test_five_calls_pay_for_one_further_try_and_a_second_for_ten() -> None:
    budget = RetryBudget("db")
    assert sum(budget.try_withdraw(0.0) for _ in range(200)) == 100
    for _ in range(5):
        budget.deposit()
    assert sum(budget.try_withdraw(0.0) for _ in range(10)) == 1
    assert sum(budget.try_withdraw(1.0) for _ in range(200)) == 10


def test_an_hour_of_calls_saves_up_no_more_than_the_burst() -> None:
    budget = RetryBudget("db")
    for _ in range(3600):
        budget.deposit()
    assert budget.tokens(1e9) == 100
    assert sum(budget.try_withdraw(3600.0) for _ in range(1000)) == 100


def test_to_look_at_the_tokens_takes_none() -> None:
    budget = RetryBudget("db", burst=1)
    assert budget.tokens(0.0) == budget.tokens(0.0) == 1
    assert budget.try_withdraw(0.0)
    assert [budget.tokens(0.0), budget.tokens(0.05), budget.tokens(-5.0)] == [0, 0.5, 0]


def test_a_budget_is_full_whenever_its_clock_begins() -> None:
    starts: list[float] = [-1e9, 0.0, 1e18]
    with every() as case:
        for start in starts:
            for floor in (0.0, 10.0):
                with case(start, floor):
                    budget = RetryBudget("db", floor=floor)
                    budget.deposit()
                    assert budget.tokens(start) == 100
                    assert sum(budget.try_withdraw(start) for _ in range(200)) == 100
                    # From then on its time runs.
                    assert budget.tokens(start + 1024) == (100 if floor else 0)
                    assert budget.try_withdraw(start + 1024) is bool(floor)


@pytest.mark.parametrize("method", [RetryBudget.deposit, RetryBudget.try_withdraw])
def test_no_thread_can_come_between_reading_and_writing_the_tokens(method: Callable[..., object]) -> None:
    # CPython lets another thread run at a call, at a jump backward, and where a function begins.
    code = list(dis.get_instructions(method))
    touched = [place for place, step in enumerate(code) if step.argval == "_tokens"]
    between = {step.opname for step in code[touched[0] : touched[-1] + 1]}
    assert not {
        name for name in between if "CALL" in name or "BACKWARD" in name or name in {"RESUME", "SEND"}
    }
    assert {"LOAD_ATTR", "STORE_ATTR"} <= between


def test_threads_that_share_a_budget_spend_no_token_twice() -> None:
    budget = RetryBudget("db", ratio=0.5, floor=0.0, burst=1e5)
    assert sum(budget.try_withdraw(0.0) for _ in range(10**5)) == 10**5
    spent = [0] * 4
    together = threading.Barrier(5)

    def work(number: int) -> None:
        together.wait(20)
        for _ in range(5000):
            budget.deposit()
            spent[number] += budget.try_withdraw(0.0)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    before = sys.getswitchinterval()
    # Not earlier: two threads cannot both be given their trace function at once, under coverage.
    sys.setswitchinterval(1e-6)
    try:
        together.wait(20)
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert sum(spent) + budget.tokens(0.0) == 10_000


def test_a_budget_that_makes_no_sense_is_refused_at_once() -> None:
    cases: list[dict[str, float]] = [
        {"ratio": -0.1},
        {"ratio": math.inf},
        {"ratio": math.nan},
        {"floor": -1.0},
        {"floor": math.inf},
        {"floor": math.nan},
        {"burst": 0.9},
        {"burst": math.inf},
        {"burst": math.nan},
        {"ratio": 0.0, "floor": 0.0},
    ]
    with every() as case:
        for wrong in cases:
            with case(wrong), pytest.raises(ValueError, match=r"RetryBudget\.\w+ must be a"):
                RetryBudget("db", **wrong)


def test_a_floor_alone_is_a_budget_and_so_is_a_ratio_alone() -> None:
    floor, ratio = RetryBudget("db", ratio=0.0, floor=1.0), RetryBudget("db", ratio=0.5, floor=0.0)
    assert not floor.is_fed
    assert not ratio.is_fed


def test_a_budget_tells_one_observer_where_its_tokens_are_and_no_second_one() -> None:
    clock, budget = ManualClock(), RetryBudget("db", burst=1)
    first, second = RecordingObserver(), RecordingObserver()
    budget.announce(ignore, clock)
    budget.announce(first, clock)
    budget.announce(second, clock)
    assert second.events == []
    (created,) = first.of(PolicyCreated)
    assert created.policy == "db"
    budget.try_withdraw(clock.now)
    clock.advance(0.05)
    (sample,) = created.tally()
    assert (sample.metric, sample.labels) == ("postfacta_retry_budget_tokens", ("db",))
    assert sample.value == pytest.approx(0.5)


REFUSALS: Final[list[type[ResilienceError]]] = [
    kind
    for kind in (getattr(errors, name) for name in errors.__all__)
    if issubclass(kind, RejectedError) and kind is not RejectedError
]


def test_what_never_began_may_be_tried_again_unless_that_cannot_help() -> None:
    with every() as case:
        for kind in REFUSALS:
            with case(kind):
                futile = {"BodyTooLargeError", "BodyTooSlowError", "HeadersTooLargeError", "DrainingError"}
                assert may_repeat(kind("db")) is (kind.__name__ not in futile)


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
                assert asked_wait(error) == seconds


def plan(
    rules: RetryRules, error: Exception, attempt: int = 1, *, deadline: float = math.inf, luck: float = 0.0
) -> RetryPlan:
    return rules.plan(error, attempt, now=1000.0, deadline=deadline, luck=luck)


def is_os_error(error: Exception) -> bool:
    return isinstance(error, OSError)


def test_only_what_the_caller_names_and_what_never_began_is_tried_again() -> None:
    cases: list[tuple[Retryable, Exception, str]] = [
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
        for retryable, error, outcome in cases:
            with case(retryable, error, outcome):
                assert plan(RetryRules(retryable=retryable), error).outcome == outcome


@given(st.floats(min_value=0, max_value=29.8), LUCK)
def test_a_throttled_caller_waits_longer_than_retry_after(asked: float, luck: float) -> None:
    delay = plan(RetryRules(), RejectedError("db", asked), luck=luck).delay
    assert asked <= delay <= asked + 0.1
    assert delay == pytest.approx(asked + 0.1 * (1 - luck))


@pytest.mark.parametrize("never", [-1.0, math.inf, -math.inf, math.nan])
def test_an_error_that_says_never_again_stops_the_tries(never: float) -> None:
    assert plan(RetryRules(), RejectedError("db", never)) == RetryPlan(RetryOutcome.FAILURE)


def test_the_callers_own_reading_of_the_wait_counts() -> None:
    rules = RetryRules(throttled=lambda _: 7.0)
    assert plan(rules, RejectedError("db", 1.0)).delay == pytest.approx(7.1)


def test_the_last_try_is_the_last() -> None:
    outcomes = [plan(RetryRules(), RejectedError("db"), attempt).outcome for attempt in (1, 2, 3, 4)]
    assert outcomes == ["retried", "retried", "exhausted", "exhausted"]
    assert plan(RetryRules(attempts=1), RejectedError("db")).outcome == "exhausted"


def test_waits_grow_with_the_tries() -> None:
    delays = [plan(RetryRules(), RejectedError("db"), attempt).delay for attempt in (1, 2)]
    assert delays == pytest.approx([0.1, 0.2])


def test_no_try_begins_at_the_deadline_or_after_it() -> None:
    # The wait is 0.125 s: exact in a float.
    rules = RetryRules(backoff=Backoff(base=0.125))
    assert plan(rules, RejectedError("db"), deadline=1000.125).outcome == "deadline"
    assert plan(rules, RejectedError("db"), deadline=math.nextafter(1000.125, 2000)).outcome == "retried"
    assert plan(rules, RejectedError("db", 1.0), deadline=1001.0).outcome == "deadline"


def test_a_wait_that_is_too_long_is_not_begun_though_no_deadline_forbids_it() -> None:
    rules = RetryRules(backoff=Backoff(base=0.125), max_wait=1.125)
    assert plan(rules, RejectedError("db", 1.0)).outcome == "retried"
    assert plan(rules, RejectedError("db", 1.01)).outcome == "deadline"


@pytest.mark.parametrize(
    "wrong",
    [{"attempts": 0}, {"max_wait": 0.0}, {"max_wait": math.inf}, {"max_wait": math.nan}],
)
def test_rules_that_make_no_sense_are_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"Retry\.\w+ must be a"):
        RetryRules(**wrong)


def test_a_longest_wait_may_be_shorter_than_a_second() -> None:
    rules = RetryRules(backoff=Backoff(base=0.125), max_wait=0.5)
    assert plan(rules, RejectedError("db", 0.25)).outcome == "retried"
    assert plan(rules, RejectedError("db", 0.5)).outcome == "deadline"


def test_a_budget_that_was_not_announced_shows_nothing() -> None:
    assert list(RetryBudget("db").tally()) == []
