"""Give the jobs of a worker what `harden` gives requests.

A deadline, metrics, an end that loses none.

A job is whatever a worker takes from a queue or a schedule. It has a context as a request has:
guards, `Outgoing` and a database see its deadline, and its id goes along to other services.
`Worker` runs them in a loop or threads of your own; `arq_settings` and `celery_signals` make jobs
of what arq and Celery call.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from functools import wraps
from importlib import import_module
from typing import Any, Final, Self, TypeVar, cast

import anyio
from anyio.abc import TaskGroup

from postfacta_core.clock import MONOTONIC, Clock, random_id
from postfacta_core.context import RequestContext, bind_request, release_request
from postfacta_core.deadlines.requests import Running
from postfacta_core.drain.lifecycle import Course, DrainLimits, Phase
from postfacta_core.drain.signals import Interception
from postfacta_core.drain.work import JobCounts, JobOutcome, Work, present_work
from postfacta_core.errors import DeadlineExceededError, StoppedError
from postfacta_core.events import (
    Drained,
    Observer,
    PolicyCreated,
    Sample,
    SignalsIntercepted,
    observing,
    process_observer,
)
from postfacta_core.limits import Priority
from postfacta_core.validation import validation

__all__ = ["Job", "JobOutcome", "Worker", "arq_settings", "celery_signals"]

C = TypeVar("C", bound=type)

_is_id: Final = re.compile(r"[A-Za-z0-9._-]{8,64}").fullmatch
_GLANCE: Final = 0.05  # Seconds between two looks at the jobs that are left.
# For jobs that were cancelled to clean up.
_LAST_WORDS: Final = 1.0
# arq's own, in seconds, and the share of a job's time after which it ends here: arq would call it
# cancelled.
_ARQ_TIMEOUT: Final = 300
_ARQ_SHARE: Final = 0.99


class Worker:
    """Runs jobs until SIGTERM, and then those that it has begun.

        worker = Worker("mailer")

        async with worker:
            while not worker.is_draining:
                message = await queue.receive(timeout=1)
                if message is not None:
                    async with worker.job("send", timeout=30, job_id=message.id):
                        await send(message)

    Entered in the main thread, by `async with` on asyncio and trio or by `with` in a worker of
    threads, it catches SIGTERM: `is_draining` becomes true, and leaving it waits for the jobs that
    other tasks or threads still run. After `drain_timeout` it cancels those of `async with`; the
    others are waited for no longer. Its jobs are measured without that too.

    Inside of the lifespan of a hardened service it leaves SIGTERM to that: it drains with the
    service, whose `drain_timeout` bounds its jobs as requests, and whose log and metrics have them.

    Args:
        name: The worker's, a label of its metrics.
        drain_timeout: How long jobs may go on after SIGTERM, in seconds; less than the supervisor
            waits before it kills.
        priority: Of what its jobs ask of other services: users come first.
        observer: Receives the signal handling, phases and the drain. It may raise. By default the
            process's, see `asgi.Telemetry`; None for none.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        *,
        drain_timeout: float = 20.0,
        priority: Priority = Priority.SHEDDABLE_PLUS,
        observer: Observer | None = process_observer,
        clock: Clock = MONOTONIC,
    ) -> None:
        self.name: str = validation.name("Worker.name", name, example='Worker("mailer")')
        self.drain_timeout: float = validation.number(
            "Worker.drain_timeout", drain_timeout, at_least=0, example="drain_timeout=20.0"
        )
        validation.functions("Worker", clock=clock)
        self._limits = DrainLimits(drain_delay=0.0, drain_timeout=drain_timeout)
        self._priority = validation.instance(
            "Worker.priority", priority, Priority, example="Priority.SHEDDABLE_PLUS"
        )
        self._observe = observing("Worker", name, observer)
        self._clock = clock
        self._course = Course(self._limits)
        self._interception: Interception | None = None
        self._service: Work | None = None
        self._tasks: TaskGroup | None = None
        self._jobs: set[Job] = set()
        self._counts = JobCounts(name)
        self._cancelled = 0
        self._observe(PolicyCreated(name, self.tally))

    @property
    def is_draining(self) -> bool:
        """Whether it was asked to stop: take no more jobs."""
        is_stopping = self._service is not None and self._service.is_draining()
        return is_stopping or self._course.is_draining

    def drain(self) -> None:
        """Begin to drain, as after a SIGTERM. From any thread or signal handler."""
        self._course.drain(self._clock())

    def job(self, task: str, *, timeout: float | None = None, job_id: str = "") -> Job:
        """Return a job, to be run by `async with` or `with`.

        Args:
            task: What it does, from a small set: a label of its metrics.
            timeout: Its deadline, in seconds from when it begins. `async with` cancels it then, and
                raises `DeadlineExceededError`; with `with` only what it calls sees the deadline.
            job_id: The request id of its log lines and calls; by default, or if it is no 8 to 64
                letters, digits and `._-`, a random one.
        """
        return Job(self, task, math.inf if timeout is None else timeout, job_id)

    def tally(self) -> Iterable[Sample]:
        """Return its counts, for metrics."""
        return self._counts.tally(len(self._jobs))

    def __enter__(self) -> Self:
        if self._course.phase is Phase.STOPPED:
            self._course = Course(self._limits)
            self._cancelled = 0
        self._service = present_work()
        if self._service is None:
            self._interception = Interception(lambda _: self.drain())
            mechanism = self._interception.mechanism
            self._observe(SignalsIntercepted(mechanism, in_place=mechanism != "none"))
        self._course.start(self._clock())
        self._tell()
        return self

    def __exit__(self, *_: object) -> None:
        pause = threading.Event()
        self.drain()
        while self._jobs and self._clock() < self._course.cancels_at:
            pause.wait(_GLANCE)
        self._stopped()

    async def __aenter__(self) -> Self:
        self.__enter__()
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._cancel_in_time)
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = cast("TaskGroup", self._tasks)
        self.drain()
        try:
            while self._jobs and self._clock() < self._course.cancels_at + _LAST_WORDS:  # noqa: ASYNC110 - see below
                await anyio.sleep(_GLANCE)
        finally:
            self._stopped()
            tasks.cancel_scope.cancel()
            await tasks.__aexit__(None, None, None)

    async def _cancel_in_time(self) -> None:
        # What a signal handler or a thread changes is looked at: it could not set an event of the
        # loop.
        while self._clock() < self._course.cancels_at:
            self._tell()
            await anyio.sleep(_GLANCE)
        for job in list(self._jobs):
            self._cancelled += job.stop()

    def _stopped(self) -> None:
        now = self._clock()
        self._course.stop(now)
        self._course.end(now)
        seconds = now - self._course.drain_began_at
        if self._service is None:
            self._observe(Drained(self._cancelled, len(self._jobs), seconds))
        self._tell()
        self._service = None
        if self._interception is not None:
            self._interception.close()
            self._interception = None

    def _tell(self) -> None:
        # Never in a signal handler. The phases of a service are its own.
        for change in self._course.news():
            if self._service is None:
                self._observe(change)


# A worker and its jobs know each other well.
# pyright: reportPrivateUsage=false
# ruff: noqa: SLF001


class Job:
    """One job of a worker; see `Worker.job`. It is entered once."""

    def __init__(self, worker: Worker, task: str, timeout: float, job_id: str) -> None:  # noqa: PLR0917
        self._worker = worker
        self._task = task
        self._timeout = timeout
        self._context = RequestContext(
            job_id if _is_id(job_id) else random_id(), 0.0, worker._clock
        )
        self._token: Any = None
        self._running = Running(self._context)
        self._running.name = task
        self._running.stage = "work"
        self._service: Work | None = None

    def stop(self) -> bool:
        """Cancel it because the worker stops; return whether that can be done."""
        self._running.cancel(StoppedError(self._worker.name))
        return self._running.cancel_scope is not None

    def __enter__(self) -> Self:
        worker = self._worker
        context = self._context
        context.started = worker._clock()
        context.limit = self._timeout
        context.deadline = context.started + self._timeout
        context.priority = worker._priority
        worker._jobs.add(self)
        self._service = worker._service
        if self._service is not None:
            self._service.running.add(self._running)
        self._token = bind_request(context)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        release_request(self._token)
        worker = self._worker
        worker._jobs.discard(self)
        if self._service is not None:
            self._service.running.discard(self._running)
        worker._counts.add(self._task, error, worker._clock() - self._context.started)

    async def __aenter__(self) -> Self:
        self.__enter__()
        scope = anyio.CancelScope(deadline=anyio.current_time() + self._timeout)
        self._running.cancel_scope = scope.__enter__()
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Count it.

        Raise `DeadlineExceededError` if its time ran out, `StoppedError` if the worker could wait
        no longer.
        """
        scope = cast("anyio.CancelScope", self._running.cancel_scope)
        raised = error
        try:
            scope.__exit__(None if error is None else type(error), error, None)
            if scope.cancelled_caught:
                ended_by = type(self._running.reason or DeadlineExceededError(""))
                raised = ended_by(self._worker.name)
                raise raised from error
        finally:
            self.__exit__(None, raised, None)


def arq_settings(worker: Worker) -> Callable[[C], C]:
    """Decorate a `WorkerSettings` of arq: each of its functions and cron jobs is run as a job.

        @arq_settings(Worker("mailer"))
        class WorkerSettings:
            functions = [send, arq.func(bill, timeout=5)]
            job_timeout = 30

    A job's deadline is arq's own timeout for it. On SIGTERM arq takes no more jobs, and waits
    `drain_timeout` for those under way, unless the settings have a `job_completion_wait`; then it
    cancels them, and runs them again later.

    Args:
        worker: What measures them; arq handles the signals, so it need not be entered.
    """

    def prepare(settings: C) -> C:
        options = cast("Any", settings)
        timeout = getattr(options, "job_timeout", _ARQ_TIMEOUT)
        if isinstance(timeout, timedelta):
            timeout = timeout.total_seconds()
        for kind in ("functions", "cron_jobs"):
            if functions := getattr(options, kind, ()):
                setattr(
                    options, kind, [_as_job(worker, function, timeout) for function in functions]
                )
        if not hasattr(options, "job_completion_wait"):
            options.job_completion_wait = math.ceil(worker.drain_timeout)
        return settings

    return prepare


def _as_job(worker: Worker, function: Any, timeout: float) -> Any:
    """Wrap a coroutine function, or the one in a `Function` or `CronJob` of arq."""
    coroutine = getattr(function, "coroutine", function)
    own = getattr(function, "timeout_s", None)
    limit = (timeout if own is None else own) * _ARQ_SHARE
    name = getattr(function, "name", coroutine.__qualname__)

    @wraps(coroutine)
    async def run(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        async with worker.job(name, timeout=limit, job_id=ctx["job_id"]):
            return await coroutine(ctx, *args, **kwargs)

    return run if function is coroutine else replace(function, coroutine=run)


def celery_signals(worker: Worker) -> None:
    """Run each task of this process's Celery worker as a job: connect to Celery's signals.

    A task's deadline is its soft time limit, or else its hard one. What it calls sees the deadline;
    only Celery ends the task. On SIGTERM Celery takes no more tasks and waits for those under way.

    With the pools `threads` and `solo` this process counts all tasks, and its `is_draining` is true
    after SIGTERM. With `prefork` each child counts its own, and does not learn of the signal.

    Args:
        worker: What measures them; Celery handles the signals, so it must not be entered.
    """
    signals: Any = import_module("celery.signals")

    def begin(task_id: str, task: Any, **_: object) -> None:
        job = worker.job(task.name, timeout=_celery_limit(task), job_id=task_id)
        task.request.postfacta_job = job.__enter__()

    def end(task: Any, state: str, retval: object, **_: object) -> None:
        error = retval if isinstance(retval, BaseException) and state != "SUCCESS" else None
        if type(error).__name__ == "SoftTimeLimitExceeded":
            error = DeadlineExceededError(worker.name)
        task.request.postfacta_job.__exit__(None, error, None)

    def drain(**_: object) -> None:
        worker.drain()

    signals.task_prerun.connect(begin, weak=False)
    signals.task_postrun.connect(end, weak=False)
    signals.worker_shutting_down.connect(drain, weak=False)


def _celery_limit(task: Any) -> float | None:
    hard, soft = task.request.timelimit or (None, None)
    return cast("float | None", soft or hard or task.soft_time_limit or task.time_limit)
