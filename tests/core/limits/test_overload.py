"""The limit follows what is finished.

An overload cuts it within a window, and slowness alone does not.
"""

from __future__ import annotations

import math

import pytest

from postfacta_core.events import Mode
from postfacta_core.limits._overload import Ending, OverloadLimiter
from postfacta_core.limits._waiting import ADMIT, Shed, Wait
from postfacta_core.telemetry.catalogue import POLICY_METRICS
from tests.core.limits.limiters import (
    ANSWERED,
    CRITICAL,
    LEFT,
    LOST,
    UNKNOWN,
    UNTIMED,
    Service,
    crowd,
    end,
    fill,
    fill_up,
    learn,
    limiter_of,
    overloaded,
    samples,
    verdicts,
    waiting,
)
from tests.kit.every import every


def test_it_starts_at_eight_and_the_next_one_waits() -> None:
    limiter = OverloadLimiter("test")
    assert not samples(limiter, "overloaded")
    fill(limiter, 8)
    assert isinstance(limiter.arrive(CRITICAL, 0.0), Wait)
    assert (limiter.in_flight, limiter.waiting) == (8, 1)


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
    # In the first window most were in time, so it grew to 512.
    assert few.limit == 128


def test_a_few_that_take_for_ever_do_not_cut_the_limit_of_others() -> None:
    limiter = limiter_of(16)
    now = learn(limiter, 0.05)
    for _ in range(20):
        crowd(limiter, now)
        now += 0.2
        fill_up(limiter, 10)
        end(limiter, 2, now, age=10.0)
        end(limiter, 8, now, age=0.05)
        assert limiter.limit >= 16
    assert samples(limiter, "pressure")["test",] < 1.0


def test_an_answer_that_is_late_for_a_known_reason_counts_in_what_is_proved_and_as_no_lateness() -> (
    None
):
    limiter = limiter_of(16)
    now = learn(limiter, 0.05)
    for _ in range(4):
        while limiter.in_flight < 20:
            limiter.resume()
        crowd(limiter, now)
        now += 0.4
        end(limiter, 10, now, age=5.0)
        end(limiter, 10, now, age=500.0, ending=UNTIMED)
    # 50 a second, as above; half of them without the others' allowance would be 4.
    assert samples(limiter, "work")["test",] == pytest.approx(8.1, rel=0.15)
    assert samples(limiter, "pressure")["test",] == 2.0
    assert samples(limiter, "inflight") == {}


def test_answers_that_are_all_late_for_a_known_reason_move_nothing() -> None:
    limiter = limiter_of(16)
    now = learn(limiter, 0.05)
    limits: list[float] = []
    for _ in range(10):
        crowd(limiter, now)
        now += 1.0
        end(limiter, limiter.in_flight, now, age=30.0, ending=UNTIMED)
        limits.append(limiter.limit)
    assert set(limits[1:]) == {32.0}  # it grew once, by what was learned before


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
    assert limiter.limit == pytest.approx(200 / 4, rel=0.01)
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
    """12 connections, statements of 0.4 s, and no wait for a connection of more than a second."""
    limiter = limiter_of(110)
    service = Service(limiter, slots=12, takes=0.4)
    service.play(5, rate=10, is_known=True)
    service.play(10, rate=150, leave=1.4, is_known=True)
    # 30 answers a second, each with 0.4 * 1.25 + 0.1 seconds.
    assert 12 <= limiter.limit <= 20
    assert "slow" not in verdicts(limiter)


def test_known_waits_are_no_part_of_what_is_usual() -> None:
    limiter, now = limiter_of(16), 0.0
    while now < 40:
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


def test_the_limit_does_not_grow_while_all_find_room() -> None:
    limiter = limiter_of(16)
    learn(limiter, 0.05)
    assert limiter.limit == 16


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
    """(b): the backlog still grows after the cut.

    And who lives to be answered tells little of how long a queue is.
    """
    limiter = limiter_of(16)
    service = Service(limiter, slots=1, takes=0.2)
    service.play(6, rate=3)
    service.play(20, rate=25, leave=leave)
    assert "slow" not in verdicts(limiter)
    assert 2 <= limiter.limit <= 5


def test_the_usual_time_is_frozen_under_losses_or_shortage() -> None:
    """(d)."""
    limiter = limiter_of(16)
    now = learn(limiter, 0.05)
    overloaded(limiter, now, rate=100, queue=2.0, windows=15)
    assert samples(limiter, "work")["test",] == pytest.approx(100 * (0.05 * 1.25 + 0.1), rel=0.1)


def test_a_service_of_few_answers_has_more_to_spare_in_place_of_one_more_slot() -> None:
    """(e): with 5 answers a second, one more is half of the limit.

    Its spare is two answers long.
    """
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


def test_silence_is_no_answer_of_the_kind_for_longer_than_it_takes() -> None:
    limiter = limiter_of(16)
    fill(limiter, 2)
    limiter.finish(5.0, 4.9, ANSWERED, "known")
    # Kind, admitted, now, whether it is silent.
    cases = [
        ("new", 5.0, 5.09, False),
        ("new", 5.0, 5.11, True),
        ("known", 4.0, 6.9, False),
        ("known", 4.0, 7.1, True),
        ("known", 6.0, 7.9, False),
        ("known", 6.0, 8.1, True),
    ]
    with every() as case:
        for kind, admitted, now, is_silent in cases:
            with case(kind, admitted, now):
                assert limiter.is_silent(kind, admitted, now) is is_silent
    assert (limiter.has_answered("known"), limiter.has_answered("new")) == (True, False)


def test_a_lent_slot_goes_to_one_that_waits() -> None:
    limiter = limiter_of(1)
    fill(limiter, 1)
    wait = waiting(limiter, CRITICAL, 0.0)
    assert limiter.is_short
    limiter.lend(0.2)
    assert (wait.verdict, limiter.in_flight) == (ADMIT, 1)
    limiter.resume()
    limiter.finish(1.0, 0.0)
    limiter.finish(1.0, 0.2)
    assert limiter.in_flight == 0


def test_kinds_beyond_the_most_are_answered_together() -> None:
    limiter = limiter_of(16)
    for kind in range(300):
        fill(limiter, 1, 0.0)
        limiter.finish(5.0, 4.9, ANSWERED, kind)
    assert limiter.has_answered("one more")
    assert not limiter.is_silent("one more", 4.0, 6.5)


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


@pytest.mark.parametrize(("luck", "seconds"), [(0.0, 1.0), (0.5, 2.0), (0.999, 3.0)])
def test_the_refused_get_different_times(luck: float, seconds: float) -> None:
    limiter = limiter_of(1)
    fill(limiter, 1)
    decision = limiter.arrive(CRITICAL, 0.0, luck=luck)
    assert isinstance(decision, Wait)
    assert limiter.give_up(decision, 0.1) == Shed(seconds)


def test_a_shadow_counts_refusals_and_queues_none() -> None:
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
