"""A cancelled call, wherever it waits, takes nothing with it.

Every runner, at every await, on both loops.
"""

from __future__ import annotations

import asyncio
import math
import types
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest
import trio

from postfacta_adapters.httpx import Outgoing
from postfacta_core.deadlines.present import time_left
from postfacta_core.guards import AdaptiveLimiter
from postfacta_core.guards._circuit import CircuitConfig, CircuitState
from postfacta_core.guards._guard import Block, BlockGuard
from postfacta_core.guards.breaker import CircuitBreaker
from postfacta_core.guards.bulkhead import Bulkhead
from postfacta_core.guards.fallback import Fallback
from postfacta_core.guards.hedge import Hedge
from postfacta_core.guards.pipeline import Pipeline
from postfacta_core.guards.retry import Retry
from postfacta_core.guards.timeout import Timeout
from postfacta_core.testing import ManualClock

# More awaits than any of the runs below has.
ENOUGH = 60

Run = Callable[[], Coroutine[Any, Any, object]]


@types.coroutine
def stepwise(
    run: Coroutine[Any, Any, object], at: int, act: Callable[[], object]
) -> Generator[Any, Any, int]:
    """Await it, do something just as it waits for the time `at`, and return how often it waited."""
    steps = 0
    send: Callable[[], Any] = partial(run.send, None)
    while True:
        try:
            wanted = send()
        except StopIteration:
            return steps
        steps += 1
        if steps == at:
            act()
        try:
            answer = yield wanted
        except BaseException as error:  # noqa: BLE001 - it is for the coroutine that is run
            send = partial(run.throw, error)
        else:
            send = partial(run.send, answer)


def living_tasks(backend: str) -> int:
    return (
        len(asyncio.all_tasks())
        if backend == "asyncio"
        else trio.lowlevel.current_statistics().tasks_living
    )


async def cancelled_by_scope(run: Run, at: int, *, also: Callable[[], object]) -> bool:
    """Return whether it was cut off."""
    ended = False
    with anyio.CancelScope() as scope:

        def both() -> None:
            also()
            scope.cancel()

        def act() -> None:
            if also is nothing or not trio.lowlevel.in_trio_run():
                both()
            else:
                # trio wakes no task that is about to wait: a moment later it does.
                trio.lowlevel.current_trio_token().run_sync_soon(both)

        await stepwise(run(), at, act)
        ended = True
    return not ended


async def cancelled_as_a_task(run: Run, at: int, *, also: Callable[[], object]) -> bool:
    """Return whether it was cut off."""

    def act() -> None:
        also()
        task.cancel()

    async def body() -> None:
        await stepwise(run(), at, act)

    task = asyncio.ensure_future(body())
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
    return task.cancelled()


class Bench:
    """All runners, with a clock that stands, and books that must balance."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.inside = 0
        self.calls = 0
        self.ended = 0
        self.failures = 0
        self.timeout = Timeout(60)
        self.bulkhead = Bulkhead("db", 1, max_waiting=1, max_wait=60)
        config = CircuitConfig(
            minimum_number_of_calls=1, permitted_number_of_calls_in_half_open_state=1
        )
        self.limiter = AdaptiveLimiter("db", clock=self.clock)
        self.breaker = CircuitBreaker("db", config=config, clock=self.clock, on=OSError)
        self.retry = Retry("db", on=KeyError, clock=self.clock, sleep=wait_a_turn)
        self.hedge = Hedge("db", delay=0, clock=self.clock)
        self.fallback = Fallback("db", key=lambda: "key", on=KeyError, clock=self.clock)

    async def work(self) -> str:
        self.calls += 1
        self.inside += 1
        try:
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
            self.ended += 1
            if self.failures:
                self.failures -= 1
                raise KeyError("try again")
            return "done"
        finally:
            self.inside -= 1

    def half_open(self) -> None:
        self.breaker.open()
        self.clock.advance(60)

    def outcomes(self) -> float:
        """Count what the circuit recorded."""
        kinds = {"success", "failure", "slow"}
        counted = [
            each
            for each in self.breaker.collect()
            if each.metric == "postfacta_breaker_calls_total"
        ]
        return sum(each.value for each in counted if each.labels[1] in kinds)

    def assert_at_rest(self) -> None:
        assert self.limiter.status() == {"limit": 8, "in_flight": 0, "waiting": 0}
        assert (self.inside, self.bulkhead.used, self.bulkhead.waiting) == (0, 0, 0)
        assert time_left() == math.inf
        queue = self.timeout._queue  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        assert queue is None or queue.calls == {}


async def wait_a_turn(seconds: float) -> None:
    await anyio.lowlevel.checkpoint()


def through(
    guard: Callable[[Bench], Any], *, failures: int = 0, half_open: bool = False
) -> Callable[[Bench], Run]:
    def prepare(bench: Bench) -> Run:
        bench.failures = failures
        if half_open:
            bench.half_open()
        return lambda: guard(bench).call(bench.work)

    return prepare


def inside(
    guard: Callable[[Bench], BlockGuard], *, half_open: bool = False
) -> Callable[[Bench], Run]:
    def prepare(bench: Bench) -> Run:
        if half_open:
            bench.half_open()

        async def block() -> None:
            async with guard(bench).block():
                await bench.work()

        return block

    return prepare


def with_a_key(bench: Bench) -> Run:
    return lambda: bench.fallback.ask(bench.work)


def everything(bench: Bench) -> Pipeline:
    return Pipeline(
        bench.timeout, bench.retry, bench.hedge, bench.breaker, Bulkhead("wide", 2), Timeout(30)
    )


def all_blocks(bench: Bench) -> Pipeline:
    return Pipeline(bench.timeout, bench.breaker, bench.bulkhead, Timeout(30))


def outgoing(bench: Bench) -> Run:
    class Inner(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            await bench.work()
            return httpx2.Response(
                503 if bench.calls % 2 else 200, headers={"retry-after": "1"}, stream=Body()
            )

    class Body(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncGenerator[bytes]:
            yield b""

        async def aclose(self) -> None:
            await anyio.lowlevel.checkpoint()

    transport = Outgoing("billing", bench.timeout, bench.retry, bench.bulkhead).transport(Inner())
    return lambda: transport.handle_async_request(httpx2.Request("GET", "http://billing/"))


SCENES: dict[str, Callable[[Bench], Run]] = {
    "timeout": through(lambda bench: bench.timeout),
    "bulkhead": through(lambda bench: bench.bulkhead),
    "breaker": through(lambda bench: bench.breaker),
    "limiter": through(lambda bench: bench.limiter),
    "breaker, a trial": through(lambda bench: bench.breaker, half_open=True),
    "retry": through(lambda bench: bench.retry, failures=2),
    "hedge": through(lambda bench: bench.hedge),
    "hedge that is not needed": through(lambda bench: Hedge("spare", delay=60)),
    "fallback": with_a_key,
    "pipeline": through(everything, failures=1),
    "pipeline, a trial": through(everything, half_open=True),
    "outgoing": outgoing,
    "bulkhead block": inside(lambda bench: bench.bulkhead),
    "limiter block": inside(lambda bench: bench.limiter),
    "breaker block": inside(lambda bench: bench.breaker),
    "breaker block, a trial": inside(lambda bench: bench.breaker, half_open=True),
}


@pytest.mark.parametrize("native", [False, True], ids=["scope", "task"])
@pytest.mark.parametrize("scene", SCENES)
async def test_a_call_that_is_cancelled_takes_nothing_with_it(
    scene: str, anyio_backend_name: str, *, native: bool
) -> None:
    if native and anyio_backend_name == "trio":
        pytest.skip("trio has no other way")
    cut = cancelled_as_a_task if native else cancelled_by_scope
    cuts = 0
    for at in range(1, ENOUGH):
        bench = Bench()
        run = SCENES[scene](bench)
        before, tasks = bench.outcomes(), living_tasks(anyio_backend_name)
        if not await cut(run, at, also=nothing):
            # A cancellation may come too late for the last await; then the work is done.
            if cuts >= 3:
                break
            continue
        cuts += 1
        bench.assert_at_rest()
        assert living_tasks(anyio_backend_name) == tasks
        # What ended before the cut counts; what was cut does not.
        assert bench.outcomes() - before <= bench.ended
        # And all of it works as before: a half-open circuit still has its trial.
        bench.failures = 0
        with anyio.fail_after(20):
            await run()
        bench.assert_at_rest()
        assert bench.breaker.statistics().state is CircuitState.CLOSED
    else:
        raise AssertionError("it never came to its end")
    assert cuts >= 3


def nothing() -> None:
    """Do nothing."""


@pytest.mark.parametrize("native", [False, True], ids=["scope", "task"])
@pytest.mark.parametrize("freed", [False, True], ids=["waiting", "just let in"])
async def test_a_caller_that_is_cancelled_while_it_waits_for_a_slot_leaves_it_to_others(
    anyio_backend_name: str, *, freed: bool, native: bool
) -> None:
    if native and anyio_backend_name == "trio":
        pytest.skip("trio has no other way")
    cut = cancelled_as_a_task if native else cancelled_by_scope
    for scene in (
        through(lambda bench: bench.bulkhead),
        inside(lambda bench: bench.bulkhead),
        through(all_blocks),
    ):
        bench = Bench()
        slot = bench.bulkhead.block()
        await slot.__aenter__()

        def leave(slot: Block = slot) -> None:
            # It awaits nothing: one step ends it.
            with pytest.raises(StopIteration):
                slot.__aexit__(None, None, None).send(None)

        with anyio.fail_after(20):
            # It waits once, for the slot.
            assert await cut(scene(bench), 1, also=leave if freed else nothing)
        assert (bench.ended, bench.bulkhead.waiting, bench.bulkhead.used) == (
            0,
            0,
            0 if freed else 1,
        )
        if not freed:
            leave()
        bench.assert_at_rest()
        assert await bench.bulkhead.call(bench.work) == "done"


async def test_a_deadline_is_no_cancellation_and_takes_nothing_with_it_either() -> None:
    for at in range(1, 30):
        bench = Bench()
        timeout = Timeout(0.001, clock=bench.clock)
        pipeline = Pipeline(bench.retry, bench.breaker, bench.bulkhead, timeout)
        ended: list[object] = []

        async def run(
            pipeline: Pipeline = pipeline, bench: Bench = bench, ended: list[object] = ended
        ) -> None:
            try:
                ended.append(await pipeline.call(bench.work))
            except Exception as error:  # noqa: BLE001 - whatever ends it
                ended.append(error)

        await stepwise(run(), at, partial(bench.clock.advance, 1))
        assert len(ended) == 1
        bench.assert_at_rest()
