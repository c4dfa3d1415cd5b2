"""One scene for each guard, in which it does what it is for.

It waits, refuses, tries again or ends a call.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest

from postfacta_core.backoff import Backoff
from postfacta_core.errors import CircuitOpenError, DeadlineExceededError
from postfacta_core.guards import (
    AdaptiveLimiter,
    BlockGuard,
    Bulkhead,
    CircuitBreaker,
    CircuitConfig,
    Fallback,
    Hedge,
    Outcome,
    RateLimiter,
    Retry,
    Timeout,
)
from postfacta_core.limits import OverloadConfig
from postfacta_core.limits.rate import Rate

__all__ = ["IN_TASKS", "IN_THREADS", "all_in_tasks", "all_in_threads"]

# No wait may end because the machine is busy.
LONG = 60.0
SOON = 0.01
FAST = Backoff(base=0.001, cap=0.001)
ONCE = CircuitConfig(minimum_number_of_calls=1)


async def fail() -> str:
    raise OSError("down")


def fail_now() -> str:
    raise OSError("down")


async def make_up(_: Outcome[str]) -> str:
    return "made up"


async def retry() -> None:
    left = [OSError("down")]

    async def fail_once() -> str:
        if left:
            raise left.pop()
        return "answer"

    assert await Retry("w", on=OSError, backoff=FAST).call(fail_once) == "answer"


async def timeout() -> None:
    with pytest.raises(DeadlineExceededError):
        await Timeout(SOON).call(anyio.sleep_forever)


async def hedge() -> None:
    tries = iter((anyio.sleep_forever, anyio.lowlevel.checkpoint))

    async def hang_once() -> str:
        await next(tries)()
        return "second"

    assert await Hedge("w", delay=SOON).call(hang_once) == "second"


async def fallback() -> None:
    assert await Fallback("w", on=OSError, otherwise=make_up).call(fail) == "made up"


async def breaker() -> None:
    guard = CircuitBreaker("w", config=ONCE)
    with pytest.raises(OSError, match="down"):
        await guard.call(fail)
    with pytest.raises(CircuitOpenError):
        await guard.call(fail)


async def rate_limiter() -> None:
    guard = RateLimiter("w", Rate(amount=1, period=SOON), max_wait=LONG)
    for _ in range(3):
        async with guard.block():
            await anyio.lowlevel.checkpoint()


async def bulkhead() -> None:
    await _queue(Bulkhead("w", 1, max_waiting=2, max_wait=LONG))


async def limiter() -> None:
    await _queue(AdaptiveLimiter("w", OverloadConfig(start=1, patience=LONG, spare=LONG)))


async def _queue(guard: BlockGuard) -> None:
    """Hold the only slot until another call waits for it."""
    done = list[int]()

    async def work(number: int) -> None:
        async with guard.block():
            done.append(number)

    async with anyio.create_task_group() as tasks:
        async with guard.block():
            for number in range(2):
                tasks.start_soon(work, number)
            while guard.status()["waiting"] != 2:
                await anyio.sleep(0.001)
        assert not done
    assert sorted(done) == [0, 1]


IN_TASKS: dict[str, Callable[[], Awaitable[None]]] = {
    scene.__name__: scene
    for scene in (retry, timeout, hedge, fallback, breaker, rate_limiter, bulkhead, limiter)
}


def retry_now() -> None:
    left = [OSError("down")]

    def fail_once() -> str:
        if left:
            raise left.pop()
        return "answer"

    assert Retry("w", on=OSError, backoff=FAST).call_sync(fail_once) == "answer"


def fallback_now() -> None:
    assert Fallback("w", on=OSError, otherwise="made up").call_sync(fail_now) == "made up"


def breaker_now() -> None:
    guard = CircuitBreaker("w", config=ONCE)
    with pytest.raises(OSError, match="down"):
        guard.call_sync(fail_now)
    with pytest.raises(CircuitOpenError):
        guard.call_sync(fail_now)


def rate_limiter_now() -> None:
    guard = RateLimiter("w", Rate(amount=1, period=SOON), max_wait=LONG)
    for _ in range(3):
        with guard.block():
            pass


def bulkhead_now() -> None:
    _queue_now(Bulkhead("w", 1, max_waiting=2, max_wait=LONG))


def limiter_now() -> None:
    _queue_now(AdaptiveLimiter("w", OverloadConfig(start=1, patience=LONG, spare=LONG)))


def _queue_now(guard: BlockGuard) -> None:
    done = list[int]()
    threads = [threading.Thread(target=lambda: guard.call_sync(done.append, 1)) for _ in range(2)]
    pause = threading.Event()
    with guard.block():
        for thread in threads:
            thread.start()
        while guard.status()["waiting"] != 2:
            pause.wait(0.001)
        assert not done
    for thread in threads:
        thread.join(LONG)
    assert done == [1, 1]


IN_THREADS: dict[str, Callable[[], None]] = {
    scene.__name__.removesuffix("_now"): scene
    for scene in (retry_now, fallback_now, breaker_now, rate_limiter_now, bulkhead_now, limiter_now)
}


async def all_in_tasks() -> None:
    """Run each scene of a task."""
    with anyio.fail_after(LONG):
        for scene in IN_TASKS.values():
            await scene()


def all_in_threads() -> None:
    """Run each scene of a thread."""
    for scene in IN_THREADS.values():
        scene()
