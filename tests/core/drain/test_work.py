"""Work beside a request: it has the request's id and a time of its own, and no drain overlooks it.

Signals are not caught here; real ones, on real servers, are in tests/servers/test_work.py.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from postfacta_core.context import RequestContext, bind_request, current_request, release_request
from postfacta_core.deadlines.present import current_deadline
from postfacta_core.deadlines.requests import Running, RunningRequests
from postfacta_core.drain import lifecycle as module, spawn
from postfacta_core.drain._course import DrainLimits
from postfacta_core.drain.lifecycle import Lifecycle
from postfacta_core.drain.resources import hold
from postfacta_core.errors import BulkheadFullError, DeadlineExceededError, StoppedError
from postfacta_core.events import DeadlineExceeded, Drained, TaskCrashed
from postfacta_core.limits import Priority
from postfacta_core.testing import RecordingObserver
from tests.core.virtual import loop_clock, on_real_loops

REQUEST_ID = "0123456789abcdef"
only_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])
"""On trio each task is in a nursery, which ends it."""


class Signals:
    """Stand in for what catches signals: none comes."""

    mechanism = "wrap"
    is_reloaded = False

    def __init__(self, heard: Callable[[int], None]) -> None:
        """Receive nothing."""

    def close(self) -> None:
        """Put nothing back."""


@pytest.fixture(autouse=True)
def _no_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Interception", Signals)


class Service:
    """A service that requests can leave work behind in, on the clock of its event loop."""

    def __init__(
        self, *, most: int = 1000, timeout: float = 20.0, cover_tasks: bool = False
    ) -> None:
        self.log: list[str] = []
        self.observer = RecordingObserver()
        self.clock = loop_clock()
        self.running = RunningRequests(observer=self.observer, clock=self.clock)
        self.lifecycle = Lifecycle(
            DrainLimits(drain_delay=0.0, drain_timeout=timeout, close_timeout=5.0),
            running=self.running,
            work_at_once=most,
            cover_tasks=cover_tasks,
            observer=self.observer,
            clock=self.clock,
        )
        self.work = self.lifecycle.work

    @asynccontextmanager
    async def lived(self) -> AsyncGenerator[None]:
        # As a service holds it: in a scope that is shielded.
        async with self.lifecycle, hold([self.running]):
            self.lifecycle.started()
            yield

    def drained(self) -> Drained:
        (event,) = self.observer.of(Drained)
        return event

    def crashes(self) -> list[tuple[str, str]]:
        return [(crash.task, repr(crash.error)) for crash in self.observer.of(TaskCrashed)]

    def counts(self) -> dict[tuple[str, ...], float]:
        return {
            sample.labels: sample.value
            for sample in self.work.tally()
            if sample.metric == "postfacta_jobs_total"
        }

    async def last(self, seconds: float) -> None:
        """Do some work, and write down how it ended."""
        try:
            await anyio.sleep(seconds)
            self.log.append("done")
        except BaseException:
            self.log.append("cut")
            raise


async def test_work_has_the_id_and_trace_of_its_request_and_a_time_of_its_own() -> None:
    seen: list[RequestContext | None] = []
    left: list[float] = []

    async def look() -> None:
        deadline = current_deadline()
        assert deadline is not None
        seen.append(current_request())
        left.append(deadline.at - service.clock())

    service = Service()
    async with service.lived():
        request = RequestContext(REQUEST_ID, service.clock(), service.clock)
        request.limit = 0.5
        request.deadline = request.started + 0.5
        request.trace_id = "0" * 31 + "1"
        token = bind_request(request)
        spawn(look, timeout=30)
        release_request(token)
        await anyio.lowlevel.checkpoint()
        await anyio.sleep(1)
    (context,) = seen
    assert context is not None
    assert context is not request
    assert (context.request_id, context.trace_id) == (REQUEST_ID, request.trace_id)
    assert (context.priority, context.slot) == (Priority.SHEDDABLE_PLUS, None)
    assert left == [30]
    assert current_request() is None


async def test_a_drain_waits_for_work_as_for_requests() -> None:
    service = Service()
    async with service.lived():
        spawn(service.last(6), name="mail")
        assert len(service.running) == 1
        await service.lifecycle.finish_requests()
        assert service.log == ["done"]
    drained = service.drained()
    assert (drained.cancelled, drained.left, drained.work) == (0, 0, "")
    assert 6 <= drained.seconds < 6.1
    assert service.counts() == {("service", "mail", "success"): 1}


async def test_what_a_drain_cuts_is_named() -> None:
    service = Service(timeout=3)
    async with service.lived():
        spawn(service.last(60), name="mail")
        spawn(service.last(2), name="audit")
        await service.lifecycle.finish_requests()
        assert service.log == ["done", "cut"]
        with pytest.raises(StoppedError, match="late"):
            spawn(service.last(1), name="late")
    drained = service.drained()
    assert (drained.cancelled, drained.left, drained.work) == (1, 0, "mail")
    assert service.crashes() == []
    assert service.counts()["service", "mail", "stopped"] == 1


async def test_work_that_shields_itself_is_left_and_named() -> None:
    async def deaf() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(20)

    service = Service(timeout=1)
    async with service.lived():
        spawn(deaf)
        await service.lifecycle.finish_requests()
    drained = service.drained()
    assert (drained.cancelled, drained.left, drained.work) == (1, 1, "deaf")


async def test_a_failure_is_reported_once_with_its_name() -> None:
    async def fails() -> None:
        raise LookupError("no such order")

    service = Service()
    async with service.lived():
        spawn(fails())
        spawn(service.last(1), name="mail")
        await anyio.sleep(2)
    assert service.crashes() == [("fails", "LookupError('no such order')")]
    assert service.log == ["done"]
    assert service.counts()["service", "fails", "failure"] == 1


async def test_work_out_of_time_is_cancelled_and_reported() -> None:
    service = Service()
    async with service.lived():
        spawn(service.last(60), name="mail", timeout=2)
        spawn(service.last(3), name="audit", timeout=None)
        await anyio.sleep(4)
    assert service.log == ["cut", "done"]
    ((name, error),) = service.crashes()
    assert name == "mail"
    assert error.startswith(DeadlineExceededError.__name__)
    assert service.observer.of(DeadlineExceeded) == [DeadlineExceeded("work")]
    assert service.counts()["service", "mail", "deadline"] == 1


@only_asyncio
async def test_work_whose_own_task_was_cancelled_has_failed() -> None:
    async def waits() -> None:
        task = asyncio.ensure_future(asyncio.sleep(60))
        task.cancel()
        await task

    service = Service()
    async with service.lived():
        spawn(waits)
        await anyio.sleep(1)
    assert service.crashes() == [("waits", "RuntimeError('what it awaited was cancelled')")]


async def test_no_more_than_the_most_run_at_once() -> None:
    service = Service(most=2)
    async with service.lived():
        for _ in range(2):
            spawn(service.last(1), name="mail")
        (running,) = (s for s in service.work.tally() if s.metric == "postfacta_jobs_running")
        assert running.value == 2
        third = service.last(1)
        with pytest.raises(BulkheadFullError, match=r"^audit: "):
            spawn(third, name="audit")
        assert inspect.getcoroutinestate(third) == inspect.CORO_CLOSED
        await anyio.sleep(2)
        spawn(service.last(1), name="audit")
        await anyio.sleep(2)
    assert service.log == ["done"] * 3


def plain() -> None:
    """Be no async function."""


async def some(order: int) -> None:
    """Be one that needs an argument."""


EVERY_WRONG: list[tuple[Any, Any, dict[str, Any], str]] = [
    (0, some, {}, "every.seconds must be a finite number above 0, not 0; for example 60.0"),
    (60, plain, {}, "every.function must be an async function, not <function plain"),
    (60, partial(some, 1), {}, "every.name must be a text of 1 to 64 letters"),
    (60, some, {"timeout": -1}, "every.timeout must be a number above 0, not -1; for example"),
]


@pytest.mark.parametrize(("seconds", "function", "options", "sentence"), EVERY_WRONG)
async def test_a_wrong_argument_of_every_is_refused_in_one_sentence(
    seconds: Any, function: Any, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}"):
        Service().work.every(seconds, function, **options)


WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (plain, {}, "spawn.work must be an async function or its coroutine, not <function plain"),
    (None, {}, "spawn.work must be an async function or its coroutine, not None; for example"),
    (partial(some, 1), {}, "spawn.name must be a text of 1 to 64 letters"),
    (some, {"name": "a b"}, "spawn.name must be a text of 1 to 64 letters"),
    (some, {"timeout": 0}, "spawn.timeout must be a number above 0, not 0; for example"),
]


@pytest.mark.parametrize(("work", "options", "sentence"), WRONG)
async def test_a_wrong_argument_is_refused_in_one_sentence(
    work: Any, options: dict[str, Any], sentence: str
) -> None:
    service = Service()
    async with service.lived():
        with pytest.raises(ValueError, match=f"^{sentence}"):
            spawn(work, **options)
        assert len(service.running) == 0


async def test_without_a_lifespan_it_is_refused() -> None:
    service = Service()
    for begin in (spawn, service.work.spawn):
        work = service.last(1)
        with pytest.raises(RuntimeError, match="needs the running lifespan of a hardened app"):
            begin(work, name="mail")
        assert inspect.getcoroutinestate(work) == inspect.CORO_CLOSED


async def test_each_service_of_a_loop_runs_what_it_is_given() -> None:
    first, second = Service(), Service()
    async with first.lived(), second.lived():
        first.work.spawn(first.last(1), name="mail")
        spawn(second.last(1), name="mail")
        assert [len(first.running), len(second.running)] == [1, 1]
        await anyio.sleep(2)
    assert first.log == second.log == ["done"]


async def until_done(service: Service) -> None:
    with anyio.fail_after(10):
        while not service.log:
            await anyio.sleep(0.01)


@on_real_loops
@pytest.mark.parametrize("start", ["worker thread", "any thread"])
async def test_a_thread_may_begin_work(start: str) -> None:
    service = Service()
    begin = partial(spawn, service.last(0), name="mail")

    async def run(call: Callable[[], object]) -> None:
        if start == "worker thread":
            await anyio.to_thread.run_sync(call)
            return
        thread = threading.Thread(target=call)
        thread.start()
        await anyio.to_thread.run_sync(thread.join)

    async with service.lived():
        await run(begin)
        await until_done(service)
    assert service.log == ["done"]


class Rounds:
    """A function that `every` calls, which fails when it is asked to, and when it was called."""

    def __init__(self, service: Service, *, fails: int = 0, takes: float = 0.0) -> None:
        self.service = service
        self.fails = fails
        self.takes = takes
        self.called: list[float] = []
        self.ended = 0

    async def refresh(self) -> None:
        self.called.append(self.service.clock())
        await anyio.sleep(self.takes)
        self.ended += 1
        if len(self.called) <= self.fails:
            raise LookupError

    def pauses(self) -> list[float]:
        return [later - earlier for earlier, later in pairwise(self.called)]


async def test_a_function_is_called_again_and_again_and_never_twice_at_once() -> None:
    service = Service()
    rounds = Rounds(service, takes=5)
    service.work.every(10, rounds.refresh, name="refresh", timeout=None)
    async with service.lived():
        began = service.clock()
        await anyio.sleep(200)
    assert began <= rounds.called[0] <= began + 1
    assert 12 <= len(rounds.called) <= 15
    assert all(5 + 9 <= pause <= 5 + 11.1 for pause in rounds.pauses())
    assert len({round(pause, 3) for pause in rounds.pauses()}) > 5
    assert service.counts()["service", "refresh", "success"] == rounds.ended


async def test_a_function_that_fails_is_called_again_sooner() -> None:
    service = Service()
    rounds = Rounds(service, fails=4)
    async with service.lived():
        service.work.every(20, rounds.refresh, name="refresh")
        await anyio.sleep(75)
    bounds = [1, 2, 4, 8]
    assert all(pause <= most for pause, most in zip(rounds.pauses(), bounds, strict=False))
    assert 18 <= rounds.pauses()[4] <= 22.1
    assert service.crashes() == [("refresh", "LookupError()")] * 4
    assert service.counts()["service", "refresh", "failure"] == 4


async def test_a_call_out_of_time_is_cut_and_followed_by_the_next() -> None:
    service = Service()
    rounds = Rounds(service, takes=30)
    async with service.lived():
        service.work.every(10, rounds.refresh, name="refresh", timeout=5)
        await anyio.sleep(40)
    assert len(rounds.called) > 3
    assert rounds.ended == 0
    assert service.counts()["service", "refresh", "deadline"] >= 3


async def test_a_drain_waits_for_the_call_under_way_and_no_other_follows() -> None:
    service = Service()
    rounds = Rounds(service, takes=5)
    async with service.lived():
        service.work.every(1, rounds.refresh, name="refresh")
        await anyio.sleep(3)
        await service.lifecycle.finish_requests()
        assert (len(rounds.called), rounds.ended) == (1, 1)
        await anyio.sleep(60)
        assert len(rounds.called) == 1
    drained = service.drained()
    assert (drained.cancelled, drained.left, drained.work) == (0, 0, "")


async def test_a_service_that_runs_again_calls_its_functions_again() -> None:
    service = Service()
    rounds = Rounds(service)
    service.work.every(60, rounds.refresh)
    for calls in (1, 2):
        async with service.lived():
            await anyio.sleep(30)
            await service.lifecycle.finish_requests()
        assert len(rounds.called) == calls


async def in_request(service: Service, handler: Callable[[], Awaitable[None]]) -> None:
    """Run a handler as a request does."""
    request = RequestContext(REQUEST_ID, service.clock(), service.clock)
    token = bind_request(request)
    await service.running.run(Running(request), handler())
    release_request(token)


def left_behind(work: Coroutine[Any, Any, None], name: str | None = None) -> asyncio.Task[None]:
    """Do what a handler should not."""
    return asyncio.create_task(work, name=name)  # noqa: TID251 - see above


@only_asyncio
async def test_a_task_that_a_request_made_is_named_when_it_is_lost() -> None:
    service = Service()
    tasks: list[asyncio.Task[None]] = []

    async def handler() -> None:
        tasks.extend(left_behind(service.last(60)) for _ in range(2))
        tasks.append(left_behind(service.last(60), name="audit"))
        tasks.append(left_behind(service.last(0.5), name="quick"))

    others = left_behind(service.last(60))
    async with service.lived():
        await in_request(service, handler)
        await service.lifecycle.finish_requests()
        await anyio.sleep(1)
    drained = service.drained()
    assert (drained.cancelled, drained.left) == (0, 3)
    assert (drained.work, drained.tasks) == ("", "Service.last x2, audit")
    for task in (*tasks, others):
        task.cancel()


@only_asyncio
async def test_a_drain_waits_for_tasks_of_requests_if_it_covers_them() -> None:
    service = Service(timeout=10, cover_tasks=True)
    tasks: list[asyncio.Task[None]] = []

    async def handler() -> None:
        tasks.append(left_behind(service.last(6), name="mail"))
        tasks.append(left_behind(service.last(60), name="audit"))

    others = left_behind(service.last(60))
    async with service.lived():
        await in_request(service, handler)
        await service.lifecycle.finish_requests()
        assert service.log == ["done", "cut"]
    drained = service.drained()
    assert (drained.cancelled, drained.left) == (1, 0)
    assert (drained.work, drained.tasks) == ("audit", "")
    assert not others.done()
    others.cancel()


async def test_names_of_a_log_line_are_bounded() -> None:
    service = Service(timeout=1)
    async with service.lived():
        for number in range(50):
            spawn(service.last(60), name=f"mail-{number}")
        await service.lifecycle.finish_requests()
    drained = service.drained()
    assert drained.cancelled == 50
    assert len(drained.work.split(", ")) == 20
