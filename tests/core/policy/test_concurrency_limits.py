"""A limit follows what a service can do, never learns an overload as normal, and spares who is merely slow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, strategies as st

import benchmarks.simulate
from benchmarks.simulate import SCENARIOS, STRATEGIES, Course, Scenario, simulate
from postfacta_core.policy.concurrency import LimitStrategy, Window
from postfacta_core.policy.concurrency_limits import Gradient, LatencyTarget, Vegas

QUIET = Window(latency=0.05, lag=0.0, rate=100.0, dropped=0.0, used=0.6)
FULL = replace(QUIET, used=1.0)


class Run:
    """A strategy and its limit, one window a second."""

    def __init__(self, strategy: LimitStrategy, limit: float = 100.0) -> None:
        self.strategy = strategy
        self.limit = limit
        self.now = 0.0

    def after(self, window: Window, times: int = 1, **changes: float) -> float:
        for _ in range(times):
            self.now += 1.0
            self.limit = self.strategy.resize(self.limit, replace(window, **changes), self.now)
        return self.limit


# --- the latency target ---


@pytest.mark.parametrize(
    ("given_target", "latency", "target"),
    [(None, 0.005, 0.1), (None, 2.0, 4.0), (0.3, 2.0, 0.3), (0.05, 0.005, 0.05)],
)
def test_the_target_suits_the_service_unless_it_is_given(
    given_target: float | None, latency: float, target: float
) -> None:
    strategy = LatencyTarget(given_target)
    assert strategy.target == (given_target or math.inf)
    Run(strategy).after(QUIET, latency=latency)
    assert strategy.target == pytest.approx(target)


def test_it_doubles_until_it_was_cut_once_and_takes_steps_from_then_on() -> None:
    run = Run(LatencyTarget(0.1))
    assert run.after(QUIET, latency=1e-9) == pytest.approx(200)
    assert run.after(FULL, latency=0.2) == pytest.approx(100)
    assert run.after(QUIET, latency=1e-9) == pytest.approx(125)
    assert run.after(QUIET, latency=0.08) == pytest.approx(125 * 1.05)
    # However near the target: by one.
    assert run.after(QUIET, latency=0.1) == pytest.approx(125 * 1.05 + 1)


@pytest.mark.parametrize(("latency", "limit"), [(0.101, 95), (0.125, 80), (0.4, 50)])
def test_it_cuts_by_what_is_above_the_target_a_twentieth_at_least_and_a_half_at_most(
    latency: float, limit: float
) -> None:
    assert Run(LatencyTarget(0.1)).after(FULL, latency=latency) == pytest.approx(limit)


@pytest.mark.parametrize(("used", "limit"), [(0.79, 100), (0.8, 50)])
def test_it_does_not_cut_what_nobody_uses(used: float, limit: float) -> None:
    assert Run(LatencyTarget(0.1)).after(FULL, latency=0.2, used=used) == pytest.approx(limit)


def test_a_loop_that_is_late_cuts_below_what_runs_however_little_of_the_limit_that_is() -> None:
    run = Run(LatencyTarget())
    assert run.after(QUIET, lag=0.05, used=0.3) == pytest.approx(15)
    assert Run(LatencyTarget()).after(QUIET, lag=0.05, used=1.5) == pytest.approx(50)
    assert Run(LatencyTarget(lag=0.1)).after(QUIET, lag=0.05) > 100
    # It goes nearly all the way at once, and no further than to a quarter.
    assert Run(LatencyTarget()).after(FULL, lag=0.075) == pytest.approx(100 / 3)
    assert Run(LatencyTarget()).after(FULL, lag=0.5) == pytest.approx(25)
    # A latency that is worse still may have another cause.
    assert Run(LatencyTarget(0.1)).after(FULL, lag=0.075, latency=0.4) == pytest.approx(50)


def test_requests_that_ran_out_of_time_are_a_reason_to_cut_whatever_their_length() -> None:
    assert Run(LatencyTarget(0.1)).after(FULL, dropped=0.45) > 100
    assert Run(LatencyTarget(0.1)).after(FULL, dropped=0.6) == pytest.approx(100 / 1.2)


def test_a_latency_that_a_cut_does_not_lower_comes_from_elsewhere_and_becomes_normal() -> None:
    run = Run(LatencyTarget())
    run.after(QUIET, latency=0.02)
    before = run.limit
    assert run.after(FULL, latency=2.0, rate=100) == pytest.approx(before / 2)
    assert run.after(FULL, latency=2.0, rate=50) == pytest.approx(before)
    assert isinstance(run.strategy, LatencyTarget)
    assert run.strategy.target == pytest.approx(4.0)
    assert run.after(FULL, latency=2.0, rate=100) > before


def test_a_queue_of_our_own_is_cut_on_and_on_although_it_shrinks_slowly() -> None:
    run = Run(LatencyTarget())
    run.after(QUIET, latency=0.02)
    run.after(FULL, latency=2.0)
    # As much is served as before: what was cut was a queue.
    for latency in (2.0, 1.9, 2.1):
        before = run.limit
        assert run.after(FULL, latency=latency) == pytest.approx(before / 2)


def test_a_cut_that_helped_is_no_mistake_although_less_is_served() -> None:
    run = Run(LatencyTarget())
    run.after(QUIET, latency=0.02)
    before = run.limit
    run.after(FULL, latency=2.0, rate=100)
    assert run.after(FULL, latency=1.7, rate=50) == pytest.approx(before / 4)


def test_where_cuts_cease_to_help_is_where_the_limit_goes_back_to() -> None:
    run = Run(LatencyTarget())
    run.after(QUIET, latency=0.02)
    run.after(FULL, latency=2.0, rate=100)
    # Half of that was a queue; the rest is how long it takes.
    helped = run.limit
    run.after(FULL, latency=1.0, rate=100)
    assert run.after(FULL, latency=1.0, rate=50) == pytest.approx(helped)


def test_a_latency_that_rises_in_the_middle_of_the_test_starts_it_again() -> None:
    run = Run(LatencyTarget())
    run.after(QUIET, latency=0.02)
    before = run.limit
    run.after(FULL, latency=2.0, rate=100)
    assert run.after(FULL, latency=2.3, rate=60) == pytest.approx(before / 4)
    # But it goes back to where the first cut was made.
    assert run.after(FULL, latency=2.3, rate=30) == pytest.approx(before)


def test_a_limit_at_its_minimum_is_not_held_there_by_a_latency_that_is_not_its_own() -> None:
    run = Run(LatencyTarget(), limit=4)
    run.after(QUIET, latency=0.02)
    run.limit = 4.0
    for _ in range(10):
        assert run.after(FULL, latency=0.3) == 2
        run.limit = 4.0
    assert run.after(FULL, latency=0.3) == 4
    assert run.after(FULL, latency=0.3) > 4


def test_a_given_target_is_never_put_to_the_test() -> None:
    run = Run(LatencyTarget(0.1))
    for _ in range(30):
        run.after(FULL, latency=2.0, rate=run.limit)
    assert run.limit < 1e-6


def test_what_became_normal_is_tested_again_after_a_minute() -> None:
    run = Run(LatencyTarget())
    run.after(QUIET, latency=0.02)
    run.after(FULL, latency=2.0, rate=100)
    run.after(FULL, latency=2.0, rate=50)
    run.after(FULL, 59, latency=2.0, rate=100)
    grown = run.limit
    assert run.after(FULL, latency=2.0, rate=100) == pytest.approx(grown / 2)


def test_what_became_normal_within_the_minute_is_tested_against_what_was_normal_before() -> None:
    strategy = LatencyTarget()
    run = Run(strategy)
    run.after(QUIET, latency=0.02)
    for latency in (2.0, 9.0):
        run.after(FULL, latency=latency, rate=100)
        run.after(FULL, latency=latency, rate=50)
    assert strategy.target == pytest.approx(18.0)
    run.after(FULL, 60, latency=9.0, rate=100)
    assert strategy.target == pytest.approx(0.1)


def test_what_became_normal_stays_so_if_nobody_needs_more_when_the_minute_is_over() -> None:
    run = Run(LatencyTarget())
    run.after(QUIET, latency=0.02)
    run.after(FULL, latency=2.0, rate=100)
    run.after(FULL, latency=2.0, rate=50)
    run.after(replace(QUIET, used=0.3), 61, latency=2.0)
    assert isinstance(run.strategy, LatencyTarget)
    assert run.strategy.target == pytest.approx(4.0)


def test_a_lag_that_is_not_our_own_is_put_up_with_to_four_times_what_it_may_be() -> None:
    run = Run(LatencyTarget())
    run.after(QUIET)
    before = run.limit
    run.after(FULL, lag=0.06, rate=100)
    assert run.after(FULL, lag=0.06, rate=50) == pytest.approx(before)
    assert run.after(FULL, lag=0.089) > before
    run = Run(LatencyTarget())
    run.after(QUIET)
    run.after(FULL, lag=0.5, rate=100)
    before = run.limit
    run.after(FULL, lag=0.5, rate=50)
    before = run.limit
    assert run.after(FULL, lag=0.5) < before
    # A minute later it is strict again.
    run.after(QUIET, 62)
    before = run.limit
    assert run.after(FULL, lag=0.05) == pytest.approx(before / 2)


# --- the latency without load ---


def test_the_latency_without_load_falls_at_once_and_rises_only_twice_a_minute_and_without_load() -> None:
    strategy = LatencyTarget()
    run = Run(strategy)
    run.after(QUIET, latency=1.0)
    run.after(QUIET, latency=0.2)
    assert strategy.target == pytest.approx(0.4)
    run.after(replace(QUIET, used=0.5), 600, latency=0.3)
    assert strategy.target == pytest.approx(0.4)
    run.after(replace(QUIET, used=0.49), 30, latency=3.0)
    assert strategy.target == pytest.approx(0.4 * math.sqrt(2))
    run.after(replace(QUIET, used=0.49), 30, latency=3.0)
    assert strategy.target == pytest.approx(0.8)
    run.after(replace(QUIET, used=0.49), 600, latency=3.0)
    assert strategy.target == pytest.approx(6.0)


def test_requests_that_ran_out_of_time_teach_nothing_about_the_latency_without_load() -> None:
    strategy = LatencyTarget()
    run = Run(strategy)
    run.after(QUIET, latency=1.0)
    run.after(FULL, latency=0.05, dropped=0.5)
    assert strategy.target == pytest.approx(2.0)


# --- the other two ---


@pytest.mark.parametrize(
    ("latency", "limit"),
    [(0.05, 112), (0.0509, 112), (0.0525, 102), (0.0545, 100), (0.06, 98)],
)
def test_vegas_keeps_a_queue_between_its_bounds(latency: float, limit: float) -> None:
    run = Run(Vegas())
    run.after(QUIET, latency=0.05)
    run.limit = 100
    assert run.after(FULL, latency=latency) == pytest.approx(limit)


def test_vegas_cuts_when_a_request_ran_out_of_time() -> None:
    assert Run(Vegas()).after(FULL, dropped=0.1) == pytest.approx(98)
    assert Run(Vegas(), limit=4).after(FULL, dropped=0.1) == pytest.approx(3)


@pytest.mark.parametrize(("latency", "limit"), [(0.05, 100.8), (0.075, 100.8), (0.1, 95.8), (9.0, 90.8)])
def test_the_gradient_follows_the_latency_and_leaves_room_for_a_queue(latency: float, limit: float) -> None:
    run = Run(Gradient())
    run.after(QUIET, latency=0.05)
    run.limit = 100
    assert run.after(FULL, latency=latency) == pytest.approx(limit)


def test_the_gradient_halves_when_half_of_the_requests_ran_out_of_time() -> None:
    run = Run(Gradient())
    assert run.after(FULL, dropped=0.5) == pytest.approx(50)
    # Nothing else was measured so far.
    assert run.after(FULL, dropped=0.4) == pytest.approx(50.8)


@pytest.mark.parametrize("strategy", [LatencyTarget, Vegas, Gradient])
@given(
    windows=st.lists(
        st.builds(
            Window,
            latency=st.floats(1e-6, 1e3),
            lag=st.floats(0, 10),
            rate=st.floats(0, 1e5),
            dropped=st.floats(0, 1),
            used=st.floats(0, 3),
        ),
        max_size=50,
    )
)
def test_whatever_is_measured_gives_a_number(
    strategy: Callable[[], LimitStrategy], windows: list[Window]
) -> None:
    run = Run(strategy())
    for window in windows:
        run.limit = min(max(run.limit, 4.0), 1000.0)
        assert math.isfinite(run.after(window))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (LatencyTarget, {"target": 0.0}),
        (LatencyTarget, {"target": math.inf}),
        (LatencyTarget, {"floor": 0.0}),
        (LatencyTarget, {"lag": math.nan}),
        (LatencyTarget, {"tolerance": 1.0}),
        (Gradient, {"tolerance": 0.9}),
        (Gradient, {"queue": 0.0}),
        (Gradient, {"smoothing": 0.0}),
        (Gradient, {"smoothing": 1.1}),
    ],
)
def test_what_makes_no_sense_is_refused(kind: Callable[..., LimitStrategy], options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="needs "):
        kind(**options)


# --- hours, in virtual time ---


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("name", "seconds", "goodput", "highest"),
    [("step", 180, 0.85, 30), ("drift", 400, 0.93, 20), ("hour", 300, 0.94, 35)],
)
def test_a_limit_finds_what_a_service_can_do_and_stays_there(
    strategy: str, name: str, seconds: float, goodput: float, highest: float
) -> None:
    course = simulate(replace(SCENARIOS[name], seconds=seconds), STRATEGIES[strategy], seed=7)
    assert course.goodput(5) >= goodput
    # Five slots are used with a limit of 5, and what is above that waits: 25 of them already for half a second.
    assert min(course.limit[30:]) >= 4
    assert max(course.limit[30:]) <= highest
    # What lies behind it is not worth less in the second half than in the first.
    half = int(seconds / 2)
    assert course.goodput(half) >= course.goodput(5, half) - 0.05


def test_without_a_limit_nothing_is_served_in_time() -> None:
    assert simulate(replace(SCENARIOS["hour"], seconds=120), None, seed=7).goodput(60) == 0


def healthy(seconds: float, rate: float, holds: Callable[[float], float]) -> Scenario:
    return Scenario("a service that has room for all", seconds, lambda at: rate, holds, slots=100_000)


def play(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> Course:
    monkeypatch.setattr(benchmarks.simulate, "IN_TIME", math.inf)
    return simulate(scenario, LatencyTarget, seed=7)


def test_a_healthy_service_whose_requests_take_two_seconds_is_never_shed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert play(healthy(120, 25, lambda at: 2.0), monkeypatch).shed == 0


def test_slow_and_quick_requests_side_by_side_are_never_shed(monkeypatch: pytest.MonkeyPatch) -> None:
    course = play(healthy(60, 100, lambda at: 2.0 if int(at * 1000) % 2 else 0.005), monkeypatch)
    assert course.shed == 0


def test_a_dependency_that_becomes_slow_costs_some_seconds_of_shedding_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # From 4 requests at once to 400.
    course = play(healthy(240, 200, lambda at: 0.02 if at < 60 else 2.0), monkeypatch)
    assert course.goodput(0, 59) == pytest.approx(1, abs=0.03)
    assert course.goodput(200) == pytest.approx(1, abs=0.05)
