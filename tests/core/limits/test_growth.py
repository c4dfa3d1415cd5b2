"""A limit grows while requests find no room, until there is evidence of harm."""

from __future__ import annotations

import math

import pytest

from postfacta_core.limits._growth import Growth
from postfacta_core.limits._overload import OverloadConfig, OverloadLimiter
from postfacta_core.limits._waiting import ADMIT, Shed, Wait
from tests.core.limits.limiters import CRITICAL, fill

QUICK = [0.01, 0.0]  # A kind: what it usually takes, and when it was answered last.


def looked(
    until: float, kinds: list[list[float]], *, mean: float = 0.01, rate: float = 0.0
) -> Growth:
    growth = Growth()
    for beat in range(round(until / 0.05) + 1):
        growth.look(beat * 0.05, kinds, mean, 1.0, rate)
    return growth


def target(growth: Growth, now: float, limit: float = 8.0, **known: float) -> float:
    vars(growth).update(_slots=1.0, _held=known.get("held", 0.0))
    return growth.target(limit, now, is_tried=bool(known.get("tried")))


def test_it_doubles_once_enough_of_those_admitted_were_answered() -> None:
    growth = looked(0.05, [QUICK])
    assert target(growth, 0.05) == 8.0
    assert target(growth, 0.05, tried=1) == 16.0


def test_it_doubles_each_quarter_of_a_second_for_those_that_take_long() -> None:
    growth = looked(1.0, [[2.0, 0.0]], mean=2.0)
    assert target(growth, 1.0, held=0.79) == 8.0
    assert target(growth, 1.0, held=0.8) == 16.0
    assert target(growth, 1.2, held=0.8) == 8.0
    assert target(growth, 1.25, held=0.8) == 16.0


def test_where_none_was_ever_answered_silence_multiplies_by_four() -> None:
    assert target(looked(0.05, []), 0.05) == 32.0
    assert target(looked(0.05, []), 0.05, limit=512.0) == 2048.0


@pytest.mark.parametrize(
    ("usual", "mean", "silent", "is_silence"),
    [
        (0.01, 0.01, 0.05, False),
        (0.01, 0.01, 0.1, True),
        (0.2, 0.01, 0.25, False),
        (0.2, 0.01, 0.3, True),
        (0.01, 0.08, 0.2, False),
        (0.01, 0.08, 0.25, True),
        (0.01, 9.0, 0.3, True),
    ],
)
def test_silence_is_longer_than_any_takes(
    usual: float, mean: float, silent: float, *, is_silence: bool
) -> None:
    growth = looked(silent, [[usual, 0.0]], mean=mean)
    assert (target(growth, silent, limit=2.0) == 8.0) is is_silence


def test_a_service_that_is_slow_already_is_silent_for_longer() -> None:
    growth = Growth()
    growth.look(0.25, [[0.1, 0.0]], 0.1, 2.0, 0.0)
    assert target(growth, 0.25) == 8.0
    growth.look(0.31, [[0.1, 0.0]], 0.1, 2.0, 0.0)
    assert target(growth, 0.31) == pytest.approx(16 * 1.31)


def test_growth_in_silence_is_bounded_by_what_was_answered_before() -> None:
    assert target(looked(0.5, [QUICK]), 0.5) == pytest.approx(24.0)
    assert target(looked(0.5, [QUICK], rate=100.0), 0.5, limit=40.0) == pytest.approx(75.0)
    assert target(looked(0.5, [QUICK]), 0.5, limit=40.0) == 40.0


def test_the_rate_before_a_silence_is_kept_for_a_while() -> None:
    growth = looked(0.0, [QUICK], rate=100.0)
    for beat in range(1, 70):
        growth.look(beat * 0.05, [QUICK], 0.01, 1.0, 0.0)
    now = 69 * 0.05
    assert target(growth, now, limit=200.0) == pytest.approx(1.5 * 100 * 0.99**69 * now)


def test_an_idle_service_is_not_silent_nor_one_that_grew() -> None:
    growth = looked(0.5, [QUICK])
    growth.rest(0.5)
    growth.look(0.55, [QUICK], 0.01, 1.0, 0.0)
    assert target(growth, 0.55) == 8.0
    growth = looked(0.5, [QUICK])
    assert target(growth, 0.5) > 8.0
    growth.look(0.55, [QUICK], 0.01, 1.0, 0.0)
    assert target(growth, 0.55, limit=16.0) == 16.0


def test_what_counts_begins_with_each_shortage() -> None:
    growth = looked(0.5, [QUICK])
    assert growth.begins_short(0.5, is_short=True)
    assert not growth.begins_short(0.55, is_short=True)
    growth.look(0.55, [QUICK], 0.01, 1.0, 0.0)
    assert target(growth, 0.55) == 8.0
    assert not growth.begins_short(0.6, is_short=False)
    assert growth.begins_short(0.65, is_short=True)


def test_kinds_that_were_not_answered_for_ten_minutes_count_no_more() -> None:
    growth = Growth()
    growth.look(600.0, [[500.0, 0.0], [0.01, 599.0]], 0.01, 1.0, 0.0)
    assert target(growth, 600.0) == 8.0
    growth.look(600.05, [[500.0, 0.0], [0.01, 599.0]], 0.01, 1.0, 0.0)
    assert target(growth, 600.05) == 32.0


def test_what_holds_the_slots_is_forgotten_in_a_minute() -> None:
    growth = looked(1.0, [[2.0, 0.0]], mean=2.0)
    growth.note(2.0, 4.0, 0.0)
    growth.note(100.0, 1.0, 1000.0)
    assert growth.target(8.0, 1.0, is_tried=False) == 8.0
    growth.note(2.0, 4.0, 1000.0)
    assert growth.target(8.0, 1.0, is_tried=False) == 16.0


def test_it_grows_no_more_for_five_seconds_after_harm() -> None:
    growth = looked(0.05, [QUICK])
    assert growth.may_grow(0.05)
    growth.hold(1.0)
    assert not growth.may_grow(5.9)
    assert growth.may_grow(6.0)


def test_it_does_not_grow_while_the_loop_is_late() -> None:
    growth = looked(0.05, [QUICK])
    growth.look(0.25, [QUICK], 0.01, 1.0, 0.0)
    assert not growth.may_grow(0.25)
    growth.look(0.3, [QUICK], 0.01, 1.0, 0.0)
    assert growth.may_grow(0.3)


def test_lateness_after_a_silence_is_excused_for_as_long_as_it_lasted() -> None:
    growth = looked(0.4, [QUICK])
    assert growth.excuse(0.5) == pytest.approx(2.5 * 0.4)
    assert growth.excuse(0.89) == pytest.approx(2.5 * 0.4)
    assert growth.excuse(0.9) == 0.0
    assert Growth().excuse(0.0) == 0.0


def test_a_silence_of_long_ago_explains_nothing() -> None:
    assert looked(0.4, [QUICK]).excuse(4.41) == 0.0
    growth = looked(0.4, [QUICK])
    growth.look(5.0, [[0.01, 4.85]], 0.01, 1.0, 0.0)
    assert growth.excuse(5.0) == pytest.approx(2.5 * 0.15)


def exploring(start: int = 2) -> OverloadLimiter:
    limiter = OverloadLimiter("test", OverloadConfig(start=start), explores=True)
    for beat in range(20):
        limiter.beat(beat * 0.05)
    return limiter


def test_those_who_find_no_room_are_let_in_while_none_is_answered() -> None:
    limiter = exploring()
    fill(limiter, 2, 1.0)
    waits = [limiter.arrive(CRITICAL, 1.0) for _ in range(30)]
    now = 1.0
    while any(isinstance(wait, Wait) and wait.verdict is None for wait in waits):
        now += 0.05
        limiter.beat(now)
    assert all(isinstance(wait, Wait) and wait.verdict is ADMIT for wait in waits)
    assert (limiter.in_flight, now < 1.5) == (32, True)


def test_a_patient_queue_has_a_thousand_places_for_two_seconds() -> None:
    limiter = exploring()
    fill(limiter, 2, 1.0)
    waits = [limiter.arrive(CRITICAL, 1.0) for _ in range(1024)]
    assert all(isinstance(wait, Wait) and wait.until == 3.0 for wait in waits)
    assert isinstance(limiter.arrive(CRITICAL, 1.0), Wait)
    first = waits[0]
    assert isinstance(first, Wait)
    assert isinstance(first.verdict, Shed)


def test_after_a_late_window_the_limit_is_what_is_proved() -> None:
    limiter = exploring(8)
    now = 1.0
    for _ in range(200):
        fill(limiter, 1, now)
        now += 0.05
        limiter.finish(now, now - 0.05)
        limiter.beat(now)
    begun = now
    fill(limiter, 8, now)
    for _ in range(30):
        limiter.arrive(CRITICAL, now)
    for _ in range(10):
        now += 0.05
        limiter.finish(now, begun - 1.0)
        limiter.beat(now)
    assert limiter.limit < 16
    assert isinstance([limiter.arrive(CRITICAL, now) for _ in range(40)][-1], Wait | Shed)
    assert limiter.limit < math.inf


def test_a_limit_that_is_not_used_falls_to_three_times_its_peak() -> None:
    limiter = exploring(8)
    now = 1.0
    fill(limiter, 8, now)
    for _ in range(40):
        limiter.arrive(CRITICAL, now)
    for _ in range(12):
        now += 0.05
        limiter.beat(now)
    assert limiter.limit >= 48
    while limiter.in_flight:
        limiter.finish(now, now - 0.01)
    for _ in range(400):
        fill(limiter, 4, now)
        now += 0.05
        for _ in range(4):
            limiter.finish(now, now - 0.01)
        limiter.beat(now)
    assert 8 <= limiter.limit < 13


class Excused(Growth):
    """A silence that explains any lateness."""

    def excuse(self, now: float) -> float:
        return 100.0


def test_lateness_that_a_silence_explains_is_no_new_slowness_within_the_scale() -> None:
    limiter = OverloadLimiter("test", explores=True)
    vars(limiter)["_answers"].answered = vars(limiter)["_answers"].ended = 10
    vars(limiter)["_answers"].usual = 1.0
    vars(limiter)["_answers"].stretch = 1.5
    vars(limiter)["_scale"] = 2.0
    weigh = vars(OverloadLimiter)["_weigh"]
    assert weigh(limiter, Excused(), 3.0, now=1.0, lasted=1.0) == 1.0
    assert vars(limiter)["_scale"] == 2.0
