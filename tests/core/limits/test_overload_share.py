"""While others wait, one client holds at most half of the limit, and its requests wait behind theirs."""

from __future__ import annotations

from collections.abc import Hashable

import pytest

from postfacta_core.events import Mode
from postfacta_core.limits._overload import OverloadLimiter
from postfacta_core.limits._waiting import ADMIT, Admit, Shed, Wait
from tests.core.limits.limiters import CRITICAL, SHEDDABLE, fill, limiter_of

MANY, OTHER = "203.0.113.9", "198.51.100.7"


def arrive(
    limiter: OverloadLimiter, client: Hashable, now: float = 0.0, priority: int = CRITICAL
) -> Admit | Wait | Shed:
    return limiter.arrive(priority, now, client_of=lambda: client)


def full_of_one_client(start: int = 8) -> OverloadLimiter:
    """Return a limiter whose slots one client holds, as was recorded while it found no room."""
    limiter = limiter_of(start)
    fill(limiter, start)
    limiter.share({MANY: start})
    return limiter


def test_others_have_as_much_room_as_one_holds_beyond_half() -> None:
    limiter = full_of_one_client(8)
    assert [arrive(limiter, OTHER) for _ in range(4)] == [ADMIT] * 4
    assert isinstance(arrive(limiter, OTHER), Wait)
    assert isinstance(arrive(limiter, MANY), Wait)
    assert (limiter.in_flight, limiter.waiting) == (12, 2)


def test_one_whose_client_is_unknown_is_among_the_others() -> None:
    assert full_of_one_client().arrive(CRITICAL, 0.0) is ADMIT


@pytest.mark.parametrize("held", [{}, {MANY: 4, OTHER: 4}, {MANY: 2, OTHER: 4, "third": 2}])
def test_where_none_holds_more_than_half_all_wait_alike(held: dict[Hashable, int]) -> None:
    limiter = full_of_one_client(8)
    limiter.share(held)
    assert [type(arrive(limiter, client)) for client in (OTHER, MANY)] == [Wait, Wait]


def test_a_single_slot_is_no_more_than_half() -> None:
    limiter = full_of_one_client(1)
    assert isinstance(arrive(limiter, OTHER, priority=SHEDDABLE), Wait)


def test_those_who_wait_already_are_put_in_order_by_client() -> None:
    limiter = limiter_of(4)
    fill(limiter, 4)
    decisions = [arrive(limiter, client, 0.0) for client in (MANY, MANY, OTHER)]
    first, second, other = (each for each in decisions if isinstance(each, Wait))
    limiter.share({MANY: 4})
    limiter.beat(0.01)
    assert (first.verdict, second.verdict, other.verdict) == (None, None, ADMIT)
    limiter.share({MANY: 3})  # It is still the one that holds too much.
    limiter.share({})
    for _ in range(2):
        limiter.finish(0.02, 0.0)
    assert (first.verdict, second.verdict) == (ADMIT, None)


def test_others_take_the_places_of_the_one_who_holds_too_much() -> None:
    limiter = full_of_one_client(8)
    waits = [arrive(limiter, MANY) for _ in range(16)]
    others = [arrive(limiter, OTHER) for _ in range(5)]
    assert others[:4] == [ADMIT] * 4
    assert isinstance(others[4], Wait)
    first = waits[0]
    assert isinstance(first, Wait)
    assert isinstance(first.verdict, Shed)


def test_in_shadow_others_are_counted_as_served_too() -> None:
    limiter = full_of_one_client(8)
    assert limiter.arrive_in(Mode.SHADOW, CRITICAL, 0.0, client_of=lambda: OTHER) is ADMIT
    assert isinstance(limiter.arrive_in(Mode.SHADOW, CRITICAL, 0.0, client_of=lambda: MANY), Shed)


def test_room_in_addition_counts_when_a_cut_is_judged() -> None:
    """Else a queue that others kept long after a cut would be taken for a service that is slow."""
    found: list[float] = []
    cases: list[dict[Hashable, int]] = [{}, {MANY: 32}]
    for held in cases:
        limiter = limiter_of(32)
        now = 0.0
        for _ in range(200):  # The usual time is learned.
            fill(limiter, 1, now)
            limiter.finish(now + 0.1, now)
            now += 0.1
        fill(limiter, 32, now)
        found.append(_slow_verdicts_after_a_cut(limiter, now, held))
    assert found == [1, 0]


def _slow_verdicts_after_a_cut(
    limiter: OverloadLimiter, now: float, held: dict[Hashable, int]
) -> float:
    before = now
    for _ in range(60):
        while isinstance(arrive(limiter, MANY, now), Admit):
            pass
        limiter.share(held)
        now += 0.05
        limiter.finish(now, max(before, now - 1.2))
    return next(s.value for s in limiter.tally() if s.labels[1:] == ("slow",))
