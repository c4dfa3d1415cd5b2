"""A job has a deadline that what it calls sees, is counted once, and is let end when its worker stops.

Functions of arq are jobs; those of Celery are tried with its own worker, in an environment that has
it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import anyio
import pytest

from postfacta_adapters.workers import Worker, arq_settings
from postfacta_core.context import current_request
from postfacta_core.deadlines.present import current_deadline
from postfacta_core.deadlines.requests import RunningRequests
from postfacta_core.drain import DrainLimits
from postfacta_core.drain.lifecycle import Lifecycle
from postfacta_core.errors import DeadlineExceededError, StoppedError
from postfacta_core.events import Drained, PhaseChanged, SignalsIntercepted
from postfacta_core.limits._waiting import Priority
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.testing import ManualClock, RecordingObserver

JOB_ID = "0123456789abcdef"


def counts(worker: Worker) -> dict[tuple[str, ...], float]:
    return {
        sample.labels[1:]: sample.value
        for sample in worker.tally()
        if sample.metric == "postfacta_jobs_total"
    }


async def test_what_a_job_calls_sees_its_deadline_id_and_priority() -> None:
    clock = ManualClock(100.0)
    worker = Worker("mailer", clock=clock)
    async with worker.job("send", timeout=30, job_id=JOB_ID):
        request, deadline = current_request(), current_deadline()
        assert request is not None
        assert deadline is not None
        assert (deadline.at, request.request_id, request.priority) == (
            130.0,
            JOB_ID,
            Priority.SHEDDABLE_PLUS,
        )
    with worker.job("send", job_id="no id"):
        request = current_request()
        assert request is not None
        assert len(request.request_id) == 32
        assert current_deadline() is None
    assert current_request() is None


async def test_a_job_is_cancelled_at_its_deadline() -> None:
    worker = Worker("mailer")
    with anyio.fail_after(5), pytest.raises(DeadlineExceededError):
        async with worker.job("send", timeout=0.01):
            await anyio.sleep_forever()
    assert counts(worker) == {("send", "deadline"): 1}


async def test_each_job_is_counted_by_how_it_ended() -> None:
    clock = ManualClock()
    metrics = Metrics(with_process=False)
    worker = Worker("mailer", clock=clock, observer=metrics)

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"worker": "mailer", **labels})

    async with worker.job("send"):
        clock.advance(2)
        assert value("postfacta_jobs_running") == 1
    with pytest.raises(LookupError):
        async with worker.job("send"):
            raise LookupError
    with anyio.CancelScope() as scope:
        async with worker.job("bill"):
            scope.cancel()
            await anyio.sleep_forever()
    assert counts(worker) == {
        ("send", "success"): 1,
        ("send", "failure"): 1,
        ("bill", "cancelled"): 1,
    }
    assert value("postfacta_jobs_running") == 0
    assert value("postfacta_jobs_total", task="send", outcome="failure") == 1
    assert value("postfacta_jobs_seconds_total", task="send", outcome="success") == 2


async def run_until_drained(worker: Worker, work: Callable[[], Awaitable[object]]) -> list[str]:
    """Run a job in a task beside a loop that takes none, and return how it ended."""
    ends: list[str] = []

    async def job() -> None:
        try:
            async with worker.job("send"):
                await work()
        except StoppedError:
            ends.append("stopped")
        else:
            ends.append("done")

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks, worker:
            tasks.start_soon(job)
            await anyio.sleep(0.02)
            os.kill(os.getpid(), signal.SIGTERM)
            while not worker.is_draining:
                await anyio.sleep(0.01)
    return ends


async def test_sigterm_lets_a_job_end_that_has_begun() -> None:
    before = signal.getsignal(signal.SIGTERM)
    worker = Worker("mailer", observer=(seen := RecordingObserver()))
    assert await run_until_drained(worker, lambda: anyio.sleep(0.2)) == ["done"]
    (drained,) = seen.of(Drained)
    assert (drained.cancelled, drained.left) == (0, 0)
    assert [change.new for change in seen.of(PhaseChanged)] == [
        "ready",
        "draining",
        "stopping",
        "stopped",
    ]
    assert signal.getsignal(signal.SIGTERM) == before


async def test_a_job_that_takes_too_long_is_stopped() -> None:
    worker = Worker("mailer", drain_timeout=0.1, observer=(seen := RecordingObserver()))
    assert await run_until_drained(worker, anyio.sleep_forever) == ["stopped"]
    assert counts(worker) == {("send", "stopped"): 1}
    (drained,) = seen.of(Drained)
    assert (drained.cancelled, drained.left) == (1, 0)


async def test_a_worker_may_run_again() -> None:
    worker = Worker("mailer")
    for _ in range(2):
        async with worker:
            assert not worker.is_draining
            worker.drain()
            assert worker.is_draining


async def test_a_worker_inside_of_a_service_drains_with_it() -> None:
    seen = RecordingObserver()
    running = RunningRequests(observer=seen)
    limits = DrainLimits(drain_delay=30, drain_timeout=0.2, close_timeout=2)
    lifecycle = Lifecycle(limits, running=running, observer=seen)
    worker = Worker("mailer", observer=seen)
    ends: list[str] = []

    async def job(seconds: float) -> None:
        try:
            async with worker.job("send"):
                await anyio.sleep(seconds)
            ends.append("done")
        except StoppedError:
            ends.append("stopped")

    with anyio.fail_after(10):
        async with lifecycle, running, worker, anyio.create_task_group() as tasks:
            lifecycle.started()
            for seconds in (0.1, 60):
                tasks.start_soon(job, seconds)
            await anyio.sleep(0.02)
            os.kill(os.getpid(), signal.SIGTERM)
            while not worker.is_draining:
                await anyio.sleep(0.01)
            assert lifecycle.is_draining
            await lifecycle.finish_requests()
    assert ends == ["done", "stopped"]
    assert counts(worker) == {("send", "success"): 1, ("send", "stopped"): 1}
    (drained,) = seen.of(Drained)
    assert (drained.cancelled, drained.left, drained.work) == (1, 0, "send")
    assert len(seen.of(SignalsIntercepted)) == 1
    phases = [change.new for change in seen.of(PhaseChanged)]
    assert phases == ["ready", "draining", "stopping", "stopped"]


def test_a_worker_of_threads_waits_for_their_jobs_and_no_longer_than_it_may() -> None:
    for drain_timeout, left in ((5.0, 0), (0.0, 1)):
        seen, begun, may_end = RecordingObserver(), threading.Event(), threading.Event()
        worker = Worker("mailer", drain_timeout=drain_timeout, observer=seen)

        def job(worker: Worker = worker, begun: Any = begun, may_end: Any = may_end) -> None:
            with worker.job("send", timeout=60):
                begun.set()
                may_end.wait(0.2 if worker.drain_timeout else 20)

        thread = threading.Thread(target=job)
        with worker:
            thread.start()
            assert begun.wait(10)
            os.kill(os.getpid(), signal.SIGTERM)
            assert worker.is_draining
        may_end.set()
        thread.join(10)
        assert [drained.left for drained in seen.of(Drained)] == [left]


def test_jobs_of_many_threads_are_counted_exactly() -> None:
    worker = Worker("mailer")

    def run() -> None:
        for _ in range(500):
            with worker.job("send"):
                pass

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert counts(worker) == {("send", "success"): 4000}


@dataclass
class Function:
    """As arq's `Function` and `CronJob`."""

    name: str
    coroutine: Callable[..., Awaitable[object]]
    timeout_s: float | None = None


async def test_functions_of_arq_are_jobs_with_arqs_own_timeouts() -> None:
    async def left(ctx: dict[str, str], more: float) -> float:
        deadline = current_deadline()
        assert deadline is not None
        return deadline.remaining() + more

    worker = Worker("mailer", clock=ManualClock(0.0), drain_timeout=4.2)

    @arq_settings(worker)
    class Settings:
        functions: tuple[Any, ...] = (left, Function("short", left, 5))
        cron_jobs: tuple[Any, ...] = (Function("cron:left", left),)
        job_timeout = timedelta(seconds=20)

    cases = [*Settings.functions, *Settings.cron_jobs]
    ways = [getattr(case, "coroutine", case) for case in cases]
    assert [await way({"job_id": JOB_ID}, more=1.0) for way in ways] == pytest.approx(
        [20.8, 5.95, 20.8]
    )
    assert [name for name, _ in counts(worker)] == [left.__qualname__, "short", "cron:left"]
    assert vars(Settings)["job_completion_wait"] == 5

    @arq_settings(worker)
    class Patient:
        job_completion_wait = 60

    assert Patient.job_completion_wait == 60
