"""A guard and the deadline around it may have clocks that are hours apart.

What is left counts, not the moment.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import partial

import anyio
import pytest

from postfacta_adapters.httpx import outgoing_headers
from postfacta_core import Backoff, Bulkhead, Hedge, Pipeline, ResilienceError, Retry, Timeout
from postfacta_core.clock import MONOTONIC, Clock
from postfacta_core.context import RequestContext, bind_request, release_request
from postfacta_core.guards import AdaptiveLimiter
from postfacta_core.guards._guard import Guard, registry
from postfacta_core.guards.rate_limiter import RateLimiter
from postfacta_core.limits.rate import Rate
from postfacta_core.testing import ManualClock
from tests.kit.every import every

Calls = Callable[[], Awaitable[str]]
Use = Callable[[Guard, Calls], Awaitable[object]]
_HOURS = 1e5  # Seconds, between the two.


def moved(seconds: float) -> float:
    """Return the time on a clock that is this far ahead of the machine's."""
    return MONOTONIC() + seconds


@contextmanager
def request_within(seconds: float, clock: Clock) -> Generator[None]:
    request = RequestContext("request-id", clock(), clock)
    request.deadline = request.started + seconds
    token = bind_request(request)
    try:
        yield
    finally:
        release_request(token)


async def sleep_none(seconds: float) -> None:
    """Wait for nothing."""


def failing(times: int) -> Calls:
    left = iter(range(times))

    async def call() -> str:
        if next(left, None) is not None:
            raise OSError
        return "done"

    return call


async def call_once(guard: Guard, call: Calls) -> object:
    return await guard.call(call)


async def call_three_times(guard: Guard, call: Calls) -> object:
    for _ in range(2):
        await guard.call(call)
    return await guard.call(call)


# A guard by its clock; how often the call fails; how it is used; and what it does if the request
# has no time left.
CASES: dict[str, tuple[Callable[[Clock], Guard], int, Use, type[Exception] | None]] = {
    "timeout": (lambda clock: Timeout(60, clock=clock), 0, call_once, ResilienceError),
    "bulkhead": (
        lambda clock: Bulkhead("a", 1, max_waiting=1, max_wait=60, clock=clock),
        0,
        call_once,
        None,
    ),
    "limiter": (lambda clock: AdaptiveLimiter("a", clock=clock), 0, call_once, None),
    "hedge": (lambda clock: Hedge("a", delay=0, clock=clock), 0, call_once, None),
    "rate_limiter": (
        lambda clock: RateLimiter("a", Rate(amount=2, period=0.05), max_wait=60.0, clock=clock),
        0,
        call_three_times,
        ResilienceError,
    ),
    "retry": (
        lambda clock: Retry(
            "a", on=OSError, clock=clock, sleep=sleep_none, backoff=Backoff(base=1)
        ),
        1,
        call_once,
        OSError,
    ),
}


async def test_each_guard_reads_a_deadline_on_the_deadlines_clock() -> None:
    with anyio.fail_after(20), every() as case:
        for name, (make, failures, use, error) in CASES.items():
            for apart in (-_HOURS, _HOURS):
                requests = partial(moved, apart)
                with case(name, apart, "time left"):
                    registry.clear()
                    with request_within(30, requests):
                        assert await use(make(MONOTONIC), failing(failures)) == "done"
                with case(name, apart, "none left"):
                    registry.clear()
                    with request_within(0, requests):
                        if error is None:
                            assert await use(make(MONOTONIC), failing(failures)) == "done"
                        else:
                            with pytest.raises(error):
                                await use(make(MONOTONIC), failing(failures))


async def test_a_timeout_on_another_clock_bounds_what_it_calls() -> None:
    # As in a test that gives a clock to its Retry and leaves the Timeout around it without.
    with anyio.fail_after(20), every() as case:
        for start in (0.0, _HOURS, 1e9):
            with case(start):
                registry.clear()
                retry = Retry("a", on=OSError, clock=ManualClock(start), sleep=sleep_none)
                assert await Pipeline(Timeout(60), retry).call(failing(2)) == "done"
                inner = Timeout(30, clock=ManualClock(start))
                assert await Pipeline(Timeout(60), inner).call(failing(0)) == "done"


def test_the_next_service_gets_what_is_left_on_the_requests_clock() -> None:
    with request_within(10, ManualClock(_HOURS)):
        assert outgoing_headers()["X-Request-Timeout"] == "9.500"
