"""Run what arq and Celery call as jobs of a `Worker`, which has no loop of its own there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import wraps
from importlib import import_module
from typing import Any, Final, TypeVar, cast

from postfacta_core.errors import DeadlineExceededError
from postfacta_core.workers import Worker

__all__ = ["arq_settings", "celery_signals"]

C = TypeVar("C", bound=type)

# arq's own, in seconds, and the share of a job's time after which it ends here: arq would call it cancelled.
_ARQ_TIMEOUT: Final = 300
_ARQ_SHARE: Final = 0.99


def arq_settings(worker: Worker) -> Callable[[C], C]:
    """Decorate a `WorkerSettings` of arq: each of its functions and cron jobs is run as a job.

        @arq_settings(Worker("mailer"))
        class WorkerSettings:
            functions = [send, arq.func(bill, timeout=5)]
            job_timeout = 30

    A job's deadline is arq's own timeout for it. On SIGTERM arq takes no more jobs, and waits `drain_timeout` for those
    under way, unless the settings have a `job_completion_wait`; then it cancels them, and runs them again later.

    Args:
        worker: What measures them; arq handles the signals, so it need not be entered.
    """

    def prepare(settings: C) -> C:
        given = cast("Any", settings)
        timeout = getattr(given, "job_timeout", _ARQ_TIMEOUT)
        if isinstance(timeout, timedelta):
            timeout = timeout.total_seconds()
        for kind in ("functions", "cron_jobs"):
            if functions := getattr(given, kind, ()):
                setattr(given, kind, [_as_job(worker, function, timeout) for function in functions])
        if not hasattr(given, "job_completion_wait"):
            given.job_completion_wait = math.ceil(worker.drain_timeout)
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

    A task's deadline is its soft time limit, or else its hard one. What it calls sees the deadline; only Celery ends
    the task. On SIGTERM Celery takes no more tasks and waits for those under way.

    With the pools `threads` and `solo` this process counts all tasks, and its `is_draining` is true after SIGTERM. With
    `prefork` each child counts its own, and does not learn of the signal.

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
