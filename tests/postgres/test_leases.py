"""No slot is lost, none is lent twice, the first to come is the first served, and no old connection is kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from postfacta_core.guards._slots import Turn
from postfacta_postgres._leases import LeaseTable, PooledConnection

IDLE = 10.0


def lending(max_size: int = 2, max_waiting: int = 3) -> LeaseTable[str]:
    return LeaseTable(max_size, max_waiting, max_lifetime=100.0, max_idle=IDLE)


def nobody() -> None:
    """Be woken, and do nothing."""


class Callers(RuleBasedStateMachine):
    """Callers come, wait, give up, use connections and bring them back, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.pool = lending()
        self.expected: list[Turn] = []  # who waits, the first first
        self.lent: list[PooledConnection[str]] = []
        self.served: list[Turn] = []  # woken, and not at work yet
        self.opened = 0

    def wake(self, turn: Turn) -> Callable[[], None]:
        def woken() -> None:
            assert self.expected[0] is turn
            self.served.append(self.expected.pop(0))

        return woken

    def connect(self) -> None:
        kept = self.pool.take()
        if kept is None:
            self.opened += 1
            kept = self.pool.opened(
                f"{self.opened}", generation=self.pool.generation, now=self.now, luck=0.5
            )
        assert kept not in self.lent
        self.lent.append(kept)

    @rule()
    def come(self) -> None:
        if self.pool.enter():
            assert not self.expected
            self.connect()
            return
        turn = self.pool.join(nobody)
        turn.wake = self.wake(turn)
        self.expected.append(turn)

    @precondition(lambda self: self.served)
    @rule()
    def set_to_work(self) -> None:
        assert self.served.pop(0).has_come
        self.connect()

    @precondition(lambda self: self.expected)
    @rule(data=st.data())
    def lose_patience(self, data: st.DataObject) -> None:
        turn = data.draw(st.sampled_from(self.expected))
        self.expected.remove(turn)
        self.pool.give_up(turn)

    @precondition(lambda self: self.served)
    @rule()
    def lose_patience_just_as_the_turn_has_come(self) -> None:
        self.pool.give_up(self.served.pop(0))

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def bring_back(self, data: st.DataObject) -> None:
        kept = data.draw(st.sampled_from(self.lent))
        self.lent.remove(kept)
        is_kept = self.pool.keep(kept, self.now)
        assert is_kept == (kept.generation == self.pool.generation and self.now < kept.ends_at)
        self.pool.leave()

    @precondition(lambda self: self.served)
    @rule()
    def fail_to_connect(self) -> None:
        self.served.pop(0)
        self.pool.leave()

    @rule(seconds=st.floats(min_value=0, max_value=60))
    def let_time_pass(self, seconds: float) -> None:
        self.now += seconds
        for kept in self.pool.sweep(self.now):
            assert self.now >= min(kept.ends_at, kept.since + IDLE)

    @rule()
    def lose_the_database(self) -> None:
        self.pool.evict(self.pool.generation)
        assert self.pool.idle == 0

    @rule()
    def hear_old_news(self) -> None:
        idle = self.pool.idle
        assert self.pool.evict(self.pool.generation - 1) == []
        assert self.pool.idle == idle

    @invariant()
    def the_slots_add_up(self) -> None:
        assert self.pool.used == len(self.lent) + len(self.served)
        assert self.pool.waiting == len(self.expected)
        assert len(self.lent) + self.pool.idle <= self.pool.size
        assert not self.expected or self.pool.used == self.pool.size


TestCallers = Callers.TestCase


def test_the_connection_used_last_is_lent_first_so_that_the_others_grow_old() -> None:
    pool = lending()
    first, second = (pool.opened(name, generation=0, now=0, luck=0) for name in "ab")
    assert pool.keep(first, 1)
    assert pool.keep(second, 2)
    assert pool.take() is second
    assert pool.sweep(10.9) == []
    assert pool.sweep(11) == [first]


@given(st.floats(min_value=0, max_value=1, exclude_max=True))
def test_connections_opened_together_end_apart_and_none_lives_too_long(luck: float) -> None:
    def ends_at(luck: float) -> float:
        return lending().opened("one", generation=0, now=0, luck=luck).ends_at

    assert 80 <= ends_at(luck) <= 100
    assert ends_at(luck) <= ends_at(luck / 2)
    assert ends_at(0) - ends_at(0.5) == pytest.approx(10)


def test_each_eviction_begins_an_era_that_never_was() -> None:
    pool, generations = lending(), [0]
    for _ in range(3):
        pool.evict(pool.generation)
        assert pool.generation > max(generations)
        generations.append(pool.generation)
