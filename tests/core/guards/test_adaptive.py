"""An adaptive limiter finds out how many calls may run at once.

The others wait for a moment, or are refused.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest
from anyio import to_thread

from postfacta_core.context import RequestContext, bind_request, release_request
from postfacta_core.errors import LoadShedError
from postfacta_core.events import ListenerFailed, Mode, PolicyCreated
from postfacta_core.guards import (
    AdaptiveLimiter,
    CircuitBreaker,
    On,
    Outcome,
    Pipeline,
    Retry,
    Timeout,
)
from postfacta_core.limits import OverloadConfig, Priority
from postfacta_core.testing import ManualClock, RecordingObserver
from tests.kit.every import every
from tests.kit.interleaving import interleaved
from tests.kit.waiting import until

ONE = OverloadConfig(start=1, patience=20.0)


def limiter_of(config: OverloadConfig | None = ONE, **options: Any) -> AdaptiveLimiter:
    return AdaptiveLimiter("reports", config, luck=lambda: 0.0, **options)


def decisions(limiter: AdaptiveLimiter, mode: str = "enforce") -> dict[tuple[str, str], float]:
    return {
        (sample.labels[1], sample.labels[2]): sample.value
        for sample in limiter.collect()
        if sample.metric == "postfacta_limiter_decisions_total"
        and sample.labels[3] == mode
        and sample.value
    }


def value(limiter: AdaptiveLimiter, metric: str) -> float:
    return next(
        each.value for each in limiter.collect() if each.metric == f"postfacta_limiter_{metric}"
    )


def state(limiter: AdaptiveLimiter) -> tuple[object, ...]:
    return tuple(limiter.status().values())


async def stands(limiter: AdaptiveLimiter, *wanted: int | None) -> None:
    """Wait until its status is this; None is anything."""
    await until(
        lambda: all(want in {None, is_} for want, is_ in zip(wanted, state(limiter), strict=True))
    )


async def in_thread(work: Callable[[], object]) -> None:
    await to_thread.run_sync(work)


async def answer() -> str:
    return "answer"


class Door:
    """A call that lasts until it is opened."""

    def __init__(self) -> None:
        self.event = anyio.Event()
        self.order: list[object] = []

    async def enter(self, limiter: AdaptiveLimiter, who: object) -> None:
        await limiter.call(self.pass_through, who)

    async def pass_through(self, who: object) -> None:
        self.order.append(who)
        await self.event.wait()


async def test_calls_take_a_slot_and_give_it_back_whatever_becomes_of_them() -> None:
    limiter, seen = limiter_of(), list[tuple[object, ...]]()

    async def look() -> None:
        seen.append(state(limiter))
        raise KeyError("gone")

    with pytest.raises(KeyError):
        await limiter.call(look)
    async with limiter.block():
        seen.append(state(limiter))
    with pytest.raises(KeyError):
        async with limiter.block():
            raise KeyError("gone")
    assert await to_thread.run_sync(lambda: limiter.call_sync(str, 7)) == "7"
    assert (seen, state(limiter)) == ([(1, 1, 0)] * 2, (1, 0, 0))
    assert decisions(limiter) == {("critical", "admitted"): 4}


async def test_the_one_that_finds_no_room_waits_for_it() -> None:
    limiter, door = limiter_of(), Door()
    async with anyio.create_task_group() as tasks:
        for who in range(3):
            tasks.start_soon(door.enter, limiter, who)
            await stands(limiter, 1, 1, who)
        assert door.order == [0]
        door.event.set()
    assert (door.order, state(limiter)) == ([0, 1, 2], (1, 0, 0))
    assert value(limiter, "queue_time_seconds_total") > 0


async def test_the_one_that_waits_too_long_is_refused() -> None:
    limiter, door = limiter_of(OverloadConfig(start=1, patience=0.01)), Door()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(door.enter, limiter, 0)
        await until(lambda: door.order)
        with pytest.raises(LoadShedError) as refused:
            await limiter.call(answer)
        assert (refused.value.policy, refused.value.retry_after) == ("reports", 1.0)
        assert value(limiter, "overloaded") == 1
        door.event.set()
    assert decisions(limiter) == {("critical", "admitted"): 1, ("critical", "shed"): 1}


async def test_a_caller_waits_no_longer_than_its_request_can() -> None:
    clock, door = ManualClock(), Door()
    limiter = limiter_of(clock=clock)
    request = RequestContext("7", clock.now, clock)
    request.deadline = clock.now
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(door.enter, limiter, 0)
        await until(lambda: door.order)
        token = bind_request(request)
        try:
            with anyio.fail_after(20), pytest.raises(LoadShedError):
                await limiter.call(answer)
        finally:
            release_request(token)
        door.event.set()


async def test_one_that_is_cancelled_leaves_its_place_to_the_next() -> None:
    limiter, door = limiter_of(), Door()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(door.enter, limiter, 0)
        await until(lambda: door.order)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(door.enter, limiter, "gone")
                await stands(limiter, 1, 1, 1)
                tasks.start_soon(door.enter, limiter, "next")
                await stands(limiter, 1, 1, 2)
                scope.cancel()
        door.event.set()
    assert (door.order, state(limiter)) == ([0, "next"], (1, 0, 0))


async def test_one_that_is_cancelled_as_its_turn_comes_gives_its_slot_back(
    anyio_backend_name: str,
) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("a task of trio that is woken is not cancelled any more")
    limiter, door = limiter_of(), Door()
    async with limiter.block():
        waiter = asyncio.ensure_future(limiter.call(door.pass_through, 1))
        await stands(limiter, 1, 1, 1)
    waiter.cancel()
    await asyncio.wait([waiter])
    assert (waiter.cancelled(), door.order, state(limiter)) == (True, [], (1, 0, 0))


async def test_more_important_calls_go_first() -> None:
    limiter, door = limiter_of(), Door()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(door.enter, limiter, Priority.CRITICAL)
        await until(lambda: door.order)
        for number, priority in enumerate((Priority.SHEDDABLE, Priority.CRITICAL), 1):
            request = RequestContext("7", 0.0)
            request.priority = priority
            token = bind_request(request)
            tasks.start_soon(door.enter, limiter, priority)
            release_request(token)
            await stands(limiter, 1, 1, number)
        door.event.set()
    assert door.order == [Priority.CRITICAL, Priority.CRITICAL, Priority.SHEDDABLE]


async def test_a_call_matters_as_much_as_its_request() -> None:
    limiter, request = limiter_of(), RequestContext("7", 0.0)
    request.priority = Priority.SHEDDABLE
    token = bind_request(request)
    try:
        await limiter.call(answer)
    finally:
        release_request(token)
    await limiter.call(answer)
    assert decisions(limiter) == {("sheddable", "admitted"): 1, ("critical", "admitted"): 1}


def play(
    limiter: AdaptiveLimiter, clock: ManualClock, work: Callable[[], object], seconds: float
) -> None:
    """Call it for a second, one call at a time."""

    def last() -> None:
        clock.advance(seconds)
        work()

    for _ in range(round(1 / seconds)):
        with suppress(KeyError, OSError):
            limiter.call_sync(last)


def fail() -> None:
    raise KeyError("gone")


def lose() -> None:
    raise OSError("lost")


def raise_now(_: Outcome[Any]) -> bool:
    raise RuntimeError("broken")


def test_failures_are_answers_only_where_on_does_not_name_them() -> None:
    cases: list[tuple[str, On, Callable[[], object], bool]] = [
        ("all errors", Exception, fail, False),
        ("a type", OSError, fail, True),
        ("that type", OSError, lose, False),
        ("an error alone", lambda out: out.error is not None, str, True),
        ("a result", lambda out: out.result is None, str, False),
        ("a predicate that raises", raise_now, str, False),
    ]
    with every() as case:
        for label, on, work, answers in cases:
            with case(label):
                clock, observer = ManualClock(), RecordingObserver()
                limiter = limiter_of(None, on=on, clock=clock, observer=observer)
                play(limiter, clock, work, 0.01)
                assert (value(limiter, "work") > 0) is answers
                assert bool(observer.of(ListenerFailed)) is (on is raise_now)


async def test_cancelled_calls_count_at_their_age() -> None:
    clock = ManualClock()
    limiter = limiter_of(OverloadConfig(start=64), clock=clock)
    scopes = [anyio.CancelScope() for _ in range(32)]

    async def work(*, hangs: bool) -> None:
        clock.advance(0.01)
        if hangs:
            await anyio.sleep_forever()

    async def hang(scope: anyio.CancelScope) -> None:
        with scope:
            await limiter.call(work, hangs=True)

    for _ in range(100):
        await limiter.call(work, hangs=False)
    async with anyio.create_task_group() as tasks:
        for scope in scopes:
            tasks.start_soon(hang, scope)
        await stands(limiter, 64, 32, 0)
        clock.advance(1.0)
        for left, scope in enumerate(scopes, 1):
            clock.advance(0.05)
            scope.cancel()
            await stands(limiter, None, 32 - left, 0)
    # A quarter of the 28 that were under way when it was noticed, as none was answered.
    assert state(limiter) == (7, 0, 0)


def test_each_function_has_its_own_usual_time() -> None:
    clock = ManualClock()
    limiter = limiter_of(None, clock=clock)

    def slow() -> None:
        clock.advance(0.5)

    play(limiter, clock, str, 0.01)
    pressure = value(limiter, "pressure")
    pipeline = Pipeline(limiter, CircuitBreaker("reports"))
    for _ in range(20):
        pipeline.call_sync(slow)
    assert pressure < 1
    assert value(limiter, "pressure") < 1


async def test_in_shadow_it_counts_and_off_it_does_nothing() -> None:
    limiter, door = limiter_of(mode="shadow"), Door()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(door.enter, limiter, 0)
        await until(lambda: door.order)
        assert await limiter.call(answer) == "answer"
        assert decisions(limiter, "shadow") == {
            ("critical", "admitted"): 1,
            ("critical", "shed"): 1,
        }
        limiter.mode = Mode.OFF
        assert await limiter.call(answer) == "answer"
        assert state(limiter) == (1, 1, 0)
        door.event.set()
    assert (decisions(limiter), state(limiter)) == ({}, (1, 0, 0))


def test_it_announces_itself() -> None:
    observer = RecordingObserver()
    limiter = limiter_of(observer=observer)
    assert [event.policy for event in observer.of(PolicyCreated)] == ["reports"]
    assert repr(limiter) == "AdaptiveLimiter('reports', mode='enforce')"


async def test_threads_and_tasks_share_its_limit(anyio_backend_name: str) -> None:
    limiter, door = limiter_of(), Door()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(door.enter, limiter, 0)
        await until(lambda: door.order)
        tasks.start_soon(in_thread, lambda: limiter.call_sync(door.order.append, "thread"))
        await stands(limiter, 1, 1, 1)
        if anyio_backend_name == "asyncio":
            with pytest.raises(RuntimeError, match="would block the event loop"):
                limiter.call_sync(str)
        assert state(limiter) == (1, 1, 1)
        door.event.set()
    assert (door.order, state(limiter)) == ([0, "thread"], (1, 0, 0))


def test_a_slot_is_not_lost_with_the_event_loop_of_its_waiter() -> None:
    limiter = limiter_of()

    async def leave() -> Any:
        waiter = asyncio.ensure_future(limiter.call(answer))
        await stands(limiter, 1, 1, 1)
        return waiter.get_coro()

    loop = asyncio.new_event_loop()
    with limiter.block():
        waiter = loop.run_until_complete(leave())
        loop.close()
    # It was given the slot, and does not know.
    assert state(limiter) == (1, 1, 0)
    with suppress(RuntimeError):  # There is no loop to look at.
        waiter.close()
    assert state(limiter) == (1, 0, 0)


def test_the_limit_holds_whenever_threads_change_places() -> None:
    with every() as case:
        for seed in range(6):
            with case(seed):
                limiter, most, inside = limiter_of(clock=ManualClock()), [0], [0]

                def step(most: list[int] = most, inside: list[int] = inside) -> None:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    threading.get_ident()
                    inside[0] -= 1

                def work(
                    limiter: AdaptiveLimiter = limiter, step: Callable[[], None] = step
                ) -> None:
                    for _ in range(4):
                        limiter.call_sync(step)

                interleaved([work, work], within="postfacta_core/", seed=seed)
                assert (most, state(limiter)) == ([1], (1, 0, 0))
                assert decisions(limiter) == {("critical", "admitted"): 8}


async def test_a_timeout_and_a_retry_stand_around_it_in_a_pipeline() -> None:
    limiter = limiter_of()
    pipeline = Pipeline(Timeout(20), Retry("reports"), limiter)
    assert await pipeline.call(answer) == "answer"
    async with limiter.block():
        assert state(limiter) == (1, 1, 0)
