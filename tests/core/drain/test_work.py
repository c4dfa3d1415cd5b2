"""Work beside a request: it has the request's id and a time of its own, and no drain overlooks it.

Signals are not caught here; real ones, on real servers, are in tests/servers/test_work.py.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from postfacta_core.context import RequestContext, bind_request, current_request, release_request
from postfacta_core.deadlines.present import current_deadline
from postfacta_core.deadlines.requests import RunningRequests
from postfacta_core.drain import lifecycle as module, spawn
from postfacta_core.drain._course import DrainLimits
from postfacta_core.drain.lifecycle import Lifecycle
from postfacta_core.errors import BulkheadFullError, DeadlineExceededError, StoppedError
from postfacta_core.events import DeadlineExceeded, Drained, TaskCrashed
from postfacta_core.limits import Priority
from postfacta_core.testing import RecordingObserver
from tests.core.virtual import loop_clock, on_real_loops

REQUEST_ID = "0123456789abcdef"


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

    def __init__(self, *, most: int = 1000, timeout: float = 20.0) -> None:
        self.log: list[str] = []
        self.observer = RecordingObserver()
        self.clock = loop_clock()
        self.running = RunningRequests(observer=self.observer, clock=self.clock)
        self.lifecycle = Lifecycle(
            DrainLimits(drain_delay=0.0, drain_timeout=timeout, close_timeout=5.0),
            running=self.running,
            work_at_once=most,
            observer=self.observer,
            clock=self.clock,
        )
        self.work = self.lifecycle.work

    @asynccontextmanager
    async def lived(self) -> AsyncGenerator[None]:
        async with self.lifecycle, self.running:
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
    assert (drained.cancelled, drained.left, drained.work) == (0, 0, ())
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
    assert (drained.cancelled, drained.left, drained.work) == (1, 0, ("mail",))
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
    assert (drained.cancelled, drained.left, drained.work) == (1, 1, ("deaf",))


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


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
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
