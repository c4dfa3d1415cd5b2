"""A circuit opens by what its calls say, tries one at a time, and nothing that is past moves it."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace

import pytest

from postfacta_core.guards._circuit import REFUSED, CircuitConfig, CircuitState, Classification
from tests.core.guards.circuits import (
    CLOSED,
    CONFIG,
    FAILURE,
    FORCED_OPEN,
    HALF_OPEN,
    IGNORED,
    OPEN,
    SUCCESS,
    Played,
)
from tests.kit.every import every


def test_its_state_changes_have_their_time_and_reason() -> None:
    played = Played().play("SSFF-").wait(8.0).play("F-").wait(16.0).play("SS")
    assert played.path == [
        ("closed", "open", 100.0, "failures"),
        ("open", "half_open", 108.0, "wait_over"),
        ("half_open", "open", 108.0, "trial_failed"),
        ("open", "half_open", 124.0, "wait_over"),
        ("half_open", "closed", 124.0, "trials_passed"),
    ]
    assert {move.breaker for move in played.moves} == {"db"}


def test_a_circuit_opens_at_the_rate_of_its_last_calls_and_not_before_there_are_enough() -> None:
    cases: list[tuple[str, CircuitState]] = [
        ("", CLOSED),
        ("FFF", CLOSED),
        ("FFFF", OPEN),
        ("FFSS", OPEN),
        ("SSSF", CLOSED),
        ("SSFF", OPEN),
        ("FSSSF", CLOSED),
        ("SFSSF", OPEN),
        ("FFIIIIII", CLOSED),
        ("FFIS", CLOSED),
        ("FFISS", OPEN),
        ("LSSL", OPEN),
        ("LLSS", OPEN),
        ("LSSS", CLOSED),
        ("XSSS", CLOSED),
        ("XSSL", OPEN),
        ("FSSL", CLOSED),
        ("SSSSFSSSFSSSF", CLOSED),
    ]
    with every() as case:
        for calls, state in cases:
            with case(calls, state):
                assert Played().play(calls).state is state


def test_a_late_failure_takes_the_place_of_a_success() -> None:
    cases: list[tuple[str, int, CircuitState, tuple[int, int, int]]] = [
        ("", 1, CLOSED, (1, 1, 0)),
        ("S", 1, CLOSED, (1, 1, 0)),
        ("F", 1, CLOSED, (2, 2, 0)),
        ("SF", 2, CLOSED, (3, 3, 0)),
        ("SSSS", 1, CLOSED, (4, 1, 0)),
        ("SSSS", 2, OPEN, (4, 2, 0)),
        ("LSSS", 1, CLOSED, (4, 1, 1)),
        ("SSSL", 1, CLOSED, (4, 1, 1)),
        ("FFS", 2, OPEN, (4, 4, 0)),
    ]
    with every() as case:
        for calls, late, state, counted in cases:
            with case(calls, late):
                played = Played().play(calls)
                for _ in range(late):
                    played.fail_late(played.circuit.era)
                now = played.circuit.statistics(played.now)
                assert (now.calls, now.failures, now.slow_calls) == counted
                assert now.state is state


def test_a_late_failure_of_another_state_counts_for_nothing() -> None:
    played = Played().play("SS")
    era = played.circuit.era
    played.play("FF-").fail_late(era).fail_late(played.circuit.era).wait(8.0).play("S")
    assert played.fail_late(played.circuit.era).state is HALF_OPEN
    played.play("S")
    assert played.fail_late(era).state is CLOSED
    assert played.circuit.statistics(played.now).failures == 0


def test_a_late_failure_forgets_calls_that_are_too_old() -> None:
    played = Played(replace(CONFIG, sliding_window_max_age=10.0)).play("SSS").wait(11.0)
    assert played.fail_late(played.circuit.era).state is CLOSED
    assert played.circuit.statistics(played.now).calls == 1


def test_a_rate_that_is_just_the_threshold_opens_although_floats_round() -> None:
    # 0.07 * 100 is above 7.
    config = CircuitConfig(failure_rate_threshold=0.07, minimum_number_of_calls=100)
    assert Played(config).play("F" * 7 + "S" * 92).state is CLOSED
    assert Played(config).play("F" * 7 + "S" * 93).state is OPEN
    assert Played(config).play("F" * 6 + "S" * 94).state is CLOSED


def test_old_failures_do_not_open_it() -> None:
    assert Played().play("FFF").wait(8 * 3600.0).play("S").state is CLOSED
    # At the age itself a call counts no more; just before, it does.
    assert Played().play("FFF").wait(120.0).play("F").state is CLOSED
    assert Played().play("FFF").wait(119.5).play("F").state is OPEN
    found = Played().play("F").wait(119.0).play("S").wait(1.0).circuit.statistics(220.0)
    assert (found.calls, found.failures, found.failure_rate) == (1, 0, 0.0)


def test_a_rate_that_rises_as_successes_age_opens_it() -> None:
    # The window is full of marks like the one that comes: only what ages changes the rate.
    played = Played(replace(CONFIG, minimum_number_of_calls=2)).play("SSSF").wait(119.0)
    assert played.play("S").state is CLOSED
    assert played.wait(1.0).play("F").state is OPEN


def test_a_window_without_an_age_forgets_nothing() -> None:
    config = replace(CONFIG, sliding_window_max_age=math.inf)
    assert Played(config).play("FFF").wait(8 * 3600.0).play("S").state is OPEN


def test_slow_calls_open_it_for_a_reason_of_their_own() -> None:
    assert Played().play("LLSS").path[-1][3] == "slow_calls"
    assert Played().play("XXSS").path[-1][3] == "failures"


def test_a_call_counts_as_what_it_was() -> None:
    played = Played()
    calls: list[tuple[Classification, float]] = [
        (SUCCESS, 1.75),
        (SUCCESS, 2.0),
        (FAILURE, 0.0),
        (FAILURE, 2.0),
        (IGNORED, 9.0),
    ]
    kinds = [played.leave(played.enter(), outcome, seconds=seconds) for outcome, seconds in calls]
    assert kinds == ["success", "slow", "failure", "failure", "ignored"]


def test_a_window_no_larger_than_the_minimum_can_be_filled() -> None:
    config = CircuitConfig(sliding_window_size=3, minimum_number_of_calls=100)
    assert Played(config).play("FFF").state is OPEN


def test_by_hand_it_refuses_all_or_is_closed_anew() -> None:
    played = Played()
    played.circuit.put(FORCED_OPEN, played.now)
    played.wait(1000.0).play("---")
    played.circuit.put(CLOSED, played.now)
    played.play("FLS")
    found = played.circuit.statistics(played.now)
    assert (found.state, found.calls, found.failures, found.slow_calls) == (CLOSED, 3, 1, 1)
    assert (found.failure_rate, found.slow_call_rate, found.since) == (1 / 3, 1 / 3, 1100.0)
    played.circuit.put(CLOSED, played.now)
    assert played.circuit.statistics(played.now).calls == 0
    assert [reason for *_, reason in played.path] == ["by_hand"] * 2


def test_opened_by_hand_it_waits_and_tries_as_ever() -> None:
    played = Played()
    played.circuit.open(played.now, 0.0)
    played.wait(4.0)
    played.circuit.open(played.now, 0.0)
    assert played.circuit.retry_after(played.now) == 4.0
    played.wait(4.0).play("SS")
    assert [reason for *_, reason in played.path] == ["by_hand", "wait_over", "trials_passed"]


def test_a_circuit_held_by_hand_does_not_open_by_itself() -> None:
    played = Played()
    played.circuit.put(FORCED_OPEN, played.now)
    with pytest.raises(
        ValueError, match="is forced_open cannot become open: put it to closed first"
    ):
        played.circuit.open(played.now, 0.0)
    assert played.state is FORCED_OPEN
    assert len(played.moves) == 1


def test_a_reset_of_a_closed_circuit_forgets_and_calls_under_way_do_not_count() -> None:
    played = Played()
    old = played.enter()
    played.play("FFF")
    played.circuit.put(CLOSED, played.now)
    played.leave(old, FAILURE)
    assert played.circuit.statistics(played.now).calls == 0
    assert played.play("FFF").state is CLOSED


def test_numbers_of_an_open_circuit_are_those_that_opened_it() -> None:
    played = Played().play("SSFF").wait(1.0)
    found = played.circuit.statistics(played.now)
    assert (found.state, found.since, found.calls, found.failures) == (OPEN, 100.0, 4, 2)
    assert (found.failure_rate, found.slow_call_rate, found.retry_after) == (0.5, 0.0, 7.0)


def test_a_window_costs_the_same_memory_however_many_calls_it_sees() -> None:
    config = CircuitConfig(sliding_window_size=5, failure_rate_threshold=1.0)
    tracemalloc.start()
    played = Played(config).play("SFSFSF")
    for _ in range(2000):
        played.wait(1.0).play("SF")
    # Only what the policies hold: threads of other tests may allocate meanwhile.
    ours = [tracemalloc.Filter(inclusive=True, filename_pattern="*/postfacta_core/guards/*")]
    held = tracemalloc.take_snapshot().filter_traces(ours).statistics("filename")
    tracemalloc.stop()
    assert 0 < sum(each.size for each in held) < 6000
    assert played.circuit.statistics(played.now).calls == 5


def test_the_edges_of_the_options_are_taken() -> None:
    CircuitConfig(
        failure_rate_threshold=1.0,
        slow_call_rate_threshold=1.0,
        wait_jitter=0.0,
        wait_multiplier=1.0,
    )
    CircuitConfig(sliding_window_size=10_000, wait_duration_in_open_state=60.0)
    CircuitConfig(sliding_window_size=1, minimum_number_of_calls=1)


def test_one_call_is_a_whole_window() -> None:
    found = Played().play("X").circuit.statistics(100.0)
    assert (found.calls, found.failure_rate, found.slow_call_rate) == (1, 1.0, 1.0)


def test_a_state_that_has_ended_is_left_before_it_is_set_by_hand() -> None:
    played = Played().play("FFFF").wait(8)
    assert played.enter() != REFUSED  # A trial that hangs.
    played.wait(16).circuit.put(FORCED_OPEN, played.now)
    assert [(old, new, reason) for old, new, _, reason in played.path[-2:]] == [
        (HALF_OPEN, OPEN, "trial_hung"),
        (OPEN, FORCED_OPEN, "by_hand"),
    ]
