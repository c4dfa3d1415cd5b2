"""A rate limiter lets calls through at a rate; others wait in their order, or are refused."""

from __future__ import annotations

import threading
from functools import partial

import anyio
import pytest
from anyio import to_thread

from postfacta_core.context import RequestContext, bind_request, release_request
from postfacta_core.errors import RateLimitExceededError
from postfacta_core.events import Mode, PolicyCreated
from postfacta_core.guards.pipeline import Pipeline
from postfacta_core.guards.rate_limiter import RateLimiter
from postfacta_core.guards.retry import Retry
from postfacta_core.limits.rate import Rate
from postfacta_core.testing import ManualClock, RecordingObserver
from tests.kit.every import every
from tests.kit.interleaving import interleaved
from tests.kit.waiting import until

SLOW = Rate(amount=2, period=20.0)


async def answer(value: str = "answer") -> str:
    return value


def counts(limiter: RateLimiter, mode: str = "enforce") -> dict[str, float]:
    return {
        sample.labels[1]: sample.value
        for sample in limiter.collect()
        if sample.labels[2] == mode and sample.value
    }


async def test_calls_within_the_rate_pass_and_the_rest_are_refused() -> None:
    clock = ManualClock()
    limiter = RateLimiter("partner", SLOW, clock=clock)
    assert [await limiter.call(answer) for _ in range(2)] == ["answer"] * 2
    with pytest.raises(RateLimitExceededError) as refused:
        await limiter.call(answer)
    assert refused.value.policy == "partner"
    assert refused.value.retry_after == pytest.approx(10.0, rel=1e-4)
    clock.advance(10.0)
    async with limiter.block():
        pass
    with pytest.raises(RateLimitExceededError), limiter.block():
        pass
    assert counts(limiter) == {"allowed": 3, "limited": 2}


async def test_one_that_would_wait_too_long_is_refused_at_once() -> None:
    clock = ManualClock()
    limiter = RateLimiter("partner", SLOW, max_wait=9.0, clock=clock)
    for _ in range(2):
        await limiter.call(answer)
    with pytest.raises(RateLimitExceededError):
        await limiter.call(answer)
    patient = RateLimiter("patient", SLOW, max_wait=60.0, clock=clock)
    for _ in range(2):
        await patient.call(answer)
    request = RequestContext("7", clock.now, clock)
    request.deadline = clock.now + 5.0
    token = bind_request(request)
    try:
        with pytest.raises(RateLimitExceededError):
            await patient.call(answer)
    finally:
        release_request(token)
    assert patient.status() == {"waiting": 0}


async def test_one_that_is_cancelled_holds_up_none_of_the_others() -> None:
    limiter = RateLimiter("partner", SLOW, max_wait=60.0, clock=ManualClock())
    for _ in range(2):
        await limiter.call(answer)
    async with anyio.create_task_group() as tasks:
        async with anyio.create_task_group() as group:
            group.start_soon(limiter.call, answer)
            await until(partial(waits, limiter, 1))
            tasks.start_soon(limiter.call, answer)
            await until(partial(waits, limiter, 2))
            group.cancel_scope.cancel()
        assert waits(limiter, 1)
        tasks.cancel_scope.cancel()
    assert waits(limiter, 0)


async def test_each_that_waits_has_a_turn_of_its_own() -> None:
    clock = ManualClock()
    limiter = RateLimiter(
        "partner", (SLOW, Rate(amount=100, period=1.0)), max_wait=21.0, clock=clock
    )
    for _ in range(2):
        await limiter.call(answer)
    async with anyio.create_task_group() as tasks:
        for number in (1, 2):
            tasks.start_soon(limiter.call, answer)
            await until(partial(waits, limiter, number))
        with pytest.raises(RateLimitExceededError) as refused:
            await limiter.call(answer)
        assert refused.value.retry_after == pytest.approx(30.0, rel=1e-4)
        tasks.cancel_scope.cancel()
    assert counts(limiter) == {"allowed": 4, "limited": 1}


def waits(limiter: RateLimiter, number: int) -> bool:
    return limiter.status() == {"waiting": number}


async def test_each_key_has_a_rate_of_its_own() -> None:
    limiter = RateLimiter("partner", SLOW, key=str, clock=ManualClock())
    pipeline = Pipeline(Retry("partner", attempts=1), limiter)
    for key in ("a", "b"):
        for _ in range(2):
            assert await pipeline.call(answer, key) == key
        with pytest.raises(RateLimitExceededError):
            await pipeline.call(answer, key)


async def test_in_shadow_it_counts_and_off_it_does_nothing() -> None:
    limiter = RateLimiter("partner", SLOW, mode="shadow", clock=ManualClock())
    for _ in range(3):
        await limiter.call(answer)
    assert counts(limiter, "shadow") == {"allowed": 2, "limited": 1}
    limiter.mode = Mode.OFF
    await limiter.call(answer)
    assert counts(limiter, "off") == {}


def test_it_announces_itself() -> None:
    observer = RecordingObserver()
    limiter = RateLimiter("partner", "10/second;100/minute", observer=observer)
    assert [event.policy for event in observer.of(PolicyCreated)] == ["partner"]
    assert (
        repr(limiter) == "RateLimiter('partner', rates='10/1s;100/60s', max_wait=0, mode='enforce')"
    )


async def test_threads_wait_for_their_turn_too() -> None:
    limiter = RateLimiter("partner", "50/second", max_wait=20.0)

    def work() -> int:
        return sum(limiter.call_sync(lambda: 1) for _ in range(52))

    with anyio.fail_after(20):
        assert await to_thread.run_sync(work) == 52


def test_the_rate_holds_whenever_threads_change_places() -> None:
    with every() as case:
        for seed in range(6):
            with case(seed):
                limiter, passed = (
                    RateLimiter("partner", Rate(amount=5, period=60.0), clock=ManualClock()),
                    list[int](),
                )

                def work(limiter: RateLimiter = limiter, passed: list[int] = passed) -> None:
                    for _ in range(4):
                        try:
                            limiter.call_sync(str)
                        except RateLimitExceededError:
                            continue
                        passed.append(threading.get_ident())

                interleaved([work, work], within="postfacta_core/", seed=seed)
                assert (len(passed), counts(limiter)) == (5, {"allowed": 5, "limited": 3})
