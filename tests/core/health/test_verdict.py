"""A verdict changes after results in a row, never after one that is unlike the others."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, strategies as st

from postfacta_core.health._verdict import (
    STALE,
    CheckConfig,
    CheckReport,
    CheckResult,
    CheckState,
    fold,
    inspect,
    summarize,
)
from tests.kit.every import every

CONFIG = CheckConfig()
BOUND = CONFIG.bound
START = CheckState(since=0.0)


def after(results: str, config: CheckConfig = CONFIG, *, step: float = 1.0) -> CheckState:
    """Fold S and F, one each `step` seconds from the first at `step`; a dot is a run that never ended."""
    state = START
    for number, letter in enumerate(results, start=1):
        if letter != ".":
            error = "" if letter == "S" else "OSError"
            result = CheckResult(at=number * step, passed=letter == "S", seconds=0.1, error=error)
            state = fold(state, result, config)
    return state


def oracle(results: str, config: CheckConfig) -> bool | None:
    """Return the verdict from the whole history at once; a dot counts as `fall` failures."""
    verdict: bool | None = None
    history = ""
    for letter in results:
        history += "F" * config.fall if letter == "." else letter
        if history.endswith("F" * config.fall):
            verdict = False
        elif (letter == "S" and verdict is None) or history.endswith("S" * config.rise):
            verdict = True
    return verdict


@given(
    st.from_regex(r"([SF]\.?){0,30}", fullmatch=True),
    st.integers(min_value=1, max_value=5),
    st.integers(min_value=1, max_value=5),
)
def test_the_verdict_agrees_with_one_that_reads_the_whole_history(results: str, fall: int, rise: int) -> None:
    # A result is stale after 1.4 steps: a run that never ended makes the one before it stale.
    interval = 1.4 / max(2, fall) / 2.1
    config = CheckConfig(interval=interval, timeout=interval, fall=fall, rise=rise)
    state = after(results, config)
    now = len(results) + (0.5 if results.endswith(".") else 0.0)
    assert inspect("db", state, config, now=now).up is (oracle(results, config) is True)
    assert state.has_passed is ("S" in results)


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
    state = after("SSS")
    fresh = inspect("db", state, CONFIG, now=math.nextafter(3.0 + BOUND, 0))
    assert (fresh.up, fresh.passed, fresh.error) == (True, True, "")
    stale = inspect("db", state, CONFIG, now=3.0 + BOUND)
    assert (stale.up, stale.passed, stale.error, stale.since) == (False, False, STALE, 0.0)
    assert inspect("db", state, CONFIG, now=13.0 + BOUND).since == pytest.approx(10.0)


def test_after_a_stale_result_it_takes_as_many_successes_as_after_a_fall() -> None:
    late = CheckResult(at=1000.0, passed=True, seconds=0.1)
    once = fold(after("SSS"), late, CONFIG)
    assert once.up is False
    assert fold(once, replace(late, at=1001.0), CONFIG).up is True


def test_a_stale_result_breaks_a_row_of_successes() -> None:
    late = CheckResult(at=1000.0, passed=True, seconds=0.1)
    state = fold(after("FFFS"), late, CONFIG)
    assert (state.up, state.since) == (False, 3.0)


def test_a_check_is_not_down_for_longer_because_its_failures_went_stale() -> None:
    assert inspect("db", after("FFF"), CONFIG, now=1000.0).since == 997.0


def test_a_report_tells_the_last_result_and_its_age() -> None:
    report = inspect("db", after("SF"), CONFIG, now=5.0)
    assert report == CheckReport(
        name="db", critical=True, up=True, passed=False, latency=0.1, age=3.0, since=4.0, error="OSError"
    )


def test_a_check_without_a_result_is_not_up() -> None:
    report = inspect("db", START, CONFIG, now=5.0)
    assert report == CheckReport(
        name="db", critical=True, up=False, passed=False, latency=0.0, age=None, since=5.0, error=""
    )


def check(name: str, *, up: bool, critical: bool = True) -> CheckReport:
    return CheckReport(
        name=name, critical=critical, up=up, passed=up, latency=0.1, age=0.0, since=0.0, error=""
    )


def test_one_critical_check_that_is_down_fails_readiness_and_nothing_else() -> None:
    report = summarize(
        [check("a", up=True), check("b", up=False)], entered=True, draining=False, has_started=True
    )
    assert (report.live, report.ready, report.started) == (True, False, True)


def test_a_degraded_check_is_reported_and_no_more() -> None:
    down = check("mail", up=False, critical=False)
    report = summarize([check("db", up=True), down], entered=True, draining=False, has_started=True)
    assert report.ready
    assert report.checks[1] is down


def test_draining_is_live_and_started_but_not_ready() -> None:
    report = summarize([check("db", up=True)], entered=True, draining=True, has_started=True)
    assert (report.live, report.ready, report.started, report.draining) == (True, False, True, True)


def test_nothing_is_ready_or_started_before_it_has_begun() -> None:
    report = summarize([], entered=False, draining=False, has_started=True)
    assert (report.live, report.ready, report.started) == (True, False, False)
    assert summarize([], entered=True, draining=False, has_started=True).ready


def test_nothing_is_started_before_every_critical_check_has_passed() -> None:
    assert not summarize([], entered=True, draining=False, has_started=False).started


@given(st.floats(min_value=0, max_value=1, exclude_max=True), st.integers(min_value=1, max_value=9))
def test_no_result_is_stale_before_two_more_could_have_come(luck: float, fall: int) -> None:
    config = CheckConfig(interval=5.0, fall=fall)
    well = CheckState(since=0.0, up=True, passes=1)
    assert 4.5 <= config.wait(well, luck) <= 5.5
    assert 2 * (config.wait(well, luck) + config.timeout) <= config.bound


@pytest.mark.parametrize(
    "state",
    [
        CheckState(since=0.0),
        CheckState(since=0.0, failures=1),
        CheckState(since=0.0, up=True, failures=1),
        CheckState(since=0.0, up=False, failures=3),
        CheckState(since=0.0, up=False, passes=1),
    ],
    ids=str,
)
def test_a_check_in_doubt_or_down_runs_five_times_as_often(state: CheckState) -> None:
    config = CheckConfig(interval=5.0)
    assert [config.wait(state, luck) for luck in (0.0, 0.5)] == pytest.approx([0.9, 1.0])


@pytest.mark.parametrize(
    ("was_up", "seconds", "runs", "bound"),
    [(True, 1.0, 3, 5.0), (False, 0.0, 2, 2.0)],
    ids=["falls", "rises"],
)
def test_by_default_a_verdict_falls_within_five_seconds_and_rises_within_two(
    was_up: bool,  # noqa: FBT001 - a parameter of the test
    seconds: float,
    runs: int,
    bound: float,
) -> None:
    config, state, now = CheckConfig(), CheckState(since=0.0, up=was_up, passes=9, failures=0), 0.0
    if not was_up:
        state = CheckState(since=0.0, up=False, failures=9)
    count = 0
    while state.up is was_up:
        # Only the first run finds out by its time-out that nothing answers.
        now += config.wait(state, 1.0) + (seconds if count == 0 else 0.0)
        state = fold(state, CheckResult(at=now, passed=not was_up, seconds=0.0), config)
        count += 1
    assert count == runs
    assert now <= bound


def test_a_check_that_makes_no_sense_is_refused_at_once() -> None:
    cases: list[Callable[[], CheckConfig]] = [
        partial(CheckConfig, interval=0.0),
        partial(CheckConfig, interval=math.nan),
        partial(CheckConfig, interval=math.inf),
        partial(CheckConfig, timeout=0.0),
        partial(CheckConfig, timeout=math.nan),
        partial(CheckConfig, timeout=-1.0),
        partial(CheckConfig, fall=0),
        partial(CheckConfig, rise=0),
    ]
    with every() as case:
        for wrong in cases:
            with case(wrong), pytest.raises(ValueError, match=r"CheckConfig\.\w+ must be a"):
                wrong()
