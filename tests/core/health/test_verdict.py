"""A verdict changes after results in a row, never after one that is unlike the others."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
from hypothesis import given, strategies as st

from postfacta_core.health._verdict import STALE, Watched
from postfacta_core.health.registry import CheckReport
from tests.kit.every import every

OPTIONS: dict[str, Any] = {"critical": True, "interval": 2.0, "timeout": 1.0, "fall": 3, "rise": 2}


def watched(**options: Any) -> Watched:
    """Make one that is as by default in all else; the check itself is not run."""
    return Watched("db", partial(pytest.fail, "run"), 0.0, **OPTIONS | options)


BOUND = watched().bound


def count(check: Watched, letter: str, at: float) -> Watched:
    check.count(at, 0.1, "" if letter == "S" else "OSError")
    return check


def after(results: str, check: Watched | None = None) -> Watched:
    """Count S and F, one each second from 1; a dot is a run that never ended."""
    check = check or watched()
    for number, letter in enumerate(results, start=1):
        if letter != ".":
            count(check, letter, float(number))
    return check


def oracle(results: str, *, fall: int, rise: int) -> bool | None:
    """Return the verdict from the whole history at once; a dot counts as `fall` failures."""
    verdict: bool | None = None
    history = ""
    for letter in results:
        history += "F" * fall if letter == "." else letter
        if history.endswith("F" * fall):
            verdict = False
        elif (letter == "S" and verdict is None) or history.endswith("S" * rise):
            verdict = True
    return verdict


@given(
    st.from_regex(r"([SF]\.?){0,30}", fullmatch=True),
    st.integers(min_value=1, max_value=5),
    st.integers(min_value=1, max_value=5),
)
def test_the_verdict_agrees_with_one_that_reads_the_whole_history(
    results: str, fall: int, rise: int
) -> None:
    # A result is stale after 1.4 steps: a run that never ended makes the one before it stale.
    interval = 1.4 / max(2, fall) / 2.1
    check = after(results, watched(interval=interval, timeout=interval, fall=fall, rise=rise))
    now = len(results) + (0.5 if results.endswith(".") else 0.0)
    assert check.report(now).up is (oracle(results, fall=fall, rise=rise) is True)
    assert check.has_passed is ("S" in results)


def test_only_results_in_a_row_change_the_verdict() -> None:
    cases: list[tuple[str, bool | None]] = [
        ("", None),
        ("F", None),
        ("FF", None),
        ("FFF", False),
        ("S", True),
        ("FS", True),
        ("SFF", True),
        ("SFFF", False),
        ("SFFSFFSFF", True),
        ("SFSFSFSFSFSF", True),
        ("SFFFS", False),
        ("SFFFSS", True),
        ("SFFFSFSFSF", False),
        ("FFFS", False),
        ("FFFSS", True),
    ]
    with every() as case:
        for results, up in cases:
            with case(results, up):
                assert after(results).up is up


def test_the_verdict_holds_since_the_result_that_changed_it() -> None:
    assert after("SSS").since == 1.0
    assert after("SSSFF").since == 1.0
    assert after("SSSFFFF").since == 6.0
    assert after("SSSFFFFSSS").since == 9.0


def test_a_stale_result_counts_as_failed_from_the_bound_on() -> None:
    check = after("SSS")
    fresh = check.report(math.nextafter(3.0 + BOUND, 0))
    assert (fresh.up, fresh.passed, fresh.error) == (True, True, "")
    stale = check.report(3.0 + BOUND)
    assert (stale.up, stale.passed, stale.error, stale.since) == (False, False, STALE, 0.0)
    assert check.report(13.0 + BOUND).since == pytest.approx(10.0)


@pytest.mark.parametrize("is_looked_at", [False, True])
def test_after_a_stale_result_it_takes_as_many_successes_as_after_a_fall(
    *, is_looked_at: bool
) -> None:
    check = after("SSS")
    if is_looked_at:
        check.report(900.0)
    assert count(check, "S", 1000.0).up is False
    assert check.since == 3.0 + BOUND
    assert count(check, "S", 1001.0).up is True


def test_a_stale_result_breaks_a_row_of_successes() -> None:
    check = count(after("FFFS"), "S", 1000.0)
    assert (check.up, check.since) == (False, 3.0)


def test_a_check_is_not_down_for_longer_because_its_failures_went_stale() -> None:
    assert after("FFF").report(1000.0).since == 997.0


def test_a_report_tells_the_last_result_and_its_age() -> None:
    assert after("SF").report(5.0) == CheckReport(
        name="db",
        critical=True,
        up=True,
        passed=False,
        latency=0.1,
        age=3.0,
        since=4.0,
        error="OSError",
    )


def test_a_check_without_a_result_is_not_up() -> None:
    nothing = CheckReport(
        name="db", critical=True, up=False, passed=False, latency=0.0, age=None, since=5.0, error=""
    )
    assert watched().report(5.0) == nothing
    check = after("S")
    check.begin(0.0)
    assert check.report(5.0) == nothing


@given(st.floats(min_value=0, max_value=1, exclude_max=True), st.integers(min_value=1, max_value=9))
def test_no_result_is_stale_before_two_more_could_have_come(luck: float, fall: int) -> None:
    check = after("S", watched(interval=5.0, fall=fall))
    assert 4.5 <= check.wait(luck) <= 5.5
    assert 2 * (check.wait(luck) + check.timeout) <= check.bound


@pytest.mark.parametrize("results", ["", "F", "SF", "FFF", "FFFS"])
def test_a_check_in_doubt_or_down_runs_five_times_as_often(results: str) -> None:
    check = after(results, watched(interval=5.0))
    assert [check.wait(luck) for luck in (0.0, 0.5)] == pytest.approx([0.9, 1.0])


@pytest.mark.parametrize(
    ("before", "seconds", "runs", "bound"),
    [("S", 1.0, 3, 5.0), ("FFF", 0.0, 2, 2.0)],
    ids=["falls", "rises"],
)
def test_by_default_a_verdict_falls_within_five_seconds_and_rises_within_two(
    before: str, seconds: float, runs: int, bound: float
) -> None:
    check = after(before)
    began = now = float(len(before))
    was_up, done = check.up, 0
    while check.up is was_up:
        # Only the first run finds out by its time-out that nothing answers.
        now += check.wait(1.0) + (seconds if done == 0 else 0.0)
        count(check, "F" if was_up else "S", now)
        done += 1
    assert done == runs
    assert now - began <= bound


async def never() -> None:
    pytest.fail("run")
