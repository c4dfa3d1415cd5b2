"""Faults come as scripted or by chance, at each await, and in testing mode without waiting for the next try."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from postfacta_core.clock import present_haste
from postfacta_core.events import RetryScheduled
from postfacta_core.guards.retry import Retry
from postfacta_core.testing import ManualClock, RecordingObserver, run_in_virtual_time, testing_mode
from postfacta_core.testing.chaos import Chaos, Fault, cancel_at_each_await, cancellable
from tests.kit.every import every


class Worker:
    """Counts how often it was called, and returns what it was given."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        self.calls += 1
        return (*args, *kwargs.items())


async def outcome(function: Callable[[], Awaitable[object]]) -> str:
    try:
        await function()
    except Exception as error:  # noqa: BLE001 - whatever it is, is the outcome
        return type(error).__name__
    return "ok"


async def test_faults_come_in_the_order_of_the_script_and_end_with_it() -> None:
    work = Worker()
    chaos = Chaos([Fault(error=ConnectionResetError), None, Fault(error=lambda: OSError(5, "i/o"))])
    seen = [await outcome(partial(chaos.call, work)) for _ in range(5)]
    assert seen == ["ConnectionResetError", "ok", "OSError", "ok", "ok"]
    assert (work.calls, chaos.calls, len(chaos.injected)) == (3, 5, 2)


async def test_each_error_is_a_new_one() -> None:
    chaos = Chaos(itertools.repeat(Fault(error=ConnectionResetError)))
    errors: list[Exception] = []
    for _ in range(2):
        with pytest.raises(ConnectionResetError) as caught:
            await chaos.call(Worker())
        errors.append(caught.value)
    assert errors[0] is not errors[1]


async def test_a_fault_before_spares_the_work_and_one_after_loses_its_answer() -> None:
    work = Worker()
    chaos = Chaos([Fault(error=OSError), Fault(error=OSError, after=True)])
    for calls in (0, 1):
        with pytest.raises(OSError):  # noqa: PT011 - it is bare on purpose
            await chaos.call(work)
        assert work.calls == calls


async def test_what_passes_has_its_arguments_and_its_result() -> None:
    chaos = Chaos()

    @chaos
    async def work(one: int, *, two: int) -> tuple[int, int]:
        return one, two

    assert await work(1, two=2) == (1, 2)
    assert await chaos.call(Worker(), 1, two=2) == (1, ("two", 2))
    assert work.__name__ == "work"
    assert chaos.calls == 2


def test_latency_is_waited_before_the_work_or_after_it() -> None:
    chaos, clock = (
        Chaos([Fault(latency=2), Fault(latency=3, after=True), Fault()]),
        ManualClock(0.0),
    )
    times: list[float] = []

    async def work() -> None:
        times.append(clock())

    async def call() -> None:
        for _ in range(3):
            await chaos.call(work)

    run_in_virtual_time(call, clock=clock)
    assert times == [2, 2, 5]


async def test_latency_without_end_hangs_until_it_is_cancelled() -> None:
    with anyio.move_on_after(0) as scope:
        await Chaos([Fault(latency=math.inf)]).call(Worker())
    assert scope.cancelled_caught


@pytest.mark.parametrize("after", [False, True])
async def test_a_cancellation_ends_the_caller_and_not_the_test(after: bool) -> None:  # noqa: FBT001 - a table
    work = Worker()
    passed: list[str] = []
    chaos = Chaos([Fault(cancel=True, after=after)])
    with cancellable() as scope:
        try:
            await chaos.call(work)
            passed.append("the call")
        finally:
            passed.append("finally")
        passed.append("the block")
    assert scope.cancelled_caught
    assert passed == ["finally"]
    assert work.calls == int(after)
    await checkpoint()


async def test_a_cancellation_reaches_the_nearest_caller_also_from_another_task() -> None:
    chaos = Chaos([Fault(cancel=True)])
    with cancellable() as outer:
        with cancellable() as inner:
            async with anyio.create_task_group() as group:
                group.start_soon(chaos.call, Worker())
                await anyio.sleep_forever()
        assert inner.cancelled_caught
        await checkpoint()
    assert not outer.cancelled_caught


async def test_a_cancellation_needs_a_cancellable_block() -> None:
    with cancellable():
        pass
    with pytest.raises(RuntimeError, match="cancellable"):
        await Chaos([Fault(cancel=True)]).call(Worker())


async def test_chaos_that_is_switched_off_keeps_its_faults_for_later() -> None:
    chaos = Chaos([Fault(error=OSError)])
    chaos.is_active = False
    assert await outcome(partial(chaos.call, Worker())) == "ok"
    chaos.is_active = True
    assert await outcome(partial(chaos.call, Worker())) == "OSError"
    assert (chaos.calls, len(chaos.injected)) == (2, 1)


async def test_by_chance_the_shares_are_those_asked_for_and_the_same_in_each_run() -> None:
    runs: list[list[str]] = []
    faults = [Fault(error=ConnectionResetError), Fault(error=TimeoutError), None]
    for _ in range(2):
        luck = random.Random(7)  # noqa: S311 - which faults come is no secret
        chaos = Chaos(luck.choices(faults, weights=[2, 1, 7])[0] for _ in count())
        runs.append([await outcome(partial(chaos.call, Worker())) for _ in range(4000)])
    assert runs[0] == runs[1]
    shares = {kind: number / 4000 for kind, number in Counter(runs[0]).items()}
    assert shares == pytest.approx(
        {"ok": 0.7, "ConnectionResetError": 0.2, "TimeoutError": 0.1}, abs=0.02
    )


@pytest.mark.parametrize("latency", [-1.0, math.nan])
def test_a_latency_that_makes_no_sense_is_refused(latency: float) -> None:
    with pytest.raises(ValueError, match="needs a latency"):
        Fault(latency=latency)


def test_a_fault_is_an_error_or_a_cancellation() -> None:
    with pytest.raises(ValueError, match="not both"):
        Fault(error=OSError, cancel=True)


async def test_work_is_cancelled_at_each_of_its_awaits_in_turn() -> None:
    progress: list[int] = []

    async def work() -> None:
        progress.append(0)
        for _ in range(3):
            await checkpoint()
            progress[-1] += 1

    checks: list[int] = []
    assert await cancel_at_each_await(work, lambda: checks.append(len(progress))) == 3
    assert progress == [0, 1, 2, 3]
    assert checks == [1, 2, 3, 4]


async def test_work_that_never_waits_runs_once() -> None:
    work = Worker()
    assert await cancel_at_each_await(work) == 0
    assert work.calls == 1


async def test_a_leak_at_one_await_is_found() -> None:
    permits = 1

    async def leaky() -> None:
        nonlocal permits
        await checkpoint()
        permits -= 1
        await checkpoint()
        permits += 1

    def check() -> None:
        assert permits == 1

    with pytest.raises(AssertionError):
        await cancel_at_each_await(leaky, check)


async def test_a_clean_up_that_waits_is_waited_for() -> None:
    cleaned = 0

    async def work() -> None:
        nonlocal cleaned
        try:
            await checkpoint()
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()
                cleaned += 1

    await cancel_at_each_await(work)
    assert cleaned >= 2


async def test_an_error_of_the_work_is_raised() -> None:
    async def work() -> None:
        await checkpoint()
        raise LookupError

    with pytest.raises(LookupError):
        await cancel_at_each_await(work)


async def tries(*, attempts: int, **options: Any) -> tuple[int, list[float], RecordingObserver]:
    """Try what always fails.

    Return how often it was called, the waits asked for, and the events.
    """
    chaos, waits, seen = (
        Chaos(itertools.repeat(Fault(error=ConnectionResetError))),
        list[float](),
        RecordingObserver(),
    )

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    retry = Retry(
        "bench",
        attempts=attempts,
        on=(ConnectionResetError,),
        observer=seen,
        sleep=sleep,
        **options,
    )
    with pytest.raises(ConnectionResetError):
        await retry.call(chaos(Worker()))
    return chaos.calls, waits, seen


async def test_in_testing_mode_tries_follow_each_other_without_a_wait() -> None:
    with testing_mode():
        calls, waits, seen = await tries(attempts=4)
    assert (calls, waits) == (4, [0.0, 0.0, 0.0])
    assert [event.attempt for event in seen.of(RetryScheduled)] == [1, 2, 3]
    calls, waits, _ = await tries(attempts=4, luck=lambda: 0.5)
    assert (calls, waits) == (4, [0.05, 0.1, 0.2])


async def test_testing_mode_makes_fewer_tries_and_never_more() -> None:
    cases: list[tuple[int | None, int]] = [(1, 1), (2, 2), (9, 3), (None, 3)]
    with every() as case:
        for attempts, calls in cases:
            with case(attempts, calls), testing_mode(attempts=attempts):
                assert (await tries(attempts=3))[0] == calls


def _in_a_minute(error: Exception) -> float:
    return 60.0


async def test_testing_mode_waits_no_longer_for_what_production_would_give_up() -> None:
    with testing_mode():
        calls, _, _ = await tries(attempts=3, retry_after=_in_a_minute)
    assert calls == 1


async def test_the_innermost_testing_mode_counts_and_ends_with_its_block() -> None:
    with testing_mode(attempts=1):
        with testing_mode(attempts=2), pytest.raises(LookupError):
            assert (await tries(attempts=3))[0] == 2
            raise LookupError
        assert (await tries(attempts=3))[0] == 1
    assert present_haste() is None


async def test_testing_mode_holds_for_a_server_in_another_thread() -> None:
    with testing_mode(attempts=1):
        seen = await anyio.to_thread.run_sync(present_haste)
    assert seen == 1


@pytest.mark.parametrize("attempts", [0, -1])
def test_no_attempt_at_all_is_refused(attempts: int) -> None:
    with pytest.raises(ValueError, match="needs 1 attempt"):
        testing_mode(attempts=attempts)
