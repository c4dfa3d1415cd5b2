"""Functions of arq are jobs; those of Celery are tried with its own worker, in an environment that has it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from postfacta_adapters.workers import arq_settings
from postfacta_core.deadlines.present import current_deadline
from postfacta_core.testing import ManualClock
from postfacta_core.workers import Worker
from tests.core.test_workers import JOB_ID, counts


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
        return deadline.remaining(0.0) + more

    worker = Worker("mailer", clock=ManualClock(0.0), drain_timeout=4.2)

    @arq_settings(worker)
    class Settings:
        functions: tuple[Any, ...] = (left, Function("short", left, 5))
        cron_jobs: tuple[Any, ...] = (Function("cron:left", left),)
        job_timeout = timedelta(seconds=20)

    cases = [*Settings.functions, *Settings.cron_jobs]
    ways = [getattr(case, "coroutine", case) for case in cases]
    assert [await way({"job_id": JOB_ID}, more=1.0) for way in ways] == pytest.approx([20.8, 5.95, 20.8])
    assert [name for name, _ in counts(worker)] == [left.__qualname__, "short", "cron:left"]
    assert vars(Settings)["job_completion_wait"] == 5

    @arq_settings(worker)
    class Patient:
        job_completion_wait = 60

    assert Patient.job_completion_wait == 60
