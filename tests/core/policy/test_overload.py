"""The limit follows what is finished: an overload cuts it within a window, and slowness alone does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from postfacta_core.events import Mode
from postfacta_core.policy.overload import Ending, OverloadConfig, OverloadLimiter
from postfacta_core.policy.waiting import ADMIT, Admit, Priority, Shed, Wait
from postfacta_core.telemetry.policies import POLICY_METRICS

PLUS, CRITICAL, SHEDDABLE_PLUS, SHEDDABLE = Priority
ANSWERED, LOST, UNKNOWN, LEFT = Ending


def limiter_of(start: int = 16, **options: Any) -> OverloadLimiter:
    return OverloadLimiter("test", OverloadConfig(start=start, **options))


def fill(limiter: OverloadLimiter, count: int, now: float = 0.0) -> None:
    for _ in range(count):
        assert limiter.arrive(CRITICAL, now) is ADMIT


def crowd(limiter: OverloadLimiter, now: float) -> None:
    """Let more come than find room, until somebody is refused."""
    waits: list[Wait] = []
    while True:
        decision = limiter.arrive(CRITICAL, now)
        if isinstance(decision, Wait):
            waits.append(decision)
        if isinstance(decision, Shed) or any(wait.verdict is not None for wait in waits):
            return


def waiting(limiter: OverloadLimiter, priority: Priority, now: float) -> Wait:
    wait = limiter.arrive(priority, now)
    assert isinstance(wait, Wait)
    return wait


def end(
    limiter: OverloadLimiter, count: int, now: float, *, age: float, ending: Ending = ANSWERED, **known: Any
) -> None:
    for _ in range(count):
        limiter.finish(now, now - age, ending, **known)


def learn(limiter: OverloadLimiter, usual: float, *, until: float = 10.0, every: float = 0.0) -> float:
    """Serve one at a time, one in `every` seconds at most, until the usual time is known; return the time then."""
    now = 0.0
    while now < until:
        fill(limiter, 1, now)
        limiter.finish(now + usual, now)
        now += max(usual, every)
    return now


def samples(limiter: OverloadLimiter, metric: str) -> dict[tuple[str, ...], float]:
    return {
        s.labels: s.value for s in limiter.tally() if s.metric == f"postfacta_limiter_{metric}" and s.value
    }


def overloaded(limiter: OverloadLimiter, now: float, *, rate: float, queue: float, windows: int = 1) -> float:
    """Answer so many a second, each as old as the queue is long, while more come; give the time then."""
    count = math.ceil(max(10, rate / 10))
    for _ in range(windows):
        while limiter.in_flight < count:
            limiter.resume()  # they were admitted long ago
        crowd(limiter, now)
        now += count / rate
        end(limiter, count, now, age=queue)
    return now


class Service:
    """Slots that requests hold for a time, in order of admission; callers come in steps of 10 ms."""

    def __init__(self, limiter: OverloadLimiter, *, slots: int, takes: float) -> None:
        self.limiter, self.slots, self.takes = limiter, slots, takes
        self.now = 0.0
        self.under_way: list[list[float]] = []

    def play(self, seconds: float, *, rate: float, leave: float = math.inf, is_known: bool = False) -> None:
        limiter, stop, owed = self.limiter, self.now + seconds, 0.0
        while self.now < stop:
            owed += rate * 0.01
            while owed >= 1:
                owed -= 1
                limiter.arrive(CRITICAL, self.now)
            # Some of them come from the queue.
            self.under_way += [[self.now, math.inf] for _ in range(limiter.in_flight - len(self.under_way))]
            for one in self.under_way[: self.slots]:
                one[1] = min(one[1], self.now)
            self.now += 0.01
            for one in tuple(self.under_way):
                admitted, begun = one
                if self.now - begun >= self.takes - 1e-9:
                    self.under_way.remove(one)
                    limiter.finish(self.now, admitted, ANSWERED, None, begun - admitted if is_known else 0.0)
                elif self.now - admitted >= leave:
                    self.under_way.remove(one)
                    waited = min(begun, self.now) - admitted
                    limiter.finish(self.now, admitted, LOST, None, waited if is_known else 0.0)


def verdicts(limiter: OverloadLimiter) -> dict[str, float]:
    return {labels[1]: count for labels, count in samples(limiter, "verdicts_total").items()}


# --- the limit


def test_it_starts_at_sixteen_and_the_next_one_waits() -> None:
    limiter = OverloadLimiter("test")
    fill(limiter, 16)
    assert isinstance(limiter.arrive(CRITICAL, 0.0), Wait)
    assert (limiter.in_flight, limiter.waiting) == (16, 1)


def test_an_overload_cuts_to_what_is_proved_and_to_a_quarter_at_most() -> None:
    limiter = limiter_of(16)
    now = learn(limiter, 0.05)
    overloaded(limiter, now, rate=50, queue=5.0, windows=4)
    # 50 a second, each with 0.05 * 1.25 + 0.1 seconds, are 8 at once.
    assert 4 <= limiter.limit <= 8.2
    assert samples(limiter, "work")["test",] == pytest.approx(8.1, rel=0.15)
    few = limiter_of(256)
    now = learn(few, 0.05)
    overloaded(few, now, rate=50, queue=5.0, windows=4)
    assert few.limit == 64


def test_a_second_window_of_old_answers_sets_the_same_limit() -> None:
    limiter = limiter_of(16)
    now = learn(limiter, 0.05)
    now = overloaded(limiter, now, rate=50, queue=5.0, windows=5)
    limit = limiter.limit
    overloaded(limiter, now, rate=50, queue=5.0, windows=5)
    assert limiter.limit == limit < 9


def test_requests_that_are_given_up_count_at_their_age() -> None:
    limiter = limiter_of(256)
    now = learn(limiter, 0.05)
    fill(limiter, 200, now)
    for step in range(1, 21):
        end(limiter, 10, now + 1 + step / 20, age=1.0, ending=LOST)
    assert limiter.limit == 200 / 4
    assert samples(limiter, "pressure")["test",] > 100


def test_requests_left_before_they_began_count_by_the_mean_of_all_kinds() -> None:
    limiter = limiter_of(16)
    now = learn(limiter, 0.05)
    for age, is_late in ((0.15, False), (1.0, True)):
        limiter.finish(now + 5, now + 5, UNKNOWN)
        limiter.resume()
        crowd(limiter, now + 5)
        now += 5.2
        end(limiter, 8, now, age=age, ending=LEFT, kind="whatever")
        assert (samples(limiter, "pressure")["test",] > 1) is is_late


def test_requests_given_up_within_their_allowance_say_nothing() -> None:
    limiter = limiter_of(16)
    now = learn(limiter, 0.05)
    for _ in range(40):
        crowd(limiter, now)
        now += 0.1
        end(limiter, limiter.in_flight, now, age=0.1, ending=LOST)
    assert limiter.limit >= 16


def test_waits_for_a_pool_are_a_queue_although_they_are_bounded() -> None:
    """12 connections, statements of 0.4 s, and nobody waits for a connection for longer than a second."""
    limiter = limiter_of(110)
    service = Service(limiter, slots=12, takes=0.4)
    service.play(5, rate=10, is_known=True)
    service.play(10, rate=150, leave=1.4, is_known=True)
    # 30 answers a second, each with 0.4 * 1.25 + 0.1 seconds.
    assert 12 <= limiter.limit <= 20
    assert "slow" not in verdicts(limiter)


def test_known_waits_are_no_part_of_what_is_usual() -> None:
    limiter, now = limiter_of(16), 0.0
    while now < 10:
        fill(limiter, 1, now)
        now += 0.5
        limiter.finish(now, now - 0.5, ANSWERED, None, 0.4)
    overloaded(limiter, now, rate=100, queue=2.0, windows=15)
    assert samples(limiter, "work")["test",] == pytest.approx(100 * (0.1 * 1.25 + 0.1), rel=0.1)


@pytest.mark.parametrize(("own", "limit"), [(1.0, 25), (0.0, 100)])
def test_a_wait_for_the_loop_counts_four_times_and_half_if_others_had_the_processor(
    own: float, limit: int
) -> None:
    limiter = limiter_of(100)
    now = learn(limiter, 0.005)
    limiter.beat(now, own)
    crowd(limiter, now)
    end(limiter, 12, now + 0.06, age=0.045, lag=0.04)
    assert limiter.limit == pytest.approx(limit) if own else limiter.limit > limit


def test_a_service_that_is_slow_and_keeps_up_is_left_alone() -> None:
    limiter = limiter_of(64)
    now = learn(limiter, 0.02)
    for _ in range(50):
        fill(limiter, 10, now)
        now += 1.0
        end(limiter, 10, now, age=1.0)
    assert limiter.limit == 64


def test_the_limit_doubles_only_once_until_half_as_many_new_requests_are_answered() -> None:
    """(c): answers to older requests would let it overshoot, as they did not stand behind the new ones."""
    limiter = limiter_of(16)
    now = learn(limiter, 0.05)
    fill(limiter, 16, now)
    crowd(limiter, now)
    end(limiter, 8, now + 0.06, age=0.06)
    assert limiter.limit == 32
    for age, limit in ((0.13, 32), (0.05, 32), (0.05, 32), (0.05, 32), (0.05, 64)):
        now += 0.06
        crowd(limiter, now + 0.01)
        end(limiter, 12, now + 0.06, age=age)
        assert limiter.limit == limit


def test_the_limit_does_not_grow_while_everybody_finds_room() -> None:
    limiter = limiter_of(16)
    learn(limiter, 0.05)
    assert limiter.limit == 16


# --- the experiment


def slower(limiter: OverloadLimiter, *, seconds: float = 8.0) -> Service:
    """Let a service of 40 slots become ten times slower, and more come than it can do then."""
    service = Service(limiter, slots=40, takes=0.05)
    service.play(5, rate=60)
    service.takes = 0.5
    service.play(seconds, rate=200)
    return service


def test_a_cut_that_shortens_nothing_is_taken_back_and_the_service_counts_as_slow() -> None:
    limiter = limiter_of(32)
    slower(limiter, seconds=3)
    assert verdicts(limiter)["slow"] >= 1
    assert samples(limiter, "scale")["test",] > 4
    assert limiter.limit >= 32


def test_a_service_that_is_well_again_loses_its_scale() -> None:
    limiter = limiter_of(32)
    service = slower(limiter)
    service.takes = 0.05
    service.play(10, rate=60)
    assert samples(limiter, "scale")["test",] == pytest.approx(1, abs=0.1)


def test_a_wrong_verdict_is_tested_again_within_seconds() -> None:
    limiter = limiter_of(32)
    service = slower(limiter, seconds=4)
    assert samples(limiter, "scale")["test",] > 5
    # From now on it is a queue: one slot that answers 80 a second.
    service.slots, service.takes = 4, 0.05
    service.play(40, rate=200)
    assert samples(limiter, "scale")["test",] < 2
    assert limiter.limit < 32


def test_no_verdict_from_requests_that_stood_behind_the_backlog() -> None:
    """(a): only those admitted after the cut count, and the count starts anew when the limit falls by a fifth."""
    limiter = limiter_of(64)
    now = learn(limiter, 0.05)
    overloaded(limiter, now, rate=50, queue=1.3, windows=6)
    assert not verdicts(limiter)


@pytest.mark.parametrize("leave", [math.inf, 1.0])
def test_a_queue_is_never_taken_for_slowness(leave: float) -> None:
    """(b): the backlog still grows after the cut. And who lives to be answered tells little of how long a queue is."""
    limiter = limiter_of(16)
    service = Service(limiter, slots=1, takes=0.2)
    service.play(6, rate=3)
    service.play(20, rate=25, leave=leave)
    assert "slow" not in verdicts(limiter)
    assert 2 <= limiter.limit <= 5


def test_what_is_usual_stands_still_while_anything_is_lost_or_somebody_has_no_room() -> None:
    """(d)."""
    limiter = limiter_of(16)
    now = learn(limiter, 0.05)
    overloaded(limiter, now, rate=100, queue=2.0, windows=15)
    assert samples(limiter, "work")["test",] == pytest.approx(100 * (0.05 * 1.25 + 0.1), rel=0.1)


def test_a_service_of_few_answers_has_more_to_spare_in_place_of_one_more_slot() -> None:
    """(e): with 5 answers a second, one more is half of the limit; its spare is two answers long."""
    limiter = limiter_of(16)
    now = learn(limiter, 0.2)
    overloaded(limiter, now, rate=5, queue=4.0, windows=2)
    assert samples(limiter, "work")["test",] == pytest.approx(5 * (0.2 * 1.25 + 0.4), rel=0.05)


@pytest.mark.parametrize("ending", [LOST, UNKNOWN])
def test_a_kind_that_was_never_answered_says_nothing(ending: Ending) -> None:
    """(f)."""
    limiter = limiter_of(16)
    now = learn(limiter, 0.05)
    limits: list[float] = []
    for _ in range(30):
        crowd(limiter, now)
        now += 0.2
        end(limiter, limiter.in_flight, now, age=30.0, ending=ending, kind="polls")
        limits.append(limiter.limit)
    assert len(set(limits[5:])) == 1  # at first it grows by what was learned before


def test_a_window_without_an_ending_is_not_calm() -> None:
    """(g): else the first answers after a hang would be learned as usual."""
    limiter = limiter_of(100)
    now = learn(limiter, 0.05)
    for step in range(1, 100):
        fill(limiter, 1, now + step / 5)
        if step % 10 == 0:
            limiter.finish(now + step / 5, now, LOST, "never")
    now += 30
    for _ in range(8):
        limiter.finish(now, now - 30)
    overloaded(limiter, now, rate=100, queue=2.0, windows=15)
    assert samples(limiter, "work")["test",] == pytest.approx(100 * (0.05 * 1.25 + 0.1), rel=0.1)


def test_kinds_have_each_their_own_usual_and_the_rest_share_one() -> None:
    limiter = limiter_of(16)
    now = 0.0
    for kind in range(300):
        fill(limiter, 1, now)
        now += 0.01 if kind % 2 else 0.5
        limiter.finish(now, now - (0.01 if kind % 2 else 0.5), ANSWERED, kind)
    crowd(limiter, now)
    # A dear kind in time says nothing against the limit, and a cheap one as slow as that is late.
    for kind, is_late in ((0, False), (1, True), (299, True)):
        end(limiter, 1, now + 5.0, age=0.5, kind=kind)  # ends a window
        now += 5.2
        end(limiter, 8, now, age=0.5, kind=kind)
        assert (samples(limiter, "pressure")["test",] > 1) is is_late
        fill_up(limiter, 16)


def fill_up(limiter: OverloadLimiter, count: int) -> None:
    while limiter.in_flight < count:
        limiter.resume()


# --- the queue


def test_a_burst_on_a_service_that_was_asked_for_little_refuses_nobody() -> None:
    limiter = limiter_of()
    now = learn(limiter, 0.005, every=0.2)
    decisions = [limiter.arrive(CRITICAL, now) for _ in range(200)]
    queued = [each for each in decisions if each is not ADMIT]
    # To refuse one, the limiter may also take another out of the queue: its verdict says so.
    assert [isinstance(each, Wait) and each.verdict is None for each in queued] == [True] * 184


def test_a_burst_is_served_in_order_and_refuses_nobody() -> None:
    limiter = limiter_of(4)
    fill(limiter, 4)
    woken: list[str] = []
    first, second = waiting(limiter, CRITICAL, 0.0), waiting(limiter, CRITICAL, 0.01)
    first.wake = lambda: woken.append("first")
    second.wake = lambda: woken.append("second")
    limiter.finish(0.02, 0.0)
    assert woken == ["first"]
    assert (first.verdict, first.decided, second.verdict) == (ADMIT, 0.02, None)
    assert samples(limiter, "queue_time_seconds_total") == {("test",): pytest.approx(0.02)}
    limiter.beat(0.02)
    assert not samples(limiter, "overloaded")


def test_the_seventeenth_who_waits_is_refused_and_begins_an_overload() -> None:
    limiter = limiter_of(4)
    fill(limiter, 4)
    waits = [waiting(limiter, CRITICAL, 0.0) for _ in range(17)]
    assert [wait.verdict is None for wait in waits] == [False] + [True] * 16
    limiter.beat(0.01)
    assert samples(limiter, "overloaded") == {("test",): 1}


def test_in_an_overload_the_oldest_makes_place() -> None:
    limiter = limiter_of(4)
    fill(limiter, 4)
    old = [waiting(limiter, CRITICAL, 0.0) for _ in range(16)]
    limiter.arrive(CRITICAL, 0.01)
    newest = waiting(limiter, CRITICAL, 0.02)
    assert isinstance(old[0].verdict, Shed)
    assert newest.until == pytest.approx(0.12)
    limiter.finish(0.03, 0.0)
    assert newest.verdict is ADMIT


def test_who_waited_to_the_end_is_refused_and_not_served() -> None:
    limiter = limiter_of(4)
    fill(limiter, 4)
    wait = waiting(limiter, CRITICAL, 0.0)
    limiter.finish(0.5, 0.0)
    assert isinstance(wait.verdict, Shed)
    assert limiter.in_flight == 3
    assert samples(limiter, "decisions_total")["test", "critical", "shed", "enforce"] == 1


def test_an_arrival_and_a_beat_refuse_those_who_waited_to_the_end() -> None:
    limiter = limiter_of(4)
    fill(limiter, 4)
    first = waiting(limiter, CRITICAL, 0.0)
    second = waiting(limiter, CRITICAL, 0.7)
    assert isinstance(first.verdict, Shed)
    limiter.beat(5.0)
    assert isinstance(second.verdict, Shed)


def test_who_gives_up_is_refused_once_and_keeps_a_slot_that_came_before() -> None:
    limiter = limiter_of(4)
    fill(limiter, 4)
    gone, lucky = waiting(limiter, CRITICAL, 0.0), waiting(limiter, CRITICAL, 0.0)
    assert isinstance(limiter.give_up(gone, 0.01), Shed)
    assert limiter.give_up(gone, 0.02) is gone.verdict
    limiter.finish(0.03, 0.0)
    assert limiter.give_up(lucky, 0.04) is ADMIT
    assert (limiter.in_flight, limiter.waiting) == (4, 0)
    assert samples(limiter, "decisions_total")["test", "critical", "shed", "enforce"] == 1


def test_a_higher_limit_admits_who_waits_at_once() -> None:
    limiter = limiter_of(16)
    now = learn(limiter, 0.05)
    fill(limiter, 16, now)
    waits = [waiting(limiter, CRITICAL, now) for _ in range(10)]
    end(limiter, 8, now + 0.06, age=0.06)
    assert limiter.limit == 32
    assert all(wait.verdict is ADMIT for wait in waits)


# --- priorities


@pytest.mark.parametrize(
    ("priority", "room"), [(PLUS, 110), (CRITICAL, 100), (SHEDDABLE_PLUS, 90), (SHEDDABLE, 80)]
)
def test_lower_priorities_may_use_part_of_the_limit_and_the_highest_has_a_reserve(
    priority: Priority, room: int
) -> None:
    limiter = limiter_of(100)
    for _ in range(room):
        assert limiter.arrive(priority, 0.0) is ADMIT
    assert isinstance(limiter.arrive(priority, 0.0), Wait)


@pytest.mark.parametrize("priority", list(Priority))
def test_each_priority_is_served_at_the_smallest_limit(priority: Priority) -> None:
    assert limiter_of(1).arrive(priority, 0.0) is ADMIT


def test_higher_priorities_go_first() -> None:
    limiter = limiter_of(4)
    fill(limiter, 4)
    waits = [waiting(limiter, priority, 0.0) for priority in (SHEDDABLE, SHEDDABLE_PLUS, CRITICAL)]
    limiter.finish(0.01, 0.0)
    assert [wait.verdict for wait in waits] == [None, None, ADMIT]
    # What is free now is not for the next one: it may use less of the limit.
    limiter.finish(0.02, 0.0)
    assert [wait.verdict for wait in waits] == [None, None, ADMIT]
    limiter.finish(0.03, 0.0)
    assert [wait.verdict for wait in waits] == [None, ADMIT, ADMIT]


def test_a_full_queue_has_place_for_higher_priorities_only() -> None:
    limiter = limiter_of(4)
    fill(limiter, 4)
    lowest = [waiting(limiter, SHEDDABLE, 0.0) for _ in range(16)]
    waiting(limiter, CRITICAL, 0.0)
    assert isinstance(lowest[0].verdict, Shed)
    assert lowest[1].verdict is None
    for _ in range(15):
        waiting(limiter, CRITICAL, 0.0)
    assert isinstance(limiter.arrive(SHEDDABLE_PLUS, 0.0), Shed)


# --- what is said


@pytest.mark.parametrize(("luck", "seconds"), [(0.0, 2.0), (0.5, 4.0), (0.999, 6.0)])
def test_the_refused_are_told_different_times(luck: float, seconds: float) -> None:
    limiter = limiter_of(1, retry_after=2)
    fill(limiter, 1)
    decision = limiter.arrive(CRITICAL, 0.0, luck=luck)
    assert isinstance(decision, Wait)
    assert limiter.give_up(decision, 0.1) == Shed(seconds)


def test_a_shadow_counts_refusals_and_lets_nobody_wait() -> None:
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
    assert samples(limiter, "scale") == {("test",): 1}


@pytest.mark.parametrize(
    "options",
    [
        {"spare": 0.0},
        {"patience": math.nan},
        {"start": 0},
        {"start": 1.5},
        {"retry_after": 0},
        {"spare": "1"},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"OverloadConfig.{next(iter(options))} must be"):
        OverloadConfig(**options)


def test_a_name_that_is_no_label_is_refused() -> None:
    with pytest.raises(ValueError, match=r"OverloadLimiter\.name must be"):
        OverloadLimiter("no label")


# --- properties


@given(
    st.lists(
        st.tuples(st.sampled_from(["in", "unknown", "unheard", "wait"]), st.floats(0.0, 3.0)), max_size=80
    )
)
def test_no_answer_changes_no_limit(steps: list[tuple[str, float]]) -> None:
    limiter, now, admitted = limiter_of(8), 0.0, list[float]()
    for step, seconds in steps:
        now += seconds
        if step == "in":
            if limiter.arrive(CRITICAL, now) is ADMIT:
                admitted.append(now)
        elif step == "wait":
            limiter.beat(now)
        elif admitted:
            ending = UNKNOWN if step == "unknown" else LOST
            limiter.finish(now, admitted.pop(), ending, "never answered")
    assert limiter.limit == 8


@given(
    st.integers(1, 200),
    st.lists(st.tuples(st.integers(1, 40), st.floats(0.001, 5.0)), min_size=1, max_size=60),
)
def test_while_all_that_come_are_answered_the_limit_never_falls(
    start: int, rounds: list[tuple[int, float]]
) -> None:
    limiter, now, lowest = limiter_of(start), 0.0, float(start)
    for count, seconds in rounds:
        admitted = sum(limiter.arrive(PLUS, now) is ADMIT for _ in range(min(count, start)))
        now += seconds
        end(limiter, admitted, now, age=seconds)
        assert limiter.limit >= lowest
        lowest = limiter.limit


@dataclass(eq=False)
class Seen:
    """A request as the machine knows it."""

    priority: Priority
    came: float
    wait: Wait | None = None
    admitted: float = -1.0


class Machine(RuleBasedStateMachine):
    """Requests come, end and give up in any order, at any pace."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.limiter = limiter_of(5)
        self.served: list[Seen] = []
        self.queue: list[Seen] = []
        self.verdicts = 0

    def room(self, priority: Priority) -> int:
        limit = math.floor(self.limiter.limit)
        if priority is PLUS:
            return limit + math.ceil(math.sqrt(self.limiter.limit))
        share = {CRITICAL: 1.0, SHEDDABLE_PLUS: 0.9, SHEDDABLE: 0.8}[priority]
        return max(1, math.floor(self.limiter.limit * share))

    def patient(self, priorities: Iterable[Priority]) -> list[Seen]:
        """Return who waits with one of these priorities, and not yet to the end."""
        chosen = set(priorities)
        return [
            one for one in self.queue if one.wait and one.priority in chosen and self.now < one.wait.until
        ]

    def on_wake(self, seen: Seen) -> Callable[[], None]:
        def wake() -> None:
            wait = seen.wait
            assert wait is not None
            self.queue.remove(seen)  # and so it has one verdict
            assert wait.decided == self.now
            if isinstance(wait.verdict, Admit):
                assert not self.patient(p for p in Priority if p < seen.priority)
                assert self.now < wait.until
                assert self.limiter.in_flight <= self.room(seen.priority)
                seen.admitted = self.now
                self.served.append(seen)

        return wake

    @rule(priority=st.sampled_from(Priority), luck=st.floats(0, 1, exclude_max=True))
    def arrive(self, priority: Priority, luck: float) -> None:
        decision = self.limiter.arrive(priority, self.now, luck=luck)
        seen = Seen(priority, self.now)
        if isinstance(decision, Admit):
            assert not self.patient(p for p in Priority if p <= priority)
            assert self.limiter.in_flight <= self.room(priority)
            seen.admitted = self.now
            self.served.append(seen)
        elif isinstance(decision, Wait):
            seen.wait = decision
            self.queue.append(seen)
            assert self.now < decision.until <= self.now + 4.0
            decision.wake = self.on_wake(seen)
        else:
            assert 1 <= decision.retry_after <= 3
            # No lower priority was left in the queue.
            assert not [one for one in self.queue if one.priority > priority]

    @rule(
        which=st.integers(0, 99),
        ending=st.sampled_from(Ending),
        kind=st.sampled_from(["a", "b"]),
        parts=st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)),
    )
    def finish(self, which: int, ending: Ending, kind: str, parts: tuple[float, float]) -> None:
        if self.served:
            seen = self.served.pop(which % len(self.served))
            took = self.now - seen.admitted
            waited, lag = (took * part for part in parts)
            self.limiter.finish(self.now, seen.admitted, ending, kind, waited, lag)

    @rule(which=st.integers(0, 99))
    def give_up(self, which: int) -> None:
        if self.queue:
            wait = self.queue[which % len(self.queue)].wait
            assert wait is not None
            assert isinstance(self.limiter.give_up(wait, self.now), Shed)

    @rule(count=st.integers(1, 12), seconds=st.sampled_from([0.001, 0.02, 0.3, 2.0]), is_lost=st.booleans())
    def work(self, count: int, seconds: float, *, is_lost: bool) -> None:
        """Serve many at once, so that windows end."""
        for _ in range(count):
            self.arrive(CRITICAL, 0.0)
        self.now += seconds
        for _ in range(count):
            self.finish(0, LOST if is_lost else ANSWERED, "a", (0.0, 0.0))

    @rule(seconds=st.sampled_from([0.0, 0.005, 0.03, 0.1, 1.0, 10.0]))
    def wait(self, seconds: float) -> None:
        limit = self.limiter.limit
        self.now += seconds
        assert self.limiter.limit == limit

    @rule(own=st.floats(0, 1))
    def beat(self, own: float) -> None:
        self.limiter.beat(self.now, own)

    @invariant()
    def the_books_agree(self) -> None:
        assert self.limiter.in_flight == len(self.served)
        assert self.limiter.waiting == len(self.queue)
        assert 1 <= self.limiter.limit < math.inf

    def teardown(self) -> None:
        self.now += 1.0
        while self.served:
            self.finish(0, UNKNOWN, "a", (0.0, 0.0))
        for seen in tuple(self.queue):
            assert seen.wait is not None
            self.limiter.give_up(seen.wait, self.now)
        assert (self.limiter.in_flight, self.limiter.waiting) == (0, 0)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
