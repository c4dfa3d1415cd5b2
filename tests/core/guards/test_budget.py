"""A dependency gets no more further tries than its budget has, from all threads together."""

from __future__ import annotations

import dis
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from postfacta_core.asgi import Telemetry
from postfacta_core.guards.budget import RetryBudget
from postfacta_core.guards.hedge import Hedge
from postfacta_core.guards.retry import Retry
from tests.kit.every import every
from tests.kit.interleaving import interleaved

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
        """Return what is there.

        No more than the burst at any moment, and what came and went since then.
        """
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
    def come_from_a_thread_that_read_the_clock_earlier(
        self, seconds: Fraction, *, calls: bool
    ) -> None:
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


def test_five_calls_pay_for_one_further_try_and_a_second_for_ten() -> None:
    budget = RetryBudget("db")
    assert sum(budget.try_withdraw(0.0) for _ in range(200)) == 100
    for _ in range(5):
        budget.deposit()
    assert sum(budget.try_withdraw(0.0) for _ in range(10)) == 1
    assert sum(budget.try_withdraw(1.0) for _ in range(200)) == 10


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
def test_no_thread_can_come_between_reading_and_writing_the_tokens(
    method: Callable[..., object],
) -> None:
    # CPython lets another thread run at a call, at a jump backward, and where a function begins.
    code = list(dis.get_instructions(method))
    touched = [place for place, step in enumerate(code) if step.argval == "_tokens"]
    between = {step.opname for step in code[touched[0] : touched[-1] + 1]}
    assert not {
        name
        for name in between
        if "CALL" in name or "BACKWARD" in name or name in {"RESUME", "SEND"}
    }
    assert {"LOAD_ATTR", "STORE_ATTR"} <= between


def test_a_floor_alone_is_a_budget_and_so_is_a_ratio_alone() -> None:
    floor, ratio = RetryBudget("db", ratio=0.0, floor=1.0), RetryBudget("db", ratio=0.5, floor=0.0)
    assert not floor.is_fed
    assert not ratio.is_fed


def test_a_budget_shows_its_tokens_at_a_moment() -> None:
    budget = RetryBudget("db", burst=1)
    budget.try_withdraw(1000.0)
    sample = budget.sample(1000.05)
    assert (sample.metric, sample.labels) == ("postfacta_retry_budget_tokens", ("db",))
    assert sample.value == pytest.approx(0.5)


def test_a_budget_that_guards_share_is_shown_once_while_one_of_them_lives() -> None:
    telemetry, budget = Telemetry(), RetryBudget("db")
    guards = [
        Retry("silent", budget=budget, observer=None),
        Retry("read", budget=budget),
        Hedge("read", delay=1.0, budget=budget),
    ]
    for _ in range(2):
        lines = telemetry.metrics.render().body.decode().splitlines()
        assert [line for line in lines if line.startswith("postfacta_retry_budget_tokens{")] == [
            'postfacta_retry_budget_tokens{budget="db"} 100.0'
        ]
        del guards[1]


def test_no_token_is_spent_twice_whenever_threads_change_places() -> None:
    with every() as case:
        for seed in range(30):
            with case(seed):
                budget = RetryBudget("db", floor=0.0, burst=10.0)
                taken: list[bool] = []
                interleaved(
                    [lambda: taken.extend(budget.try_withdraw(0.0) for _ in range(8))] * 2,  # noqa: B023 - it ends here
                    within="guards/budget.py",
                    seed=seed,
                )
                assert sum(taken) == 10


def test_a_budget_of_all_tries_at_once_refuses_none() -> None:
    # As docs/how-to/retries.md says; the default burst refuses most of them.
    refused: dict[float, int] = {}
    for burst in (100.0, 600.0):
        budget = RetryBudget("job", ratio=2.0, floor=0.0, burst=burst)
        for _ in range(300):
            budget.deposit()
        refused[burst] = sum(not budget.try_withdraw(0.0) for _ in range(600))
    assert refused == {100.0: 500, 600.0: 0}
