"""The generator reports what users would feel, above all when a server does nothing at all."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest

from benchmarks.overload.callers import Plan, run, summarize
from benchmarks.overload.servers import serving
from postfacta_lab.load.gate import Sample


@pytest.fixture(scope="module")
def server(programs: None) -> Generator[tuple[int, int]]:
    """Run uvicorn with the pool handler; give its port and process id."""
    with serving("uvicorn", "pool", "plain") as (port, process):
        yield port, process.pid


def test_a_server_that_keeps_up_answers_all_that_was_due(server: tuple[int, int]) -> None:
    port, pid = server
    summary = run(Plan(port, rate=50, seconds=1, warmup=0.2, pid=pid))["all"]
    # On a busy machine some come later than what counts as good.
    assert (summary.sent, summary.failed) == (50, 0)
    assert summary.p50_ok >= 0.02
    assert 0 <= summary.server_cpu < 1


def test_a_frozen_server_is_seen_as_failures_and_not_as_silence(server: tuple[int, int]) -> None:
    port, pid = server
    os.kill(pid, signal.SIGSTOP)
    try:
        summary = run(Plan(port, rate=50, seconds=1, warmup=0))["all"]
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (summary.sent, summary.good, summary.failed) == (50, 0, 50)


def sample(due: float, kind: str, latency: float, error: str = "") -> Sample:
    return Sample(kind, due, due, due + latency, error)


def test_a_request_counts_by_when_it_was_due() -> None:
    answers = [
        sample(0.9, "all", 0.01),
        sample(1.0, "all", 0.5),
        sample(1.5, "all", 0.501),
        sample(1.6, "all", 0.02, "503"),
        sample(1.7, "all", 1.0, "TimeoutError"),
        sample(1.8, "critical", 0.1),
        sample(3.0, "all", 0.01),
    ]
    found = summarize(Plan(1, rate=1, seconds=2, warmup=1), answers)
    assert (found["all"].sent, found["all"].good, found["all"].late) == (4, 1, 1)
    assert (found["all"].refused, found["all"].failed, found["all"].goodput) == (1, 1, 0.5)
    assert (found["all"].p99_ok, found["all"].p99_refused) == pytest.approx((0.501, 0.02))
    assert found["critical"].good == 1
