"""Guards take other numbers while they run; calls under way keep theirs."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from postfacta_core.backoff import Backoff
from postfacta_core.errors import BulkheadFullError, CircuitOpenError, DeadlineExceededError
from postfacta_core.events import PolicyCreated
from postfacta_core.guards import (
    Bulkhead,
    CircuitBreaker,
    CircuitConfig,
    Fallback,
    Guard,
    Hedge,
    RateLimiter,
    Retry,
    RetryBudget,
    Timeout,
    registry,
)
from postfacta_core.testing import ManualClock, RecordingObserver
from tests.core.guards.test_retry import Bench, Down
from tests.kit.every import every


def made() -> list[Guard]:
    return [
        Retry("tuned", attempts=5),
        Bulkhead("tuned", 10),
        RateLimiter("tuned", "10/second"),
        Timeout(5.0, name="tuned"),
        Hedge("tuned", delay=0.1),
        CircuitBreaker("tuned"),
    ]


def test_no_number_is_used_before_all_are_checked() -> None:
    observer = RecordingObserver()
    guard = Retry("tuned", attempts=5, observer=observer)
    use = guard.tuned(attempts=2)
    assert guard.settings()["attempts"] == 5
    assert registry.find("retry", "tuned") is guard
    use()
    assert guard.settings()["attempts"] == 2
    assert len(observer.of(PolicyCreated)) == 1
    guard.tuned()()
    assert guard.settings()["attempts"] == 5


def test_what_may_not_change_is_refused() -> None:
    with every() as case:
        for guard in [*made(), Fallback("tuned", otherwise=None)]:
            with case(guard.kind), pytest.raises(ValueError, match=r"\.name must be one of "):
                guard.tuned(name="other")


async def test_fewer_tries_are_made() -> None:
    bench, down = Bench(), Down()
    retry = bench.retry()
    retry.tuned(attempts=2)()
    with pytest.raises(ConnectionError):
        await retry.call(down)
    assert down.asked == 2


def test_what_is_no_number_stays_as_it_was_made() -> None:
    shared = RetryBudget("shared")
    waits: list[float] = []
    retry = Retry(
        "tuned",
        attempts=5,
        on=ConnectionError,
        backoff=Backoff(base=7.0, cap=7.0),
        budget=shared,
        luck=float,
        sleep=waits.append,
    )

    def fail() -> None:
        raise ConnectionError

    retry.tuned(attempts=2)()
    with pytest.raises(ConnectionError):
        retry.call_sync(fail)
    assert waits == [7.0]
    bulkhead = Bulkhead("tuned", 10, lends=True)
    hedge = Hedge("tuned", delay=0.1, budget=shared)
    bulkhead.tuned(slots=3)()
    hedge.tuned(delay=0.2)()
    assert bulkhead.settings()["lends"] is True
    assert retry.settings()["budget"] == hedge.settings()["budget"] == "shared"


def test_a_guard_without_numbers_is_left_as_it_is() -> None:
    guard = Fallback("tuned", otherwise=None)
    before = guard.settings()
    guard.tuned()()
    assert guard.settings() == before


async def test_more_slots_admit_those_that_wait() -> None:
    bulkhead = Bulkhead("tuned", 1, max_waiting=3, max_wait=5)
    admitted: list[int] = []
    leave = anyio.Event()

    async def work(number: int) -> None:
        async with bulkhead.block():
            admitted.append(number)
            await leave.wait()

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(work, number)
            await anyio.wait_all_tasks_blocked()
        assert admitted == [0]
        bulkhead.tuned(slots=3, max_waiting=3, max_wait=5)()
        await anyio.wait_all_tasks_blocked()
        assert sorted(admitted) == [0, 1, 2]
        assert (bulkhead.used, bulkhead.waiting) == (3, 1)
        bulkhead.tuned(slots=1, max_waiting=0, max_wait=None)()
        with pytest.raises(BulkheadFullError):
            await bulkhead.call(anyio.sleep, 0)
        leave.set()
    assert (bulkhead.used, bulkhead.waiting) == (0, 0)


async def test_a_shorter_timeout_ends_calls_that_begin_after_it() -> None:
    timeout = Timeout(30.0, name="tuned")
    ended: list[str] = []

    async def wait(name: str) -> None:
        try:
            await timeout.call(anyio.sleep, 20)
        except DeadlineExceededError:
            ended.append(name)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, "earlier")
        await anyio.wait_all_tasks_blocked()
        timeout.tuned(seconds=0.01)()
        await wait("later")
        assert ended == ["later"]
        tasks.cancel_scope.cancel()
    assert ended == ["later"]


def test_other_rates_begin_with_full_budgets_and_equal_ones_go_on() -> None:
    clock = ManualClock()
    limiter = RateLimiter("tuned", "2/minute", mode="shadow", clock=clock)

    def allowed() -> float:
        return next(one.value for one in limiter.collect() if one.labels[1] == "allowed")

    def spend(times: int) -> None:
        for _ in range(times):
            limiter.call_sync(int)

    spend(3)
    assert allowed() == 2
    limiter.tuned(rates="2/minute")()
    spend(3)
    assert allowed() == 2
    limiter.tuned(rates="3/minute")()
    spend(5)
    assert allowed() == 5


async def test_a_hedge_goes_on_measuring_until_its_delay_is_another() -> None:
    hedge = Hedge("tuned", delay="p50")
    for _ in range(10):
        await hedge.call(anyio.sleep, 0)
    before = hedge.status()["delay"]
    assert before is not None
    hedge.tuned(delay="p50")()
    assert hedge.status()["delay"] == before
    hedge.tuned(delay="p60")()
    assert hedge.status()["delay"] is None
    hedge.tuned(delay=0.5)()
    assert hedge.delay == hedge.settings()["delay"] == 0.5


FAST = CircuitConfig(minimum_number_of_calls=2, failure_rate_threshold=1.0)


def failing(breaker: CircuitBreaker, error: Callable[[], Exception] = ConnectionError) -> None:
    def fail() -> None:
        raise error()

    with pytest.raises((ConnectionError, CircuitOpenError)):
        breaker.call_sync(fail)


def test_a_circuit_keeps_its_window_where_its_size_is_the_same() -> None:
    breaker = CircuitBreaker("tuned", config=FAST)
    failing(breaker)
    breaker.call_sync(int)
    assert breaker.statistics().state == "closed"
    breaker.tuned(failure_rate_threshold=0.6)()
    failing(breaker)
    assert breaker.statistics().state == "open"


def test_a_circuit_of_another_window_begins_anew() -> None:
    breaker = CircuitBreaker("tuned", config=FAST)
    failing(breaker)
    breaker.tuned(sliding_window_size=5)()
    assert breaker.statistics().calls == 0
    assert breaker.config.minimum_number_of_calls == 2
    for _ in range(2):
        failing(breaker)
    assert breaker.statistics().state == "open"


def test_more_trials_are_made_after_the_next_opening() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("tuned", config=FAST, clock=clock)
    breaker.open()
    clock.advance(10)
    breaker.call_sync(int)
    breaker.tuned(permitted_number_of_calls_in_half_open_state=1)()
    breaker.call_sync(int)
    assert breaker.statistics().state == "half_open"
    breaker.call_sync(int)
    assert breaker.statistics().state == "closed"
    breaker.open()
    clock.advance(10)
    breaker.call_sync(int)
    assert breaker.statistics().state == "closed"
