"""A trial that is cancelled, hung, thrown away or nested gives its permit back, and is judged once."""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

from postfacta_adapters import pybreaker as adapter
from postfacta_core.clock import MONOTONIC
from postfacta_core.errors import CircuitOpenError
from postfacta_core.guards._circuit import CircuitConfig
from postfacta_core.testing import ManualClock
from tests.core.guards.breakers import (
    CLOSED,
    CONFIG,
    HALF_OPEN,
    OPEN,
    Pause,
    Signal,
    Style,
    breaker,
    clock_of,
    counts,
    fails,
    half_open_it,
    open_it,
    styles,
    works,
)

pytestmark = pytest.mark.usefixtures("anyio_backend")


@styles
async def test_a_cancellation_is_not_a_failure_and_does_not_open_it(style: Style) -> None:
    guard = breaker()
    for _ in range(40):
        with anyio.CancelScope() as scope:

            async def cancelled(scope: anyio.CancelScope = scope) -> None:
                scope.cancel()
                await anyio.sleep_forever()

            await style(guard, cancelled)
            pytest.fail("the cancellation was swallowed")
        assert scope.cancelled_caught
    assert guard.statistics().calls == 0
    assert counts(guard) == {"ignored": 40}


@styles
async def test_inside_a_timeout_the_caller_sees_a_timeout_even_where_one_failure_would_open_it(
    style: Style,
) -> None:
    guard = breaker(clock=MONOTONIC)
    for _ in range(3):
        with suppress(OSError):
            await style(guard, fails)
    with pytest.raises(TimeoutError), anyio.fail_after(0.001):
        await style(guard, anyio.sleep_forever)
    assert guard.statistics().state is CLOSED


@styles
async def test_a_call_that_a_timeout_cancels_is_not_a_success_that_hides_failures(
    style: Style,
) -> None:
    guard = breaker(config=CircuitConfig(minimum_number_of_calls=100))
    for number in range(150):
        if number % 3:
            with suppress(OSError, CircuitOpenError):
                await style(guard, fails)
        else:
            with anyio.move_on_after(0):
                await style(guard, anyio.sleep_forever)
    assert guard.statistics().failure_rate == 1.0
    assert guard.statistics().state is OPEN


@styles
async def test_half_open_does_not_admit_a_hundred_at_once(style: Style) -> None:
    guard = breaker()
    await half_open_it(guard)
    inside, refused, may_end = [0], [0], anyio.Event()

    async def trial() -> None:
        inside[0] += 1
        await may_end.wait()

    async def caller() -> None:
        try:
            await style(guard, trial)
        except CircuitOpenError:
            refused[0] += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(caller)
        with anyio.fail_after(5):
            while inside[0] + refused[0] < 100:
                await anyio.lowlevel.checkpoint()
        may_end.set()
    assert (inside[0], refused[0]) == (1, 99)


async def test_threads_do_not_get_two_trials() -> None:
    guard = breaker()
    await half_open_it(guard)
    inside: list[int] = []
    may_end, arrived = threading.Event(), threading.Semaphore(0)

    def trial() -> None:
        inside.append(1)
        arrived.release()
        may_end.wait(5)

    def caller() -> None:
        with suppress(CircuitOpenError):
            guard.call_sync(trial)
        arrived.release()

    threads = [threading.Thread(target=caller) for _ in range(16)]
    for thread in threads:
        thread.start()
    for _ in range(16):
        assert arrived.acquire(timeout=5)
    may_end.set()
    for thread in threads:
        thread.join(5)
    assert len(inside) == 1


@styles
async def test_failures_of_calls_from_before_the_trip_do_not_prolong_the_wait(style: Style) -> None:
    guard = breaker()
    may_end = anyio.Event()

    async def old() -> None:
        await may_end.wait()
        raise OSError("down")

    async def caller() -> None:
        with pytest.raises(OSError, match="down"):
            await style(guard, old)

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(caller)
        await anyio.wait_all_tasks_blocked()
        await open_it(guard)
        clock_of(guard).advance(5.0)
        may_end.set()
    assert guard.statistics().retry_after == 3.0
    assert (
        len([sample for sample in guard.collect() if sample.metric.endswith("transitions_total")])
        == 1
    )


async def test_a_step_of_the_wall_clock_does_not_prolong_or_shorten_the_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wall = ManualClock(1e9)
    monkeypatch.setattr("time.time", wall)
    monkeypatch.setattr(adapter, "WALL", wall)
    guard = breaker()
    await open_it(guard)
    for step in (-3600.0, 7200.0):
        wall.advance(step)
        assert guard.statistics().retry_after == 8.0
        with pytest.raises(CircuitOpenError):
            await guard.call(works)
    clock_of(guard).advance(8.0)
    assert await guard.call(works) == "answer"


@styles
@pytest.mark.parametrize("at", range(4))
async def test_a_trial_cancelled_at_any_await_gives_its_permit_home(style: Style, at: int) -> None:
    guard = breaker()
    await half_open_it(guard)
    for _ in range(3):
        with anyio.CancelScope() as scope:

            async def steps(scope: anyio.CancelScope = scope) -> None:
                for step in range(4):
                    if step == at:
                        scope.cancel()
                    await anyio.lowlevel.checkpoint()

            await style(guard, steps)
        assert scope.cancelled_caught
        assert guard.statistics().state is HALF_OPEN
        assert guard.statistics().retry_after is None
    await style(guard, works)
    await style(guard, works)
    assert guard.statistics().state is CLOSED


@styles
async def test_a_trial_begun_in_a_cancelled_scope_gives_its_permit_home(style: Style) -> None:
    guard = breaker()
    await half_open_it(guard)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await style(guard, anyio.lowlevel.checkpoint)
    assert guard.statistics().retry_after is None
    assert await style(guard, works) == "answer"


@styles
@pytest.mark.parametrize("pauses", range(1, 4))
async def test_a_trial_whose_coroutine_is_thrown_away_gives_its_permit_home(
    style: Style, pauses: int
) -> None:
    guard = breaker()
    await half_open_it(guard)

    async def waits() -> None:
        for _ in range(4):
            await Pause()

    coroutine = cast("Any", style(guard, waits))
    for _ in range(pauses):
        coroutine.send(None)
    assert guard.statistics().retry_after == 1.0
    coroutine.close()
    assert guard.statistics().retry_after is None
    assert counts(guard)["ignored"] == 1


@styles
async def test_what_is_no_exception_passes_and_is_no_outcome(style: Style) -> None:
    guard = breaker()

    async def interrupted() -> None:
        raise Signal

    for _ in range(5):
        with pytest.raises(Signal):
            await style(guard, interrupted)
    assert (guard.statistics().state, counts(guard)) == (CLOSED, {"ignored": 5})
    for _ in range(5):
        with pytest.raises(Signal):
            guard.call_sync(partial(cast("Any", interrupted().send), None))
    assert counts(guard) == {"ignored": 10}


async def test_a_hung_trial_does_not_wedge_half_open() -> None:
    guard = breaker()
    await half_open_it(guard)
    hung = guard.call(Pause)
    hung.send(None)
    clock_of(guard).advance(15.0)
    with pytest.raises(CircuitOpenError) as refused:
        await guard.call(works)
    assert refused.value.retry_after == 1.0
    clock_of(guard).advance(1.0 + 16.0)
    await guard.call(works)
    await guard.call(works)
    assert guard.statistics().state is CLOSED
    hung.close()
    assert guard.statistics().state is CLOSED


async def test_blocks_need_not_nest() -> None:
    guard = breaker()
    first, second = guard.block(), guard.block()
    await first.__aenter__()
    clock_of(guard).advance(CONFIG.slow_call_duration)
    await second.__aenter__()
    await first.__aexit__(None, None, None)
    await second.__aexit__(OSError, OSError("down"), None)
    assert counts(guard) == {"slow": 1, "failure": 1}


async def test_a_breaker_may_be_entered_within_itself() -> None:
    guard = breaker()
    async with guard.block():
        with pytest.raises(OSError, match="down"):
            async with guard.block():
                raise OSError("down")
    assert counts(guard) == {"failure": 1, "success": 1}
