"""The clock of the tests leaves out standstills of the process, and nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio
import pytest
import trio

from postfacta_core.clock import MONOTONIC
from postfacta_core.guards import Timeout
from tests.kit import fair
from tests.kit.every import every

ROOT = Path(__file__).parent.parent
# Seconds. The time-out is shorter than the standstill, and long for all else that the script does.
STANDSTILL, TIMEOUT = 2.0, 1.9
SCRIPT = f"""
import sys
import anyio
from tests.kit import fair

async def main():
    with anyio.fail_after({TIMEOUT}):
        print("ready", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)

_, kind, backend = sys.argv
options = fair.in_fair_time(backend)[1] if kind == "fair" else {{}}
try:
    anyio.run(main, backend=backend, backend_options=dict(options))
except TimeoutError:
    print("late")
else:
    print("in time")
"""
# A busy machine makes the thread late that beats. One of so many tries meets none of it.
TRIES = 50


def own_clock() -> Callable[[], float]:
    """Return the clock of the loop that runs."""
    try:
        return asyncio.get_running_loop().time
    except RuntimeError:
        return trio.current_time


async def test_both_loops_and_the_product_read_one_clock() -> None:
    before = MONOTONIC()
    assert before <= own_clock()() <= MONOTONIC()
    assert MONOTONIC is fair.now
    assert Timeout(1)._clock is fair.now  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_loop_that_a_mark_names_is_fair() -> None:
    assert isinstance(asyncio.get_running_loop(), fair.FairLoop)


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})])
async def test_a_loop_with_options_is_as_they_say() -> None:
    assert not isinstance(asyncio.get_running_loop(), fair.FairLoop)
    assert own_clock()() == pytest.approx(time.monotonic(), abs=600)


def least_error(wait: Callable[[], None]) -> float:
    """Return by how much the clock is behind the machine's after a wait, at the best of some tries."""
    errors: list[float] = []
    while len(errors) < TRIES and not (errors and min(errors) < 0.001):
        began = time.monotonic() - MONOTONIC()
        wait()
        errors.append(time.monotonic() - MONOTONIC() - began)
    assert min(errors) > -0.001
    return min(errors)


def test_time_without_a_standstill_is_the_machines() -> None:
    assert least_error(lambda: time.sleep(0.2)) < 0.005  # noqa: TID251 - there is no loop to block


def test_a_loop_that_is_blocked_is_late_by_all_of_it() -> None:
    async def block() -> None:
        time.sleep(0.2)  # noqa: ASYNC251, TID251 - this is what is tested

    assert (
        least_error(lambda: anyio.run(block, backend_options={"loop_factory": fair.FairLoop}))
        < 0.005
    )


@contextmanager
def running(kind: str, backend: str) -> Generator[subprocess.Popen[str]]:
    """Run the script until it waits for a line."""
    command = [sys.executable, "-c", SCRIPT, kind, backend]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as process:  # noqa: S603
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_standstill_ends_no_timeout_in_fair_time(backend: str) -> None:
    ends: dict[str, str] = {}
    with ExitStack() as stack:
        for kind in ("plain", "fair"):
            process = stack.enter_context(running(kind, backend))
            process.send_signal(signal.SIGSTOP)
            time.sleep(STANDSTILL)  # noqa: TID251 - there is no loop to block
            process.send_signal(signal.SIGCONT)
            # Late enough for a timer that is due.
            time.sleep(0.3)  # noqa: TID251
            ends[kind] = process.communicate("\n", timeout=60)[0]
    assert ends == {"plain": "late\n", "fair": "in time\n"}


def output_of(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )


FORKS = """
import os, sys, time
from tests.kit import fair
time.sleep(0.1)
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
began, real = fair.now(), time.monotonic()
time.sleep(0.3)
took, real = fair.now() - began, time.monotonic() - real
os._exit(0 if abs(took - real) < 0.01 else 1)
"""
IMPORTS_LATE = "import postfacta_core.context, tests.kit.fair"


@pytest.mark.usefixtures("programs")
def test_the_clock_goes_on_in_a_forked_process_and_refuses_to_come_late() -> None:
    with every() as case:
        with case("forked"):
            assert output_of(FORKS).returncode == 0
        with case("late"):
            done = output_of(IMPORTS_LATE)
            assert "ImportError: imported before the clock of the tests: postfacta_" in done.stderr
