"""Jobs are counted by task and outcome, and the names of tasks are bounded."""

from __future__ import annotations

import pytest

from postfacta_core.drain._jobs import JobCounts, JobOutcome
from postfacta_core.errors import DeadlineExceededError, StoppedError


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, JobOutcome.SUCCESS),
        (LookupError(), JobOutcome.FAILURE),
        (DeadlineExceededError("mail"), JobOutcome.DEADLINE),
        (StoppedError("mail"), JobOutcome.STOPPED),
        (KeyboardInterrupt(), JobOutcome.CANCELLED),
    ],
    ids=str,
)
def test_a_job_is_counted_by_what_ended_it(
    error: BaseException | None, outcome: JobOutcome
) -> None:
    counts = JobCounts("service")
    assert counts.add("mail", error, 2.0) is outcome
    labels = ("service", "mail", outcome.value)
    assert list(counts.tally(3)) == [
        ("postfacta_jobs_running", ("service",), 3),
        ("postfacta_jobs_total", labels, 1),
        ("postfacta_jobs_seconds_total", labels, 2.0),
    ]


def test_names_beyond_a_hundred_are_counted_together() -> None:
    counts = JobCounts("service")
    for number in range(150):
        assert counts.add(f"mail-{number}", None, 1.0) is JobOutcome.SUCCESS
    totals = {
        sample.labels[1]: sample.value
        for sample in counts.tally(0)
        if sample.metric == "postfacta_jobs_total"
    }
    assert len(totals) == 101
    assert totals["_OTHER"] == 50
