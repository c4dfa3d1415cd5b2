"""Half open, a circuit tries a few calls; after each opening it waits longer, up to a bound."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, strategies as st

from postfacta_core.guards._circuit import (
    REFUSED,
    Circuit,
    CircuitConfig,
    CircuitState,
    Classification,
)
from tests.core.guards.circuits import (
    CLOSED,
    CONFIG,
    FAILURE,
    FORCED_OPEN,
    HALF_OPEN,
    IGNORED,
    OPEN,
    SUCCESS,
    VERDICTS,
    Played,
)
from tests.kit.every import every


def test_half_open_is_left_by_its_trials() -> None:
    cases: list[tuple[str, CircuitState, str]] = [
        ("S", HALF_OPEN, "wait_over"),
        ("SS", CLOSED, "trials_passed"),
        ("SF", OPEN, "trial_failed"),
        ("L", OPEN, "trial_slow"),
        ("X", OPEN, "trial_failed"),
        ("IIII", HALF_OPEN, "wait_over"),
        ("ISIS", CLOSED, "trials_passed"),
    ]
    with every() as case:
        for trials, state, reason in cases:
            with case(trials, state, reason):
                played = Played().play("FFFF").wait(8.0).play(trials)
                assert played.state is state
                assert played.path[-1][3] == reason


def test_trials_are_judged_by_the_rates_that_opened_it() -> None:
    cases: list[tuple[str, CircuitState, str]] = [
        ("FSS", CLOSED, "trials_passed"),
        ("SSF", CLOSED, "trials_passed"),
        ("LSS", CLOSED, "trials_passed"),
        ("LFS", CLOSED, "trials_passed"),
        ("FF", OPEN, "trial_failed"),
        ("SLL", OPEN, "trial_slow"),
        ("FSF", OPEN, "trial_failed"),
        ("FS", HALF_OPEN, "wait_over"),
    ]
    with every() as case:
        for trials, state, reason in cases:
            with case(trials, state, reason):
                config = replace(CONFIG, permitted_number_of_calls_in_half_open_state=3)
                played = Played(config).play("FFFF").wait(8.0).play(trials)
                assert (played.state, played.path[-1][3]) == (state, reason)


def test_at_the_end_of_half_open_the_trials_made_decide() -> None:
    config = replace(CONFIG, permitted_number_of_calls_in_half_open_state=5)
    half_bad = Played(config).play("FFFF").wait(8.0).play("SF").wait(16.0)
    assert half_bad.play("-").path[-1] == ("half_open", "open", 124.0, "trial_failed")
    mostly_good = Played(config).play("FFFF").wait(8.0).play("SFS").wait(16.0)
    assert mostly_good.state is CLOSED


def test_a_dependency_below_the_threshold_is_mostly_called() -> None:
    """40 % of its calls fail, the threshold is 50 %; one call each 0.1 s, for an hour."""
    luck = Random(7)  # noqa: S311 - a simulation
    circuit = Circuit("flaky", CircuitConfig(), 0.0, moved=lambda _: None)
    refused, calls = 0, 36_000
    for number in range(calls):
        now = number / 10
        permit = circuit.enter(now)
        if permit == REFUSED:
            refused += 1
        else:
            outcome = FAILURE if luck.random() < 0.4 else SUCCESS
            circuit.leave(permit, outcome, started=now, now=now, luck=luck.random())
    assert refused < calls / 4


@pytest.mark.parametrize("outcome", VERDICTS)
def test_a_late_trial_is_late_even_without_other_calls(outcome: Classification) -> None:
    played = Played().play("FFFF").wait(8.0)
    trial = played.enter()
    played.wait(16.0)
    played.leave(trial, outcome)
    assert played.path[-1] == ("half_open", "open", 124.0, "trial_hung")


def test_calls_too_rare_for_all_trials_close_it_all_the_same() -> None:
    played = Played().play("FFFF").wait(8.0).play("S").wait(15.75)
    assert played.state is HALF_OPEN
    assert played.wait(0.25).state is CLOSED
    assert played.path[-1] == ("half_open", "closed", 124.0, "trials_passed")


def test_a_trial_that_hangs_after_one_that_succeeded_opens_it_again() -> None:
    played = Played().play("FFFF").wait(8.0).play("S")
    played.enter()
    played.wait(16.0)
    assert played.play("-").path[-1] == ("half_open", "open", 124.0, "trial_hung")


def test_trials_that_were_all_cancelled_open_it_again() -> None:
    played = Played().play("FFFF").wait(8.0).play("II").wait(16.0)
    assert played.play("-").path[-1] == ("half_open", "open", 124.0, "trial_hung")


@pytest.mark.parametrize("outcome", VERDICTS)
def test_a_call_from_before_the_trip_moves_nothing_in_any_later_state(
    outcome: Classification,
) -> None:
    played = Played()
    old = [played.enter() for _ in range(40)]
    played.play("FFFF")
    for permit in old[:10]:
        played.leave(permit, outcome)
    assert (played.state, played.path[-1][2]) == (OPEN, 100.0)
    assert played.circuit.retry_after(played.now) == 8.0
    trial = played.wait(8.0).enter()
    for permit in old[10:20]:
        played.leave(permit, outcome)
    assert played.state is HALF_OPEN
    played.play("-")
    played.leave(trial, SUCCESS)
    played.play("S")
    for permit in old[20:]:
        played.leave(permit, outcome)
    assert played.state is CLOSED
    assert played.circuit.statistics(played.now).calls == 0


def test_a_trial_counts_once() -> None:
    played = Played().play("FFFF").wait(8.0)
    trial = played.enter()
    for _ in range(5):
        played.leave(trial, SUCCESS)
    assert played.state is HALF_OPEN
    second = played.enter()
    played.leave(trial, FAILURE)
    played.leave(trial, IGNORED)
    assert played.state is HALF_OPEN
    played.play("-")
    played.leave(second, SUCCESS)
    assert played.state is CLOSED


def test_each_wait_is_longer_up_to_the_longest_and_starts_anew_once_it_was_closed() -> None:
    played = Played().play("FFFF")
    waits: list[float] = []
    for _ in range(5):
        waits.append(played.circuit.retry_after(played.now) or 0.0)
        played.wait(waits[-1]).play("F")
    assert waits == [8.0, 16.0, 32.0, 32.0, 32.0]
    played.wait(32.0).play("SSFFFF")
    assert played.circuit.retry_after(played.now) == 8.0


def test_jitter_shortens_the_longest_wait_too() -> None:
    played = Played().play("FFFF", luck=0.5)
    assert played.circuit.retry_after(played.now) == 7.0
    assert CONFIG.wait(50, 0.5) == 28.0
    assert CONFIG.wait(5000, 0.5) == 28.0
    assert CONFIG.wait(50, 0.0) == 32.0


def test_a_hung_trial_reuses_the_jitter_of_the_last_opening() -> None:
    played = Played().play("FFFF", luck=0.5).wait(7.0)
    played.enter()
    played.wait(16.0)
    assert played.circuit.retry_after(played.now) == 14.0


@given(
    st.integers(min_value=1, max_value=2000), st.floats(min_value=0, max_value=1, exclude_max=True)
)
def test_no_wait_is_nothing_or_longer_than_the_longest(opening: int, luck: float) -> None:
    assert (
        0 < CircuitConfig().wait(opening, luck) <= CircuitConfig().max_wait_duration_in_open_state
    )


def test_what_the_dependency_asks_for_prolongs_the_wait_and_no_further_than_the_longest() -> None:
    cases: list[tuple[float, float]] = [
        (20.0, 20.0),
        (4.0, 8.0),
        (1e9, 32.0),
        (math.inf, 32.0),
        (math.nan, 8.0),
        (-5.0, 8.0),
        (0.0, 8.0),
    ]
    with every() as case:
        for seconds, wait in cases:
            with case(seconds, wait):
                played = Played().play("SFF")
                permit = played.enter()
                played.leave(permit, FAILURE, asked=seconds)
                assert played.circuit.retry_after(played.now) == wait


def test_of_what_was_asked_for_the_latest_moment_counts_until_it_is_closed_again() -> None:
    played = Played().play("FF")
    for seconds in (24.0, 2.0):
        permit = played.enter()
        played.leave(permit, FAILURE, asked=seconds)
    assert played.circuit.retry_after(played.now) == 24.0
    played.wait(24.0)
    permit = played.enter()
    played.leave(permit, SUCCESS, asked=32.0)
    assert played.play("SFFFF").circuit.retry_after(played.now) == 8.0


def test_what_a_call_from_before_the_trip_asks_for_prolongs_nothing() -> None:
    played = Played()
    old = played.enter()
    played.play("FFFF")
    played.leave(old, FAILURE, asked=32.0)
    assert played.circuit.retry_after(played.now) == 8.0
    trial = played.wait(8.0).enter()
    played.leave(old, FAILURE, asked=32.0)
    played.leave(trial, FAILURE)
    assert played.circuit.retry_after(played.now) == 16.0


def test_retry_after_is_known_while_it_refuses() -> None:
    played = Played()
    assert played.circuit.retry_after(played.now) is None
    played.play("FFFF").wait(3.0)
    assert played.circuit.retry_after(played.now) == 5.0
    played.wait(50.0)
    assert played.circuit.retry_after(played.now) == 0.0
    trial = played.enter()
    assert played.circuit.retry_after(played.now) == 1.0
    played.wait(15.5)
    assert played.circuit.retry_after(played.now) == 0.5
    played.leave(trial, IGNORED)
    assert played.circuit.retry_after(played.now) is None
    played.circuit.put(FORCED_OPEN, played.now)
    assert played.circuit.retry_after(played.now) is None
