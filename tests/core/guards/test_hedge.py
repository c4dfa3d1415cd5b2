"""Two tries of one call: one answer, one error, and nothing of either is left behind."""

from __future__ import annotations

import math
from contextlib import suppress

import anyio
import pytest

from postfacta_core.events import ListenerFailed, Mode, PolicyCreated
from postfacta_core.guards import On, Outcome
from postfacta_core.guards.budget import RetryBudget
from postfacta_core.guards.hedge import Hedge
from postfacta_core.guards.retry import Retry
from postfacta_core.testing import ManualClock
from tests.core.guards.hedging import WHERE, Bench, Caller, HedgeAtOnce, Try, deadline, settled
from tests.kit.every import every

OUTCOMES = ("first", "second", "failed", "budget_refused", "shadow")


async def test_a_first_try_that_is_fast_is_the_only_one() -> None:
    bench = Bench()
    bench.tries[0].answer("first")
    with anyio.fail_after(5):
        assert await bench.hedge.call(bench.dependency) == "first"
    assert (bench.started, bench.counts()) == (1, {})


async def test_the_delay_is_waited_before_a_second_try() -> None:
    bench = Bench()
    caller = Caller(bench)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(caller.run)
        await bench.tries[0].has_begun.wait()
        await settled()
        assert (bench.started, bench.slept) == (1, [0.05])
        await bench.end_delay()
        assert bench.started == 2
        bench.tries[0].answer("first")
        await caller.ended()


async def test_the_first_answer_wins_and_the_other_try_has_ended_before_it_is_given() -> None:
    for winner, loser, outcome in ((0, 1, "first"), (1, 0, "second")):
        bench = Bench()
        caller = Caller(bench)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(caller.run)
            await bench.tries[0].has_begun.wait()
            await bench.end_delay()
            bench.tries[winner].answer(f"from {winner}")
            await caller.ended()
            assert caller.answer == f"from {winner}"
            assert bench.tries[loser].was_cancelled
            assert bench.tries[loser].has_ended
        assert bench.counts() == {outcome: 1}


async def test_an_error_before_the_delay_is_raised_at_once_and_bare() -> None:
    bench, error = Bench(), ConnectionError("down")
    bench.tries[0].fail(error)
    with pytest.raises(ConnectionError) as caught:
        await bench.hedge.call(bench.dependency)
    assert caught.value is error
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert (bench.started, bench.counts()) == (1, {})


@pytest.mark.parametrize(("failing", "answering", "outcome"), [(0, 1, "second"), (1, 0, "first")])
async def test_once_both_run_an_error_of_one_leaves_it_to_the_other(
    failing: int, answering: int, outcome: str
) -> None:
    bench = Bench()
    caller = Caller(bench)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(caller.run)
        await bench.tries[0].has_begun.wait()
        await bench.end_delay()
        bench.tries[failing].fail(ConnectionError("down"))
        await settled()
        assert not caller.has_ended.is_set()
        bench.tries[answering].answer("answer")
        await caller.ended()
    assert (caller.answer, bench.counts()) == ("answer", {outcome: 1})


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_if_both_fail_the_error_of_the_first_is_raised_bare(order: tuple[int, int]) -> None:
    bench, errors = (
        Bench(),
        [ExceptionGroup("its own", [ConnectionError("0")]), ConnectionError("1")],
    )
    caller = Caller(bench)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(caller.run)
        await bench.tries[0].has_begun.wait()
        await bench.end_delay()
        for number in order:
            bench.tries[number].fail(errors[number])
            await settled()
        await caller.ended()
    assert caller.error is errors[0]
    assert bench.counts() == {"failed": 1}


async def test_two_answers_at_the_same_moment_are_one() -> None:
    bench = Bench()
    caller = Caller(bench)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(caller.run)
        await bench.tries[0].has_begun.wait()
        await bench.end_delay()
        bench.tries[0].answer("first")
        bench.tries[1].answer("second")
        await caller.ended()
    assert caller.answer in {"first", "second"}
    assert bench.counts() == {caller.answer: 1}


async def test_without_a_token_there_is_no_second_try() -> None:
    budget = RetryBudget("db", ratio=0.1, floor=0.0, burst=1)
    bench = Bench(budget=budget)
    assert budget.try_withdraw(bench.clock.now)
    caller = Caller(bench)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(caller.run)
        await bench.tries[0].has_begun.wait()
        bench.delay_is_over.set()
        await settled()
        assert bench.started == 1
        bench.tries[0].answer("first")
        await caller.ended()
    assert (caller.answer, bench.counts()) == ("first", {"budget_refused": 1})


@pytest.mark.parametrize("is_shared", [False, True])
async def test_a_call_is_paid_in_for_once_with_a_retry_around_it_or_without(
    *, is_shared: bool
) -> None:
    budget = RetryBudget("db", ratio=0.25, floor=0.0, burst=1)
    bench = Bench(budget=budget)
    assert budget.try_withdraw(bench.clock.now)
    bench.tries[0].answer("first")
    if is_shared:
        await Retry("search", budget=budget, clock=bench.clock).call(
            bench.hedge.call, bench.dependency
        )
    else:
        await bench.hedge.call(bench.dependency)
    assert budget.tokens(bench.clock.now) == 0.25


async def test_second_tries_are_no_more_than_the_budget_has() -> None:
    budget, calls = RetryBudget("db", ratio=0.2, floor=0.0, burst=5), 0

    async def slow() -> str:
        nonlocal calls
        calls += 1
        await settled()
        return "answer"

    hedge = HedgeAtOnce("search", delay=0.0, budget=budget, clock=ManualClock())
    for _ in range(200):
        assert await hedge.call(slow) == "answer"
    assert 200 + 40 <= calls <= 200 + 40 + 5


async def test_retries_and_second_tries_together_are_no_more_than_their_budget_has() -> None:
    clock, calls, seconds, rate = ManualClock(), 0, 20, 50
    budget = RetryBudget("db")

    async def slow_and_down() -> str:
        nonlocal calls
        calls += 1
        await settled()
        raise ConnectionError

    async def no_wait(seconds: float) -> None:
        """Many callers wait at the same time: the time passes between the calls."""

    hedge = HedgeAtOnce("search", delay=0.0, budget=budget, clock=clock)
    retry = Retry("search", budget=budget, on=ConnectionError, clock=clock, sleep=no_wait)
    for _ in range(rate * seconds):
        with pytest.raises(ConnectionError):
            await retry.call(hedge.call, slow_and_down)
        clock.advance(1 / rate)
    allowed = 1.2 * rate * seconds + 10 * seconds + 100
    assert allowed - 12 <= calls <= allowed + 1e-6


async def test_no_second_try_is_planned_for_after_the_deadline() -> None:
    bench = Bench()
    bench.tries[0].answer("first")
    with deadline(bench.clock, 0.05):
        assert await bench.hedge.call(bench.dependency) == "first"
    assert bench.slept == []
    with deadline(bench.clock, 0.06):
        bench.tries[1].answer("next")
        assert await bench.hedge.call(bench.dependency) == "next"
    assert bench.slept in (
        [0.05],
        [],
    )  # A first try that never waits may end before the second's task begins.


async def test_the_first_try_runs_where_its_caller_does() -> None:
    async def remember() -> str:
        WHERE.set("inside")
        return WHERE.get()

    token = WHERE.set("caller")
    assert await Hedge("search", delay=0.05).call(remember) == "inside"
    assert WHERE.get() == "inside"
    WHERE.reset(token)


@pytest.mark.parametrize(
    ("seconds", "counted"), [(0.04, {}), (0.05, {"shadow": 1}), (9.0, {"shadow": 1})]
)
async def test_the_shadow_counts_what_was_slow_and_starts_nothing(
    seconds: float, counted: dict[str, float]
) -> None:
    budget = RetryBudget("db", ratio=0.5, floor=0.0, burst=2)
    bench = Bench(mode=Mode.SHADOW, budget=budget)

    async def slow() -> str:
        bench.clock.advance(seconds)
        return "answer"

    bench.clock.now = 0.0
    assert await bench.hedge.call(slow) == "answer"
    assert (bench.slept, bench.counts(), budget.tokens(bench.clock.now)) == ([], counted, 2)


async def test_the_shadow_counts_what_the_budget_would_have_refused() -> None:
    budget = RetryBudget("db", ratio=0.5, floor=0.0, burst=1)
    bench = Bench(mode=Mode.SHADOW, budget=budget)
    assert budget.try_withdraw(bench.clock.now)

    async def slow() -> str:
        bench.clock.advance(1.0)
        return "answer"

    await bench.hedge.call(slow)
    assert bench.counts() == {"budget_refused": 1}


async def test_the_shadow_raises_what_the_only_try_raises() -> None:
    bench = Bench(mode=Mode.SHADOW)
    bench.tries[0].fail(ConnectionError("down"))
    with pytest.raises(ConnectionError, match="down"):
        await bench.hedge.call(bench.dependency)


async def test_switched_off_it_is_not_there() -> None:
    bench = Bench(mode=Mode.OFF)
    bench.tries[0].answer("first")
    assert await bench.hedge.call(bench.dependency) == "first"


async def test_the_delay_may_be_a_function_that_is_asked_at_each_call() -> None:
    delays = [0.05, math.inf]
    bench = Bench(delay=lambda: delays.pop(0))
    bench.tries[0].answer("first")
    bench.tries[1].answer("second")
    assert await bench.hedge.call(bench.dependency) == "first"
    with deadline(bench.clock, 1000.0):
        assert await bench.hedge.call(bench.dependency) == "second"
    assert (bench.slept, delays) == ([0.05], [])
    # One that raises is reported, and there is no second try.
    bench.tries.append(Try())
    bench.tries[2].answer("third")
    assert await bench.hedge.call(bench.dependency) == "third"
    assert bench.slept == [0.05]
    assert [event.policy for event in bench.observed.of(ListenerFailed)] == ["search"]
    assert bench.hedge.settings() == {"delay": "a function", "budget": "search", "mode": "enforce"}


async def test_what_on_names_starts_the_second_at_once() -> None:
    cases: list[tuple[str, On, Exception | str, bool]] = [
        ("a type", ConnectionError, ConnectionError("down"), True),
        ("another type", KeyError, ConnectionError("down"), False),
        ("a predicate of results", lambda out: out.result == "bad", "bad", True),
        ("a good result", lambda out: out.result == "bad", "good", False),
        (
            "an error, by a predicate",
            lambda out: out.error is not None,
            ConnectionError("down"),
            True,
        ),
        ("an error that a predicate lets pass", lambda out: False, ConnectionError("down"), False),
    ]
    with every() as case:
        for label, on, first, is_hedged in cases:
            with case(label):
                bench = Bench(on=on)
                end(bench.tries[0], first)
                bench.tries[1].answer("second")
                if is_hedged:
                    assert await bench.hedge.call(bench.dependency) == "second"
                elif isinstance(first, str):
                    assert await bench.hedge.call(bench.dependency) == first
                else:
                    with pytest.raises(ConnectionError):
                        await bench.hedge.call(bench.dependency)
                assert (bench.started, bench.counts()) == (
                    (2, {"second": 1}) if is_hedged else (1, {})
                )


def end(attempt: Try, outcome: Exception | str) -> None:
    if isinstance(outcome, str):
        attempt.answer(outcome)
    else:
        attempt.fail(outcome)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_a_result_that_is_no_answer_does_not_win(order: tuple[int, int]) -> None:
    for outcomes, winner in ((("bad", "good"), "second"), (("good", "bad"), "first")):
        bench = Bench(on=lambda out: out.result == "bad")
        caller = Caller(bench)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(caller.run)
            await bench.tries[0].has_begun.wait()
            await bench.end_delay()
            for number in order:
                bench.tries[number].answer(outcomes[number])
                await settled()
            await caller.ended()
        assert (caller.answer, bench.counts()) == ("good", {winner: 1})


async def test_of_two_that_are_no_answers_the_first_counts() -> None:
    for first, second in (
        ("bad", "worse"),
        (ConnectionError("down"), "bad"),
        ("bad", ConnectionError("down")),
    ):
        bench = Bench(on=lambda out: out.result != "good")
        end(bench.tries[0], first)
        end(bench.tries[1], second)
        if isinstance(first, str):
            assert await bench.hedge.call(bench.dependency) == first
        else:
            with pytest.raises(ConnectionError):
                await bench.hedge.call(bench.dependency)
        assert (bench.started, bench.counts()) == (2, {"failed": 1})


async def test_what_is_no_answer_starts_nothing_without_a_token_or_time() -> None:
    budget = RetryBudget("db", ratio=0.1, floor=0.0, burst=1)
    bench = Bench(budget=budget, on=lambda out: True)
    assert budget.try_withdraw(bench.clock.now)
    bench.tries[0].answer("bad")
    assert await bench.hedge.call(bench.dependency) == "bad"
    assert (bench.started, bench.counts()) == (1, {"budget_refused": 1})
    bench = Bench(on=lambda out: True)
    bench.tries[0].answer("bad")
    with deadline(bench.clock, 0.01):
        assert await bench.hedge.call(bench.dependency) == "bad"
    assert (bench.started, bench.counts()) == (1, {})


async def test_the_shadow_counts_what_is_no_answer_too() -> None:
    bench = Bench(mode=Mode.SHADOW, on=lambda out: True)
    bench.tries[0].answer("bad")
    assert await bench.hedge.call(bench.dependency) == "bad"
    assert (bench.started, bench.counts()) == (1, {"shadow": 1})


async def test_a_predicate_that_raises_is_reported_and_lets_pass() -> None:
    def broken(_: Outcome[object]) -> bool:
        raise RuntimeError("broken")

    bench = Bench(on=broken)
    bench.tries[0].answer("answer")
    assert await bench.hedge.call(bench.dependency) == "answer"
    assert [event.policy for event in bench.observed.of(ListenerFailed)] == ["search"]


async def test_by_itself_it_waits_on_the_loop_and_keeps_the_context() -> None:
    places = list[str]()

    async def work() -> str:
        places.append(WHERE.get())
        if len(places) == 1:
            await anyio.sleep_forever()
        return "answer"

    token = WHERE.set("caller")
    with anyio.fail_after(20):
        assert await Hedge("search", delay=0.001).call(work) == "answer"
    WHERE.reset(token)
    assert places == ["caller", "caller"]


async def test_it_decorates_and_hands_on_what_it_is_given() -> None:
    @Hedge("search", delay=0.05)
    async def read(self: int, function: str, *, name: str) -> tuple[object, ...]:
        """Read it."""
        return self, function, name

    assert await read(1, "two", name="three") == (1, "two", "three")
    assert read.__doc__ == "Read it."


def test_it_announces_itself_and_its_own_budget() -> None:
    bench = Bench()
    (own,) = bench.observed.of(PolicyCreated)
    *tries, budget = own.tally()
    assert {sample.labels for sample in tries} == {("search", outcome) for outcome in OUTCOMES}
    assert budget.labels == ("search",)
    assert (
        repr(Hedge("other", delay=0.05))
        == "Hedge('other', delay=0.05, budget='other', mode='enforce')"
    )
    assert bench.hedge.delay == 0.05


class Measured:
    """A hedge that measures itself, and calls that take the given seconds of its clock."""

    def __init__(self, delay: str = "p95", mode: Mode = Mode.ENFORCE) -> None:
        self.clock = ManualClock()
        self.hedge = HedgeAtOnce(
            "search", delay=delay, on=ConnectionError, mode=mode, clock=self.clock
        )

    async def call(self, seconds: float, error: Exception | None = None) -> None:
        async def take() -> None:
            self.clock.advance(seconds)
            if error is not None:
                raise error

        with suppress(ConnectionError, ValueError):
            await self.hedge.call(take)

    @property
    def delay(self) -> object:
        return self.hedge.status()["delay"]


async def test_it_measures_the_delay_by_itself() -> None:
    with every() as case:
        for mode in (Mode.ENFORCE, Mode.SHADOW):
            with case(mode):
                measured = Measured(mode=mode)
                assert measured.hedge.settings()["delay"] == measured.hedge.delay == "p95"
                for hundredths in range(1, 101):
                    assert measured.delay is None
                    await measured.call(hundredths / 100)
                assert measured.delay == pytest.approx(0.95)


async def test_while_it_measures_no_second_try_starts() -> None:
    bench = Bench(delay="p95")
    bench.tries[0].answer("first")
    for _ in range(99):
        await bench.hedge.call(bench.tries[0].run)
    assert bench.slept == []
    await bench.hedge.call(bench.tries[0].run)
    await bench.hedge.call(bench.tries[0].run)
    assert len(bench.slept) == 1


async def test_a_failure_before_the_delay_teaches_nothing() -> None:
    measured = Measured("p50")
    for _ in range(10):
        await measured.call(1.0)
    for error in (ConnectionError(), ValueError()):
        for _ in range(50):
            await measured.call(0.001, error)
    assert measured.delay == pytest.approx(1.0)


async def test_what_a_second_try_cut_short_was_slow() -> None:
    bench = Bench(delay="p50")
    bench.tries[0].answer("first")
    for _ in range(10):
        await bench.hedge.call(bench.tries[0].run)
    assert bench.hedge.status()["delay"] == 0.0
    for _ in range(11):
        bench.tries = [Try(), Try()]
        bench._started = 0  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - as new
        bench.delay_is_over = anyio.Event()
        caller = Caller(bench)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(caller.run)
            await bench.tries[0].has_begun.wait()
            await bench.end_delay()
            bench.tries[1].answer("second")
            await caller.ended()
        assert bench.tries[0].was_cancelled
    assert bench.hedge.status()["delay"] == pytest.approx(0.05)
