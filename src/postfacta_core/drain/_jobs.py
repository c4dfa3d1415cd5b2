"""How jobs end, and how many of them did."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from enum import StrEnum
from types import NoneType
from typing import Final

from ..errors import DeadlineExceededError, StoppedError
from ..events import Sample
from ..telemetry.exchange import OTHER

# Of the label `task`: what has more names than these makes them of data.
_MOST_TASKS: Final = 100


class JobOutcome(StrEnum):
    """How a job ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    DEADLINE = "deadline"
    STOPPED = "stopped"
    CANCELLED = "cancelled"


# By the class of what it raised, or the nearest one above that.
_OUTCOMES: Final[dict[type, JobOutcome]] = {
    NoneType: JobOutcome.SUCCESS,
    DeadlineExceededError: JobOutcome.DEADLINE,
    StoppedError: JobOutcome.STOPPED,
    Exception: JobOutcome.FAILURE,
    BaseException: JobOutcome.CANCELLED,
}


class JobCounts:
    """Counts the jobs of one owner, in any thread.

    Args:
        owner: The label `worker` of their metrics.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._lock = threading.Lock()
        self._tasks: set[str] = set()
        self._ended: dict[tuple[str, JobOutcome], tuple[int, float]] = {}

    def add(self, task: str, error: BaseException | None, seconds: float) -> JobOutcome:
        """Count a job that ended by an error, or by None; return how that is called."""
        outcome = next(_OUTCOMES[kind] for kind in type(error).__mro__ if kind in _OUTCOMES)
        with self._lock:
            if len(self._tasks) < _MOST_TASKS:
                self._tasks.add(task)
            key = (task if task in self._tasks else OTHER, outcome)
            count, before = self._ended.get(key, (0, 0.0))
            self._ended[key] = (count + 1, before + seconds)
        return outcome

    def tally(self, running: int) -> Iterable[Sample]:
        """Return the counts, for metrics, beside how many run."""
        with self._lock:
            ended = list(self._ended.items())
        yield Sample("postfacta_jobs_running", (self._owner,), running)
        for (task, outcome), (count, seconds) in ended:
            labels = (self._owner, task, outcome.value)
            yield Sample("postfacta_jobs_total", labels, count)
            yield Sample("postfacta_jobs_seconds_total", labels, seconds)
