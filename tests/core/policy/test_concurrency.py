"""Nobody is admitted above the limit, nobody overtakes who matters more, and every slot comes back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from postfacta_core.events import Mode, Outcome
from postfacta_core.policy.concurrency import (
    ADMIT,
    AdaptiveLimiter,
    Admit,
    LimiterConfig,
    Priority,
    Shed,
    Wait,
    Window,
)
from postfacta_core.telemetry.policies import POLICY_METRICS

PRIORITIES = st.sampled_from(Priority)
PLUS, CRITICAL, SHEDDABLE_PLUS, SHEDDABLE = Priority


class Given:
    """A strategy that gives what it is told, and keeps what it was asked."""

    def __init__(self, *limits: float) -> None:
        self.limits = list(limits)
        self.windows: list[Window] = []

    def resize(self, limit: float, window: Window, now: float) -> float:
        self.windows.append(window)
        return self.limits.pop(0) if self.limits else limit


def limiter_of(limit: int = 10, *, strategy: Given | None = None, **options: Any) -> AdaptiveLimiter:
    config = LimiterConfig(**{"start": limit, "minimum": 1, **options})
    return AdaptiveLimiter("test", strategy or Given(), config)


def fill(limiter: AdaptiveLimiter, count: int, now: float = 0.0) -> None:
    for _ in range(count):
        assert limiter.arrive(PLUS, now) is ADMIT


def waiting(limiter: AdaptiveLimiter, priority: Priority, now: float) -> Wait:
    wait = limiter.arrive(priority, now)
    assert isinstance(wait, Wait)
    return wait


def samples(limiter: AdaptiveLimiter, metric: str) -> dict[tuple[str, ...], float]:
    return {
        s.labels: s.value for s in limiter.tally() if s.metric == f"postfacta_limiter_{metric}" and s.value
    }


# --- the limit ---


def test_as_many_are_admitted_as_the_limit_says_and_the_next_one_waits() -> None:
    limiter = limiter_of(10)
    for _ in range(10):
        assert limiter.arrive(CRITICAL, 0.0) is ADMIT
    assert isinstance(limiter.arrive(CRITICAL, 0.0), Wait)
    assert limiter.in_flight == 10
    assert limiter.waiting == 1


def serve(limiter: AdaptiveLimiter, count: int, *, at: float, latency: float, lag: float = 0.0) -> None:
    for _ in range(count):
        assert limiter.arrive(CRITICAL, at) is ADMIT
    for _ in range(count):
        limiter.start(at + lag, at)
    for _ in range(count):
        limiter.finish(at + latency, at, Outcome.SUCCESS)


def test_a_window_holds_what_its_requests_had_in_common() -> None:
    strategy = Given()
    limiter = limiter_of(20, strategy=strategy)
    serve(limiter, 5, at=0.0, latency=0.1, lag=0.01)
    serve(limiter, 5, at=1.0, latency=0.4, lag=0.03)
    (window,) = strategy.windows
    assert window.latency == pytest.approx(0.2, rel=1e-4)
    assert window.lag == pytest.approx(0.02)
    assert window.used == pytest.approx(5 / 20)
    assert window.dropped == 0
    assert window.rate == 0
    for number in range(10):
        assert limiter.arrive(CRITICAL, 2.0) is ADMIT
        limiter.finish(2.4, 2.0, Outcome.FAILURE if number < 3 else Outcome.SUCCESS)
    assert strategy.windows[1].dropped == pytest.approx(0.3)
    assert strategy.windows[1].rate == pytest.approx(10 / (2.4 - 1.4))
    assert strategy.windows[1].lag == 0


def test_a_request_that_began_before_the_limit_changed_does_not_count_for_the_new_one() -> None:
    strategy = Given(18.0, 16.0)
    limiter = limiter_of(20, strategy=strategy)
    fill(limiter, 19)
    for _ in range(10):
        limiter.finish(1.0, 0.0, Outcome.SUCCESS)
    assert limiter.limit == 18
    # Nine of the old ones are left: with them, a window would be full after the first of the new ones.
    fill(limiter, 10, now=1.0)
    for _ in range(9):
        limiter.start(9.0, 0.0)
        limiter.finish(9.0, 0.0, Outcome.FAILURE)
    assert len(strategy.windows) == 1
    for _ in range(10):
        limiter.finish(1.5, 1.0, Outcome.SUCCESS)
    assert len(strategy.windows) == 2
    assert strategy.windows[1].latency == pytest.approx(0.5, rel=1e-4)
    assert (strategy.windows[1].lag, strategy.windows[1].dropped) == (0, 0)
    # But it was served all the same.
    assert strategy.windows[1].rate == pytest.approx(19 / 0.5)


def test_a_request_whose_length_says_nothing_gives_its_slot_back_and_is_not_counted() -> None:
    strategy = Given()
    limiter = limiter_of(20, strategy=strategy)
    fill(limiter, 20)
    for _ in range(20):
        limiter.finish(1.0, 0.0, Outcome.IGNORED)
    assert (limiter.in_flight, strategy.windows) == (0, [])


@pytest.mark.parametrize(("peak", "limit"), [(9, 20), (10, 30)])
def test_the_limit_grows_only_while_half_of_it_is_used(peak: int, limit: int) -> None:
    limiter = limiter_of(20, strategy=Given(30.0))
    fill(limiter, peak)
    for _ in range(peak):
        limiter.finish(1.0, 0.0, Outcome.SUCCESS)
    for _ in range(10 - peak):
        serve(limiter, 1, at=1.0, latency=1.0)
    assert limiter.limit == limit


def test_somebody_who_had_to_wait_shows_that_the_limit_was_used() -> None:
    strategy = Given()
    limiter = limiter_of(10, strategy=strategy)
    # A sheddable one finds no room long before the limit is reached: 8 of 10 are his.
    fill(limiter, 8)
    waiting(limiter, SHEDDABLE, 0.0)
    for _ in range(8):
        limiter.finish(0.01, 0.0, Outcome.SUCCESS)
    serve(limiter, 2, at=0.02, latency=0.01)
    assert strategy.windows[0].used == 1


def test_who_is_still_under_way_counts_for_the_next_window_too() -> None:
    strategy = Given()
    limiter = limiter_of(20, strategy=strategy)
    fill(limiter, 15)
    for _ in range(15):
        limiter.finish(1.0, 0.0, Outcome.SUCCESS)
    for _ in range(5):
        serve(limiter, 1, at=2.0, latency=1.0)
    assert [window.used for window in strategy.windows] == [15 / 20, 5 / 20]


def test_who_still_waits_shows_in_the_next_window_too_that_the_limit_is_used() -> None:
    strategy = Given()
    limiter = limiter_of(20, strategy=strategy, queue_interval=50.0)
    fill(limiter, 17)
    waiting(limiter, SHEDDABLE, 0.0)
    for _ in range(20):
        limiter.finish(1.0, 0.0, Outcome.SUCCESS)
        fill(limiter, 1, now=1.0)
    assert [window.used for window in strategy.windows] == [1, 1]


@pytest.mark.parametrize(("limit", "count"), [(20, 10), (100, 20), (400, 50)])
def test_a_window_is_a_fifth_of_the_limit_within_bounds(limit: int, count: int) -> None:
    strategy = Given()
    limiter = limiter_of(limit, strategy=strategy)
    serve(limiter, count - 1, at=0.0, latency=1.0)
    assert not strategy.windows
    serve(limiter, 1, at=2.0, latency=1.0)
    assert strategy.windows


@pytest.mark.parametrize(("wanted", "limit"), [(-5.0, 3.0), (1e9, 40.0), (7.9, 7.9)])
def test_the_limit_keeps_within_its_bounds(wanted: float, limit: float) -> None:
    limiter = limiter_of(10, strategy=Given(wanted), minimum=3, maximum=40)
    serve(limiter, 10, at=0.0, latency=0.1)
    assert limiter.limit == limit
    fill(limiter, int(limit), now=1.0)
    assert isinstance(limiter.arrive(CRITICAL, 1.0), Wait)


def test_a_higher_limit_lets_in_who_waits_at_once() -> None:
    limiter = limiter_of(10, strategy=Given(14.0))
    fill(limiter, 10)
    waits = [waiting(limiter, CRITICAL, 0.0) for _ in range(4)]
    for _ in range(9):
        limiter.finish(0.01, 0.0, Outcome.IGNORED)
    assert all(wait.verdict is ADMIT for wait in waits)


# --- the queue ---


def test_the_queue_is_as_long_as_twice_the_root_of_the_limit() -> None:
    limiter = limiter_of(100)
    fill(limiter, 100)
    for _ in range(20):
        waiting(limiter, CRITICAL, 0.0)
    assert isinstance(limiter.arrive(CRITICAL, 0.0), Shed)
    assert limiter.waiting == 20


def test_the_first_to_come_is_the_first_served_while_it_is_but_a_burst() -> None:
    limiter = limiter_of(4)
    fill(limiter, 4)
    first, second = waiting(limiter, CRITICAL, 0.0), waiting(limiter, CRITICAL, 0.01)
    woken: list[str] = []
    first.wake = lambda: woken.append("first")
    second.wake = lambda: woken.append("second")
    limiter.finish(0.02, 0.0, Outcome.SUCCESS)
    assert woken == ["first"]
    assert (first.verdict, first.decided, second.verdict) == (ADMIT, 0.02, None)
    assert samples(limiter, "queue_time_seconds_total") == {("test",): pytest.approx(0.02)}


def overloaded(limiter: AdaptiveLimiter) -> list[Wait]:
    """Keep the queue from being empty for as long as it takes; give two that wait since then."""
    fill(limiter, 4)
    early = waiting(limiter, CRITICAL, 0.0)
    late = [waiting(limiter, CRITICAL, 0.09) for _ in range(2)]
    limiter.give_up(early, 0.1)
    return late


def test_the_newest_is_served_first_once_the_queue_is_no_burst_and_waits_less_long() -> None:
    limiter = limiter_of(4)
    older = overloaded(limiter)
    newest = waiting(limiter, CRITICAL, 0.1)
    assert newest.until == pytest.approx(0.12)
    assert older[0].until == pytest.approx(0.19)
    limiter.finish(0.11, 0.0, Outcome.SUCCESS)
    assert newest.verdict is ADMIT
    assert [wait.verdict for wait in older] == [None, None]


def test_the_oldest_makes_place_for_the_newest_once_it_is_no_burst() -> None:
    limiter = limiter_of(4)
    older = overloaded(limiter)
    newer = [waiting(limiter, CRITICAL, 0.1) for _ in range(3)]
    assert isinstance(older[0].verdict, Shed)
    assert [wait.verdict for wait in (older[1], *newer)] == [None] * 4
    assert limiter.waiting == 4


def test_a_queue_that_was_empty_for_a_moment_is_a_burst_again() -> None:
    limiter = limiter_of(4)
    for wait in overloaded(limiter):
        limiter.give_up(wait, 0.1)
    assert waiting(limiter, CRITICAL, 0.2).until == pytest.approx(0.3)


def test_who_waited_too_long_is_shed_and_not_served() -> None:
    limiter = limiter_of(4)
    fill(limiter, 4)
    wait = waiting(limiter, CRITICAL, 0.0)
    limiter.finish(0.1, 0.0, Outcome.SUCCESS)
    assert isinstance(wait.verdict, Shed)
    assert limiter.in_flight == 3
    assert samples(limiter, "decisions_total")["test", "critical", "shed", "enforce"] == 1


def test_who_gives_up_is_shed_once_and_keeps_a_slot_that_came_before() -> None:
    limiter = limiter_of(4)
    fill(limiter, 4)
    gone, lucky = waiting(limiter, CRITICAL, 0.0), waiting(limiter, CRITICAL, 0.0)
    assert isinstance(limiter.give_up(gone, 0.01), Shed)
    assert limiter.give_up(gone, 0.02) is gone.verdict
    limiter.finish(0.03, 0.0, Outcome.SUCCESS)
    assert limiter.give_up(lucky, 0.04) is ADMIT
    assert (limiter.in_flight, limiter.waiting) == (4, 0)
    assert samples(limiter, "decisions_total")["test", "critical", "shed", "enforce"] == 1


def test_an_arrival_finds_out_that_those_who_wait_are_too_late() -> None:
    limiter = limiter_of(4)
    fill(limiter, 4)
    late = waiting(limiter, CRITICAL, 0.0)
    limiter.arrive(CRITICAL, 0.5)
    assert isinstance(late.verdict, Shed)


# --- priorities ---


@pytest.mark.parametrize(
    ("priority", "room"), [(PLUS, 110), (CRITICAL, 100), (SHEDDABLE_PLUS, 90), (SHEDDABLE, 80)]
)
def test_who_matters_less_may_use_less_of_the_limit(priority: Priority, room: int) -> None:
    limiter = limiter_of(100)
    for _ in range(room):
        assert limiter.arrive(priority, 0.0) is ADMIT
    assert isinstance(limiter.arrive(priority, 0.0), Wait)


@pytest.mark.parametrize(
    ("priority", "room"), [(PLUS, 110), (CRITICAL, 100), (SHEDDABLE_PLUS, 75), (SHEDDABLE, 50)]
)
def test_a_loop_that_lags_leaves_less_to_who_matters_less(priority: Priority, room: int) -> None:
    limiter = limiter_of(100, lag=0.05)
    limiter.lagged(0.2)
    for _ in range(room):
        assert limiter.arrive(priority, 0.0) is ADMIT
    assert isinstance(limiter.arrive(priority, 0.0), Wait)
    # Two beats in time, and it is as before.
    limiter.lagged(0.0)
    limiter.lagged(0.0)
    assert (limiter.arrive(SHEDDABLE, 0.0) is ADMIT) is (room < 80)


def test_the_lag_of_admissions_counts_as_the_lag_of_beats_does() -> None:
    limiter = limiter_of(100, lag=0.05)
    fill(limiter, 50)
    for _ in range(10):
        limiter.start(0.1, 0.0)
    assert limiter.arrive(SHEDDABLE, 0.0) is not ADMIT
    for _ in range(10):
        limiter.start(0.1, 0.1)
    assert limiter.arrive(SHEDDABLE, 0.2) is ADMIT


def test_somebody_of_each_priority_is_served_at_the_smallest_limit() -> None:
    for priority in Priority:
        assert limiter_of(1).arrive(priority, 0.0) is ADMIT


def test_who_matters_more_is_served_first_whenever_he_came() -> None:
    limiter = limiter_of(4)
    fill(limiter, 4)
    waits = [waiting(limiter, priority, 0.0) for priority in (SHEDDABLE, SHEDDABLE_PLUS, CRITICAL)]
    limiter.finish(0.01, 0.0, Outcome.SUCCESS)
    assert [wait.verdict for wait in waits] == [None, None, ADMIT]
    # What is free now is not for the next one: he may use less of the limit.
    limiter.finish(0.02, 0.0, Outcome.SUCCESS)
    assert [wait.verdict for wait in waits] == [None, None, ADMIT]
    limiter.finish(0.03, 0.0, Outcome.SUCCESS)
    assert [wait.verdict for wait in waits] == [None, ADMIT, ADMIT]


def test_who_matters_less_makes_place_in_a_full_queue_and_never_the_other_way_round() -> None:
    limiter = limiter_of(4)
    fill(limiter, 4)
    first, second = waiting(limiter, SHEDDABLE, 0.0), waiting(limiter, SHEDDABLE, 0.0)
    others = [waiting(limiter, CRITICAL, 0.0) for _ in range(2)]
    assert isinstance(limiter.arrive(SHEDDABLE, 0.0), Shed)
    waiting(limiter, SHEDDABLE_PLUS, 0.0)
    assert isinstance(first.verdict, Shed)
    waiting(limiter, CRITICAL, 0.0)
    assert isinstance(second.verdict, Shed)
    waiting(limiter, CRITICAL, 0.0)
    assert isinstance(limiter.arrive(CRITICAL, 0.0), Shed)
    assert isinstance(limiter.arrive(SHEDDABLE_PLUS, 0.0), Shed)
    assert [wait.verdict for wait in others] == [None, None]


# --- what is told ---


@pytest.mark.parametrize(("luck", "seconds"), [(0.0, 2.0), (0.5, 4.0), (0.999, 6.0)])
def test_the_shed_are_told_to_come_back_at_different_times(luck: float, seconds: float) -> None:
    limiter = limiter_of(1, retry_after=2)
    limiter.in_flight = 5
    decisions = [limiter.arrive(CRITICAL, 0.0, luck=luck) for _ in range(3)]
    assert decisions[2] == Shed(seconds)
    assert isinstance(decisions[0], Wait)
    assert limiter.give_up(decisions[0], 0.1) == Shed(seconds)


def test_a_shadow_counts_who_would_be_shed_and_lets_nobody_wait() -> None:
    limiter = limiter_of(1)
    limiter.mode = Mode.SHADOW
    assert limiter.arrive(CRITICAL, 0.0) is ADMIT
    assert isinstance(limiter.arrive(CRITICAL, 0.0), Shed)
    assert samples(limiter, "decisions_total") == {
        ("test", "critical", "admitted", "shadow"): 1,
        ("test", "critical", "shed", "shadow"): 1,
    }
    assert limiter.mode is Mode.SHADOW


def test_every_number_has_its_metric_with_all_its_labels() -> None:
    limiter = limiter_of(4)
    fill(limiter, 4)
    waiting(limiter, CRITICAL, 0.0)
    for sample in limiter.tally():
        assert len(sample.labels) == len(POLICY_METRICS[sample.metric].labels)
    assert samples(limiter, "limit") == {("test",): 4}
    assert samples(limiter, "inflight") == {("test",): 4}
    assert samples(limiter, "queued") == {("test",): 1}


@pytest.mark.parametrize(
    "options",
    [
        {"minimum": 0},
        {"start": 3},
        {"start": 2000},
        {"retry_after": 0},
        {"queue_interval": 0.0},
        {"queue_target": 0.2},
        {"queue_target": math.nan},
        {"lag": math.inf},
        {"lag": -0.1},
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="needs "):
        LimiterConfig(**options)
    assert replace(LimiterConfig(), retry_after=1, queue_target=0.1).start == 100


# --- all of it at once ---


@dataclass(eq=False)
class Seen:
    """A request as the machine knows it."""

    priority: Priority
    came: float
    wait: Wait | None = None
    admitted: float = -1.0


class Wild:
    """A strategy that says anything."""

    def __init__(self) -> None:
        self.next = 1.0

    def resize(self, limit: float, window: Window, now: float) -> float:
        assert window.latency > 0
        assert 0 <= window.dropped <= 1
        return self.next


class Machine(RuleBasedStateMachine):
    """Requests come, end and give up in any order, while limit and lag do what they like."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.strategy = Wild()
        config = LimiterConfig(start=5, minimum=2, maximum=30)
        self.limiter = AdaptiveLimiter("test", self.strategy, config)
        self.served: list[Seen] = []
        self.queue: list[Seen] = []
        self.lag = 0.0

    def room(self, priority: Priority) -> int:
        limit = math.floor(self.limiter.limit)
        if priority is PLUS:
            return limit + math.ceil(math.sqrt(limit))
        late = self.lag >= 0.05
        share = {CRITICAL: 1.0, SHEDDABLE_PLUS: 0.75 if late else 0.9, SHEDDABLE: 0.5 if late else 0.8}[
            priority
        ]
        return max(1, math.floor(limit * share))

    def patient(self, priorities: Iterable[Priority]) -> list[Seen]:
        """Tell who waits with one of these priorities, and has not waited too long."""
        chosen = set(priorities)
        return [
            one for one in self.queue if one.wait and one.priority in chosen and self.now < one.wait.until
        ]

    def on_wake(self, seen: Seen) -> Callable[[], None]:
        def wake() -> None:
            wait = seen.wait
            assert wait is not None
            self.queue.remove(seen)
            assert wait.decided == self.now
            if isinstance(wait.verdict, Admit):
                assert not self.patient(p for p in Priority if p < seen.priority)
                assert self.now < wait.until
                assert self.limiter.in_flight <= self.room(seen.priority)
                seen.admitted = self.now
                self.served.append(seen)

        return wake

    @rule(priority=PRIORITIES, luck=st.floats(0, 1, exclude_max=True))
    def arrive(self, priority: Priority, luck: float) -> None:
        decision = self.limiter.arrive(priority, self.now, luck=luck)
        seen = Seen(priority, self.now)
        if isinstance(decision, Admit):
            assert not self.patient(p for p in Priority if p <= priority)
            assert self.limiter.in_flight <= self.room(priority)
            seen.admitted = self.now
            self.served.append(seen)
            return
        assert self.limiter.in_flight >= self.room(priority)
        if isinstance(decision, Wait):
            seen.wait = decision
            self.queue.append(seen)
            assert self.now < decision.until <= self.now + 0.1
            decision.wake = self.on_wake(seen)
        else:
            assert 1 <= decision.retry_after <= 3
            # Nobody who matters less was left in the queue.
            assert not [one for one in self.queue if one.priority > priority]

    @rule(which=st.integers(0, 99), outcome=st.sampled_from(Outcome), begins=st.booleans())
    def finish(self, which: int, outcome: Outcome, *, begins: bool) -> None:
        if not self.served:
            return
        seen = self.served.pop(which % len(self.served))
        if begins:
            self.limiter.start(seen.admitted, seen.admitted)
            self.lag *= 0.9
        self.limiter.finish(self.now, seen.admitted, outcome)

    @rule(which=st.integers(0, 99))
    def give_up(self, which: int) -> None:
        if self.queue:
            wait = self.queue[which % len(self.queue)].wait
            assert wait is not None
            assert isinstance(self.limiter.give_up(wait, self.now), Shed)

    @rule(count=st.integers(1, 12), limit=st.floats(-5, 100), seconds=st.sampled_from([0.001, 0.02, 0.3]))
    def work(self, count: int, limit: float, seconds: float) -> None:
        """Serve many at once, so that windows end."""
        self.strategy.next = limit
        for _ in range(count):
            self.arrive(CRITICAL, 0.0)
        self.now += seconds
        for _ in range(count):
            self.finish(0, Outcome.SUCCESS, begins=False)

    @rule(seconds=st.sampled_from([0.0, 0.005, 0.03, 0.1, 1.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(seconds=st.sampled_from([0.0, 0.04, 0.3]))
    def beat(self, seconds: float) -> None:
        self.limiter.lagged(seconds)
        self.lag += (seconds - self.lag) / 2

    @invariant()
    def the_books_agree(self) -> None:
        assert self.limiter.in_flight == len(self.served)
        assert self.limiter.waiting == len(self.queue)
        assert 2 <= self.limiter.limit <= 30
        assert len(self.queue) <= round(2 * math.sqrt(30))

    def teardown(self) -> None:
        self.now += 1.0
        while self.served:
            self.finish(0, Outcome.IGNORED, begins=False)
        for seen in tuple(self.queue):
            assert seen.wait is not None
            self.limiter.give_up(seen.wait, self.now)
        assert (self.limiter.in_flight, self.limiter.waiting) == (0, 0)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
