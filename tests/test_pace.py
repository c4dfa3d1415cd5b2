"""What fails while the machine stands still runs again; what fails on a steady machine fails."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.kit.pace import Pace
from tests.kit.waiting import wait_until

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.usefixtures("programs")

ROOT = Path(__file__).parent.parent
CONFTEST = """
    import tests.kit.pace as pace

    class Scripted(pace.Pace):
        standstills = iter({standstills})

        def longest_since(self, began):
            return next(self.standstills)

    pace.Pace = Scripted
"""
SUITE = """
    import pytest

    runs = []

    @pytest.fixture
    def number():
        runs.append("begun")
        yield runs.count("begun")
        runs.append("ended")

    @pytest.mark.{tier}
    def test_fails_{failures}_times(number):
        assert runs.count("ended") == number - 1
        assert number > {failures}
"""


WORKER = ("-p", "xdist", "-n", "1")


@pytest.mark.parametrize(
    ("tier", "failures", "standstills", "counts", "options"),
    [
        ("clock", 1, [0.06, 0.0], {"void": 1, "passed": 1}, ()),
        ("clock", 2, [0.06, 0.06], {"void": 2, "passed": 1}, ()),
        ("clock", 3, [0.06, 0.06], {"void": 2, "failed": 1}, ()),
        ("clock", 1, [0.04], {"failed": 1}, ()),
        ("clock", 0, [0.9], {"passed": 1}, ()),
        ("process", 1, [0.4], {"failed": 1}, ()),
        ("process", 1, [0.6, 0.0], {"void": 1, "passed": 1}, ()),
        ("fast", 1, [], {"failed": 1}, ()),
        ("process", 1, [0.6, 0.0], {"void": 1, "passed": 1}, WORKER),
    ],
)
def test_a_failure_is_void_only_while_the_machine_stands_still(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    tier: str,
    failures: int,
    standstills: list[float],
    counts: dict[str, int],
    options: tuple[str, ...],
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest(CONFTEST.format(standstills=standstills))
    pytester.makepyfile(SUITE.format(tier=tier, failures=failures))
    pytester.makeini("[pytest]\nmarkers =\n  clock\n  process\n  fast\n")
    result = pytester.runpytest_subprocess("-p", "tests.kit.pace", *options)
    assert result.parseoutcomes() == counts
    reasons = [line for line in result.outlines if line.startswith("void: ")]
    assert len(reasons) == counts.get("void", 0)
    assert all("the machine stood still for 0." in line for line in reasons)


def test_a_standstill_is_seen_and_what_was_before_is_not() -> None:
    pace = Pace()
    try:
        os.kill(pace.pid, signal.SIGSTOP)
        time.sleep(0.3)  # noqa: TID251 - the standstill is what the test is about
        os.kill(pace.pid, signal.SIGCONT)
        wait_until(lambda: pace.longest_since(0.0) >= 0.25)
        assert pace.longest_since(time.monotonic()) == 0.0
    finally:
        pace.end()
