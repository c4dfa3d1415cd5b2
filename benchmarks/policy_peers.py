"""Guard a call that does nothing by each policy of ours, and by what the peers have for it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, cast

import anyio
import stamina
import tenacity
from aiolimiter import AsyncLimiter
from limits import RateLimitItemPerHour
from limits.aio.storage import MemoryStorage as AsyncMemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter as AsyncFixedWindow
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter, SlidingWindowCounterRateLimiter

from benchmarks.rounds import Work
from postfacta_core.guards.breaker import CircuitBreaker
from postfacta_core.guards.bulkhead import Bulkhead
from postfacta_core.guards.fallback import Fallback
from postfacta_core.guards.hedge import Hedge
from postfacta_core.guards.pipeline import Pipeline
from postfacta_core.guards.retry import Retry
from postfacta_core.guards.timeout import Timeout
from postfacta_core.limits.rate import RateCounter

__all__ = ["KEYS", "OURS", "TURN", "rows"]

OURS = "postfacta"
TURN = " + a turn of the loop"
"""Ends the name of one that cleans up in a task.

Each call is followed by a turn of the loop, in which it may.
"""

KEYS = (1, 1_000, 100_000)
# Never reached: what is measured is a hit that passes.
_PLENTY = 1_000_000_000
_SECONDS = 30.0
_Call = Callable[[], Awaitable[object]]
# These ship without types, or with partial ones; so imported, they are Any.
_aiobreaker = import_module("aiobreaker")
_circuitbreaker = import_module("circuitbreaker")
_interlock, _purgatory, _pybreaker = (
    import_module(name) for name in ("interlock", "purgatory", "pybreaker")
)
_hyx_breaker = import_module("hyx.circuitbreaker")
_hyx_bulkhead = import_module("hyx.bulkhead")
_hyx_fallback, _hyx_retry, _hyx_timeout = (
    import_module(f"hyx.{name}") for name in ("fallback", "retry", "timeout")
)


async def nothing() -> None:
    """Succeed at once."""


async def rows(chosen: str = "") -> Mapping[str, Mapping[str, Work]]:
    """Name each situation that begins so, and in it each way to guard a call.

    Needs a running loop.
    """
    makers: dict[str, Callable[[], Mapping[str, _Call]]] = {
        "retry, success at once": _retries,
        "bulkhead, a slot is free": _bulkheads,
        "timeout, in time": _timeouts,
        "fallback, not needed": _fallbacks,
        "hedge, not needed": _hedges,
        "pipeline of timeout, retry, breaker, bulkhead": _pipelines,
    }
    calls: dict[str, Mapping[str, _Call]] = {}
    if "breaker, success".startswith(chosen):
        calls["breaker, success"] = await _breakers()
    calls |= {row: make() for row, make in makers.items() if row.startswith(chosen)}
    works = {
        row: {name: _repeated(call) for name, call in ways.items()} for row, ways in calls.items()
    }
    limits = {f"rate limit, {keys:,} key{'s' * (keys > 1)}": keys for keys in KEYS}
    return works | {row: _limiters(keys) for row, keys in limits.items() if row.startswith(chosen)}


def _repeated(call: _Call) -> Work:
    async def work(repeats: int) -> None:
        for _ in itertools.repeat(None, repeats):
            await call()

    return work


async def _breakers() -> Mapping[str, _Call]:
    ours = CircuitBreaker("bench")
    aiobreaker = _aiobreaker.CircuitBreaker()
    pybreaker = _pybreaker.CircuitBreaker()
    purgatory = await _purgatory.AsyncCircuitBreakerFactory().get_breaker("bench")
    interlock = _interlock.CircuitBreaker(name="bench")

    async def by_pybreaker() -> None:
        # Its own way for coroutines needs Tornado.
        with pybreaker.calling():
            await nothing()

    async def by_purgatory() -> None:
        async with purgatory:
            await nothing()

    return {
        OURS: lambda: ours.call(nothing),
        "pybreaker": by_pybreaker,
        "aiobreaker": lambda: aiobreaker.call_async(nothing),
        "purgatory": by_purgatory,
        "hyx": _hyx_breaker.consecutive_breaker()(nothing),
        "circuitbreaker": _circuitbreaker.circuit()(nothing),
        "interlock": lambda: interlock.call_async(nothing),
    }


def _retries() -> Mapping[str, _Call]:
    ours = Retry("bench")
    return {
        OURS: lambda: ours.call(nothing),
        "tenacity": tenacity.retry(stop=tenacity.stop_after_attempt(3))(nothing),
        "stamina": stamina.retry(on=OSError)(nothing),
        "hyx": _hyx_retry.retry()(nothing),
    }


def _bulkheads() -> Mapping[str, _Call]:
    ours = Bulkhead("bench", 10)
    semaphore = asyncio.Semaphore(10)
    limiter = anyio.CapacityLimiter(10)
    interlock = _interlock.Pipeline(_interlock.BulkheadStrategy(10))

    async def by_semaphore() -> None:
        async with semaphore:
            await nothing()

    async def by_capacity_limiter() -> None:
        async with limiter:
            await nothing()

    return {
        OURS: lambda: ours.call(nothing),
        "hyx": _hyx_bulkhead.bulkhead(10, 20)(nothing),
        "interlock": lambda: interlock.call(nothing),
        "asyncio.Semaphore": by_semaphore,
        "anyio.CapacityLimiter": by_capacity_limiter,
    }


def _fallbacks() -> Mapping[str, _Call]:
    ours = Fallback("bench", on=OSError, otherwise=None)

    async def otherwise(error: Exception) -> None:
        """Stand in for the result."""

    return {
        OURS: lambda: ours.call(nothing),
        "hyx": _hyx_fallback.fallback(otherwise, on=OSError)(nothing),
    }


def _timeouts() -> Mapping[str, _Call]:
    ours = Timeout(_SECONDS)
    interlock = _interlock.Pipeline(_interlock.TimeoutStrategy(_SECONDS))

    async def by_asyncio() -> None:
        async with asyncio.timeout(_SECONDS):
            await nothing()

    async def by_anyio() -> None:
        with anyio.fail_after(_SECONDS):
            await nothing()

    return {
        OURS: lambda: ours.call(nothing),
        "asyncio.timeout": by_asyncio,
        "asyncio.wait_for": lambda: asyncio.wait_for(nothing(), _SECONDS),
        "anyio.fail_after": by_anyio,
        "hyx": _hyx_timeout.timeout(_SECONDS)(nothing),
        "interlock": lambda: interlock.call(nothing),
    }


def _hedges() -> Mapping[str, _Call]:
    ours = Hedge("bench", delay=_SECONDS)

    async def by_hand() -> None:
        first = asyncio.ensure_future(nothing())
        done, _ = await asyncio.wait({first}, timeout=_SECONDS)
        if not done:
            raise AssertionError("it is never late")
        first.result()

    return {OURS: lambda: ours.call(nothing), "by hand, asyncio.wait": by_hand}


def _pipelines() -> Mapping[str, _Call]:
    ours = Pipeline(Timeout(_SECONDS), Retry("all"), CircuitBreaker("all"), Bulkhead("all", 10))
    builder = _interlock.Pipeline.builder().timeout(_SECONDS).retry(attempts=3)
    interlock = (
        builder.circuit_breaker(_interlock.CircuitBreaker(name="bench")).bulkhead(10).build()
    )
    hyx_ = _hyx_breaker.consecutive_breaker()(_hyx_bulkhead.bulkhead(10, 20)(nothing))
    cheapest = _circuitbreaker.circuit()(_hyx_bulkhead.bulkhead(10, 20)(nothing))
    tried = cast("_Call", stamina.retry(on=OSError)(cheapest))

    async def by_cheapest() -> None:
        async with asyncio.timeout(_SECONDS):
            await tried()

    return {
        OURS: lambda: ours.call(nothing),
        "interlock": lambda: interlock.call(nothing),
        "hyx": _hyx_timeout.timeout(_SECONDS)(_hyx_retry.retry()(hyx_)),
        "asyncio.timeout, stamina, circuitbreaker, hyx": by_cheapest,
    }


def _limiters(keys: int) -> dict[str, Work]:
    names = [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(keys)]
    ours = RateCounter("bench", f"{_PLENTY}/hour", max_keys=max(keys, 1000))
    for name in names:
        ours.hit_now(name)
    buckets = {name: AsyncLimiter(_PLENTY, 3600) for name in names}
    item = RateLimitItemPerHour(_PLENTY)
    stores: Sequence[Any] = (MemoryStorage(), MemoryStorage(), AsyncMemoryStorage())
    for store in stores:
        # Hits of their own would take minutes.
        store.storage.update(dict.fromkeys((item.key_for(name) for name in names), 1))
        store.expirations.update(dict.fromkeys(store.storage, time.time() + 7200))  # noqa: TID251 - its clock
    fixed = FixedWindowRateLimiter(stores[0])
    sliding = SlidingWindowCounterRateLimiter(stores[1])
    in_loop = AsyncFixedWindow(stores[2])
    return {
        OURS: _hitting(names, ours.hit_now),
        f"{OURS}, awaited": _awaiting(names, ours.hit),
        "limits, fixed window": _hitting(names, lambda key: fixed.hit(item, key)),
        "limits, sliding window": _hitting(names, lambda key: sliding.hit(item, key)),
        f"limits, async{TURN}": _awaiting(names, lambda key: in_loop.hit(item, key), turns=True),
        "aiolimiter": _awaiting(names, lambda key: buckets[key].acquire()),
    }


def _hitting(names: Sequence[str], hit: Callable[[str], object]) -> Work:
    turn = itertools.cycle(names)

    async def work(repeats: int) -> None:
        for key in itertools.islice(turn, repeats):
            hit(key)

    return work


def _awaiting(
    names: Sequence[str], hit: Callable[[str], Awaitable[object]], *, turns: bool = False
) -> Work:
    turn = itertools.cycle(names)

    async def work(repeats: int) -> None:
        for key in itertools.islice(turn, repeats):
            await hit(key)
            if turns:
                await asyncio.sleep(0)

    return work
