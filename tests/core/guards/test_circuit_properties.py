"""A circuit does what a plain model of it does, whatever comes in whatever order."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from postfacta_core.guards._circuit import REFUSED, CircuitConfig, CircuitState, Classification
from tests.core.guards.circuits import (
    CLOSED,
    FAILURE,
    FORCED_OPEN,
    HALF_OPEN,
    IGNORED,
    OPEN,
    SUCCESS,
    VERDICTS,
    Played,
)


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
        if state is CLOSED:
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
        """Return whether a call is admitted, and whether as a trial."""
        self.tick()
        if self.state is OPEN and self.now >= self.ends:
            self.go(HALF_OPEN, self.now)
        if self.state is HALF_OPEN:
            return not self.trials, True
        return self.state is CLOSED, False

    def window(self) -> list[tuple[float, bool, bool]]:
        oldest = self.now - self.config.sliding_window_max_age
        return [call for call in self.ended[-self.config.sliding_window_size :] if call[0] > oldest]

    def leave(self, ticket: Ticket, outcome: Classification, luck: float) -> None:
        self.tick()
        if ticket.stay is not self.stay:
            return
        failed, slow = (
            outcome is FAILURE,
            self.now - ticket.started >= self.config.slow_call_duration,
        )
        if self.state is HALF_OPEN:
            if ticket in self.trials:
                self.trials.remove(ticket)
                self.end_trial(outcome, (failed, slow), luck)
        elif outcome is not IGNORED and self.state is CLOSED:
            self.ended.append((self.now, failed, slow))
            self.judge(luck)

    def end_trial(self, outcome: Classification, marks: tuple[bool, bool], luck: float) -> None:
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
        if len(calls) >= min(self.config.minimum_number_of_calls, 4) and self.is_bad(
            calls, len(calls)
        ):
            self.trip(self.now, luck)

    @staticmethod
    def is_bad(calls: list[tuple[bool, bool]], of: int) -> bool:
        """Half of them failed, or half were slow."""
        return 2 * max(sum(failed for failed, _ in calls), sum(slow for _, slow in calls)) >= of


LUCK = st.sampled_from([0.0, 0.25, 0.5, 0.75])


class CircuitMachine(RuleBasedStateMachine):
    """A circuit beside the oracle, under calls that end in any order, late or never."""

    @initialize(minimum=st.integers(min_value=1, max_value=4))
    def begin(self, minimum: int) -> None:
        self.config = CircuitConfig(
            failure_rate_threshold=0.5,
            slow_call_rate_threshold=0.5,
            slow_call_duration=2.0,
            sliding_window_size=4,
            sliding_window_max_age=32.0,
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

    @rule(
        seconds=st.sampled_from(
            [0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 7.75, 8.0, 16.0, 32.0, 501.0]
        )
    )
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
    @rule(
        data=st.data(),
        outcome=st.sampled_from([SUCCESS, SUCCESS, FAILURE, FAILURE, IGNORED]),
        luck=LUCK,
    )
    def a_call_ends(self, data: st.DataObject, outcome: Classification, luck: float) -> None:
        ticket = self.pending.pop(data.draw(st.integers(0, len(self.pending) - 1)))
        self.over.append(ticket)
        self.end(ticket, outcome, luck)

    @precondition(lambda self: self.pending)
    @rule(seconds=st.sampled_from([4.0, 12.0, 32.0, 1000.0]), luck=LUCK)
    def a_call_fails_and_asks_to_be_left_alone(self, seconds: float, luck: float) -> None:
        ticket = self.pending.pop()
        self.oracle.tick()
        # A trial holds its permit, all others share that of the stay.
        if ticket.stay is self.oracle.stay and (not ticket.trial or ticket in self.oracle.trials):
            self.oracle.holds.append(self.oracle.now + min(seconds, 32.0))
        self.end(ticket, FAILURE, luck, asked=seconds)

    @rule(
        outcomes=st.lists(st.sampled_from(VERDICTS), min_size=1, max_size=5),
        seconds=st.sampled_from([0.0, 0.25, 2.0]),
        luck=LUCK,
    )
    def calls_come_and_go(
        self, outcomes: list[Classification], seconds: float, luck: float
    ) -> None:
        for outcome in outcomes:
            before = len(self.pending)
            self.begin_call()
            self.time_passes(seconds)
            if len(self.pending) > before:
                self.over.append(self.pending.pop())
                self.end(self.over[-1], outcome, luck)

    @precondition(lambda self: any(ticket.trial for ticket in self.over))
    @rule(data=st.data(), outcome=st.sampled_from(VERDICTS), luck=LUCK)
    def a_trial_comes_back_again(
        self, data: st.DataObject, outcome: Classification, luck: float
    ) -> None:
        trials = [ticket for ticket in self.over if ticket.trial]
        self.end(trials[data.draw(st.integers(0, len(trials) - 1))], outcome, luck)

    def end(
        self, ticket: Ticket, outcome: Classification, luck: float, *, asked: float = 0.0
    ) -> None:
        seconds = self.played.now - ticket.started
        self.played.leave(ticket.permit, outcome, seconds=seconds, luck=luck, asked=asked)
        self.oracle.leave(ticket, outcome, luck)

    @rule(state=st.sampled_from([CLOSED, CLOSED, FORCED_OPEN]))
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
        if self.oracle.state is CLOSED:
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


TestWindowOfCalls = CircuitMachine.TestCase
TestWindowOfCalls.settings = settings(stateful_step_count=40)


def test_slow_calls_are_counted_one_by_one_and_forgotten_one_by_one() -> None:
    config = CircuitConfig(
        failure_rate_threshold=1.0,
        slow_call_rate_threshold=1.0,
        slow_call_duration=2.0,
        sliding_window_size=4,
        minimum_number_of_calls=100,
    )
    played = Played(config).play("LXLS")

    def slow() -> tuple[int, int]:
        statistics = played.circuit.statistics(played.now)
        return statistics.calls, statistics.slow_calls

    assert slow() == (4, 3)
    played.play("S")
    assert slow() == (4, 2)
    played.play("XXX")  # In the places of two slow ones and of one that was not.
    assert slow() == (4, 3)
