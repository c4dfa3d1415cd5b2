"""What the tests share is itself tested."""

from __future__ import annotations

import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import anyio.lowlevel
import pytest

from tests.kit.bytecodes import bytecodes_of, refusal
from tests.kit.ending import end
from tests.kit.every import every
from tests.kit.names import pronouns
from tests.kit.short_timeouts import short_timeouts, virtual_modules


def test_every_case_that_fails_is_listed_and_none_hides_another() -> None:
    ran: list[str] = []
    with pytest.raises(AssertionError) as caught, every() as case:
        for name in ("good", "wrong", "broken", "unraised", "skipped", "last"):
            with case("the", name):
                ran.append(name)
                assert name != "wrong"
                if name == "broken":
                    raise LookupError(name)
                if name == "unraised":
                    with pytest.raises(ValueError, match="never"):
                        pass
                if name == "skipped":
                    pytest.skip("not here")
    assert ran == ["good", "wrong", "broken", "unraised", "skipped", "last"]
    report = str(caught.value)
    assert report.startswith("4 of 6 cases failed\n- the wrong (line ")
    assert "AssertionError: assert 'wrong' != 'wrong'" in report
    assert "- the broken (line " in report
    assert "LookupError: broken" in report
    assert "- the unraised (line " in report
    assert "- the skipped (line " in report
    assert "good" not in report
    assert isinstance(caught.value.__cause__, AssertionError)


def test_an_error_between_cases_keeps_the_failures_before_it() -> None:
    with pytest.raises(LookupError) as caught, every() as case:
        with case("first"):
            raise ValueError
        raise LookupError
    assert "- first (line " in caught.value.__notes__[0]


def test_every_case_passing_is_silent() -> None:
    with every() as case, case("one"):
        pass


def test_no_case_at_all_is_a_failure() -> None:
    with pytest.raises(AssertionError, match="no case ran"), every():
        pass


async def test_every_runs_cases_that_await(anyio_backend: str) -> None:
    with pytest.raises(AssertionError, match="1 of 2 cases"), every() as case:
        for number in (1, 2):
            with case(number):
                await anyio.lowlevel.checkpoint()
                assert number == 2


async def test_bytecodes_and_frames_are_counted_exactly() -> None:
    def nothing() -> None:
        """Do nothing."""

    async def work(times: int) -> None:
        for _ in range(times):
            nothing()

    ten, twenty, thirty = [await bytecodes_of(partial(work, times)) for times in (10, 20, 30)]
    assert [twenty.frames - ten.frames, thirty.frames - twenty.frames] == [10, 10]
    assert thirty.bytecodes - twenty.bytecodes == twenty.bytecodes - ten.bytecodes >= 70


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="newer ones count without a tracer")
async def test_a_count_is_the_same_beside_another_tracer() -> None:
    async def work() -> None:
        """Do nothing."""

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        frame.f_trace_opcodes = True
        return trace

    alone = await bytecodes_of(work)
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        beside = await bytecodes_of(work)
    finally:
        sys.settrace(before)
    assert beside == alone


def test_a_count_that_is_far_too_low_is_refused() -> None:
    assert [refusal(count, 1900) != "" for count in (259, 1329, 1330, 1900, 1901)] == [
        True,
        True,
        False,
        False,
        True,
    ]


SHORT = [
    *("Timeout(0.1)", "Timeout(seconds=x, call_timeout=4)", "harden(app, request_timeout=0.5)"),
    *("guards.Timeout(2)", "time_limit(1)", 'Bulkhead("db", 1, max_wait=4.9)'),
]
LONG = [
    *("Timeout(5)", "Timeout(SOON)", "anyio.fail_after(1)", "sleep(0.1)", "f(timeout=True)"),
    *(
        "f(timeout=0)",
        "f(timeout=None)",
        "Timeout()",
        "f(**options)",
        "f(ManualClock(), timeout=1)",
    ),
]


def test_a_timeout_of_the_product_below_five_seconds_is_seen() -> None:
    with every() as case:
        for text in SHORT:
            with case(text):
                assert short_timeouts(f"\n{text}") == [2]
        for text in LONG:
            with case(text):
                assert short_timeouts(text) == []


def test_modules_that_a_conftest_lists_are_virtual() -> None:
    tests = Path(__file__).parent
    modules = virtual_modules(tests)
    assert {tests / "core/guards/test_retry.py", tests / "core/test_events.py"} <= modules
    assert tests / "core/asgi/test_silence.py" in modules
    assert [module for module in modules if not module.exists()] == []


def test_a_pronoun_is_found_wherever_a_name_is_given() -> None:
    text = """
def told(row, *, one=1):
    known = found, rows = row, one
    self.kept = given(it=known)
    return [each for each in rows if (_it := each)]
_TOLD, OTHER = "told", "other"
"""
    assert pronouns(text) == [
        (2, "one"),
        (2, "told"),
        (3, "found"),
        (3, "known"),
        (4, "kept"),
        (5, "_it"),
        (5, "each"),
        (6, "_TOLD"),
    ]


# A server and its worker, which ignore a request to stop.
_DEAF = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.fork()
os.write(1, b"here\\n")
time.sleep(20)
"""


@pytest.mark.usefixtures("programs")
def test_a_server_that_drains_ends_at_once_with_its_workers() -> None:
    command = [sys.executable, "-c", _DEAF]
    with subprocess.Popen(  # noqa: S603 - our own program
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["here\n", "here\n"]
        end(process)
        # The pipe is at its end when the last process that holds it is gone.
        assert process.stdout.read() == ""
        end(process)
    assert process.returncode == -signal.SIGKILL
