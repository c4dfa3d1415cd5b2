"""A test that failed while the machine stood still is void, and runs again.

A test of a tier that waits for the machine's own clock, such as `clock`, measures two things: what
it is about, and the machine. A process beside it sleeps for 10 ms over and over, and writes down
when it woke up late. A failure in such a moment proves nothing. A failure on a steady machine is
never void, nor is the last of three.

Each void failure is counted in the last lines of the run, with the standstill that made it void.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import pytest
from _pytest.runner import runtestprotocol

__all__ = ["MOST", "Pace"]

MOST: Final = {"clock": 0.05, "process": 0.5, "browser": 0.5}
"""Seconds of a standstill that the tests of a tier tolerate.

What waits for programs has 5 s or more, and the thresholds of most `clock` tests are shorter than a
second.
"""

_RUNS: Final = 3
_SAMPLER: Final = """
import select, sys, time
with open(sys.argv[1], "a", buffering=1) as file:
    began = time.monotonic()
    print(flush=True)
    while not select.select([0], [], [], 0.01)[0]:
        now = time.monotonic()
        if now - began > 0.05:
            file.write(f"{now} {now - began - 0.01}\\n")
        began = now
"""
_VOID: Final = "void"
_PACE = pytest.StashKey["Pace"]()


class Pace:
    """Knows when the machine stood still, from its beginning on."""

    def __init__(self) -> None:
        number, name = tempfile.mkstemp()
        os.close(number)
        self._file = Path(name)
        self._sampler = subprocess.Popen(  # noqa: S603
            [sys.executable, "-S", "-E", "-c", _SAMPLER, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._sampler.stdout is not None
        self._sampler.stdout.readline()

    def longest_since(self, began: float) -> float:
        """Return the seconds of the longest standstill that ended after a monotonic instant."""
        lines = self._file.read_text(encoding="utf-8").splitlines()
        ends = [tuple(map(float, line.split())) for line in lines]
        return max((seconds for end, seconds in ends if end > began), default=0.0)

    @property
    def pid(self) -> int:
        """The id of the process beside this one."""
        return self._sampler.pid

    def end(self) -> None:
        """End the process beside this one."""
        self._sampler.communicate()
        self._file.unlink()


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the process beside this one."""
    if (pace := config.stash.get(_PACE, None)) is not None:
        pace.end()


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test again that failed while the machine stood still."""
    most = next((MOST[tier] for tier in MOST if item.get_closest_marker(tier)), None)
    if most is None:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for _ in range(_RUNS - 1):
        began = time.monotonic()
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        longest = _pace_of(item.config).longest_since(began)
        failures = [report for report in reports if report.failed]
        if longest <= most or not failures:
            break
        _report(item, [_void(report, longest) for report in failures])
    else:
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
    _report(item, reports)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_report_teststatus(report: Any) -> tuple[str, str, str] | None:
    """Count what is void by itself."""
    return ("void", "V", "VOID") if report.outcome == _VOID else None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was void, and by which standstill."""
    for report in terminalreporter.stats.get(_VOID, []):
        terminalreporter.write_line(f"void: {report.nodeid}: {report.sections[-1][1]}")


def _void(report: pytest.TestReport, longest: float) -> pytest.TestReport:
    report.outcome = _VOID  # type: ignore[assignment] # as plugins that run a test again do
    report.sections.append((_VOID, f"the machine stood still for {longest:.2f} s"))
    return report


def _report(item: pytest.Item, reports: list[pytest.TestReport]) -> None:
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)


def _pace_of(config: pytest.Config) -> Pace:
    if _PACE not in config.stash:
        config.stash[_PACE] = Pace()
    return config.stash[_PACE]
