"""The gate lets the stack pass as it is, and no worse one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gate import Verdict

pytestmark = pytest.mark.usefixtures("programs")

ROOT = Path(__file__).parent.parent.parent


def run(broken: str) -> subprocess.CompletedProcess[str]:
    """Judge the stack, broken so, in a process of its own: what measures coverage would be measured too."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    command = [sys.executable, "-m", "tests.benchmarks.broken", broken]
    return subprocess.run(  # noqa: S603 - our own
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


# The budget is measured on it; each version of Python has costs of its own.
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the budget holds for CPython 3.11")
def test_the_stack_keeps_to_its_budget() -> None:
    done = run("nothing")
    assert (done.returncode, done.stdout[:7]) == (0, "passed:"), done.stdout + done.stderr


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the budget holds for CPython 3.11")
def test_a_stack_that_is_half_as_dear_again_fails() -> None:
    done = run("dearer")
    assert (done.returncode, done.stdout[:7]) == (1, "FAILED:"), done.stdout + done.stderr
    assert "leaves 0.000 objects" in done.stdout


def test_a_stack_that_leaves_a_circle_now_and_then_fails() -> None:
    done = run("cyclic")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "leaves 0.000 objects" not in done.stdout


@pytest.mark.parametrize(
    ("ratio", "cyclic", "passed"),
    [(10.0, 0.0, True), (12.5, 0.009, True), (12.6, 0.0, False), (1.0, 0.01, False)],
)
def test_the_verdict_has_some_room_for_noise(ratio: float, cyclic: float, passed: bool) -> None:  # noqa: FBT001 - a table
    verdict = Verdict(ratio=ratio, cyclic_objects=cyclic, budget=10.0)
    assert verdict.passed is passed
    assert str(verdict).startswith("passed" if passed else "FAILED")
