"""One timer bounds all statements of a pool, each at its own limit, and mistakes no other cancellation for its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import TypeVarTuple

import pytest

from postfacta_core.testing.virtual import VirtualTimeLoop
from postfacta_postgres._watch import Watch

Ts = TypeVarTuple("Ts")


class CountingLoop(VirtualTimeLoop):
    """Keeps the timers that are set."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[asyncio.TimerHandle] = []

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = super().call_at(when, callback, *args, context=context)
        self.timers.append(timer)
        return timer


def run(work: Callable[[Watch], Awaitable[None]]) -> list[asyncio.TimerHandle]:
    """Run it in virtual time; return the timers that it set."""

    async def main() -> None:
        await work(Watch(asyncio.get_running_loop()))

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, CountingLoop)
        runner.run(main())
        return loop.timers


def now() -> float:
    return asyncio.get_running_loop().time()


async def answer() -> int:
    await asyncio.sleep(0)
    return 1


async def ended_after(watch: Watch, seconds: float) -> float:
    """Return when a statement that is never answered was ended."""
    began = now()
    with pytest.raises(TimeoutError):
        await watch.within(seconds, asyncio.sleep, 3600)
    return now() - began


def test_a_thousand_statements_in_a_row_share_a_timer() -> None:
    async def work(watch: Watch) -> None:
        for _ in range(1000):
            assert await watch.within(6.0, answer) == 1

    assert len(run(work)) == 1


def test_each_of_many_statements_ends_at_its_own_limit() -> None:
    async def work(watch: Watch) -> None:
        limits = [5.0, 1.0, 3.0, 1.0, 2.0]
        took = await asyncio.gather(*(ended_after(watch, limit) for limit in limits))
        assert took == limits

    run(work)


def test_a_late_statement_ends_in_time_after_an_early_one_was_answered() -> None:
    async def work(watch: Watch) -> None:
        assert await watch.within(2.0, answer) == 1
        assert await ended_after(watch, 5.0) == 5.0
        assert await ended_after(watch, 1.0) == 1.0

    run(work)


def test_what_ends_too_late_leaves_its_task_uncancelled() -> None:
    async def work(watch: Watch) -> None:
        assert await ended_after(watch, 1.0) == 1.0
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(1)

    run(work)


@pytest.mark.parametrize("is_first", [True, False], ids=["before", "after"])
def test_a_task_cancelled_in_the_moment_of_its_limit_is_cancelled(is_first: bool) -> None:  # noqa: FBT001
    async def work(watch: Watch) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(watch.within(1.0, asyncio.sleep, 3600))
        if is_first:
            loop.call_at(now() + 1.0, task.cancel)
        await asyncio.sleep(0)
        if not is_first:
            loop.call_at(now() + 1.0, task.cancel)
        await asyncio.wait([task])
        assert task.cancelled()

    run(work)


def test_a_cancelled_task_is_cancelled_before_its_limit() -> None:
    async def work(watch: Watch) -> None:
        began = now()
        task = asyncio.ensure_future(watch.within(5.0, asyncio.sleep, 3600))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert now() - began == 1.0

    run(work)


def test_an_error_in_the_place_of_a_cancellation_stays() -> None:
    async def work(watch: Watch) -> None:
        async def breaks() -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            await watch.within(1.0, breaks)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    run(work)


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_without_any_time_nothing_is_called(seconds: float) -> None:
    async def work(watch: Watch) -> None:
        calls: list[object] = []

        async def call() -> None:
            calls.append(None)

        with pytest.raises(TimeoutError):
            await watch.within(seconds, call)
        assert calls == []

    assert run(work) == []


def test_closing_leaves_no_timer() -> None:
    async def work(watch: Watch) -> None:
        await watch.within(3600.0, answer)
        watch.close()

    assert all(timer.cancelled() for timer in run(work))
