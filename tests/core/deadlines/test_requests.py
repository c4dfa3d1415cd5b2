"""A request is cancelled at its own deadline and no other; what shields itself is left alone."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import anyio
import anyio.to_thread
import pytest

from postfacta_core.clock import Clock
from postfacta_core.context import RequestContext, bind_request, release_request
from postfacta_core.deadlines.present import current_deadline
from postfacta_core.deadlines.requests import (
    Running,
    RunningRequests,
    Silence,
    limit_request,
    time_limit,
)
from postfacta_core.errors import DeadlineExceededError, StoppedError
from postfacta_core.events import DeadlineExceeded, RequestsOverdue, TaskCrashed
from postfacta_core.testing import ManualClock, RecordingObserver
from tests.core.virtual import on_real_loops
from tests.kit.bytecodes import bytecodes_of
from tests.kit.every import every
from tests.kit.waiting import until

MOST_OF_A_TICK = 150  # Bytecodes, with one request that has 5 seconds.

Handler = Callable[[], Awaitable[object]]


class Request(Running):
    """One that notes how often its caller was answered without its handler."""

    def __init__(self, clock: Clock, seconds: float = 10.0) -> None:
        super().__init__(RequestContext("request-id", 1000.0, clock))
        self.request.deadline = 1000.0 + seconds
        self.answers: list[str] = []

    async def answer(self) -> None:
        self.answers.append(type(self.reason).__name__)


class Silent(Request):
    """One that is ended when its silence is due."""

    def judge_silence(self, now: float) -> DeadlineExceededError:
        self.silence.due = math.inf
        return DeadlineExceededError("silence")


class Bench:
    """A sweep whose time is moved by hand."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.observer = RecordingObserver()
        self.running = RunningRequests(observer=self.observer, clock=self.clock)

    @asynccontextmanager
    async def serving(self, *requests: tuple[Request, Handler]) -> AsyncGenerator[None]:
        with anyio.fail_after(20):
            async with self.running, anyio.create_task_group() as tasks:
                for request, handler in requests:
                    tasks.start_soon(self.serve, request, handler)
                await until(lambda: len(self.running) == len(requests))
                yield

    async def serve(self, request: Request, handler: Handler) -> None:
        await self.running.run(request, _only_wait(handler))

    def overdue(self) -> list[int]:
        return [event.count for event in self.observer.of(RequestsOverdue)]


async def _only_wait(handler: Handler) -> None:
    await handler()


@contextmanager
def bound(request: RequestContext) -> Generator[RequestContext]:
    token = bind_request(request)
    try:
        yield request
    finally:
        release_request(token)


async def test_a_handler_is_cancelled_at_its_deadline_and_awaited() -> None:
    bench = Bench()
    request = Request(bench.clock)
    log: list[str] = []

    async def handler() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.02)
            log.append("cleaned up")

    async with bench.serving((request, handler)):
        bench.clock.advance(9.999)
        await anyio.sleep(0.06)
        assert not request.is_cancelled
        bench.clock.advance(0.001)
        await until(lambda: len(bench.running) == 0)
        assert log == ["cleaned up"]
    assert isinstance(request.reason, DeadlineExceededError)
    assert request.answers == ["DeadlineExceededError"]
    assert bench.observer.of(DeadlineExceeded) == [DeadlineExceeded("handler")]


async def test_the_sweep_goes_on_when_a_step_of_it_raises() -> None:
    bench = Bench()
    request = Request(bench.clock)
    steps: list[str] = []

    def tick(now: float) -> None:
        steps.append("tick")
        raise LookupError("of a tick")

    def beat(late: float) -> None:
        steps.append("beat")
        raise ValueError(f"of beat {len(steps)}")

    bench.running.on_tick, bench.running.on_beat = tick, beat
    async with bench.serving((request, anyio.sleep_forever)):
        await until(lambda: steps.count("beat") >= 3)
        bench.clock.advance(10)
        await until(lambda: len(bench.running) == 0)
    assert request.answers == ["DeadlineExceededError"]
    crashes = bench.observer.of(TaskCrashed)
    # Once for each cause, although the steps raised dozens of times.
    assert [(crash.task, type(crash.error)) for crash in crashes] == [
        ("sweep", LookupError),
        ("sweep", ValueError),
    ]


async def test_one_that_ends_in_time_is_not_answered_for() -> None:
    bench = Bench()
    request = Request(bench.clock)
    gate = anyio.Event()
    async with bench.serving((request, gate.wait)):
        gate.set()
        await until(lambda: len(bench.running) == 0)
        bench.clock.advance(1000)
        await anyio.sleep(0.06)
    assert (request.reason, request.answers, bench.observer.events) == (None, [], [])
    assert request.request.deadline == math.inf


async def test_a_handler_moves_its_own_deadline_while_it_runs() -> None:
    bench = Bench()
    request = Request(bench.clock)
    gate = anyio.Event()

    async def handler() -> None:
        with bound(request.request):
            limit_request(60)
            assert current_deadline() is not None
            await gate.wait()

    async with bench.serving((request, handler)):
        bench.clock.advance(59)
        await anyio.sleep(0.06)
        assert not request.is_cancelled
        bench.clock.advance(1)
        await until(lambda: request.is_cancelled)


async def test_what_is_shielded_is_left_alone_until_the_shield_is_gone() -> None:
    bench = Bench()
    request = Request(bench.clock)
    gate, log = anyio.Event(), list[str]()

    async def handler() -> None:
        with anyio.CancelScope(shield=True):
            await gate.wait()
            log.append("committed")
        await anyio.sleep_forever()

    async with bench.serving((request, handler)):
        bench.clock.advance(10)
        await until(lambda: request.is_cancelled)
        await anyio.sleep(0.06)
        assert log == []
        gate.set()
        await until(lambda: len(bench.running) == 0)
    assert log == ["committed"]


@on_real_loops
async def test_a_thread_goes_on_while_its_caller_is_answered_and_is_counted_until_it_ends() -> None:
    bench = Bench()
    request = Request(bench.clock)
    gate, log = threading.Event(), list[str]()

    def work() -> None:
        gate.wait(20)
        log.append("worked")

    async with bench.serving((request, functools.partial(anyio.to_thread.run_sync, work))):
        bench.clock.advance(10)
        await until(lambda: request.is_cancelled)
        bench.clock.advance(0.06)
        await until(lambda: bool(request.answers))
        assert (bench.overdue(), len(bench.running), log) == ([1], 1, [])
        gate.set()
        await until(lambda: len(bench.running) == 0)
    assert (bench.overdue(), log) == ([1, 0], ["worked"])


async def test_one_that_swallows_its_cancellation_is_cancelled_again_and_again() -> None:
    bench = Bench()
    request = Request(bench.clock)
    tries: list[int] = []

    async def handler() -> None:
        while len(tries) < 2:
            try:
                await anyio.sleep_forever()
            except BaseException:  # noqa: BLE001 - that is the fault to show
                tries.append(1)

    async with bench.serving((request, handler)):
        bench.clock.advance(10)
        await until(lambda: len(bench.running) == 0)
    assert len(tries) == 2


async def test_what_a_handler_raises_as_it_is_cancelled_comes_out_after_its_caller_was_answered() -> (
    None
):
    bench = Bench()
    request = Request(bench.clock)

    async def handler() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise LookupError("in reaction")

    async def serve() -> None:
        with pytest.raises(LookupError, match="in reaction"):
            await bench.running.run(request, handler())

    with anyio.fail_after(20):
        async with bench.running, anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            await until(lambda: len(bench.running) == 1)
            bench.clock.advance(10)
    assert request.answers == ["DeadlineExceededError"]
    assert len(bench.running) == 0


async def test_the_cancellation_of_others_passes_through() -> None:
    bench = Bench()
    request = Request(bench.clock)
    async with bench.running:
        with anyio.move_on_after(0.02) as outer:
            await bench.running.run(request, anyio.sleep_forever())
        assert outer.cancelled_caught
    assert (request.reason, request.answers, len(bench.running)) == (None, [], 0)


async def test_a_timeout_inside_of_a_handler_is_its_own_affair() -> None:
    bench = Bench()
    request = Request(bench.clock)
    log: list[str] = []

    async def handler() -> None:
        with anyio.move_on_after(0.01):
            await anyio.sleep_forever()
        log.append("went on")

    async with bench.serving((request, handler)):
        pass
    assert (log, request.reason) == (["went on"], None)


async def test_tasks_of_a_handler_are_cancelled_with_it() -> None:
    bench = Bench()
    request = Request(bench.clock)
    log: list[str] = []

    async def child() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            log.append("child")

    async def handler() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child)
            tasks.start_soon(child)

    async with bench.serving((request, handler)):
        bench.clock.advance(10)
        await until(lambda: len(bench.running) == 0)
    assert log == ["child", "child"]


@on_real_loops
async def test_a_drain_cancels_all_with_its_reason_and_the_first_reason_stays() -> None:
    bench = Bench()
    ordinary, endless, late = (Request(bench.clock, seconds) for seconds in (10.0, math.inf, 10.0))
    endless.is_endless = True
    gate = threading.Event()
    stuck = functools.partial(anyio.to_thread.run_sync, functools.partial(gate.wait, 20))
    async with bench.serving(
        (ordinary, anyio.sleep_forever), (endless, anyio.sleep_forever), (late, stuck)
    ):
        assert bench.running.endless == 1
        late.cancel(DeadlineExceededError("request"))
        assert bench.running.cancel(StoppedError("drain"), drained=0.0) == 1
        await until(lambda: len(bench.running) == 2)
        assert bench.running.cancel(StoppedError("drain")) == 1
        assert bench.running.cancel(StoppedError("drain")) == 0
        await until(lambda: len(bench.running) == 1)
        gate.set()
        await bench.running.wait_idle()
    reasons = [one.answers for one in (ordinary, endless)]
    assert reasons == [["StoppedError"], ["StoppedError"]]
    assert late.answers == ["DeadlineExceededError"]
    await bench.running.wait_idle()


@on_real_loops
async def test_a_job_that_crashes_ends_neither_the_sweep_nor_the_service() -> None:
    class Broken(Request):
        async def answer(self) -> None:
            raise RuntimeError("the server said no")

        async def watch(self) -> None:
            raise RuntimeError("the server said no")

    bench = Bench()
    broken, other = Broken(bench.clock), Request(bench.clock, 20)
    broken.is_watched = True
    gate = threading.Event()

    async def serve() -> None:
        with pytest.raises(RuntimeError, match="said no"):
            await bench.serve(
                broken,
                functools.partial(anyio.to_thread.run_sync, functools.partial(gate.wait, 20)),
            )

    with anyio.fail_after(20):
        async with bench.running, anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            tasks.start_soon(bench.serve, other, anyio.sleep_forever)
            await until(lambda: len(bench.running) == 2)
            bench.clock.advance(0.2)
            await until(lambda: len(bench.observer.of(TaskCrashed)) == 1)
            bench.clock.advance(9.8)
            await until(lambda: broken.is_cancelled)
            bench.clock.advance(0.1)
            await until(lambda: len(bench.observer.of(TaskCrashed)) == 2)
            gate.set()
            bench.clock.advance(10)
            await bench.running.wait_idle()
    assert [event.task for event in bench.observer.of(TaskCrashed)] == ["watch", "answer"]
    assert other.answers == ["DeadlineExceededError"]


async def test_the_time_is_reported_at_each_tick() -> None:
    bench = Bench()
    ticks: list[float] = []
    bench.running.on_tick = ticks.append
    async with bench.serving():
        await until(lambda: len(ticks) >= 2)
    assert set(ticks) == {1000.0}


@pytest.mark.parametrize(
    ("took", "late"), [((0.025, 0.02), 0.0), ((0.3, 0.025), 0.275), ((0.025, 0.1), 0.075)]
)
async def test_what_a_tick_takes_above_its_interval_is_the_lag(
    took: tuple[float, float], late: float
) -> None:
    bench, beats = Bench(), list[float]()
    bench.running.on_beat = beats.append
    async with bench.serving():
        # In the middle of each tick.
        await anyio.sleep(0.01)
        bench.clock.advance(took[0])
        await anyio.sleep(0.025)
        bench.clock.advance(took[1])
        await until(lambda: bool(beats))
    assert beats == [pytest.approx(late)]


async def test_it_beats_while_it_is_entered_and_not_after() -> None:
    bench, beats = Bench(), list[float]()
    bench.running.on_beat = beats.append
    for _ in range(2):
        async with bench.serving():
            await anyio.sleep(1.01)
        await anyio.sleep(1)
        assert len(beats) == 20
        beats.clear()


async def test_a_cancellation_ends_it() -> None:
    with anyio.move_on_after(0.01) as scope:
        async with RunningRequests():
            await anyio.sleep(30)
    assert scope.cancelled_caught


async def test_nothing_is_left_behind_and_an_error_of_the_service_comes_out_as_it_is() -> None:
    bench = Bench()
    with pytest.raises(LookupError, match="of the service"):
        async with bench.running:
            await anyio.sleep(0.03)
            raise LookupError("of the service")
    assert bench.running.tasks is None
    assert [task for task in anyio.get_running_tasks() if "sweep" in (task.name or "")] == []


async def test_without_a_sweep_a_timer_keeps_the_deadline_and_may_be_moved() -> None:
    observer, clock = RecordingObserver(), ManualClock()
    running = RunningRequests(observer=observer, clock=clock)
    short, lifted, gone = (Request(clock, seconds) for seconds in (0.02, 0.03, -1))
    await running.run(short, anyio.sleep_forever())

    async def handler() -> None:
        lifted.limit(math.inf)
        await anyio.sleep(0.06)
        lifted.answers.append("went on")
        lifted.limit(0.08)
        await anyio.sleep_forever()

    await running.run(lifted, handler())
    await running.run(gone, anyio.sleep_forever())
    assert short.answers == gone.answers == ["DeadlineExceededError"]
    assert lifted.answers == ["went on", "DeadlineExceededError"]
    assert observer.events == [DeadlineExceeded("handler")] * 3
    await running.run(Request(clock, math.inf), anyio.sleep(0.001))


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncios_own_account_of_cancellations_is_balanced_afterwards() -> None:
    bench = Bench()
    request = Request(bench.clock)
    task = asyncio.current_task()
    assert task is not None

    async with bench.running:
        bench.clock.advance(10)
        await bench.running.run(request, asyncio.sleep(30))
        assert task.cancelling() == 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(30)
        # A cancellation by the server at the same moment is not swallowed with ours.
        both = asyncio.ensure_future(bench.running.run(Request(bench.clock), asyncio.sleep(30)))
        await until(lambda: len(bench.running) == 1)
        for one in list(bench.running._running):  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - to cancel it in the same tick
            one.cancel(DeadlineExceededError("request"))
        both.cancel()
        with pytest.raises(asyncio.CancelledError):
            await both
        # One that a handler raises by itself is not ours either.
        cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await bench.running.run(Request(bench.clock, 100), _wait(cancelled))


async def _wait(future: asyncio.Future[None]) -> None:
    await future


@pytest.mark.parametrize(
    ("asked", "seconds", "deadline"),
    [(math.inf, 5, 1005), (3, 5, 1003), (8, 5, 1005), (math.inf, None, math.inf), (8, None, 1008)],
)
def test_what_the_caller_asked_for_still_counts(
    asked: float, seconds: float | None, deadline: float
) -> None:
    with bound(RequestContext("request-id", 1000.0)) as request:
        request.caller_timeout = asked
        request.deadline = 1030.0
        limit_request(seconds)
        assert request.deadline == deadline
        present = current_deadline()
        assert (present.at if present else math.inf) == deadline


def test_outside_of_a_request_there_is_no_deadline_and_nothing_to_limit() -> None:
    limit_request(5)
    assert current_deadline() is None


class AsyncObject:
    """A handler that is no function."""

    async def __call__(self, value: int) -> int:
        return value


async def _async(value: int) -> int:
    return value


def _sync(value: int) -> int:
    return value


@pytest.mark.parametrize("handler", [_async, AsyncObject(), functools.partial(_async), _sync])
async def test_a_decorated_handler_has_its_own_limit_and_stays_what_it_is(
    handler: Callable[[int], object],
) -> None:
    limited = time_limit(5)(handler)
    with bound(RequestContext("request-id", 1000.0)) as request:
        answer = limited(7)
        assert (await answer if isinstance(answer, Awaitable) else answer) == 7
        assert request.deadline == 1005
    assert inspect.iscoroutinefunction(limited) is (handler is not _sync)


@pytest.mark.parametrize("wrong", [0, -1, math.nan])
def test_a_limit_that_lets_nothing_pass_is_refused_where_it_is_written(wrong: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        time_limit(wrong)


async def test_what_cannot_run_out_of_time_costs_the_sweep_nothing() -> None:
    costs: list[int] = []
    for number in (10, 10_000):
        clock = ManualClock(1001.0)
        running = RunningRequests(clock=clock)
        under_way = vars(running)["_running"]
        under_way |= {Request(clock, math.inf) for _ in range(number)}
        under_way.add(Request(clock, 5.0))

        async def sweep(running: RunningRequests = running, now: float = clock()) -> None:
            running._sweep(now)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]

        await sweep()
        costs.append((await bytecodes_of(sweep)).bytecodes)
        assert len(running) == number + 1
    few, many = costs
    assert many == few < MOST_OF_A_TICK


def is_idle(bench: Bench) -> bool:
    return len(bench.running) == 0


async def resting(bench: Bench, request: Request) -> None:
    bench.clock.advance(1)
    await until(lambda: request.is_resting)


async def test_what_rests_is_ended_in_time_all_the_same() -> None:
    def limit(bench: Bench, request: Request) -> None:
        with bound(request.request):
            limit_request(3)
        bench.clock.advance(2)

    def wait_for_long(bench: Bench, request: Request) -> None:
        for _ in range(4):
            bench.clock.advance(9)

    def drain(bench: Bench, request: Request) -> None:
        assert bench.running.cancel(StoppedError("drain")) == 1

    def hear_of_silence(bench: Bench, request: Request) -> None:
        request.silence = Silence()
        request.silence.due = bench.clock() + 5
        request.rouse()
        bench.clock.advance(5)

    with every() as case:
        for end in (limit, wait_for_long, drain, hear_of_silence):
            with case(end.__name__):
                bench = Bench()
                request = Silent(bench.clock, 30.0)
                async with bench.serving((request, anyio.sleep_forever)):
                    await resting(bench, request)
                    assert len(bench.running) == 1
                    end(bench, request)
                    await until(partial(is_idle, bench))
                assert len(request.answers) == 1
                assert not request.is_resting


async def test_what_ends_while_it_rests_is_gone() -> None:
    bench, gate = Bench(), anyio.Event()
    request = Request(bench.clock, math.inf)
    async with bench.serving((request, gate.wait)):
        await resting(bench, request)
        gate.set()
        await until(lambda: len(bench.running) == 0)
        bench.clock.advance(60)
        await anyio.sleep(0.06)
    assert not request.is_resting
    assert request.answers == []
