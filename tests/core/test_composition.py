"""What guards do to one another, in each order that makes sense."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import httpx2
import pytest

from postfacta_adapters.httpx import Outgoing
from postfacta_core.deadlines.present import current_deadline
from postfacta_core.errors import (
    BulkheadFullError,
    CircuitOpenError,
    DeadlineExceededError,
    LoadShedError,
)
from postfacta_core.guards import AdaptiveLimiter
from postfacta_core.guards._circuit import CircuitConfig, CircuitState
from postfacta_core.guards.breaker import CircuitBreaker
from postfacta_core.guards.budget import RetryBudget
from postfacta_core.guards.bulkhead import Bulkhead
from postfacta_core.guards.fallback import Fallback
from postfacta_core.guards.hedge import Hedge
from postfacta_core.guards.pipeline import Pipeline
from postfacta_core.guards.retry import Retry
from postfacta_core.guards.timeout import Timeout
from postfacta_core.limits import OverloadConfig
from postfacta_core.testing import ManualClock
from tests.core.virtual import loop_clock

SOON = 0.02
LONG = 60.0


class Dependency:
    """Counts its calls, and treats each as given.

    Without jitter, waits are as long as they can be.
    """

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.calls = 0
        self.slept: list[float] = []
        self.while_asleep: list[object] = []
        self.look: Callable[[], object] = lambda: None

    async def fail(self) -> str:
        self.calls += 1
        raise KeyError("down")

    async def hang(self) -> str:
        self.calls += 1
        await anyio.sleep_forever()
        raise AssertionError

    async def answer(self) -> str:
        self.calls += 1
        return "done"

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.while_asleep.append(self.look())
        self.clock.advance(seconds)

    def retry(self, attempts: int = 3, **options: Any) -> Retry:
        return Retry(
            "db",
            attempts=attempts,
            on=(KeyError, DeadlineExceededError),
            clock=self.clock,
            luck=lambda: 0.0,
            sleep=self.sleep,
            **options,
        )

    def breaker(self, calls: int = 2) -> CircuitBreaker:
        config = CircuitConfig(
            minimum_number_of_calls=calls, wait_duration_in_open_state=5, wait_jitter=0
        )
        return CircuitBreaker("db", config=config, clock=self.clock, luck=lambda: 0.0)


def counted(breaker: CircuitBreaker) -> dict[str, int]:
    samples = [each for each in breaker.collect() if each.metric == "postfacta_breaker_calls_total"]
    return {each.labels[1]: int(each.value) for each in samples if each.value}


def admitted(bulkhead: Bulkhead) -> int:
    return int(sum(each.value for each in bulkhead.collect() if "admitted" in each.labels))


async def test_an_open_circuit_stops_retries_at_once() -> None:
    db = Dependency()
    breaker = db.breaker(calls=2)
    pipeline = Pipeline(Timeout(2, clock=db.clock), db.retry(attempts=9), breaker)
    with pytest.raises(CircuitOpenError):
        await pipeline.call(db.fail)
    # Two tries open it. The third is refused, for longer than there is time: nobody waits for that.
    assert (db.calls, len(db.slept), breaker.statistics().state) == (2, 2, CircuitState.OPEN)


async def test_a_circuit_inside_of_a_retry_counts_each_try_and_one_outside_each_call() -> None:
    for is_inside, failures in ((True, 3), (False, 1)):
        db = Dependency()
        breaker, retry = db.breaker(calls=50), db.retry()
        pipeline = Pipeline(retry, breaker) if is_inside else Pipeline(breaker, retry)
        with pytest.raises(KeyError):
            await pipeline.call(db.fail)
        assert (db.calls, counted(breaker)) == (3, {"failure": failures})


async def test_a_timeout_outside_of_a_retry_bounds_all_tries_and_one_inside_each() -> None:
    for is_inside, calls in ((False, 1), (True, 3)):
        db = Dependency()
        timeout, retry = Timeout(SOON, clock=loop_clock()), db.retry()
        pipeline = Pipeline(retry, timeout) if is_inside else Pipeline(timeout, retry)
        with anyio.fail_after(20), pytest.raises(DeadlineExceededError):
            await pipeline.call(db.hang)
        assert db.calls == calls


async def test_a_retry_does_not_wait_past_the_timeout_around_it() -> None:
    db = Dependency()
    with pytest.raises(KeyError):
        await Pipeline(Timeout(0.25, clock=db.clock), db.retry(attempts=9)).call(db.fail)
    # 0.1 and no more: the next wait would be 0.2.
    assert (db.calls, db.slept) == (2, [0.1])


async def test_a_bulkheads_refusal_is_no_failure_of_the_dependency() -> None:
    db = Dependency()
    breaker, bulkhead = db.breaker(calls=1), Bulkhead("db", 1)
    pipeline = Pipeline(breaker, bulkhead)
    async with bulkhead.block():
        for _ in range(5):
            with pytest.raises(BulkheadFullError):
                await pipeline.call(db.answer)
    assert (breaker.statistics().state, counted(breaker)) == (CircuitState.CLOSED, {"ignored": 5})
    assert await pipeline.call(db.answer) == "done"


async def test_a_limiters_refusal_is_no_failure_of_the_dependency() -> None:
    db = Dependency()
    breaker, limiter = (
        db.breaker(calls=1),
        AdaptiveLimiter("db", OverloadConfig(start=1, patience=SOON, spare=SOON)),
    )
    pipeline = Pipeline(breaker, limiter)
    async with limiter.block():
        for _ in range(2):
            with pytest.raises(LoadShedError):
                await pipeline.call(db.answer)
    assert (breaker.statistics().state, counted(breaker)) == (CircuitState.CLOSED, {"ignored": 2})
    assert await pipeline.call(db.answer) == "done"


async def test_an_open_circuit_outside_of_a_bulkhead_takes_no_slot() -> None:
    for is_outside, slots in ((True, 0), (False, 1)):
        db = Dependency()
        breaker, bulkhead = db.breaker(), Bulkhead("db", 1)
        breaker.force_open()
        pipeline = Pipeline(breaker, bulkhead) if is_outside else Pipeline(bulkhead, breaker)
        with pytest.raises(CircuitOpenError):
            await pipeline.call(db.answer)
        assert (db.calls, admitted(bulkhead), bulkhead.used) == (0, slots, 0)


async def test_a_dependency_that_hangs_opens_the_circuit_if_the_timeout_is_inside() -> None:
    for is_inside, state in ((True, CircuitState.OPEN), (False, CircuitState.CLOSED)):
        db = Dependency()
        breaker, timeout = db.breaker(calls=2), Timeout(SOON, clock=loop_clock())
        pipeline = Pipeline(breaker, timeout) if is_inside else Pipeline(timeout, breaker)
        for _ in range(2):
            with anyio.fail_after(20), pytest.raises(DeadlineExceededError):
                await pipeline.call(db.hang)
        assert breaker.statistics().state is state


async def test_a_caller_in_a_hurry_does_not_open_the_circuit() -> None:
    db = Dependency()
    breaker = db.breaker(calls=1)
    pipeline = Pipeline(breaker, Timeout(LONG))
    for _ in range(3):
        with anyio.fail_after(20), pytest.raises(DeadlineExceededError):
            await Timeout(SOON, clock=loop_clock()).call(pipeline.call, db.hang)
    assert (breaker.statistics().state, counted(breaker)) == (CircuitState.CLOSED, {"ignored": 3})


async def test_a_bulkhead_inside_of_a_retry_is_free_while_that_waits() -> None:
    for is_inside, used in ((True, 0), (False, 1)):
        db = Dependency()
        bulkhead, retry = Bulkhead("db", 1), db.retry()
        db.look = partial(getattr, bulkhead, "used")
        pipeline = Pipeline(retry, bulkhead) if is_inside else Pipeline(bulkhead, retry)
        with pytest.raises(KeyError):
            await pipeline.call(db.fail)
        assert db.while_asleep == [used, used]


async def test_a_retry_around_a_full_bulkhead_comes_back_when_there_may_be_a_slot() -> None:
    db = Dependency()
    bulkhead = Bulkhead("db", 1, max_waiting=1, max_wait=SOON)
    pipeline = Pipeline(db.retry(attempts=2), bulkhead)
    async with bulkhead.block():
        with pytest.raises(BulkheadFullError):
            await pipeline.call(db.answer)
    assert (db.calls, db.slept) == (0, [SOON + 0.1])
    assert await pipeline.call(db.answer) == "done"


async def test_a_timeout_bounds_the_wait_for_a_slot_too() -> None:
    db = Dependency()
    bulkhead = Bulkhead("db", 1, max_waiting=1, max_wait=LONG)
    async with bulkhead.block():
        # The bulkhead knows the bound, and refuses just before it, unless the loop lags: nothing
        # was begun.
        with anyio.fail_after(20), pytest.raises((BulkheadFullError, DeadlineExceededError)):
            await Pipeline(Timeout(0.1, clock=loop_clock()), bulkhead).call(db.answer)
    assert (db.calls, bulkhead.used, bulkhead.waiting) == (0, 0, 0)


def _client(
    outgoing: Outgoing, answer: Callable[[httpx2.Request], httpx2.Response]
) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=outgoing.transport(httpx2.MockTransport(answer)))


async def test_a_retry_waits_as_long_as_the_dependency_asks() -> None:
    db = Dependency()
    answers = [
        httpx2.Response(503, headers={"retry-after": "3"}),
        httpx2.Response(429, headers={"retry-after": "2"}),
        httpx2.Response(200),
    ]
    async with _client(Outgoing("db", db.retry()), lambda _: answers.pop(0)) as client:
        assert (await client.post("http://db/")).status_code == 200
    assert db.slept == [pytest.approx(3.1), pytest.approx(2.2)]


async def test_a_circuit_stays_open_as_long_as_the_dependency_asks() -> None:
    db = Dependency()
    outgoing = Outgoing("db", db.breaker(calls=1))
    async with _client(
        outgoing, lambda _: httpx2.Response(503, headers={"retry-after": "40"})
    ) as client:
        assert (await client.get("http://db/")).status_code == 503
        db.clock.advance(39)
        with pytest.raises(CircuitOpenError):
            await client.get("http://db/")
        db.clock.advance(1)
        assert (await client.get("http://db/")).status_code == 503


async def test_both_tries_of_a_hedge_take_a_slot_of_a_bulkhead_inside_and_one_of_one_outside() -> (
    None
):
    for is_inside, used in ((True, 2), (False, 1)):
        bulkhead = Bulkhead("db", 2)
        hedge = Hedge("db", delay=0)
        seen: list[int] = []

        async def slow(bulkhead: Bulkhead = bulkhead, seen: list[int] = seen) -> str:
            is_second = bool(seen)
            seen.append(bulkhead.used)
            if not is_second:
                await anyio.sleep_forever()
            return "done"

        pipeline = Pipeline(hedge, bulkhead) if is_inside else Pipeline(bulkhead, hedge)
        with anyio.fail_after(20):
            assert await pipeline.call(slow) == "done"
        assert (seen, bulkhead.used) == ([1, used], 0)


async def test_a_timeout_ends_both_tries_of_a_hedge() -> None:
    db = Dependency()
    with anyio.fail_after(20), pytest.raises(DeadlineExceededError):
        await Pipeline(Timeout(0.05, clock=loop_clock()), Hedge("db", delay=0)).call(db.hang)
    assert db.calls == 2


async def test_retries_and_hedges_spend_from_one_budget() -> None:
    db = Dependency()
    budget = RetryBudget("db", ratio=0.001, floor=0, burst=1)
    pipeline = Pipeline(db.retry(attempts=9, budget=budget), Hedge("db", delay=LONG, budget=budget))
    with pytest.raises(KeyError):
        await pipeline.call(db.fail)
    assert db.calls == 2


async def test_a_fallback_around_a_pipeline_answers_for_each_of_its_refusals() -> None:
    db = Dependency()
    breaker, bulkhead, timeout = db.breaker(), Bulkhead("db", 1), Timeout(SOON, clock=loop_clock())
    fallback = Fallback("db", key=lambda: "key")
    pipeline = Pipeline(timeout, breaker, bulkhead)
    answer, hang = pipeline(db.answer), pipeline(db.hang)
    assert (await fallback.ask(answer)).is_fresh
    with anyio.fail_after(20):
        late = await fallback.ask(hang)
    async with bulkhead.block():
        full = await fallback.ask(answer)
    breaker.force_open()
    broken = await fallback.ask(answer)
    assert [each.value for each in (late, full, broken)] == ["done"] * 3
    kinds = [type(each.error) for each in (late, full, broken)]
    assert all(map(issubclass, kinds, (DeadlineExceededError, BulkheadFullError, CircuitOpenError)))
    with pytest.raises(
        ValueError,
        match=r"Fallback\('db', .* must not stand inside of CircuitBreaker.*put the fallback first",
    ):
        Pipeline(breaker, fallback)


async def test_what_is_called_sees_the_nearest_deadline_in_each_order() -> None:
    db = Dependency()

    async def left() -> float:
        deadline = current_deadline()
        return math.inf if deadline is None else deadline.at - db.clock.now

    def guards() -> list[Any]:
        return [
            db.retry(),
            db.breaker(),
            Bulkhead("db", 1, clock=db.clock),
            Hedge("db", delay=LONG),
        ]

    outer, inner = Timeout(9, clock=db.clock), Timeout(3, clock=db.clock)
    for place in range(5):
        one = guards()
        one.insert(place, outer)
        assert await Pipeline(*one).call(left) == 9
        assert await Pipeline(outer, *guards()[:place], inner, *guards()[place:]).call(left) == 3
    assert await left() == math.inf


async def test_the_pipeline_that_the_docs_recommend_can_guard_a_function_again_and_again() -> None:
    db = Dependency()
    breaker, bulkhead = db.breaker(calls=50), Bulkhead("db", 10)
    # All on one clock: a machine that has just started is younger than the manual one.
    inner, outer = Timeout(2, clock=db.clock), Timeout(9, clock=db.clock)
    pipeline = Pipeline(outer, db.retry(), breaker, bulkhead, inner)

    @pipeline
    async def ask(function: Callable[[], Awaitable[str]]) -> str:
        return await function()

    for _ in range(5):
        assert await ask(db.answer) == "done"
    with pytest.raises(KeyError):
        await ask(db.fail)
    assert (counted(breaker), bulkhead.used) == ({"success": 5, "failure": 3}, 0)
    async with breaker.block(), bulkhead.block():
        assert bulkhead.used == 1
