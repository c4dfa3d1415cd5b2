"""The plugin that stops workers at random stops these, lets them go on, and touches nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit import stopping
from tests.kit.every import every
from tests.kit.stopping import Stopper
from tests.kit.waiting import wait_until

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent
PLUGIN = "tests.kit.stopping"
SUITE = """
import os, time

def test_stands_still_now_and_then():
    # Two beats that are far apart: another process stopped this one in between.
    end = time.monotonic() + 60
    while time.monotonic() < end:
        began = time.monotonic()
        time.sleep(0.01)
        if time.monotonic() - began > 0.2:
            return
    raise AssertionError("it was never stopped")
"""


def is_stopped(pid: int) -> bool:
    return "\nState:\tT" in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")


@pytest.mark.usefixtures("programs")
def test_a_child_is_stopped_and_goes_on_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_PAUSE", 0.05)
    stopper = Stopper(seed=7)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        try:
            stopper.add(child.pid)
            stopper.begin()
            wait_until(lambda: is_stopped(child.pid))
            stopper.end()
            assert stopper.count >= 1
            assert not is_stopped(child.pid)
            stopper.remove(child.pid)
        finally:
            child.kill()


def test_a_process_that_is_no_child_is_refused() -> None:
    stopper = Stopper(seed=7)
    with every() as case:
        for pid in (1, os.getpid(), os.getppid(), 2**22 + 1):
            with case(pid), pytest.raises(ValueError, match=f"^{pid} is no child of this process$"):
                stopper.add(pid)


@pytest.mark.usefixtures("programs")
def test_a_run_stops_its_workers_and_prints_the_seed(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # A worker that is stopped while it loads Locust and others is not stopped in the test.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(SUITE)
    with every() as case:
        with case("with workers"):
            run = pytester.runpytest_subprocess(
                "-p", "xdist", "-p", PLUGIN, "-n1", "--stopping-seed=7"
            )
            run.assert_outcomes(passed=1)
            run.stdout.fnmatch_lines(
                ["stopping: *--stopping-seed=7", "stopping: * standstills, --stopping-seed=7"]
            )
        with case("without workers"):
            run = pytester.runpytest_subprocess("-p", PLUGIN)
            run.stderr.fnmatch_lines(["*stops workers: it needs -n"])
