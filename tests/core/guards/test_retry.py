"""A call is tried again where that helps, and never where it multiplies, floods, or comes too late."""

from __future__ import annotations

import math
import pickle
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import anyio
import pytest
from anyio.lowlevel import checkpoint

from postfacta_core.backoff import Backoff
from postfacta_core.context import RequestContext, bind_request, release_request
from postfacta_core.errors import CircuitOpenError, DeadlineExceededError, RejectedError
from postfacta_core.events import (
    ListenerFailed,
    Mode,
    PolicyCreated,
    RetryScheduled,
    Sample,
)
from postfacta_core.guards._guard import On, Outcome
from postfacta_core.guards.budget import RetryBudget
from postfacta_core.guards.retry import Retry
from postfacta_core.testing import ManualClock, RecordingObserver
from tests.kit.every import every
from tests.kit.garbage import garbage
from tests.kit.interleaving import interleaved

OUTCOMES = (
    "success", "recovered", "retried", "failure", "exhausted", "budget_refused", "deadline", "nested",
    "shadow",
)  # fmt: skip


class Dependency:
    """Raises the given errors, in turn, and answers from then on; counts how often it is asked."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.asked = 0

    async def __call__(self) -> str:
        self.asked += 1
        await checkpoint()
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


class Down:
    """Is down for good."""

    def __init__(self, kind: type[Exception] = ConnectionError) -> None:
        self.kind = kind
        self.asked = 0

    async def __call__(self) -> str:
        self.asked += 1
        raise self.kind("down")


class Bench:
    """What a retry is given in a test: a clock that its waits advance, and fixed randomness."""

    def __init__(self, *, luck: float = 0.0) -> None:
        self.clock = ManualClock()
        self.heard = RecordingObserver()
        self.waits: list[float] = []
        self.moves_clock = True
        self._luck = luck

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        if self.moves_clock:
            self.clock.advance(seconds)
        await checkpoint()

    def retry(
        self,
        name: str = "billing",
        *,
        attempts: int = 3,
        budget: RetryBudget | None = None,
        on: On = ConnectionError,
        mode: Mode = Mode.ENFORCE,
    ) -> Retry:
        return Retry(
            name,
            attempts=attempts,
            budget=budget,
            on=on,
            mode=mode,
            observer=self.heard,
            clock=self.clock,
            luck=lambda: self._luck,
            sleep=self.sleep,
        )


def counts(retry: Retry) -> dict[str, float]:
    """Read what was counted, without what never happened."""
    return {
        sample.labels[1]: sample.value
        for sample in retry.collect()
        if len(sample.labels) > 1 and sample.value
    }


def notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", ()))


@contextmanager
def deadline(clock: ManualClock, seconds: float) -> Generator[None]:
    request = RequestContext("0123456789abcdef", clock.now, clock)
    request.deadline = clock.now + seconds
    token = bind_request(request)
    try:
        yield
    finally:
        release_request(token)


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_call_that_succeeds_is_made_once(bench: Bench) -> None:
    retry, dependency = bench.retry(), Dependency()
    assert await retry.call(dependency) == "answer"
    assert (dependency.asked, bench.waits, counts(retry)) == (1, [], {"success": 1})


async def test_a_call_that_fails_twice_is_made_three_times_and_later_each_time(
    bench: Bench,
) -> None:
    retry, dependency = bench.retry(), Dependency(ConnectionError(), ConnectionError())
    assert await retry.call(dependency) == "answer"
    assert dependency.asked == 3
    assert bench.waits == pytest.approx([0.1, 0.2])
    assert counts(retry) == {"retried": 2, "recovered": 1}


async def test_every_retry_is_reported_before_its_wait(bench: Bench) -> None:
    await bench.retry().call(Dependency(ConnectionResetError(), ConnectionError()))
    assert bench.heard.of(RetryScheduled) == [
        RetryScheduled("billing", 1, 0.1, "ConnectionResetError"),
        RetryScheduled("billing", 2, 0.2, "ConnectionError"),
    ]


async def test_the_jitter_spreads_the_waits_at_the_cap_too() -> None:
    waits: list[float] = []
    for luck in (0.0, 0.25, 0.5, 0.75):
        bench = Bench(luck=luck)
        retry = Retry(
            "billing",
            attempts=12,
            backoff=Backoff(cap=1.6),
            on=ConnectionError,
            clock=bench.clock,
            luck=partial(float, luck),
            sleep=bench.sleep,
        )
        with pytest.raises(ConnectionError):
            await retry.call(Down())
        assert len(bench.waits) == 11
        waits.append(bench.waits[-1])
    assert waits == pytest.approx([1.6, 1.2, 0.8, 0.4])


async def test_when_the_tries_run_out_the_last_error_itself_is_raised_with_a_note(
    bench: Bench,
) -> None:
    retry, errors = (
        bench.retry(),
        [ConnectionError("one"), ConnectionError("two"), ConnectionError("three")],
    )
    with pytest.raises(ConnectionError) as caught:
        await retry.call(Dependency(*errors))
    assert caught.value is errors[2]
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert notes(caught.value) == ["retry 'billing': given up after 3 tries: no more tries"]
    assert notes(errors[0]) == notes(errors[1]) == []
    assert counts(retry) == {"retried": 2, "exhausted": 1}


async def test_what_the_caller_did_not_name_is_raised_at_once_and_without_a_word(
    bench: Bench,
) -> None:
    retry, dependency = bench.retry(), Dependency(ValueError("bad"))
    with pytest.raises(ValueError, match="bad") as caught:
        await retry.call(dependency)
    assert (dependency.asked, notes(caught.value), counts(retry)) == (1, [], {"failure": 1})


async def test_by_default_only_what_never_began_is_tried_again() -> None:
    bench = Bench()
    retry = Retry("billing", clock=bench.clock, luck=lambda: 0.0, sleep=bench.sleep)
    assert await retry.call(Dependency(CircuitOpenError("billing", 2.0))) == "answer"
    assert bench.waits == pytest.approx([2.1])
    for error in (OSError(), DeadlineExceededError("billing", 1.0)):
        dependency = Dependency(error)
        with pytest.raises(type(error)):
            await retry.call(dependency)
        assert dependency.asked == 1


@pytest.mark.parametrize("never", [math.inf, -1.0])
async def test_an_answer_that_says_never_again_stops_at_once(bench: Bench, never: float) -> None:
    retry, dependency = bench.retry(), Dependency(RejectedError("billing", never))
    with pytest.raises(RejectedError):
        await retry.call(dependency)
    assert (dependency.asked, counts(retry)) == (1, {"failure": 1})


async def test_no_wait_is_begun_that_would_end_after_the_deadline(bench: Bench) -> None:
    retry, dependency = bench.retry(), Dependency(*[RejectedError("billing", 1.0)] * 3)
    with deadline(bench.clock, 2.0), pytest.raises(RejectedError) as caught:
        await retry.call(dependency)
    assert dependency.asked == 2
    assert bench.waits == pytest.approx([1.1])
    assert notes(caught.value) == [
        "retry 'billing': given up after 2 tries: the wait would have been too long"
    ]
    assert counts(retry) == {"retried": 1, "deadline": 1}


async def test_an_hour_that_a_dependency_asks_for_is_not_waited(bench: Bench) -> None:
    retry, dependency = bench.retry(), Dependency(RejectedError("billing", 3600.0))
    with pytest.raises(RejectedError):
        await retry.call(dependency)
    assert (bench.waits, counts(retry)) == ([], {"deadline": 1})


async def test_an_empty_budget_ends_the_tries_with_the_dependencys_error(bench: Bench) -> None:
    budget = RetryBudget("db", ratio=0.1, floor=0.0, burst=1)
    retry, dependency = bench.retry(budget=budget), Down()
    with pytest.raises(ConnectionError, match="down") as caught:
        await retry.call(dependency)
    assert dependency.asked == 2
    assert notes(caught.value) == [
        "retry 'billing': given up after 2 tries: the retry budget of its dependency is used up"
    ]
    assert counts(retry) == {"retried": 1, "budget_refused": 1}


async def test_nothing_is_spent_for_a_try_that_is_not_made(bench: Bench) -> None:
    budget = RetryBudget("db", ratio=0.0, floor=1e-9, burst=5)
    with pytest.raises(ValueError, match="bad"):
        await bench.retry(budget=budget).call(Dependency(ValueError("bad")))
    with deadline(bench.clock, 0.01), pytest.raises(ConnectionError):
        await bench.retry(budget=budget).call(Down())
    with pytest.raises(ConnectionError):
        await bench.retry(budget=budget, attempts=1).call(Down())
    assert budget.tokens(bench.clock.now) == 5


@pytest.mark.parametrize("rate", [5, 50, 500])
async def test_a_dependency_that_is_down_sees_a_fifth_more_calls_and_the_floor(rate: int) -> None:
    bench, seconds = Bench(), 20
    budget, down = RetryBudget("db"), Down()
    # Many callers wait at the same time, so the time passes between the calls and not in the waits.
    bench.moves_clock = False
    retries = [bench.retry(name, budget=budget, attempts=5) for name in ("read", "list")]
    for number in range(rate * seconds):
        with pytest.raises(ConnectionError):
            await retries[number % 2].call(down)
        bench.clock.advance(1 / rate)
    calls = rate * seconds
    allowed = 1.2 * calls + 10 * seconds + 100
    assert down.asked <= allowed + 1e-6
    # And it gets what it may: the budget does not refuse more than it says.
    assert down.asked >= min(5 * calls, allowed - 12)


async def test_a_hundred_layers_of_one_budget_pay_in_once(bench: Bench) -> None:
    budget = RetryBudget("db", ratio=0.25, floor=0.0, burst=100)
    assert sum(budget.try_withdraw(bench.clock.now) for _ in range(100)) == 100
    inner, outer = bench.retry("inner", budget=budget), bench.retry("outer", budget=budget)
    await outer.call(inner.call, Dependency())
    assert budget.tokens(bench.clock.now) == 0.25
    other = RetryBudget("mail", ratio=0.25, floor=0.0, burst=100)
    assert sum(other.try_withdraw(bench.clock.now) for _ in range(100)) == 100
    await outer.call(bench.retry("mail", budget=other).call, Dependency())
    assert other.tokens(bench.clock.now) == 0.25


async def test_tries_of_two_layers_do_not_multiply(bench: Bench) -> None:
    down = Down()
    inner, outer = bench.retry("inner"), bench.retry("outer")
    with pytest.raises(ConnectionError) as caught:
        await outer.call(inner.call, down)
    assert down.asked == 3
    assert counts(inner) == {"retried": 2, "exhausted": 1}
    assert counts(outer) == {"nested": 1}
    assert notes(caught.value) == [
        "retry 'inner': given up after 3 tries: no more tries",
        "retry 'outer': given up after 1 try: a Retry within has tried it again already",
    ]


async def test_an_error_that_became_the_cause_of_another_is_not_tried_again_either(
    bench: Bench,
) -> None:
    down, inner = Down(), bench.retry("inner")

    async def translated() -> str:
        try:
            return await inner.call(down)
        except ConnectionError as error:
            raise RejectedError("billing") from error

    async def replaced() -> str:
        try:
            return await translated()
        except RejectedError:
            raise ConnectionError("billing is away")  # noqa: B904 - a context tells as much as a cause

    with pytest.raises(ConnectionError, match="billing is away"):
        await bench.retry("outer").call(replaced)
    assert down.asked == 3


async def test_a_chain_of_errors_in_a_circle_is_not_followed_for_ever(bench: Bench) -> None:
    one, two = ConnectionError("one"), ConnectionError("two")
    one.__cause__, two.__cause__ = two, one
    assert await bench.retry().call(Dependency(one)) == "answer"


async def test_what_the_inner_retry_does_not_try_again_the_outer_one_may(bench: Bench) -> None:
    dependency = Dependency(ValueError("bad"))
    inner, outer = bench.retry("inner"), bench.retry("outer", on=ValueError)
    assert await outer.call(inner.call, dependency) == "answer"
    assert (dependency.asked, counts(outer)) == (2, {"retried": 1, "recovered": 1})


@pytest.mark.parametrize(
    "plain", [{"attempts": 1}, {"mode": Mode.OFF}, {"mode": Mode.SHADOW}], ids=str
)
async def test_an_inner_retry_that_never_tries_twice_does_not_stop_the_outer_one(
    bench: Bench, plain: dict[str, object]
) -> None:
    down, inner = Down(), bench.retry("inner", **plain)  # type: ignore[arg-type]
    with pytest.raises(ConnectionError):
        await bench.retry("outer").call(inner.call, down)
    assert down.asked == 3


async def test_an_outer_retry_that_is_only_tried_out_is_not_there(bench: Bench) -> None:
    down, inner = Down(), bench.retry("inner")
    middle = bench.retry("middle", mode=Mode.SHADOW)
    outer = bench.retry("outer")
    with pytest.raises(ConnectionError):
        await outer(middle(inner(down)))()
    assert down.asked == 3
    assert counts(outer) == {"nested": 1}


async def test_an_error_object_that_is_raised_again_and_again_is_a_new_error_each_time(
    bench: Bench,
) -> None:
    the_error = ConnectionError("always the same")
    inner, outer = bench.retry("inner"), bench.retry("outer")

    async def nested(dependency: Dependency) -> str:
        return await inner.call(dependency)

    for _ in range(5):
        with pytest.raises(ConnectionError):
            await outer.call(nested, Dependency(*[the_error] * 3))
        # The mark that it bears is of another call.
        assert await outer.call(Dependency(the_error)) == "answer"
    assert len(notes(the_error)) == 2


async def test_an_error_with_a_mark_can_be_pickled(bench: Bench) -> None:
    with pytest.raises(ConnectionError) as caught:
        await bench.retry("outer").call(bench.retry("inner").call, Down())
    copied = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - we have just made it
    assert copied.args == ("down",)


async def test_a_task_left_behind_by_a_call_has_retries_of_its_own(bench: Bench) -> None:
    down, inner = Down(), bench.retry("inner")
    has_ended = anyio.Event()

    async def later() -> None:
        await has_ended.wait()
        with pytest.raises(ConnectionError):
            await inner.call(down)

    async with anyio.create_task_group() as tasks:

        async def start() -> None:
            tasks.start_soon(later)

        await bench.retry("outer").call(start)
        has_ended.set()
    assert (down.asked, counts(inner)) == (3, {"retried": 2, "exhausted": 1})


async def test_the_shadow_counts_what_it_would_try_again_and_does_not(bench: Bench) -> None:
    budget = RetryBudget("db", ratio=0.25, floor=0.0, burst=3)
    retry, down = bench.retry(mode=Mode.SHADOW, budget=budget), Down()
    with pytest.raises(ConnectionError) as caught:
        await retry.call(down)
    with pytest.raises(ValueError, match="bad"):
        await retry.call(Dependency(ValueError("bad")))
    assert await retry.call(Dependency()) == "answer"
    assert (down.asked, bench.waits, notes(caught.value)) == (1, [], [])
    assert counts(retry) == {"shadow": 1, "failure": 1, "success": 1}
    # Others live on the same budget.
    assert budget.tokens(bench.clock.now) == 3
    for _ in range(3):
        budget.try_withdraw(bench.clock.now)
    with pytest.raises(ConnectionError):
        await retry.call(down)
    assert counts(retry)["budget_refused"] == 1
    assert budget.tokens(bench.clock.now) == 0.25


async def test_switched_off_it_is_not_there(bench: Bench) -> None:
    retry, down = bench.retry(mode=Mode.OFF), Down()
    with pytest.raises(ConnectionError) as caught:
        await retry.call(down)
    assert (down.asked, counts(retry), notes(caught.value)) == (1, {}, [])


async def test_a_predicate_that_raises_is_a_no_and_is_reported(bench: Bench) -> None:
    def broken(outcome: Outcome[object]) -> bool:
        raise KeyError("status")

    dependency = Dependency(ConnectionError("down"))
    with pytest.raises(ConnectionError, match="down") as caught:
        await bench.retry(on=broken).call(dependency)
    assert caught.value.__context__ is None
    assert dependency.asked == 1
    assert bench.heard.of(ListenerFailed) == [ListenerFailed("billing", "KeyError('status')")]


async def test_a_frozen_error_is_raised_without_a_note(bench: Bench) -> None:
    @dataclass(frozen=True)
    class FrozenError(ConnectionError):
        where: str

    with pytest.raises(FrozenError):
        await bench.retry("outer").call(
            bench.retry("inner").call, Dependency(*[FrozenError("db")] * 3)
        )


async def test_it_decorates_and_hands_on_what_it_is_given(bench: Bench) -> None:
    seen: list[tuple[object, ...]] = []

    @bench.retry()
    async def read(self: int, function: str, *, name: str) -> str:
        """Read it."""
        seen.append((self, function, name))
        if len(seen) == 1:
            raise ConnectionError
        return "answer"

    assert await read(1, "two", name="three") == "answer"
    assert seen == [(1, "two", "three")] * 2
    assert read.__name__ == "read"
    assert read.__doc__ == "Read it."


async def test_it_announces_itself_and_its_own_budget(bench: Bench) -> None:
    retry = bench.retry("billing")
    (own,) = bench.heard.of(PolicyCreated)
    assert own.policy == "billing"
    *tries, budget = own.tally()
    assert {sample.labels for sample in tries} == {("billing", outcome) for outcome in OUTCOMES}
    assert budget == Sample("postfacta_retry_budget_tokens", ("billing",), 100.0)
    assert (
        repr(retry) == "Retry('billing', attempts=3, budget='billing', max_wait=30, mode='enforce')"
    )
    assert retry.budget.is_fed


class Stop(BaseException):
    """What is no Exception, as a KeyboardInterrupt is not."""


async def test_what_is_no_exception_goes_through_and_is_not_counted(bench: Bench) -> None:
    async def stop() -> None:
        raise Stop

    retry = bench.retry(on=lambda _: True)
    with pytest.raises(Stop):
        await retry.call(stop)
    assert counts(retry) == {}


@pytest.mark.parametrize("point", range(5))
async def test_a_cancellation_at_any_await_ends_the_call_and_is_no_outcome(
    bench: Bench, point: int
) -> None:
    seen, down = 0, Down()

    async def await_here() -> None:
        nonlocal seen
        if seen == point:
            scope.cancel()
        seen += 1
        await checkpoint()

    async def work() -> None:
        await await_here()
        await down()

    async def sleep(seconds: float) -> None:
        await await_here()

    retry = Retry("billing", on=ConnectionError, sleep=sleep, clock=bench.clock)
    with anyio.CancelScope() as scope:
        await retry.call(work)
    assert scope.cancelled_caught
    # Points 0, 2 and 4 are in a try, 1 and 3 in a wait.
    assert (seen, down.asked) == (point + 1, (point + 1) // 2)
    assert counts(retry) == ({"retried": down.asked} if down.asked else {})
    # Nothing is left of it: the next call has all its tries, and is nobody's inner one.
    down.asked, point = 0, -1
    with pytest.raises(ConnectionError):
        await retry.call(work)
    assert (down.asked, counts(retry)["exhausted"]) == (3, 1)


async def at_once(seconds: float) -> None:
    """Do not wait."""


@pytest.mark.parametrize("failures", [0, 1, 2, 3])
async def test_a_call_leaves_nothing_for_the_cyclic_collector_however_it_ends(
    failures: int,
) -> None:
    # The budget never refuses.
    inner, outer = (
        Retry(name, budget=RetryBudget(name, ratio=3.0), on=ConnectionError, sleep=at_once)
        for name in ("inner", "outer")
    )

    async def fail(state: list[int]) -> str:
        state[0] += 1
        if state[0] <= failures:
            raise ConnectionError
        return "answer"

    async def once() -> None:
        try:
            await outer.call(inner.call, fail, [0])
        except ConnectionError:
            assert failures == 3

    assert await garbage(once) == 0


def test_a_plain_function_is_tried_again_in_its_thread() -> None:
    waits: list[float] = []
    retry = Retry("billing", on=ConnectionError, sleep=waits.append, luck=lambda: 0.5)
    answers: list[object] = [ConnectionError("down"), "answer"]

    @retry
    def ask() -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert ask() == "answer"
    assert (waits, counts(retry)) == ([0.05], {"retried": 1, "recovered": 1})
    with pytest.raises(IndexError):
        ask()


def test_a_plain_function_that_goes_on_failing_raises_its_own_error() -> None:
    retry = Retry("billing", on=ConnectionError, attempts=2, sleep=lambda _: None)

    def ask() -> None:
        raise ConnectionError("down")

    with pytest.raises(ConnectionError) as caught:
        retry.call_sync(ask)
    assert notes(caught.value) == ["retry 'billing': given up after 2 tries: no more tries"]
    retry.mode = "off"
    with pytest.raises(ConnectionError):
        retry.call_sync(ask)
    assert counts(retry) == {"retried": 1, "exhausted": 1}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_plain_function_is_refused_on_an_event_loop() -> None:
    calls: list[int] = []
    with pytest.raises(
        RuntimeError, match=r"Retry\('billing', .*\) may wait, which would block the event loop"
    ):
        Retry("billing").call_sync(calls.append, 7)
    assert calls == []


class Response:
    """A response that must be closed, unless the caller gets it."""

    def __init__(self, status: int, retry_after: float | None = None) -> None:
        self.status = status
        self.retry_after = retry_after
        self.is_closed = False

    async def close(self) -> None:
        await checkpoint()
        self.is_closed = True

    def close_now(self) -> None:
        self.is_closed = True


def is_unwell(outcome: Outcome[Response]) -> bool:
    return outcome.result is None or outcome.result.status >= 500


async def test_a_result_may_be_the_failure_and_those_before_the_last_are_released(
    bench: Bench,
) -> None:
    responses = [Response(503, retry_after=2.0), Response(500), Response(503)]
    left = iter(responses)

    async def ask() -> Response:
        return next(left)

    retry = Retry(
        "search",
        on=is_unwell,
        discard=Response.close,
        sleep=bench.sleep,
        observer=bench.heard,
        luck=lambda: 0.0,
    )
    assert await retry.call(ask) is responses[-1]
    assert [each.is_closed for each in responses] == [True, True, False]
    assert bench.waits == [pytest.approx(2.1), pytest.approx(0.2)]
    assert counts(retry) == {"retried": 2, "exhausted": 1}
    assert [event.error_type for event in bench.heard.of(RetryScheduled)] == ["result", "result"]


def test_a_result_of_a_plain_function_may_be_the_failure() -> None:
    responses = [Response(500), Response(200)]
    left = iter(responses)
    retry = Retry("search", on=is_unwell, discard=Response.close_now, sleep=lambda _: None)
    assert retry.call_sync(lambda: next(left)) is responses[-1]
    assert [each.is_closed for each in responses] == [True, False]
    assert counts(retry) == {"retried": 1, "recovered": 1}


async def test_what_releases_or_judges_a_result_may_raise(bench: Bench) -> None:
    def broken(_: object) -> bool:
        raise KeyError("status")

    left = iter([Response(500), Response(200)])

    async def ask() -> Response:
        return next(left)

    retry = Retry("search", on=is_unwell, discard=broken, sleep=bench.sleep, observer=bench.heard)
    assert (await retry.call(ask)).status == 200
    judged = Retry("judged", on=broken, sleep=bench.sleep, observer=bench.heard)
    assert await judged.call(Dependency()) == "answer"
    assert [event.policy for event in bench.heard.of(ListenerFailed)] == ["search", "judged"]


def test_threads_share_a_retry_and_each_try_is_counted_once() -> None:
    with every() as case:
        for seed in range(10):
            with case(seed):
                retry = Retry("billing", on=ConnectionError, attempts=2, sleep=lambda _: None)

                def work(retry: Retry = retry) -> None:
                    for _ in range(4):
                        with suppress(ConnectionError):
                            retry.call_sync(fail)

                interleaved([work, work], within="core/guards/retry.py", seed=seed)
                assert counts(retry) == {"retried": 8, "exhausted": 8}


def fail() -> None:
    raise ConnectionError("down")
