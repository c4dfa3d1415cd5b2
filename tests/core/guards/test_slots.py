"""No slot is lost, lent twice or handed to a newcomer past those who wait."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from postfacta_core.deadlines.present import BOUND, Bound
from postfacta_core.errors import BulkheadFullError
from postfacta_core.events import Mode, Sample
from postfacta_core.guards import Bulkhead, registry
from postfacta_core.guards._waits import Waiting
from postfacta_core.telemetry.catalogue import POLICY_METRICS
from postfacta_core.testing import ManualClock


class Slots(Bulkhead):
    """A bulkhead whose callers go one step at a time."""

    def __init__(self, size: int, max_waiting: int = 0, **options: Any) -> None:
        registry.clear()
        super().__init__("db", size, max_waiting=max_waiting, clock=ManualClock(), **options)

    def enter(self) -> Waiting[Any] | None:
        ticket = self._enter(None, (), {})
        return ticket if isinstance(ticket, partial) else None

    def queue(
        self, wake: Callable[[], object], patience: float = 1.0
    ) -> Generator[float, None, Any]:
        wait = self.enter()
        assert wait is not None
        steps = wait(wake)
        bound = BOUND.set(None if patience > 0 else Bound(patience, ManualClock(0.0), None))
        try:
            next(steps)
        finally:
            BOUND.reset(bound)
        return steps

    def leave(self) -> None:
        self._dropped(None)


def take(turn: Generator[float, None, Any]) -> None:
    """Go on after a wait, with the slot or by a refusal."""
    with pytest.raises(StopIteration):
        turn.send(None)


def refused(turn: Generator[float, None, Any]) -> None:
    with pytest.raises(BulkheadFullError):
        turn.send(None)


def give_up(turn: Generator[float, None, Any]) -> None:
    turn.close()


def ignore() -> None:
    """Wake no one."""


def full(size: int = 1, max_waiting: int = 0, *, max_wait: float = 1.0) -> Slots:
    slots = Slots(size, max_waiting, max_wait=max_wait if max_waiting else None)
    for _ in range(size):
        assert slots.enter() is None
    return slots


def decisions(slots: Bulkhead) -> dict[tuple[str, str], float]:
    found = [
        sample
        for sample in slots.collect()
        if sample.metric == "postfacta_bulkhead_decisions_total"
    ]
    return {(sample.labels[1], sample.labels[2]): sample.value for sample in found if sample.value}


class Machine(RuleBasedStateMachine):
    """Plays callers against two plain lists: who works, and who waits.

    Of each caller its number is known, so that it shows who was woken, and in which order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.callers = 0
        self.working: list[int] = []
        self.waiting: list[int] = []
        self.called: list[int] = []
        self.turns: dict[int, Generator[float, None, Any]] = {}
        self.woken: list[int] = []
        self.counts: dict[tuple[str, str], int] = {}

    @initialize(size=st.integers(1, 3), room=st.integers(0, 3), mode=st.sampled_from(Mode))
    def begin(self, size: int, room: int, mode: Mode) -> None:
        self.size, self.room, self.mode = size, room, mode
        self.slots = Slots(size, room, mode=mode)

    def count(self, decision: str) -> None:
        if self.mode is not Mode.OFF:
            key = (decision, self.mode.value)
            self.counts[key] = self.counts.get(key, 0) + 1

    def taken(self) -> int:
        return len(self.working) + len(self.called)

    @rule(patience=st.sampled_from([0.5, 0.5, 0.5, 0.0]))
    def come(self, patience: float) -> None:
        caller = self.callers
        self.callers += 1
        if self.taken() < self.size or self.mode is not Mode.ENFORCE:
            assert self.slots.enter() is None
            self.count("admitted" if self.taken() < self.size + self.room else "refused")
            self.working.append(caller)
            return
        wake = partial(self.woken.append, caller)
        if len(self.waiting) < self.room and patience > 0:
            self.turns[caller] = self.slots.queue(wake, patience)
            self.waiting.append(caller)
        else:
            with pytest.raises(BulkheadFullError):
                self.slots.queue(wake, patience)
            self.count("refused")

    def pass_on(self) -> None:
        """A slot was freed: the longest waiting caller is woken, unless too many still work."""
        if self.waiting and self.taken() < self.size:
            self.called.append(self.waiting.pop(0))

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.working.remove(data.draw(st.sampled_from(self.working)))
        self.slots.leave()
        self.pass_on()

    @precondition(lambda self: self.called)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        caller = data.draw(st.sampled_from(self.called))
        self.called.remove(caller)
        take(self.turns.pop(caller))
        self.count("admitted")
        self.working.append(caller)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def wait_too_long(self, data: st.DataObject) -> None:
        caller = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(caller)
        refused(self.turns.pop(caller))
        self.count("refused")

    @precondition(lambda self: self.waiting or self.called)
    @rule(data=st.data())
    def be_cancelled(self, data: st.DataObject) -> None:
        caller = data.draw(st.sampled_from(self.waiting + self.called))
        give_up(self.turns.pop(caller))
        if caller in self.waiting:
            self.waiting.remove(caller)
        else:
            self.called.remove(caller)
            self.pass_on()

    @rule(mode=st.sampled_from(Mode))
    def change_mode(self, mode: Mode) -> None:
        self.mode = self.slots.mode = mode
        if mode is not Mode.ENFORCE:
            self.called += self.waiting
            self.waiting = []

    @invariant()
    def the_books_agree(self) -> None:
        if not hasattr(self, "slots"):
            return
        slots = self.slots
        assert slots.mode is self.mode
        assert (slots.used, slots.waiting) == (self.taken(), len(self.waiting))
        assert decisions(slots) == self.counts
        # Who was woken has a slot, or had it.
        assert not set(self.waiting) & set(self.woken)
        assert set(self.called) <= set(self.woken)
        # Each was woken once, in the order of coming, as numbers grow.
        assert self.woken == sorted(set(self.woken))
        assert not self.waiting or slots.used >= self.size


Machine.TestCase.settings = settings(stateful_step_count=40)
TestSlots = Machine.TestCase


def test_without_a_queue_a_full_bulkhead_refuses_immediately() -> None:
    slots = full(2)
    with pytest.raises(BulkheadFullError) as caught:
        slots.queue(ignore)
    assert (caught.value.policy, caught.value.retry_after) == ("db", None)
    assert slots.used == 2


def test_a_refusal_estimates_when_the_present_queue_is_done() -> None:
    slots = full(1, 1, max_wait=0.25)
    _turn = slots.queue(ignore)
    with pytest.raises(BulkheadFullError) as caught:
        slots.queue(ignore)
    assert caught.value.retry_after == 0.25


def test_a_caller_without_time_does_not_wait() -> None:
    slots = full(1, 5)
    for patience in (0.0, -1.0):
        with pytest.raises(BulkheadFullError):
            slots.queue(ignore, patience)
    assert decisions(slots) == {("admitted", "enforce"): 1, ("refused", "enforce"): 2}


def test_off_decides_nothing_but_knows_who_is_under_way() -> None:
    slots = Slots(1, mode=Mode.OFF)
    assert [slots.enter() for _ in range(3)] == [None] * 3
    assert (slots.used, decisions(slots)) == (3, {})
    slots.mode = Mode.ENFORCE
    slots.leave()
    with pytest.raises(BulkheadFullError):
        slots.enter()
    slots.leave()
    slots.leave()
    assert slots.enter() is None


def test_its_numbers_are_those_that_metrics_know() -> None:
    slots = full(1, 1)
    _turn = slots.queue(ignore)
    samples = list(slots.collect())
    assert all(
        len(sample.labels) == len(POLICY_METRICS[sample.metric].labels)
        and sample.labels[0] == "db"
        and sample.value >= 0
        for sample in samples
    )
    assert {sample.metric for sample in samples} == {
        name for name in POLICY_METRICS if name.startswith("postfacta_bulkhead_")
    }
    for what, number in (("used", 1), ("waiting", 1), ("slots", 1)):
        assert Sample(f"postfacta_bulkhead_{what}", ("db",), number) in samples


def test_by_default_none_waits_and_a_queue_waits_a_second() -> None:
    settings_of = Slots(1).settings()
    assert (settings_of["max_waiting"], settings_of["max_wait"]) == (0, 1.0)
    assert (
        Slots(1, 1, max_wait=0.5).settings()["max_wait"] == 0.5
    )  # Less than a second is a wait as well.
