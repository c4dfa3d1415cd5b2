"""What the tests of breakers share.

A breaker that opens soon, and each style of calling through it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, cast

import pytest

from postfacta_core.events import Mode
from postfacta_core.guards._circuit import CircuitConfig, CircuitState
from postfacta_core.guards.breaker import CircuitBreaker
from postfacta_core.testing import ManualClock

__all__ = [
    "CLOSED",
    "CONFIG",
    "FORCED_OPEN",
    "HALF_OPEN",
    "OPEN",
    "Function",
    "Pause",
    "Style",
    "breaker",
    "by_async_with",
    "by_call",
    "by_decorator",
    "by_with",
    "clock_of",
    "counts",
    "fails",
    "half_open_it",
    "open_it",
    "styles",
    "works",
]

CLOSED, OPEN, HALF_OPEN, FORCED_OPEN = CircuitState
CONFIG = CircuitConfig(
    failure_rate_threshold=1.0,
    sliding_window_size=4,
    minimum_number_of_calls=4,
    wait_duration_in_open_state=8.0,
    max_wait_duration_in_open_state=32.0,
    permitted_number_of_calls_in_half_open_state=2,
    max_wait_duration_in_half_open_state=16.0,
)
Function = Callable[[], Awaitable[object]]


class Pause:
    """Yields control to the driver of the coroutine."""

    def __await__(self) -> Generator[None]:
        yield


def breaker(name: str = "db", **options: Any) -> CircuitBreaker:
    defaults: dict[str, Any] = {"config": CONFIG, "clock": ManualClock(), "luck": lambda: 0.0}
    return CircuitBreaker(name, **{**defaults, **options})


def clock_of(guard: CircuitBreaker) -> ManualClock:
    return cast("ManualClock", guard._clock)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - it was passed in


async def by_call(guard: CircuitBreaker, function: Function) -> object:
    return await guard.call(function)


async def by_decorator(guard: CircuitBreaker, function: Function) -> object:
    @guard
    async def guarded() -> object:
        return await function()

    return await guarded()


async def by_async_with(guard: CircuitBreaker, function: Function) -> object:
    async with guard.block():
        return await function()


async def by_with(guard: CircuitBreaker, function: Function) -> object:
    with guard.block():
        return await function()


Style = Callable[[CircuitBreaker, Function], Awaitable[object]]
styles = pytest.mark.parametrize("style", [by_call, by_decorator, by_async_with, by_with])


async def works() -> str:
    return "answer"


async def fails() -> str:
    raise OSError("down")


async def open_it(guard: CircuitBreaker, style: Style = by_call) -> None:
    """Let calls fail until it is open."""
    for _ in range(4):
        with pytest.raises(OSError, match="down"):
            await style(guard, fails)
    assert guard.statistics().state is OPEN


async def half_open_it(guard: CircuitBreaker) -> None:
    """Open it and let its wait pass."""
    await open_it(guard)
    clock_of(guard).advance(8.0)


def counts(guard: CircuitBreaker, mode: Mode = Mode.ENFORCE) -> dict[str, float]:
    return {
        sample.labels[1]: sample.value
        for sample in guard.collect()
        if sample.metric == "postfacta_breaker_calls_total"
        and sample.labels[2] == mode
        and sample.value
    }
