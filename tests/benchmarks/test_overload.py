"""The generator reports what users would feel, above all when a server does nothing at all."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks.overload import plot, report
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
    assert (summary.sent, summary.good, summary.failed) == (50, 50, 0)
    assert 0.02 <= summary.p50_ok < 0.3
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


def _row(variant: str, times: int, goodput: float, **more: object) -> report.Row:
    row = {
        "server": "uvicorn",
        "handler": "cpu",
        "variant": variant,
        "times": times,
        "capacity": 100.0,
    }
    row |= {"cost": 0.01, "refusal": 0.0001}
    counts = {"sent": 9, "good": 9, "late": 0, "refused": 0, "failed": 0, "server_cpu": 1.0}
    return {**row, **counts, "goodput": goodput, "p99_ok": 0.1, "p99_refused": 0.05, **more}


def test_the_report_tells_what_was_missed() -> None:
    fine = [_row("ours", 5, 97.0), _row("ours", 10, 95.0), _row("plain", 10, 0.0)]
    assert report.missed(fine) == []
    assert (
        "| uvicorn | cpu | load shedding | - | - | 97.0% | 95.0% | 100 ms | 50 ms | 0% | 90.9% |"
        in report.table(fine)
    )
    bad = [
        _row("ours", 5, 96.0),
        _row("ours", 10, 95.0, p99_ok=0.31),
        _row("mix", 5, 95.0, critical={"sent": 100, "good": 98, "p99_ok": 0.1}),
    ]
    assert len(report.missed(bad)) == 3
    assert "98 of 100 | 2.0%" in report.table(bad)
    assert "goodput     96/s 96.0%" in report.line(bad[0])


def test_a_picture_is_well_formed(tmp_path: Path) -> None:
    panel = plot.Panel("a < b", "across", "up", {"one": [(1, 2), (2, 3)], "two": [(1, 0), (2, 9)]})
    plot.write(tmp_path / "picture.svg", [panel, panel, panel])
    root = ET.parse(tmp_path / "picture.svg").getroot()  # noqa: S314 - we wrote it
    assert len(root.findall(".//{http://www.w3.org/2000/svg}polyline")) == 6
