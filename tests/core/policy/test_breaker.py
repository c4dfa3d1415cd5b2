"""A circuit opens by what its calls say, tries one at a time, and nothing that is past moves it."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any, Literal

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from postfacta_core.events import CircuitChanged, Outcome
from postfacta_core.policy.breaker import REFUSED, Circuit, CircuitConfig, CircuitState

CLOSED, OPEN, HALF_OPEN, FORCED_OPEN, DISABLED, METRICS_ONLY = CircuitState
SUCCESS, FAILURE, IGNORED = Outcome
BY_HAND = [CLOSED, FORCED_OPEN, DISABLED, METRICS_ONLY]
ANY_TEXT: Any = "calls"
# Every number of the tests is a sum of few powers of two, so that the oracle may add them in another order.
CONFIG = CircuitConfig(
    failure_rate_threshold=0.5,
    slow_call_rate_threshold=0.5,
    slow_call_duration=2.0,
    sliding_window_size=4,
    minimum_number_of_calls=4,
    wait_duration_in_open_state=8.0,
    wait_jitter=0.25,
    max_wait_duration_in_open_state=32.0,
    permitted_number_of_calls_in_half_open_state=2,
    max_wait_duration_in_half_open_state=16.0,
)


class Played:
    """A circuit and a clock, played by hand."""

    def __init__(self, config: CircuitConfig = CONFIG) -> None:
        self.moves: list[CircuitChanged] = []
        self.now = 100.0
        self.circuit = Circuit("db", config, self.now, moved=self.moves.append)

    def enter(self) -> int:
        return self.circuit.pass_closed() or self.circuit.enter(self.now)

    def leave(self, permit: int, outcome: Outcome, *, seconds: float = 0.0, luck: float = 0.0) -> str:
        return self.circuit.leave(permit, outcome, started=self.now - seconds, now=self.now, luck=luck)

    def play(self, calls: str, *, luck: float = 0.0) -> Played:
        """Make calls: S succeeds, F fails, I is ignored, L succeeds late, X fails late, - is refused."""
        for letter in calls:
            permit = self.enter()
            assert (permit == REFUSED) is (letter == "-"), calls
            if letter != "-":
                outcome = SUCCESS if letter in "SL" else FAILURE if letter in "FX" else IGNORED
                self.leave(permit, outcome, seconds=2.0 if letter in "LX" else 0.0, luck=luck)
        return self

    def wait(self, seconds: float) -> Played:
        self.now += seconds
        return self

    @property
    def state(self) -> CircuitState:
        return self.circuit.statistics(self.now).state

    @property
    def path(self) -> list[tuple[str, str, float, str]]:
        return [(move.old, move.new, move.at, move.reason) for move in self.moves]


def test_its_moves_are_told_with_their_moment_and_reason() -> None:
    played = Played().play("SSFF-").wait(8.0).play("F-").wait(16.0).play("SS")
    assert played.path == [
        ("closed", "open", 100.0, "failures"),
        ("open", "half_open", 108.0, "wait_over"),
        ("half_open", "open", 108.0, "trial_failed"),
        ("open", "half_open", 124.0, "wait_over"),
        ("half_open", "closed", 124.0, "trials_passed"),
    ]
    assert {move.breaker for move in played.moves} == {"db"}


@pytest.mark.parametrize(
    ("calls", "state"),
    [
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
    ],
)
def test_a_circuit_opens_at_the_rate_of_its_last_calls_and_not_before_there_are_enough(
    calls: str, state: CircuitState
) -> None:
    assert Played().play(calls).state is state


def test_a_rate_that_is_just_the_threshold_opens_although_floats_round() -> None:
    # 0.07 * 100 is above 7.
    config = CircuitConfig(failure_rate_threshold=0.07, minimum_number_of_calls=100)
    assert Played(config).play("F" * 7 + "S" * 92).state is CLOSED
    assert Played(config).play("F" * 7 + "S" * 93).state is OPEN
    assert Played(config).play("F" * 6 + "S" * 94).state is CLOSED


def test_slow_calls_open_it_for_a_reason_of_their_own() -> None:
    assert Played().play("LLSS").path[-1][3] == "slow_calls"
    assert Played().play("XXSS").path[-1][3] == "failures"


def test_a_call_counts_as_what_it_was() -> None:
    played = Played()
    kinds = [
        played.leave(played.enter(), outcome, seconds=seconds)
        for outcome, seconds in [
            (SUCCESS, 1.75),
            (SUCCESS, 2.0),
            (FAILURE, 0.0),
            (FAILURE, 2.0),
            (IGNORED, 9.0),
        ]
    ]
    assert kinds == ["success", "slow", "failure", "failure", "ignored"]


def test_a_window_no_larger_than_the_minimum_can_be_filled() -> None:
    config = CircuitConfig(sliding_window_size=3, minimum_number_of_calls=100)
    assert Played(config).play("FFF").state is OPEN


def test_a_window_of_seconds_forgets_what_is_older() -> None:
    config = CircuitConfig(sliding_window_type="time", sliding_window_size=10, minimum_number_of_calls=4)
    played = Played(config).play("FFF").wait(9.5)
    assert played.circuit.statistics(played.now).failures == 3
    played.wait(0.5)
    assert played.circuit.statistics(played.now).calls == 0
    assert played.play("FFF").state is CLOSED
    assert played.play("F").state is OPEN


@pytest.mark.parametrize("gap", range(25))
def test_a_window_of_seconds_forgets_each_call_after_any_gap(gap: int) -> None:
    config = CircuitConfig(sliding_window_type="time", sliding_window_size=10)
    played = Played(config).play("F").wait(gap).play("S")
    found = played.circuit.statistics(played.now)
    assert (found.calls, found.failures) == ((2, 1) if gap < 10 else (1, 0))


def test_a_window_of_seconds_forgets_each_call_with_its_own_second() -> None:
    config = CircuitConfig(sliding_window_type="time", sliding_window_size=10)
    played = Played(config).play("F").wait(1.0).play("S").wait(9.0)
    found = played.circuit.statistics(played.now)
    assert (found.calls, found.failures) == (1, 0)


def test_slow_calls_alone_open_a_window_of_seconds_too() -> None:
    config = CircuitConfig(sliding_window_type="time", slow_call_duration=2.0, minimum_number_of_calls=4)
    played = Played(config).play("LLL").wait(1.0)
    assert played.state is CLOSED
    assert played.play("L").path[-1][3] == "slow_calls"


def test_a_window_of_seconds_takes_a_call_of_a_thread_that_read_the_clock_earlier() -> None:
    config = CircuitConfig(sliding_window_type="time", sliding_window_size=2, minimum_number_of_calls=4)
    played = Played(config)
    permit = played.enter()
    played.wait(5.0).play("F")
    played.wait(-5.0)
    played.leave(permit, FAILURE)
    played.wait(5.0)
    assert played.circuit.statistics(played.now).failures == 2
    assert played.wait(2.0).circuit.statistics(played.now).calls == 0


def test_half_open_admits_one_trial_at_a_time() -> None:
    played = Played().play("FFFF").wait(8.0)
    permits = [played.enter() for _ in range(100)]
    assert permits[0] != REFUSED
    assert permits[1:] == [REFUSED] * 99
    played.leave(permits[0], SUCCESS)
    assert [played.enter() for _ in range(3)][1:] == [REFUSED] * 2


@pytest.mark.parametrize(
    ("trials", "state", "reason"),
    [
        ("S", HALF_OPEN, "wait_over"),
        ("SS", CLOSED, "trials_passed"),
        ("SF", OPEN, "trial_failed"),
        ("L", OPEN, "trial_slow"),
        ("X", OPEN, "trial_failed"),
        ("IIII", HALF_OPEN, "wait_over"),
        ("ISIS", CLOSED, "trials_passed"),
    ],
)
def test_half_open_is_left_by_its_trials(trials: str, state: CircuitState, reason: str) -> None:
    played = Played().play("FFFF").wait(8.0).play(trials)
    assert played.state is state
    assert played.path[-1][3] == reason


@pytest.mark.parametrize(
    ("trials", "state", "reason"),
    [
        ("FSS", CLOSED, "trials_passed"),
        ("SSF", CLOSED, "trials_passed"),
        ("LSS", CLOSED, "trials_passed"),
        ("LFS", CLOSED, "trials_passed"),
        ("FF", OPEN, "trial_failed"),
        ("SLL", OPEN, "trial_slow"),
        ("FSF", OPEN, "trial_failed"),
        ("FS", HALF_OPEN, "wait_over"),
    ],
)
def test_trials_are_judged_by_the_rates_that_opened_it(trials: str, state: CircuitState, reason: str) -> None:
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


def test_a_trial_that_hangs_opens_it_at_the_end_of_half_open_and_counts_no_more() -> None:
    played = Played().play("FFFF").wait(8.0)
    hung = played.enter()
    played.wait(15.75).play("-")
    played.wait(0.25).play("-")
    assert played.path[-1] == ("half_open", "open", 124.0, "trial_hung")
    # Twice the first wait, from the moment that half_open ended.
    played.wait(15.75).play("-").wait(0.25)
    trial = played.enter()
    assert trial != REFUSED
    played.leave(hung, FAILURE)
    played.leave(hung, IGNORED)
    played.leave(hung, SUCCESS)
    assert played.state is HALF_OPEN
    played.play("-")
    played.leave(trial, SUCCESS)
    assert played.play("S").state is CLOSED


@pytest.mark.parametrize("outcome", Outcome)
def test_a_trial_that_ends_after_its_time_is_late_even_if_nobody_called_meanwhile(outcome: Outcome) -> None:
    played = Played().play("FFFF").wait(8.0)
    trial = played.enter()
    played.wait(16.0)
    played.leave(trial, outcome)
    assert played.path[-1] == ("half_open", "open", 124.0, "trial_hung")


def test_a_trial_that_was_hung_for_hours_does_not_delay_the_next_one() -> None:
    played = Played().play("FFFF").wait(8.0)
    played.enter()
    played.wait(3600.0)
    assert played.enter() != REFUSED
    assert [move.at for move in played.moves[-2:]] == [124.0, 3708.0]


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


@pytest.mark.parametrize("outcome", Outcome)
def test_a_call_from_before_the_trip_moves_nothing_in_any_later_state(outcome: Outcome) -> None:
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


def test_luck_shortens_a_wait_at_the_longest_too() -> None:
    played = Played().play("FFFF", luck=0.5)
    assert played.circuit.retry_after(played.now) == 7.0
    assert CONFIG.wait(50, 0.5) == 28.0
    assert CONFIG.wait(5000, 0.5) == 28.0
    assert CONFIG.wait(50, 0.0) == 32.0


def test_a_hung_trial_takes_the_luck_of_the_opening_before() -> None:
    played = Played().play("FFFF", luck=0.5).wait(7.0)
    played.enter()
    played.wait(16.0)
    assert played.circuit.retry_after(played.now) == 14.0


@given(st.integers(min_value=1, max_value=2000), st.floats(min_value=0, max_value=1, exclude_max=True))
def test_no_wait_is_nothing_or_longer_than_the_longest(opening: int, luck: float) -> None:
    assert 0 < CircuitConfig().wait(opening, luck) <= CircuitConfig().max_wait_duration_in_open_state


@pytest.mark.parametrize(
    ("seconds", "wait"),
    [
        (20.0, 20.0),
        (4.0, 8.0),
        (1e9, 32.0),
        (math.inf, 32.0),
        (math.nan, 8.0),
        (-5.0, 8.0),
        (0.0, 8.0),
    ],
)
def test_what_the_dependency_asks_for_prolongs_the_wait_and_no_further_than_the_longest(
    seconds: float, wait: float
) -> None:
    played = Played().play("SFF")
    permit = played.enter()
    played.circuit.hold(permit, seconds, played.now)
    assert played.state is CLOSED
    played.leave(permit, FAILURE)
    assert played.circuit.retry_after(played.now) == wait


def test_of_what_was_asked_for_the_latest_moment_counts_until_it_is_closed_again() -> None:
    played = Played().play("FF")
    for seconds in (24.0, 2.0):
        permit = played.enter()
        played.circuit.hold(permit, seconds, played.now)
        played.leave(permit, FAILURE)
    assert played.circuit.retry_after(played.now) == 24.0
    played.wait(24.0)
    permit = played.enter()
    played.circuit.hold(permit, 32.0, played.now)
    played.leave(permit, SUCCESS)
    assert played.play("SFFFF").circuit.retry_after(played.now) == 8.0


def test_what_a_call_from_before_the_trip_asks_for_prolongs_nothing() -> None:
    played = Played()
    old = played.enter()
    played.play("FFFF")
    played.circuit.hold(old, 32.0, played.now)
    assert played.circuit.retry_after(played.now) == 8.0
    trial = played.wait(8.0).enter()
    played.circuit.hold(old, 32.0, played.now)
    played.leave(trial, FAILURE)
    assert played.circuit.retry_after(played.now) == 16.0


def test_what_a_trial_asks_for_after_its_time_prolongs_nothing() -> None:
    played = Played().play("FFFF").wait(8.0)
    trial = played.enter()
    played.wait(16.0)
    played.circuit.hold(trial, 32.0, played.now)
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


def test_by_hand_it_refuses_all_admits_all_or_only_counts() -> None:
    played = Played()
    played.circuit.put(FORCED_OPEN, played.now)
    played.wait(1000.0).play("---")
    played.circuit.put(DISABLED, played.now)
    played.play("FFFFFFFF")
    assert played.circuit.statistics(played.now).calls == 0
    played.circuit.put(METRICS_ONLY, played.now)
    played.play("FFLS")
    found = played.circuit.statistics(played.now)
    assert (found.state, found.calls, found.failures, found.slow_calls) == (METRICS_ONLY, 4, 2, 1)
    assert (found.failure_rate, found.slow_call_rate, found.since) == (0.5, 0.25, 1100.0)
    played.circuit.put(CLOSED, played.now)
    assert played.circuit.statistics(played.now).calls == 0
    assert [reason for *_, reason in played.path] == ["by_hand"] * 4


def test_opened_by_hand_it_waits_and_tries_as_ever() -> None:
    played = Played()
    played.circuit.open(played.now, 0.0)
    played.wait(4.0)
    played.circuit.open(played.now, 0.0)
    assert played.circuit.retry_after(played.now) == 4.0
    played.wait(4.0).play("SS")
    assert [reason for *_, reason in played.path] == ["by_hand", "wait_over", "trials_passed"]


def test_a_circuit_that_somebody_holds_does_not_open_by_itself_and_says_what_to_do() -> None:
    for state in (FORCED_OPEN, DISABLED, METRICS_ONLY):
        played = Played()
        played.circuit.put(state, played.now)
        with pytest.raises(ValueError, match=f"is {state} cannot become open: put it to closed first"):
            played.circuit.open(played.now, 0.0)
        assert played.state is state
        assert len(played.moves) == 1


@pytest.mark.parametrize("state", [OPEN, HALF_OPEN])
@pytest.mark.parametrize("calls", ["", "FFFF"])
def test_nobody_puts_it_where_only_its_calls_may(state: CircuitState, calls: str) -> None:
    played = Played().play(calls)
    before = played.state
    with pytest.raises(ValueError, match=f"cannot be put to {state}"):
        played.circuit.put(state, played.now)
    assert played.state is before


def test_put_where_it_is_it_does_not_move() -> None:
    for state in BY_HAND:
        played = Played()
        played.circuit.put(state, played.now)
        moves = len(played.moves)
        played.circuit.put(state, played.wait(1.0).now)
        assert (played.state, len(played.moves)) == (state, moves)


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


@pytest.mark.parametrize("kind", ["count", "time"])
def test_a_window_costs_the_same_memory_however_many_calls_it_sees(kind: Literal["count", "time"]) -> None:
    config = CircuitConfig(sliding_window_type=kind, sliding_window_size=5, failure_rate_threshold=1.0)
    tracemalloc.start()
    played = Played(config).play("SFSFSF")
    for _ in range(2000):
        played.wait(1.0).play("SF")
    # Only what the policies hold: threads of other tests may allocate meanwhile.
    ours = [tracemalloc.Filter(inclusive=True, filename_pattern="*/postfacta_core/policy/*")]
    held = tracemalloc.take_snapshot().filter_traces(ours).statistics("filename")
    tracemalloc.stop()
    assert 0 < sum(each.size for each in held) < 3000
    assert played.circuit.statistics(played.now).calls == (5 if kind == "count" else 10)


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (partial(CircuitConfig, failure_rate_threshold=50), "failure_rate_threshold"),
        (partial(CircuitConfig, failure_rate_threshold=0.0), "failure_rate_threshold"),
        (partial(CircuitConfig, failure_rate_threshold=math.nan), "failure_rate_threshold"),
        (partial(CircuitConfig, slow_call_rate_threshold=1.1), "slow_call_rate_threshold"),
        (partial(CircuitConfig, slow_call_rate_threshold=0.0), "slow_call_rate_threshold"),
        (partial(CircuitConfig, wait_multiplier=0.5), "wait_multiplier"),
        (partial(CircuitConfig, wait_multiplier=math.inf), "wait_multiplier"),
        (partial(CircuitConfig, wait_jitter=1.0), "wait_jitter"),
        (partial(CircuitConfig, wait_jitter=-0.1), "wait_jitter"),
        (partial(CircuitConfig, sliding_window_type=ANY_TEXT), "sliding_window_type"),
        (partial(CircuitConfig, sliding_window_size=0), "sliding_window_size"),
        (partial(CircuitConfig, sliding_window_size=10_001), "sliding_window_size"),
        (partial(CircuitConfig, minimum_number_of_calls=0), "minimum_number_of_calls"),
        (
            partial(CircuitConfig, permitted_number_of_calls_in_half_open_state=0),
            "permitted_number_of_calls_in_half_open_state",
        ),
        (partial(CircuitConfig, slow_call_duration=0.0), "slow_call_duration"),
        (partial(CircuitConfig, slow_call_duration=math.inf), "slow_call_duration"),
        (
            partial(CircuitConfig, max_wait_duration_in_half_open_state=0.0),
            "max_wait_duration_in_half_open_state",
        ),
        (
            partial(CircuitConfig, max_wait_duration_in_half_open_state=math.nan),
            "max_wait_duration_in_half_open_state",
        ),
        (partial(CircuitConfig, wait_duration_in_open_state=0.0), "wait_duration_in_open_state"),
        (partial(CircuitConfig, wait_duration_in_open_state=61.0), "max_wait_duration_in_open_state"),
        (partial(CircuitConfig, max_wait_duration_in_open_state=math.inf), "max_wait_duration_in_open_state"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(
    wrong: Callable[[], CircuitConfig], what: str
) -> None:
    with pytest.raises(ValueError, match=rf"^CircuitConfig\.{what} must be "):
        wrong()


def test_the_edges_of_the_options_are_taken() -> None:
    CircuitConfig(
        failure_rate_threshold=1.0, slow_call_rate_threshold=1.0, wait_jitter=0.0, wait_multiplier=1.0
    )
    CircuitConfig(sliding_window_size=10_000, wait_duration_in_open_state=60.0)
    CircuitConfig(sliding_window_size=1, minimum_number_of_calls=1)


@dataclass(slots=True, eq=False)
class Ticket:
    """A permit as the oracle sees it: of which stay in which state, and whether it is a trial."""

    stay: object
    started: float
    permit: int
    trial: bool = False


@dataclass(slots=True)
class Oracle:
    """The rules once more, with lists that are looked through each time, and objects in place of numbers."""

    config: CircuitConfig
    now: float
    state: CircuitState = CLOSED
    stay: object = field(default_factory=object)
    since: float = 0.0
    ends: float = 0.0
    luck: float = 0.0
    openings: list[float] = field(default_factory=list[float])
    holds: list[float] = field(default_factory=list[float])
    ended: list[tuple[float, bool, bool]] = field(default_factory=list[tuple[float, bool, bool]])
    trials: list[Ticket] = field(default_factory=list[Ticket])
    tried: list[tuple[bool, bool]] = field(default_factory=list[tuple[bool, bool]])
    path: list[tuple[str, str, float]] = field(default_factory=list[tuple[str, str, float]])

    def go(self, state: CircuitState, at: float) -> None:
        self.path.append((self.state, state, at))
        self.state, self.since, self.stay = state, at, object()
        self.trials, self.tried = [], []
        if state in {CLOSED, METRICS_ONLY}:
            self.ended, self.openings, self.holds = [], [], []

    def trip(self, at: float, luck: float) -> None:
        self.go(OPEN, at)
        self.luck = luck
        self.openings.append(at)
        wait = 8.0 * 2 ** min(9, len(self.openings) - 1)
        self.ends = max([at + min(32.0, wait) * (1 - luck / 4), *self.holds])

    def tick(self) -> None:
        if self.state is HALF_OPEN and self.now >= self.since + 16.0:
            end = self.since + 16.0
            if self.trials or not self.tried or self.is_bad(self.tried, len(self.tried)):
                self.trip(end, self.luck)
            else:
                self.go(CLOSED, end)

    def enter(self) -> tuple[bool, bool]:
        """Tell whether a call is admitted, and whether as a trial."""
        self.tick()
        if self.state is OPEN and self.now >= self.ends:
            self.go(HALF_OPEN, self.now)
        if self.state is HALF_OPEN:
            return not self.trials, True
        return self.state in {CLOSED, DISABLED, METRICS_ONLY}, False

    def window(self) -> list[tuple[float, bool, bool]]:
        if self.config.sliding_window_type == "count":
            return self.ended[-self.config.sliding_window_size :]
        oldest = math.floor(self.now) - self.config.sliding_window_size
        return [call for call in self.ended if math.floor(call[0]) > oldest]

    def leave(self, ticket: Ticket, outcome: Outcome, luck: float) -> None:
        self.tick()
        if ticket.stay is not self.stay:
            return
        failed, slow = outcome is FAILURE, self.now - ticket.started >= self.config.slow_call_duration
        if self.state is HALF_OPEN:
            if ticket in self.trials:
                self.trials.remove(ticket)
                self.end_trial(outcome, (failed, slow), luck)
        elif outcome is not IGNORED and self.state in {CLOSED, METRICS_ONLY}:
            self.ended.append((self.now, failed, slow))
            if self.state is CLOSED:
                self.judge(luck)

    def end_trial(self, outcome: Outcome, marks: tuple[bool, bool], luck: float) -> None:
        if outcome is IGNORED:
            return
        self.tried.append(marks)
        wanted = self.config.permitted_number_of_calls_in_half_open_state
        if self.is_bad(self.tried, wanted):
            self.trip(self.now, luck)
        elif len(self.tried) == wanted:
            self.go(CLOSED, self.now)

    def judge(self, luck: float) -> None:
        calls = [(failed, slow) for _, failed, slow in self.window()]
        if len(calls) >= min(self.config.minimum_number_of_calls, 4) and self.is_bad(calls, len(calls)):
            self.trip(self.now, luck)

    @staticmethod
    def is_bad(calls: list[tuple[bool, bool]], of: int) -> bool:
        """Half of them failed, or half were slow."""
        return 2 * max(sum(failed for failed, _ in calls), sum(slow for _, slow in calls)) >= of


LUCK = st.sampled_from([0.0, 0.25, 0.5, 0.75])


class CircuitMachine(RuleBasedStateMachine):
    """A circuit beside the oracle, under calls that end in any order, late or never."""

    kind: Literal["count", "time"] = "count"

    @initialize(minimum=st.integers(min_value=1, max_value=4))
    def begin(self, minimum: int) -> None:
        self.config = CircuitConfig(
            failure_rate_threshold=0.5,
            slow_call_rate_threshold=0.5,
            slow_call_duration=2.0,
            sliding_window_type=self.kind,
            sliding_window_size=4,
            minimum_number_of_calls=minimum,
            wait_duration_in_open_state=8.0,
            wait_jitter=0.25,
            max_wait_duration_in_open_state=32.0,
            permitted_number_of_calls_in_half_open_state=3,
            max_wait_duration_in_half_open_state=16.0,
        )
        self.played = Played(self.config)
        self.oracle = Oracle(self.config, self.played.now, since=self.played.now)
        self.pending: list[Ticket] = []
        self.over: list[Ticket] = []

    @rule(seconds=st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 7.75, 8.0, 16.0, 32.0, 501.0]))
    def time(self, seconds: float) -> None:
        self.time_passes(seconds)

    def time_passes(self, seconds: float) -> None:
        self.played.now += seconds
        self.oracle.now = self.played.now

    @rule(calls=st.integers(min_value=1, max_value=3))
    def calls_begin(self, calls: int) -> None:
        for _ in range(calls):
            self.begin_call()

    def begin_call(self) -> None:
        permit = self.played.enter()
        admitted, trial = self.oracle.enter()
        assert (permit != REFUSED) is admitted
        if admitted:
            ticket = Ticket(self.oracle.stay, self.oracle.now, permit, trial)
            self.pending.append(ticket)
            if trial:
                self.oracle.trials.append(ticket)

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), outcome=st.sampled_from([SUCCESS, SUCCESS, FAILURE, FAILURE, IGNORED]), luck=LUCK)
    def a_call_ends(self, data: st.DataObject, outcome: Outcome, luck: float) -> None:
        ticket = self.pending.pop(data.draw(st.integers(0, len(self.pending) - 1)))
        self.over.append(ticket)
        self.end(ticket, outcome, luck)

    @precondition(lambda self: self.pending)
    @rule(seconds=st.sampled_from([4.0, 12.0, 32.0, 1000.0]), luck=LUCK)
    def a_call_fails_and_asks_to_be_left_alone(self, seconds: float, luck: float) -> None:
        ticket = self.pending.pop()
        self.played.circuit.hold(ticket.permit, seconds, self.played.now)
        self.oracle.tick()
        # A trial holds its permit, all others share that of the stay.
        if ticket.stay is self.oracle.stay and (not ticket.trial or ticket in self.oracle.trials):
            self.oracle.holds.append(self.oracle.now + min(seconds, 32.0))
        self.end(ticket, FAILURE, luck)

    @rule(
        outcomes=st.lists(st.sampled_from(Outcome), min_size=1, max_size=5),
        seconds=st.sampled_from([0.0, 0.25, 2.0]),
        luck=LUCK,
    )
    def calls_come_and_go(self, outcomes: list[Outcome], seconds: float, luck: float) -> None:
        for outcome in outcomes:
            before = len(self.pending)
            self.begin_call()
            self.time_passes(seconds)
            if len(self.pending) > before:
                self.over.append(self.pending.pop())
                self.end(self.over[-1], outcome, luck)

    @precondition(lambda self: any(ticket.trial for ticket in self.over))
    @rule(data=st.data(), outcome=st.sampled_from(Outcome), luck=LUCK)
    def a_trial_comes_back_again(self, data: st.DataObject, outcome: Outcome, luck: float) -> None:
        trials = [ticket for ticket in self.over if ticket.trial]
        self.end(trials[data.draw(st.integers(0, len(trials) - 1))], outcome, luck)

    def end(self, ticket: Ticket, outcome: Outcome, luck: float) -> None:
        now = self.played.now
        self.played.circuit.leave(ticket.permit, outcome, started=ticket.started, now=now, luck=luck)
        self.oracle.leave(ticket, outcome, luck)

    @rule(state=st.sampled_from([CLOSED, CLOSED, FORCED_OPEN, DISABLED, METRICS_ONLY]))
    def somebody_puts_it(self, state: CircuitState) -> None:
        self.played.circuit.put(state, self.played.now)
        self.oracle.tick()
        if self.oracle.state is not state:
            self.oracle.go(state, self.oracle.now)
        elif state is CLOSED:
            self.oracle.go(state, self.oracle.now)
            self.oracle.path.pop()

    @precondition(lambda self: self.played.circuit.state in {CLOSED, OPEN})
    @rule(luck=LUCK)
    def the_dependency_fails_until_a_trial_is_due(self, luck: float) -> None:
        self.trip(luck)
        self.time_passes(32.0)
        self.begin_call()

    @precondition(lambda self: self.played.circuit.state in {CLOSED, OPEN, HALF_OPEN})
    @rule(luck=LUCK)
    def somebody_opens_it(self, luck: float) -> None:
        self.trip(luck)

    def trip(self, luck: float) -> None:
        self.played.circuit.open(self.played.now, luck)
        self.oracle.tick()
        if self.oracle.state is not OPEN:
            self.oracle.trip(self.oracle.now, luck)

    @rule()
    def somebody_looks(self) -> None:
        self.oracle.tick()
        found = self.played.circuit.statistics(self.played.now)
        assert (found.state, found.since) == (self.oracle.state, self.oracle.since)
        if self.oracle.state is HALF_OPEN:
            assert self.oracle.now < self.oracle.since + 16.0
        if self.oracle.state is OPEN:
            assert found.retry_after == max(0.0, self.oracle.ends - self.oracle.now)
        if self.oracle.state in {CLOSED, METRICS_ONLY}:
            calls = self.oracle.window()
            assert found.calls == len(calls)
            assert found.failures == sum(failed for _, failed, _ in calls)
            assert found.slow_calls == sum(slow for *_, slow in calls)

    @invariant()
    def half_open_has_one_trial_and_an_end(self) -> None:
        if not hasattr(self, "played"):
            return
        # Nobody looks here: a look would make the moves that are due.
        assert self.played.circuit.state is self.oracle.state
        assert [move[:3] for move in self.played.path] == self.oracle.path
        assert len(self.oracle.trials) <= 1
        entered = [at for _, new, at, _ in self.played.path if new == HALF_OPEN]
        left = [at for old, _, at, _ in self.played.path if old == HALF_OPEN]
        assert all(0 <= end - begin <= 16.0 for begin, end in zip(entered, left, strict=False))


class TimedCircuitMachine(CircuitMachine):
    """The same with a window of seconds."""

    kind: Literal["count", "time"] = "time"


TestWindowOfCalls = CircuitMachine.TestCase
TestWindowOfSeconds = TimedCircuitMachine.TestCase
for case in (TestWindowOfCalls, TestWindowOfSeconds):
    case.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.25, 1.0, 8.0, 15.75, 16.0, 40.0]), st.sampled_from([*Outcome, None])
        ),
        max_size=40,
    )
)
def test_half_open_never_admits_two_at_once_and_never_lasts_longer_than_its_maximum(
    steps: list[tuple[float, Outcome | None]],
) -> None:
    """Any mix of trials that end somehow or never: None is one that hangs."""
    played = Played().play("FFFF")
    out: list[int] = []
    for seconds, outcome in steps:
        played.wait(seconds)
        stay = len(played.moves)
        if (permit := played.enter()) and played.state is HALF_OPEN:
            if len(played.moves) != stay:
                out.clear()
            assert not out
            out.append(permit)
            if outcome is not None:
                played.leave(out.pop(), outcome)
        entered = [move.at for move in played.moves if move.new == HALF_OPEN]
        left = [move.at for move in played.moves if move.old == HALF_OPEN]
        ends = [*left, *([played.now] if played.state is HALF_OPEN else [])]
        assert all(end - begin <= 16.0 for begin, end in zip(entered, ends, strict=True))


@pytest.mark.parametrize("kind", ["count", "time"])
def test_slow_calls_are_counted_one_by_one_and_forgotten_one_by_one(kind: Literal["count", "time"]) -> None:
    config = CircuitConfig(
        failure_rate_threshold=1.0,
        slow_call_rate_threshold=1.0,
        slow_call_duration=2.0,
        sliding_window_type=kind,
        sliding_window_size=4,
        minimum_number_of_calls=100,
    )
    played = Played(config).play("LXLS")

    def slow() -> tuple[int, int]:
        statistics = played.circuit.statistics(played.now)
        return statistics.calls, statistics.slow_calls

    assert slow() == (4, 3)
    if kind == "count":
        played.play("S")
        assert slow() == (4, 2)
        played.play("XXX")  # In the places of two slow ones and of one that was not.
        assert slow() == (4, 3)
    else:
        played.now += 3.0
        played.play("L")
        assert slow() == (5, 4)
        played.now += 1.0  # The first second is out of the window, and the second one is not.
        played.play("S")
        assert slow() == (2, 1)
