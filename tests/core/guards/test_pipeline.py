"""A pipeline runs its guards in the order in which they are written, and adds nothing of its own."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

import pytest

from postfacta_core.errors import BulkheadFullError
from postfacta_core.guards._guard import Guard
from postfacta_core.guards.bulkhead import Bulkhead
from postfacta_core.guards.pipeline import Pipeline
from postfacta_core.guards.timeout import Timeout
from postfacta_core.limits.rate import RateCounter

T = TypeVar("T")
P = ParamSpec("P")


class Plain(Guard):
    """A guard that writes down what passes through it."""

    def __init__(self, name: str, log: list[str], *, times: int = 1) -> None:
        super().__init__(name)
        self.log = log
        self.times = times

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    async def call(
        self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        self.log.append(f"{self.name} in")
        try:
            for _ in range(self.times - 1):
                await function(*args, **kwargs)
            return await function(*args, **kwargs)
        finally:
            self.log.append(f"{self.name} out")


async def answer(log: list[str], *words: str, **more: Any) -> str:
    log.append("work")
    return " ".join([*words, *more, *more.values()])


def test_a_rate_limiter_of_requests_is_refused_and_the_guard_for_calls_is_named() -> None:
    limiter: Any = RateCounter("partner", "10/second")
    with pytest.raises(
        TypeError, match=r"Pipeline\.guards must be guards.*; for a rate of calls use RateLimiter"
    ):
        Pipeline(limiter)


async def test_the_first_guard_is_the_outermost() -> None:
    log = list[str]()
    pipeline = Pipeline(Plain("a", log), Plain("b", log, times=2), Plain("c", log))
    assert await pipeline.call(answer, log, "x", y="z") == "x y z"
    assert log == ["a in", "b in", *["c in", "work", "c out"] * 2, "b out", "a out"]


async def test_guards_that_hand_on_arguments_and_those_that_do_not_may_be_mixed() -> None:
    bulkhead = Bulkhead("b", 1)
    for guards in (
        (Timeout(9), Plain("a", []), bulkhead),
        (Plain("a", []), Timeout(9), bulkhead),
        (Timeout(9), bulkhead, Plain("a", [])),
        (bulkhead,),
        (Plain("a", []),),
    ):
        assert (
            await Pipeline(*guards).call(answer, [], "x", "w", y="z", function="f")
            == "x w y function z f"
        )


async def test_what_is_raised_inside_comes_out_as_it_is() -> None:
    error = KeyError("its own")

    async def fail() -> None:
        raise error

    with pytest.raises(KeyError) as caught:
        await Pipeline(Timeout(9), Plain("a", []), Bulkhead("b", 1)).call(fail)
    assert caught.value is error


async def test_a_refusal_of_an_outer_guard_is_news_to_no_inner_one() -> None:
    log = list[str]()
    bulkhead = Bulkhead("db", 1)
    pipeline = Pipeline(bulkhead, Plain("a", log))
    async with bulkhead.block():
        with pytest.raises(BulkheadFullError):
            await pipeline.call(answer, log)
    assert log == []


async def test_a_decorated_function_is_still_one() -> None:
    log = list[str]()

    @Pipeline(Plain("a", log), Timeout(9))
    async def work(word: str, *, more: str = "") -> str:
        """Work."""
        return word + more

    assert (work.__name__, work.__doc__) == ("work", "Work.")
    assert inspect.iscoroutinefunction(work)
    assert await work("x", more="y") == "xy"
    assert log == ["a in", "a out"]


def test_a_plain_function_gets_its_answer_through_all_guards() -> None:
    pipeline = Pipeline(Bulkhead("db", 1), Bulkhead("pool", 1))
    assert pipeline.call_sync(int, "11") == 11
    assert pipeline.call_sync(int, "11", base=2) == 3


def test_it_tells_in_one_line_which_guards_it_has() -> None:
    pipeline = Pipeline(Timeout(2), Plain("a", []), Bulkhead("db", 10, max_waiting=5))
    timeout = "Timeout('timeout', seconds=2, mode='enforce')"
    bulkhead = "Bulkhead('db', slots=10, max_waiting=5, max_wait=1, lends=False, mode='enforce')"
    assert repr(pipeline) == f"Pipeline({timeout}, Plain('a'), {bulkhead})"


async def test_a_pipeline_inside_of_another_is_as_if_its_guards_stood_there() -> None:
    log = list[str]()
    inner = Pipeline(Plain("b", log), Plain("c", log))
    outer = Pipeline(Plain("a", log), inner, Plain("d", log))
    await outer.call(answer, log)
    assert [line[0] for line in log] == ["a", "b", "c", "d", "w", "d", "c", "b", "a"]
    with pytest.raises(ValueError, match=r"Plain\('b'\) stands twice"):
        Pipeline(inner.guards[0], inner)


def test_a_pipeline_that_makes_no_sense_is_refused_at_once() -> None:
    guard: Any = Bulkhead("db", 1)
    with pytest.raises(ValueError, match="one guard at least"):
        Pipeline()
    with pytest.raises(ValueError, match=r"Bulkhead\('db'.* stands twice"):
        Pipeline(guard, Timeout(1), guard)
    wrong: Any
    for wrong in (Timeout, print, None, 2):
        with pytest.raises(TypeError, match="must be guards"):
            Pipeline(guard, wrong)
    for seconds in (1.0, 2.0):
        with pytest.raises(
            ValueError,
            match=r"never ends a call, as it stands inside of Timeout\('timeout', seconds=1",
        ):
            Pipeline(Timeout(1), guard, Timeout(seconds))
    assert len(Pipeline(Timeout(2), guard, Timeout(1)).guards) == 3
