"""A pipeline runs its guards in the order in which they are written, and adds nothing of its own."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import anyio
import pytest

from postfacta_core.errors import BulkheadFullError, DeadlineExceededError
from postfacta_core.guards._guard import Guard
from postfacta_core.guards.bulkhead import Bulkhead
from postfacta_core.guards.pipeline import Pipeline
from postfacta_core.guards.timeout import Timeout

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

    async def call(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        self.log.append(f"{self.name} in")
        try:
            for _ in range(self.times - 1):
                await function(*args, **kwargs)
            return await function(*args, **kwargs)
        finally:
            self.log.append(f"{self.name} out")


class Block(Plain):
    """One that can hold a block open too, and may refuse to or fail to."""

    def __init__(self, name: str, log: list[str], *, trouble: str = "", takes: bool = False) -> None:
        super().__init__(name, log)
        self.trouble = trouble
        self.takes = takes

    async def __aenter__(self) -> None:
        if self.trouble == "in":
            raise KeyError(self.name)
        self.log.append(f"{self.name} in")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.log.append(f"{self.name} out {type(error).__name__ if error else ''}".strip())
        if self.trouble == "out":
            raise OSError(self.name)
        return self.takes


async def answer(log: list[str], *words: str, **more: Any) -> str:
    log.append("work")
    return " ".join([*words, *more, *more.values()])


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
        assert await Pipeline(*guards).call(answer, [], "x", "w", y="z", function="f") == "x w y function z f"


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
    async with bulkhead:
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


async def test_a_block_stands_behind_all_guards() -> None:
    log = list[str]()
    pipeline = Pipeline(Block("a", log), Bulkhead("b", 1), Block("c", log))
    async with pipeline as entered:
        assert entered is pipeline
        log.append("work")
        with pytest.raises(BulkheadFullError):
            async with pipeline:
                raise AssertionError
    assert log == ["a in", "c in", "work", "a in", "a out BulkheadFullError", "c out", "a out"]


async def test_a_block_that_raises_tells_all_guards_so() -> None:
    log = list[str]()
    with pytest.raises(KeyError):
        async with Pipeline(Block("a", log), Block("b", log)):
            raise KeyError
    assert log == ["a in", "b in", "b out KeyError", "a out KeyError"]


async def test_a_guard_raising_on_exit_is_seen_by_outer_ones() -> None:
    log = list[str]()
    with pytest.raises(OSError, match="b"):
        async with Pipeline(Block("a", log), Block("b", log, trouble="out")):
            pass
    assert log == ["a in", "b in", "b out", "a out OSError"]
    log.clear()
    with pytest.raises(OSError, match="b"):
        async with Pipeline(Block("a", log), Block("b", log, trouble="out")):
            raise KeyError
    assert log[2:] == ["b out KeyError", "a out OSError"]


async def test_a_guard_may_take_an_error_for_its_own() -> None:
    log = list[str]()
    async with Pipeline(Block("a", log), Block("b", log, takes=True)):
        raise KeyError
    async with Pipeline(Block("a", log, takes=True), Block("b", log, trouble="out")):
        pass
    assert log == ["a in", "b in", "b out KeyError", "a out", "a in", "b in", "b out", "a out OSError"]


async def test_a_guard_that_cannot_be_entered_undoes_those_before_it() -> None:
    log = list[str]()
    with pytest.raises(KeyError):
        async with Pipeline(Block("a", log), Block("b", log, trouble="in"), Block("c", log)):
            raise AssertionError
    assert log == ["a in", "a out KeyError"]


async def test_a_timeout_around_a_wait_to_enter_says_that_it_was_the_time() -> None:
    bulkhead = Bulkhead("db", 1)
    gate = anyio.Event()

    class Slow(Block):
        async def __aenter__(self) -> None:
            await gate.wait()

    with anyio.fail_after(20), pytest.raises(DeadlineExceededError):
        async with Pipeline(Timeout(0.01), bulkhead, Slow("slow", [])):
            raise AssertionError
    assert bulkhead.used == 0


async def test_a_block_behind_a_guard_that_calls_is_refused_by_the_guards_name() -> None:
    class Retry(Plain):
        pass

    pipeline = Pipeline(Timeout(9), Retry("billing", []), Bulkhead("db", 1))
    with pytest.raises(TypeError, match=r"cannot guard a block by Retry\('billing'\): .* Use call\(\)"):
        async with pipeline:
            raise AssertionError


def test_it_tells_in_one_line_what_each_guard_is() -> None:
    pipeline = Pipeline(Timeout(2), Plain("a", []), Bulkhead("db", 10, max_waiting=5))
    assert pipeline.describe().splitlines() == [
        "Timeout(2, name='timeout')",
        "Plain('a')",
        "Bulkhead('db', slots=10, max_waiting=5, max_wait=1, mode='enforce')",
    ]
    assert repr(pipeline) == f"Pipeline({', '.join(pipeline.describe().splitlines())})"


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
        with pytest.raises(ValueError, match=r"never ends a call, as it stands inside of Timeout\(1,"):
            Pipeline(Timeout(1), guard, Timeout(seconds))
    assert len(Pipeline(Timeout(2), guard, Timeout(1)).guards) == 3
