"""Each guard in each world that calls it.

Not only under the test's own runner, which hides what others lack.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Generator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
import sniffio
import trio
import uvloop
from anyio import to_thread
from fastapi import Depends, FastAPI

from postfacta_core.guards import (
    AdaptiveLimiter,
    BlockGuard,
    Bulkhead,
    CircuitBreaker,
    CircuitConfig,
    RateLimiter,
    registry,
)
from tests.core.guards.worlds import IN_TASKS, IN_THREADS
from tests.kit.every import every

# Where `sniffio` is installed, which the SDKs of models bring, anyio asks it which event loop runs.
# The first two runners do not set its variable, as `anyio.run` does.
LOOPS: dict[str, Callable[[Callable[[], Any]], Any]] = {
    "asyncio.run": lambda scene: asyncio.run(scene()),
    "uvloop.run": lambda scene: uvloop.run(scene()),
    "anyio.run": anyio.run,
    "trio.run": trio.run,
}
ROOT = Path(__file__).parents[3]


def test_each_guard_works_under_each_runner_of_event_loops() -> None:
    assert sniffio.current_async_library_cvar.get() is None
    with every() as case:
        for name, run in LOOPS.items():
            for kind, scene in IN_TASKS.items():
                with case(name, kind):
                    run(partial(_bounded, scene))


async def _bounded(scene: Callable[[], Awaitable[None]]) -> None:
    with anyio.fail_after(20):
        await scene()


def test_each_guard_of_plain_code_works_in_threads() -> None:
    with every() as case:
        for kind, scene in IN_THREADS.items():
            with case(kind):
                scene()
    made = {guard.kind for guard in registry}
    assert IN_TASKS.keys() == {*IN_THREADS, "timeout", "hedge"}
    assert made <= IN_TASKS.keys()


_FORKED = """
import asyncio, os, sys
from tests.core.guards.worlds import all_in_tasks, all_in_threads
asyncio.run(all_in_tasks())
all_in_threads()
child = os.fork()
if child == 0:
    asyncio.run(all_in_tasks())
    all_in_threads()
    os._exit(7)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.usefixtures("programs")
def test_each_guard_works_after_a_fork() -> None:
    command = [sys.executable, "-c", _FORKED]
    ran = subprocess.run(  # noqa: S603 - the script above
        command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert (ran.returncode, ran.stderr) == (7, "")


BLOCKS: dict[str, Callable[[], BlockGuard]] = {
    "limiter": lambda: AdaptiveLimiter("reports"),
    "breaker": lambda: CircuitBreaker("reports", config=CircuitConfig(minimum_number_of_calls=100)),
    "bulkhead": lambda: Bulkhead("reports", 2),
    "rate_limiter": lambda: RateLimiter("reports", "1000/second"),
}
HELD: dict[str, Mapping[str, object]] = {
    "limiter": {"in_flight": 0, "waiting": 0},
    "breaker": {"calls": 40, "failure_rate": 1.0},
    "bulkhead": {"used": 0},
    "rate_limiter": {"waiting": 0},
}


async def test_a_block_in_a_sync_dependency_of_fastapi_ends() -> None:
    # FastAPI enters and leaves such a dependency in two threads, each in a copy of the request's
    # context.
    with every() as case:
        for kind, make in BLOCKS.items():
            with case(kind):
                guard = make()
                statuses = {await _status_behind(guard) for _ in range(40)}
                assert (statuses, guard.status()) == ({500}, {**guard.status(), **HELD[kind]})


WAITERS: dict[str, Callable[[], BlockGuard]] = {
    "limiter": BLOCKS["limiter"],
    "bulkhead": lambda: Bulkhead("reports", 2, max_waiting=1),
    "rate_limiter": lambda: RateLimiter("reports", "1000/second", max_wait=1.0),
}


async def test_what_may_wait_blocks_no_event_loop_even_if_it_need_not_wait() -> None:
    with every() as case:
        for kind, make in WAITERS.items():
            with case(kind):
                guard = make()
                with pytest.raises(
                    RuntimeError, match="may wait, which would block the event loop"
                ):
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
