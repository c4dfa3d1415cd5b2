"""An old answer is given only to its first receiver, never for too long, and never as a fresh one."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from postfacta_core.errors import CircuitOpenError, DeadlineExceededError, FailedResponseError
from postfacta_core.events import ListenerFailed, Mode, PolicyCreated, Sample
from postfacta_core.guards._guard import RAISE, Outcome
from postfacta_core.guards.bulkhead import Bulkhead
from postfacta_core.guards.fallback import Answer, Fallback
from postfacta_core.guards.pipeline import Pipeline
from postfacta_core.guards.retry import Retry
from postfacta_core.testing import ManualClock, RecordingObserver
from tests.kit.every import every
from tests.kit.garbage import garbage


async def answer(text: str = "fresh") -> str:
    return text


T = TypeVar("T")


async def fail(error: Exception) -> str:
    raise error


def as_it_is(key: Hashable) -> Hashable:
    return key


def first_of(key: Hashable, *_: object) -> Hashable:
    return key


async def ask(
    fallback: Fallback, key: Hashable, function: Callable[..., Awaitable[T]], *args: Any
) -> Answer[T]:
    """Ask a function in the name of a key."""

    async def of(key: Hashable) -> T:
        return await function(*args)

    return await fallback.ask(of, key)


async def keyed(key: Hashable, function: Callable[..., Awaitable[T]], *args: Any) -> T:
    return await function(*args)


AWAY = CircuitOpenError("db", 3.0)


class Bench:
    """A fallback with a clock that the test moves."""

    def __init__(
        self,
        *,
        max_age: float = 900.0,
        max_entries: int = 1000,
        otherwise: object = RAISE,
        mode: Mode = Mode.ENFORCE,
    ) -> None:
        self.clock = ManualClock()
        self.heard = RecordingObserver()
        self.fallback = Fallback(
            "invoices",
            key=first_of,
            on=ConnectionError,
            max_age=max_age,
            max_entries=max_entries,
            otherwise=otherwise,
            mode=mode,
            observer=self.heard,
            clock=self.clock,
        )

    def counts(self) -> dict[str, float]:
        return {
            sample.labels[1]: sample.value for sample in self.fallback.collect() if sample.value
        }


async def test_a_fresh_answer_is_given_as_such() -> None:
    bench = Bench()
    given = await ask(bench.fallback, "key", answer)
    assert given == Answer("fresh", 0.0, None)
    assert given.is_fresh
    assert bench.counts() == {"fresh": 1}


def is_bad(outcome: Outcome[str]) -> bool:
    value = outcome.result
    if value == "odd":
        raise ValueError(value)
    return value is None or value.startswith("bad")


async def test_a_value_that_is_a_failure_is_replaced_by_the_last_good_one() -> None:
    fallback = Fallback("invoices", key=as_it_is, on=is_bad)
    await ask(fallback, "key", answer, "good")
    given = await ask(fallback, "key", answer, "bad")
    assert (given.value, type(given.error), given.is_fresh) == ("good", FailedResponseError, False)


async def test_a_failure_that_nothing_stands_in_for_is_returned_with_its_error() -> None:
    fallback = Fallback("invoices", key=as_it_is, on=is_bad)
    given = await ask(fallback, "key", answer, "bad")
    assert (given.value, given.age, type(given.error)) == ("bad", 0.0, FailedResponseError)
    assert fallback.status()["kept"] == 0


async def test_a_predicate_that_raises_lets_the_value_pass() -> None:
    heard = RecordingObserver()
    fallback = Fallback("invoices", key=as_it_is, on=is_bad, observer=heard)
    assert (await ask(fallback, "key", answer, "odd")).is_fresh
    assert ListenerFailed("invoices", "ValueError('odd')") in heard.events


@pytest.mark.parametrize(
    "error",
    [AWAY, DeadlineExceededError("db"), ConnectionResetError("gone")],
    ids=lambda e: type(e).__name__,
)
async def test_the_last_good_answer_stands_in_and_says_how_old_it_is_and_why(
    error: Exception,
) -> None:
    bench = Bench()
    await ask(bench.fallback, "key", answer, "one")
    await ask(bench.fallback, "key", answer, "two")
    bench.clock.advance(60)
    given = await ask(bench.fallback, "key", fail, error)
    assert (given.value, given.age, given.error) == ("two", 60, error)
    assert not given.is_fresh
    assert bench.counts() == {"fresh": 2, "stale": 1}


async def test_the_age_counts_from_when_the_call_began() -> None:
    bench = Bench()

    async def slow() -> str:
        bench.clock.advance(10)
        return "slow"

    await ask(bench.fallback, "key", slow)
    assert (await ask(bench.fallback, "key", fail, AWAY)).age == 10


async def test_an_error_that_is_an_answer_is_raised_and_forgets_what_was_there() -> None:
    bench = Bench()
    await ask(bench.fallback, "key", answer)
    with pytest.raises(LookupError, match="no such invoice"):
        await ask(bench.fallback, "key", fail, LookupError("no such invoice"))
    with pytest.raises(CircuitOpenError):
        await ask(bench.fallback, "key", fail, AWAY)
    assert bench.counts() == {"fresh": 1, "none": 1}


@pytest.mark.parametrize("everything", [False, True])
async def test_what_was_forgotten_does_not_come_back_from_a_call_under_way(
    *, everything: bool
) -> None:
    bench = Bench()

    async def meanwhile() -> str:
        if everything:
            bench.fallback.clear()
        else:
            bench.fallback.forget("key")
        return "seen before"

    await ask(bench.fallback, "key", answer)
    assert (await ask(bench.fallback, "key", meanwhile)).value == "seen before"
    with pytest.raises(CircuitOpenError):
        await ask(bench.fallback, "key", fail, AWAY)


async def test_a_new_answer_counts_as_use() -> None:
    bench = Bench(max_entries=2)
    for key in ("one", "two", "one", "three"):
        await ask(bench.fallback, key, answer, key)
    assert (await ask(bench.fallback, "one", fail, AWAY)).value == "one"
    with pytest.raises(CircuitOpenError):
        await ask(bench.fallback, "two", fail, AWAY)


def nothing(outcome: Outcome[str]) -> str:
    return f"nothing: {type(outcome.error).__name__}"


async def test_a_made_up_answer_is_the_last_resort_and_says_that_it_is_one() -> None:
    bench = Bench(otherwise=nothing)
    given = await ask(bench.fallback, "key", fail, AWAY)
    assert given == Answer("nothing: CircuitOpenError", math.inf, AWAY)
    await ask(bench.fallback, "key", answer)
    assert (await ask(bench.fallback, "key", fail, AWAY)).value == "fresh"
    assert bench.counts() == {"default": 1, "fresh": 1, "stale": 1}


class UnavailableError(Exception):
    """What a caller of the fallback expects."""


async def test_what_a_maker_raises_is_raised_in_place_of_the_error() -> None:
    def translate(outcome: Outcome[str]) -> str:
        raise UnavailableError from outcome.error

    async def translate_later(outcome: Outcome[str]) -> str:
        await checkpoint()
        return translate(outcome)

    with every() as case:
        for maker in (translate, translate_later):
            with case(maker.__name__):
                bench = Bench(otherwise=maker)
                with pytest.raises(UnavailableError) as caught:
                    await ask(bench.fallback, "key", fail, AWAY)
                assert caught.value.__cause__ is AWAY
                with pytest.raises(UnavailableError):
                    await bench.fallback.call(keyed, "key", fail, AWAY)
                assert bench.heard.of(ListenerFailed) == []
                assert bench.counts() == {"none": 2}


async def test_an_async_maker_is_awaited() -> None:
    async def other_provider(outcome: Outcome[str]) -> str:
        await checkpoint()
        return f"instead of {outcome.result or type(outcome.error).__name__}"

    bench = Bench(otherwise=other_provider)
    expected = "instead of CircuitOpenError"
    assert await ask(bench.fallback, "key", fail, AWAY) == Answer(expected, math.inf, AWAY)
    assert await bench.fallback.call(keyed, "key", fail, AWAY) == expected
    assert bench.counts() == {"default": 2}
    of_value = Fallback("values", otherwise=other_provider, on=lambda it: it.result == "fresh")
    assert await of_value.call(answer) == "instead of fresh"
    assert (await of_value.ask(answer)).value == "instead of fresh"


def test_an_async_maker_is_refused_for_a_plain_function() -> None:
    async def later(_: Outcome[str]) -> str:
        return "later"

    def away() -> str:
        raise AWAY

    def hide(outcome: Outcome[str]) -> Any:
        return later(outcome)

    fallback = Fallback("invoices", otherwise=later)
    message = "cannot guard a plain function: .*its otherwise is an async function"
    with pytest.raises(TypeError, match=message):
        fallback.call_sync(str)
    with pytest.raises(TypeError, match=message):
        Pipeline(fallback, Bulkhead("invoices", 1)).call_sync(str)
    with pytest.raises(TypeError, match="Fallback decorates async functions"):
        fallback(away)
    hidden = Fallback("hidden", otherwise=hide)
    with pytest.raises(TypeError, match=message):
        hidden.call_sync(away)


async def test_a_shadow_calls_no_maker() -> None:
    async def never(_: Outcome[str]) -> str:
        raise AssertionError

    bench = Bench(otherwise=never, mode=Mode.SHADOW)
    with pytest.raises(CircuitOpenError):
        await ask(bench.fallback, "key", fail, AWAY)
    assert bench.counts() == {"shadow": 1}


async def test_a_maker_may_raise_the_error_itself_to_give_no_answer() -> None:
    def refuse(outcome: Outcome[str]) -> str:
        assert outcome.error is not None
        raise outcome.error

    bench = Bench(otherwise=refuse)
    with pytest.raises(CircuitOpenError):
        await ask(bench.fallback, "key", fail, AWAY)
    assert bench.heard.of(ListenerFailed) == []


async def test_a_value_of_none_is_a_value() -> None:
    fallback = Fallback("invoices", key=as_it_is)

    async def nothing() -> None:
        return None

    await ask(fallback, "key", nothing)

    async def away() -> None:
        raise AWAY

    assert (await ask(fallback, "key", away)).error is AWAY


async def test_the_shadow_counts_what_it_would_give_and_lets_the_error_through() -> None:
    bench = Bench(mode=Mode.SHADOW)
    await ask(bench.fallback, "key", answer)
    with pytest.raises(CircuitOpenError):
        await ask(bench.fallback, "key", fail, AWAY)
    with pytest.raises(CircuitOpenError):
        await ask(bench.fallback, "other", fail, AWAY)
    assert bench.counts() == {"fresh": 1, "shadow": 1, "none": 1}


async def test_switched_off_it_keeps_nothing_and_gives_nothing() -> None:
    bench = Bench(mode=Mode.OFF)
    assert await ask(bench.fallback, "key", answer) == Answer("fresh")
    with pytest.raises(CircuitOpenError):
        await ask(bench.fallback, "key", fail, AWAY)
    assert (bench.fallback.status()["kept"], bench.counts()) == (0, {})


async def test_a_cancelled_call_changes_nothing() -> None:
    bench = Bench()
    await ask(bench.fallback, "key", answer)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await ask(bench.fallback, "key", anyio.sleep, 1)
    assert scope.cancelled_caught
    assert (await ask(bench.fallback, "key", fail, AWAY)).value == "fresh"
    assert bench.counts() == {"fresh": 1, "stale": 1}


def test_it_announces_itself() -> None:
    bench = Bench()
    (created,) = bench.heard.of(PolicyCreated)
    assert list(created.tally()) == [
        Sample("postfacta_fallback_answers_total", ("invoices", source), 0)
        for source in ("fresh", "stale", "default", "none", "shadow")
    ]
    assert (
        repr(bench.fallback)
        == "Fallback('invoices', max_age=900, max_entries=1000, mode='enforce')"
    )


@pytest.mark.parametrize("ending", ["fresh", "stale", "none"])
async def test_a_call_leaves_nothing_for_the_cyclic_collector(ending: str) -> None:
    fallback = Fallback("invoices", key=as_it_is)
    if ending == "stale":
        await ask(fallback, "key", answer)

    async def away() -> str:
        # An error in a variable of the frame that raises it would be a circle of the test's own.
        raise CircuitOpenError("db")

    async def once() -> None:
        try:
            if ending == "fresh":
                await ask(fallback, "key", answer)
            else:
                await ask(fallback, "key", away)
        except CircuitOpenError:
            assert ending == "none"

    assert await garbage(once) == 0


def outcome(fallback: Fallback, key: str, value: int | None) -> Answer[int] | None:
    """Run one call without a loop: nothing in it waits."""

    async def number() -> int:
        if value is None:
            raise AWAY
        return value

    call = ask(fallback, key, number)
    try:
        call.send(None)
    except StopIteration as done:
        given: Answer[int] = done.value
        return given
    except CircuitOpenError:
        return None
    raise AssertionError("it waits for something")


class Keeping(RuleBasedStateMachine):
    """Answers, errors and time in any order, beside a list of all that ever was."""

    @initialize(max_entries=st.integers(1, 3), max_age=st.integers(1, 100))
    def begin(self, max_entries: int, max_age: int) -> None:
        self.clock = ManualClock(0.0)
        self.max_entries, self.max_age, self.number = max_entries, max_age, 0
        self.fallback = Fallback(
            "invoices", key=as_it_is, max_age=max_age, max_entries=max_entries, clock=self.clock
        )
        # Key, value, when; the one used last at the end.
        self.used: list[tuple[str, int, float]] = []

    def kept(self, key: str) -> tuple[str, int, float] | None:
        return next((entry for entry in self.used[-self.max_entries :] if entry[0] == key), None)

    @rule(key=st.sampled_from("abcd"))
    def succeed(self, key: str) -> None:
        self.number += 1
        assert outcome(self.fallback, key, self.number) == Answer(self.number)
        self.used = [entry for entry in self.used[-self.max_entries :] if entry[0] != key]
        self.used.append((key, self.number, self.clock.now))

    @rule(key=st.sampled_from("abcd"))
    def fail(self, key: str) -> None:
        given, entry = outcome(self.fallback, key, None), self.kept(key)
        if entry is None or self.clock.now - entry[2] >= self.max_age:
            assert given is None
            self.used = [other for other in self.used[-self.max_entries :] if other is not entry]
        else:
            assert given == Answer(entry[1], self.clock.now - entry[2], AWAY)
            self.used.remove(entry)
            self.used.append(entry)

    @rule(key=st.sampled_from("abcd"))
    def forget(self, key: str) -> None:
        self.fallback.forget(key)
        self.used = [entry for entry in self.used[-self.max_entries :] if entry[0] != key]

    @rule(seconds=st.integers(0, 5))
    def let_time_pass(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @invariant()
    def no_more_is_kept_than_there_is_room_for(self) -> None:
        if hasattr(self, "fallback"):
            assert self.fallback.status()["kept"] == min(len(self.used), self.max_entries)


TestKeeping = Keeping.TestCase
TestKeeping.settings = settings(stateful_step_count=30)


async def test_a_value_may_be_given_instead_and_it_may_stand_in_a_pipeline() -> None:
    def of_tenant(item: int, *, tenant: str) -> tuple[str, int]:
        return tenant, item

    asked: list[tuple[str, int]] = []
    fallback = Fallback("prices", key=of_tenant, otherwise=0, on=OSError)
    pipeline = Pipeline(fallback, Retry("prices", attempts=1), Bulkhead("prices", 4))

    async def price(item: int, *, tenant: str) -> int:
        asked.append((tenant, item))
        if len(asked) > 1:
            raise OSError("down")
        return 7

    assert await pipeline.call(price, 1, tenant="a") == 7
    assert await pipeline.call(price, 1, tenant="a") == 7
    assert await pipeline.call(price, 1, tenant="b") == 0
    assert fallback.status() == {"kept": 1}


def test_a_plain_function_has_a_fallback_too() -> None:
    answers: list[object] = ["first", OSError("down")]

    @Fallback("prices", key=as_it_is, on=OSError)
    def price(item: int) -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert [price(1), price(1)] == ["first", "first"]
