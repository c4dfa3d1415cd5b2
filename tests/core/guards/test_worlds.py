"""Each guard in each world that calls it: not only under the test's own runner, which hides what others lack."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping
from typing import Any

import httpx2
import pytest
import sniffio
import uvloop
from anyio import to_thread
from fastapi import Depends, FastAPI

from postfacta_core.guards import (
    AdaptiveLimiter,
    BlockGuard,
    Bulkhead,
    CircuitBreaker,
    CircuitConfig,
    Hedge,
    Throttle,
)
from tests.kit.every import every

# Where `sniffio` is installed, which the SDKs of models bring, anyio asks it which event loop runs. Neither of these
# runners sets its variable, as `anyio.run` does.
LOOPS: dict[str, Callable[[Any], Any]] = {"asyncio.run": asyncio.run, "uvloop.run": uvloop.run}


def test_a_hedge_starts_its_second_try_under_each_runner() -> None:
    assert sniffio.current_async_library_cvar.get() is None
    with every() as case:
        for name, run in LOOPS.items():
            with case(name):
                assert run(_slow_first_try()) == "second"


async def _slow_first_try() -> str:
    first_is_stuck = asyncio.Event()
    tries = iter((first_is_stuck.wait, _answer))

    async def dependency() -> Any:
        return await next(tries)()

    hedge = Hedge("search", delay=0.001)
    return await asyncio.wait_for(hedge.call(dependency), 10)


async def _answer() -> str:
    return "second"


BLOCKS: dict[str, Callable[[], BlockGuard]] = {
    "limiter": lambda: AdaptiveLimiter("reports"),
    "breaker": lambda: CircuitBreaker("reports", config=CircuitConfig(minimum_number_of_calls=100)),
    "bulkhead": lambda: Bulkhead("reports", 2),
    "throttle": lambda: Throttle("reports", "1000/second"),
}
HELD: dict[str, Mapping[str, object]] = {
    "limiter": {"in_flight": 0, "waiting": 0},
    "breaker": {"calls": 40, "failure_rate": 1.0},
    "bulkhead": {"used": 0},
    "throttle": {"waiting": 0},
}


async def test_a_block_in_a_sync_dependency_of_fastapi_ends() -> None:
    # FastAPI enters and leaves such a dependency in two threads, each in a copy of the request's context.
    with every() as case:
        for kind, make in BLOCKS.items():
            with case(kind):
                guard = make()
                statuses = {await _status_behind(guard) for _ in range(40)}
                assert (statuses, guard.status()) == ({500}, {**guard.status(), **HELD[kind]})


WAITERS: dict[str, Callable[[], BlockGuard]] = {
    "limiter": BLOCKS["limiter"],
    "bulkhead": lambda: Bulkhead("reports", 2, max_waiting=1),
    "throttle": lambda: Throttle("reports", "1000/second", max_wait=1.0),
}


async def test_what_may_wait_blocks_no_event_loop_even_if_it_need_not_wait() -> None:
    with every() as case:
        for kind, make in WAITERS.items():
            with case(kind):
                guard = make()
                with pytest.raises(RuntimeError, match="may wait, which would block the event loop"):
                    guard.call_sync(str)
                with pytest.raises(RuntimeError, match="async with"), guard.block():
                    raise AssertionError
                assert await to_thread.run_sync(guard.call_sync, str) == ""
                guard.mode = "off"
                assert guard.call_sync(str) == ""


async def test_what_never_waits_guards_plain_code_on_an_event_loop() -> None:
    with every() as case:
        for kind, make in BLOCKS.items():
            if kind != "limiter":
                with case(kind), make().block():
                    assert make().call_sync(str) == ""


async def _status_behind(guard: BlockGuard) -> int:
    def held() -> Generator[None]:
        with guard.block():
            yield

    def fail() -> None:
        raise OSError("down")

    app = FastAPI(dependencies=[Depends(held)])
    app.add_api_route("/", fail)
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://reports") as client:
        return (await client.get("/")).status_code
