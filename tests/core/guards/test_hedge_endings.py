"""A cancellation or an exception ends both tries, and nothing of them is left behind."""

from __future__ import annotations

import gc
from contextlib import suppress
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from postfacta_core.guards.budget import RetryBudget
from postfacta_core.guards.hedge import Hedge
from tests.core.guards.hedging import Bench, Caller, HedgeAtOnce, settled
from tests.kit.garbage import garbage


@pytest.mark.parametrize("point", ["delay", "both", "second alone", "first alone"])
async def test_a_cancellation_ends_both_tries_and_is_no_outcome(point: str) -> None:
    bench = Bench()
    caller = Caller(bench)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(caller.run)
        await bench.tries[0].has_begun.wait()
        await settled()
        if point != "delay":
            await bench.end_delay()
        if point == "second alone":
            bench.tries[0].fail(ConnectionError("down"))
            await settled()
        if point == "first alone":
            bench.tries[1].fail(ConnectionError("down"))
            await settled()
        caller.scope.cancel()
        await caller.ended()
    assert caller.scope.cancelled_caught
    assert (caller.answer, caller.error) == (None, None)
    assert bench.tries[0].has_ended
    assert bench.tries[1].has_ended is (point != "delay")
    assert bench.counts() == {}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("both", [False, True])
async def test_a_cancelled_task_of_asyncio_ends_both_tries(*, both: bool) -> None:
    import asyncio  # noqa: PLC0415 - deadlines cancel tasks, not scopes

    bench = Bench()
    task = asyncio.ensure_future(bench.hedge.call(bench.dependency))
    await bench.tries[0].has_begun.wait()
    if both:
        await bench.end_delay()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert [attempt.has_ended for attempt in bench.tries] == [True, both]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_answer_at_the_moment_of_the_delay_prevents_the_second_try() -> None:
    import asyncio  # noqa: PLC0415 - only there a timer starts the second try

    hedge, made = Hedge("search", delay=0.0), list[str]()

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(coro.__qualname__)
        return asyncio.Task(coro, loop=loop, **options)

    async def answer() -> str:
        # In the second turn of the loop the timer has fired, and what it started has not run yet.
        for _ in range(2):
            await asyncio.sleep(0)
        return "answer"

    asyncio.get_running_loop().set_task_factory(factory)
    assert await hedge.call(answer) == "answer"
    await settled()
    assert len(made) == 1, made


class Stop(BaseException):
    """What is no Exception, as a KeyboardInterrupt is not."""


@pytest.mark.parametrize("number", [0, 1])
async def test_what_is_no_exception_comes_out_bare_too(number: int) -> None:
    bench, raised = Bench(), list[BaseException]()

    async def call() -> None:
        try:
            await bench.hedge.call(bench.dependency)
        except BaseException as error:  # noqa: BLE001 - what is raised is what is looked at
            raised.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await bench.tries[0].has_begun.wait()
        await bench.end_delay()
        bench.tries[number].fail(Stop())
    assert [type(error) for error in raised] == [Stop]
    assert bench.tries[1 - number].has_ended


async def test_several_that_are_no_exceptions_come_out_together() -> None:
    bench, raised = Bench(), list[BaseException]()

    async def stubborn() -> str:
        try:
            return await bench.dependency()
        except Stop:
            raise
        except BaseException:  # noqa: BLE001 - it answers its cancellation with something worse
            raise Stop from None

    async def call() -> None:
        try:
            await bench.hedge.call(stubborn)
        except BaseException as error:  # noqa: BLE001 - what is raised is what is looked at
            raised.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await bench.tries[0].has_begun.wait()
        await bench.end_delay()
        bench.tries[0].fail(Stop())
    (group,) = raised
    assert repr(group).startswith("BaseExceptionGroup(")
    assert repr(group).count("Stop()") == 2


async def test_a_clock_that_raises_in_the_second_task_comes_out_bare() -> None:
    bench, times = Bench(), [0.0]

    hedge = HedgeAtOnce("broken", delay=0.0, clock=times.pop)
    with pytest.raises(IndexError):
        await hedge.call(bench.dependency)
    assert bench.tries[0].has_ended


@pytest.mark.parametrize("failing", [False, True])
async def test_a_call_that_is_fast_leaves_nothing_for_the_cyclic_collector(
    *, failing: bool
) -> None:
    hedge = Hedge("search", delay=9.0)

    async def work() -> str:
        await checkpoint()
        if failing:
            raise ConnectionError
        return "answer"

    async def once() -> None:
        with suppress(ConnectionError):
            await hedge.call(work)

    assert await garbage(once) == 0


async def test_two_tries_that_fail_leave_nothing_for_the_cyclic_collector() -> None:
    hedge = HedgeAtOnce("search", delay=0.0, budget=RetryBudget("search", ratio=1.0))

    async def work() -> str:
        await settled()
        raise ConnectionError

    async def once() -> None:
        with suppress(ConnectionError):
            await hedge.call(work)

    assert await garbage(once) == 0


async def test_an_answer_is_not_kept_alive_by_what_is_left_of_the_other_try() -> None:
    class Answer:
        """Something large."""

    hedge = HedgeAtOnce("search", delay=0.0, budget=RetryBudget("search", ratio=1.0))
    calls = 0

    async def work(large: Answer) -> Answer:
        nonlocal calls
        calls += 1
        if calls % 2:
            await anyio.sleep_forever()
        return Answer()

    def alive() -> int:
        return sum(type(thing) is Answer for thing in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            await hedge.call(work, Answer())
        assert calls == 20
        # The argument stays with the cancelled try, if its loop leaves that in a circle; the answer
        # does not.
        assert alive() <= 10
    finally:
        gc.enable()
