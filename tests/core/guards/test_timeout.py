"""A timeout ends its own calls in time, no other's, and takes no other's cancellation for its own."""

from __future__ import annotations

import asyncio
import math
import sys
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from postfacta_core.clock import MONOTONIC, Clock
from postfacta_core.context import RequestContext, bind_request, release_request
from postfacta_core.deadlines.present import current_deadline, time_left
from postfacta_core.errors import DeadlineExceededError
from postfacta_core.guards.timeout import Timeout
from postfacta_core.testing import ManualClock
from tests.core.virtual import loop_clock, on_real_loops
from tests.kit.garbage import garbage
from tests.kit.waiting import until

SOON = 0.02
LONG = 60.0


@contextmanager
def request_ending(seconds: float, clock: Clock = MONOTONIC) -> Generator[RequestContext]:
    request = RequestContext("request-id", clock(), clock)
    request.deadline = request.started + seconds
    token = bind_request(request)
    try:
        yield request
    finally:
        release_request(token)


def timeout_of(seconds: float, name: str = "timeout") -> Timeout:
    return Timeout(seconds, name=name, clock=loop_clock())


async def nothing() -> str:
    return "done"


async def test_a_call_that_ends_in_time_is_as_if_there_were_none() -> None:
    timeout = timeout_of(LONG)

    async def work(number: int, *, more: int) -> int:
        if number < 0:
            raise KeyError(number)
        return number + more

    assert await timeout.call(work, 1, more=2) == 3
    with pytest.raises(KeyError):
        await timeout.call(work, -1, more=2)
    assert time_left() == math.inf


async def test_a_call_that_takes_too_long_is_cancelled_and_awaited() -> None:
    log = list[str]()

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.001)
            log.append("cleaned up")

    with anyio.fail_after(20), pytest.raises(DeadlineExceededError) as caught:
        await timeout_of(SOON, name="billing").call(work)
    assert (log, caught.value.policy) == (["cleaned up"], "billing")
    # The task itself goes on as if nothing had been.
    await anyio.lowlevel.checkpoint()


async def test_calls_at_the_same_time_each_end_at_their_own() -> None:
    timeout, ended = timeout_of(0.03), list[str]()

    async def work(who: str, seconds: float) -> None:
        try:
            await timeout.call(anyio.sleep, seconds)
            ended.append(who)
        except DeadlineExceededError:
            ended.append(f"{who} late")

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work, "a", LONG)
            tasks.start_soon(work, "b", 0.001)
            await until(lambda: "b" in ended)
            tasks.start_soon(work, "c", LONG)
        # The timer of those that have ended serves those that come.
        await work("d", LONG)
    # Those two are late within a millisecond or so, which may be one turn of a busy loop.
    assert (ended[0], sorted(ended[1:3]), ended[3:]) == ("b", ["a late", "c late"], ["d late"])


async def test_a_cancellation_from_outside_passes() -> None:
    ended = list[str]()

    async def work() -> None:
        try:
            await timeout_of(LONG).call(anyio.sleep_forever)
        except DeadlineExceededError:
            ended.append("late")
        ended.append("not cancelled")

    with anyio.move_on_after(0.01) as scope:
        await work()
    assert (scope.cancelled_caught, ended, time_left()) == (True, [], math.inf)


@on_real_loops
@pytest.mark.parametrize("seconds", [SOON / 2, SOON, SOON * 1.5])
async def test_a_cancellation_from_outside_passes_even_if_the_time_is_up_at_the_same_moment(
    seconds: float,
) -> None:
    async def hold_the_loop() -> None:
        end = MONOTONIC() + 2 * SOON
        while MONOTONIC() < end:
            pass

    async with anyio.create_task_group() as tasks:
        with anyio.move_on_after(seconds) as scope:
            tasks.start_soon(hold_the_loop)
            with suppress(DeadlineExceededError):
                await timeout_of(SOON).call(anyio.sleep_forever)
            await anyio.sleep_forever()
        assert scope.cancelled_caught
    # Nobody has it cancelled any more.
    await anyio.sleep(0.001)


async def test_of_two_timeouts_the_one_whose_time_is_up_says_so() -> None:
    for outer, inner, name in ((SOON, LONG, "outer"), (LONG, SOON, "inner"), (SOON, SOON, "outer")):
        with anyio.fail_after(20), pytest.raises(DeadlineExceededError) as caught:
            await timeout_of(outer, name="outer").call(
                timeout_of(inner, name="inner").call, anyio.sleep, LONG
            )
        assert caught.value.policy == name


async def test_what_a_caller_is_in_a_hurry_for_is_not_an_error_of_the_inner_timeout() -> None:
    # A circuit breaker between the two would count it.
    seen = list[BaseException]()

    async def note(function: Callable[[], Awaitable[None]]) -> None:
        try:
            await function()
        except BaseException as error:
            seen.append(error)
            raise

    with anyio.fail_after(20), pytest.raises(DeadlineExceededError):
        await timeout_of(SOON).call(note, lambda: timeout_of(LONG).call(anyio.sleep_forever))
    assert [isinstance(error, Exception) for error in seen] == [False]


async def test_a_task_that_outlives_the_outer_timeout_is_still_bounded_by_its_own() -> None:
    ended = list[str]()

    async def behind() -> None:
        try:
            await timeout_of(0.05).call(anyio.sleep_forever)
        except DeadlineExceededError:
            ended.append("late")

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:

            async def start() -> None:
                tasks.start_soon(behind)
                await anyio.sleep_forever()

            with pytest.raises(DeadlineExceededError):
                await timeout_of(SOON).call(start)
    assert ended == ["late"]


async def test_what_the_call_shields_is_finished_first() -> None:
    log = list[str]()

    async def work() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.05)
            log.append("committed")
        await anyio.sleep_forever()

    with anyio.fail_after(20), pytest.raises(DeadlineExceededError):
        await timeout_of(0.01).call(work)
    assert log == ["committed"]


async def test_a_shield_around_the_timeout_does_not_keep_it_from_ending_the_call() -> None:
    with anyio.CancelScope(shield=True):
        with anyio.fail_after(20), pytest.raises(DeadlineExceededError):
            await timeout_of(SOON).call(anyio.sleep_forever)
    with anyio.fail_after(20), anyio.CancelScope(shield=True), pytest.raises(DeadlineExceededError):
        await timeout_of(SOON).call(anyio.sleep_forever)


async def test_a_call_that_ends_while_its_shield_holds_is_not_cancelled_later() -> None:
    async def work() -> str:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.03)
        return "done"

    assert await timeout_of(0.01).call(work) == "done"
    await anyio.sleep(0.06)


async def test_what_the_call_raises_in_answer_to_its_cancellation_is_what_comes_out() -> None:
    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise KeyError("its own")

    with pytest.raises(KeyError):
        await timeout_of(SOON).call(work)
    await anyio.lowlevel.checkpoint()


async def test_what_is_called_knows_until_when_and_the_rest_does_not() -> None:
    clock = ManualClock()
    outer, inner = Timeout(10, clock=clock), Timeout(4, clock=clock)
    seen = list[float]()

    async def look() -> None:
        deadline = current_deadline()
        assert deadline is not None
        seen.append(deadline.at - clock.now)

    async def both() -> None:
        await look()
        await inner.call(look)
        await look()

    await outer.call(both)
    assert (seen, current_deadline()) == ([10, 4, 10], None)

    with request_ending(7, clock) as request:
        await outer.call(both)
        assert seen[3:] == [7, 4, 7]
        assert request.deadline == clock.now + 7
        with pytest.raises(KeyError):
            await inner.call(fail)
        await look()
    assert seen[6:] == [7]


async def fail() -> None:
    raise KeyError


@pytest.mark.parametrize("left", [0.0, -1.0])
async def test_a_call_is_not_begun_without_time(left: float) -> None:
    clock = ManualClock()
    begun = list[str]()

    async def work() -> None:
        begun.append("begun")

    with request_ending(left, clock), pytest.raises(DeadlineExceededError):
        await Timeout(LONG, clock=clock).call(work)
    assert begun == []


async def test_what_a_call_leaves_behind_has_no_limit_that_has_passed() -> None:
    gate, seen = anyio.Event(), list[float]()

    async def behind() -> None:
        await gate.wait()
        seen.append(time_left())

    async with anyio.create_task_group() as tasks:

        async def start() -> None:
            tasks.start_soon(behind)
            assert time_left() < math.inf

        await timeout_of(LONG).call(start)
        gate.set()
    assert seen == [math.inf]


async def test_a_limit_that_a_server_leaks_into_the_next_request_does_not_count() -> None:
    # uvicorn 0.54 runs a request in the context variables of the one before it, after a large body.
    async def work() -> None:
        with request_ending(math.inf):
            assert current_deadline() is None
        assert time_left() < math.inf

    await timeout_of(LONG).call(work)


async def test_a_decorated_function_is_bounded() -> None:
    timeout = timeout_of(SOON, name="billing")

    @timeout
    async def sleep(seconds: float) -> str:
        """Sleep."""
        await anyio.sleep(seconds)
        return "done"

    assert (sleep.__name__, sleep.__doc__, await sleep(0)) == ("sleep", "Sleep.", "done")
    with anyio.fail_after(20), pytest.raises(DeadlineExceededError):
        await sleep(LONG)
    assert repr(timeout) == "Timeout('billing', seconds=0.02, mode='enforce')"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_ended_calls_leave_no_garbage_and_no_timer_each() -> None:
    timeout = timeout_of(LONG)

    async def once() -> None:
        await timeout.call(nothing)
        with request_ending(30, loop_clock()):
            await timeout.call(nothing)

    assert await garbage(once) == 0
    queue = timeout._queue  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    assert queue is not None
    assert queue.calls == {}
    # Those that a request bounds have a timer each, which is cancelled; all the others have one.
    loop: Any = queue.loop
    assert len([timer for timer in loop._scheduled if not timer.cancelled()]) <= 2  # noqa: SLF001 - asyncio's heap


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_timer_does_not_keep_the_request_alive_that_began_it() -> None:
    with request_ending(math.inf) as request:
        await timeout_of(LONG).call(nothing)
    before = sys.getrefcount(request)
    with request_ending(math.inf) as fresh:
        pass
    assert before == sys.getrefcount(fresh)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_it_waits_for_its_own_clock() -> None:
    clock = ManualClock()
    timeout = Timeout(SOON, clock=clock)
    ended = list[str]()

    async def work() -> None:
        try:
            await timeout.call(anyio.sleep_forever)
        except DeadlineExceededError:
            ended.append("late")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await anyio.sleep(0.07)
        assert ended == []
        clock.advance(SOON)
        await until(lambda: ended == ["late"])


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_native_cancellations_are_distinguished_from_its_own() -> None:
    async def work() -> None:
        await timeout_of(LONG).call(anyio.sleep_forever)

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    # Both at once: whoever cancelled the task from outside must see it end so.
    async def stubborn() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            me.cancel()

    me = asyncio.ensure_future(timeout_of(SOON).call(stubborn))
    with pytest.raises(asyncio.CancelledError):
        await me
    # asyncio's own timeout around ours still ends its block.
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SOON):
            await timeout_of(LONG).call(anyio.sleep_forever)


@on_real_loops
def test_one_timeout_serves_several_loops(anyio_backend_name: str) -> None:
    timeout, ended = Timeout(0.05), list[str]()

    async def work() -> None:
        for _ in range(3):
            try:
                await timeout.call(anyio.sleep_forever)
            except DeadlineExceededError:
                ended.append("late")

    def run(work: Callable[[], Awaitable[None]]) -> None:
        anyio.run(work, backend=anyio_backend_name)

    threads = [threading.Thread(target=run, args=(work,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    run(work)
    assert ended == ["late"] * 9
