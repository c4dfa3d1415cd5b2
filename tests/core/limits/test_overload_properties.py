"""Whatever comes in whatever order, the limit stays within its bounds and no slot is lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from postfacta_core.limits._overload import Ending
from postfacta_core.limits._waiting import ADMIT, Admit, Priority, Shed, Wait
from tests.core.limits.limiters import (
    ANSWERED,
    CRITICAL,
    LOST,
    PLUS,
    SHEDDABLE,
    SHEDDABLE_PLUS,
    UNKNOWN,
    end,
    limiter_of,
)


@given(
    st.lists(
        st.tuples(st.sampled_from(["in", "unknown", "unheard", "wait"]), st.floats(0.0, 3.0)),
        max_size=80,
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
            one
            for one in self.queue
            if one.wait and one.priority in chosen and self.now < one.wait.until
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

    @rule(
        count=st.integers(1, 12),
        seconds=st.sampled_from([0.001, 0.02, 0.3, 2.0]),
        is_lost=st.booleans(),
    )
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
TestMachine.settings = settings(stateful_step_count=30)
