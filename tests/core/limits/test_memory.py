"""The bounded storage counts as `limits` asks, never passes more than it should, in bounded memory and time."""

from __future__ import annotations

import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from limits import parse
from limits.aio.strategies import (
    FixedWindowRateLimiter,
    MovingWindowRateLimiter,
    RateLimiter,
    SlidingWindowCounterRateLimiter,
)
from limits.storage import storage_from_string

from postfacta_core.limits import memory
from postfacta_core.limits.memory import BoundedStorage
from postfacta_core.testing import ManualClock

STRATEGIES: list[type[RateLimiter]] = [
    FixedWindowRateLimiter,
    MovingWindowRateLimiter,
    SlidingWindowCounterRateLimiter,
]
T = TypeVar("T")


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """Run what never waits: that it does not is a part of what is tested."""
    try:
        work.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    raise AssertionError("it waited")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1200.0)


@pytest.fixture
def wall() -> ManualClock:
    return ManualClock(5_000_000.0)


@pytest.fixture
def storage(clock: ManualClock, wall: ManualClock) -> BoundedStorage:
    return BoundedStorage(clock=clock, wall=wall)


def test_limits_finds_it_by_its_scheme() -> None:
    storage = storage_from_string("async+bounded://?max_keys=2")
    assert isinstance(storage, BoundedStorage)
    assert at_once(storage.check())
    for key in ("a", "b", "c"):
        at_once(storage.incr(key, 60))
    assert at_once(storage.reset()) == 2
    assert issubclass(ValueError, storage.base_exceptions)
    with pytest.raises(ValueError, match=r"RateLimiter\.max_keys must be .*, not 0"):
        storage_from_string("async+bounded://?max_keys=0")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_strategy_lets_the_limit_pass_and_no_more(
    strategy: type[RateLimiter], storage: BoundedStorage, clock: ManualClock
) -> None:
    limiter, item = strategy(storage), parse("5/minute")
    assert [at_once(limiter.hit(item, "a")) for _ in range(7)] == [True] * 5 + [False] * 2
    assert not at_once(limiter.test(item, "a"))
    assert at_once(limiter.get_window_stats(item, "a")).remaining == 0
    assert at_once(limiter.test(item, "b", cost=5))
    assert not at_once(limiter.hit(item, "b", cost=6))
    clock.advance(121.0)
    assert at_once(limiter.get_window_stats(item, "a")).remaining == 5
    assert at_once(limiter.hit(item, "a", cost=5))
    at_once(limiter.clear(item, "a"))
    assert at_once(limiter.hit(item, "a", cost=5))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_step_of_the_wall_clock_changes_nothing(
    strategy: type[RateLimiter], storage: BoundedStorage, wall: ManualClock, clock: ManualClock
) -> None:
    limiter, item = strategy(storage), parse("1/minute")
    assert at_once(limiter.hit(item, "a"))
    wall.advance(7200.0)
    assert not at_once(limiter.hit(item, "a"))
    wall.advance(-100_000.0)
    clock.advance(121.0)
    assert at_once(limiter.hit(item, "a"))


def test_a_window_ends_at_its_end(storage: BoundedStorage, clock: ManualClock, wall: ManualClock) -> None:
    fixed, moving, item = FixedWindowRateLimiter(storage), MovingWindowRateLimiter(storage), parse("5/minute")
    assert at_once(fixed.get_window_stats(item, "a")).reset_time == wall.now
    for limiter in (fixed, moving):
        at_once(limiter.hit(item, "a"))
    for mine in (clock, wall):
        mine.advance(20.0)
    for limiter in (fixed, moving):
        at_once(limiter.hit(item, "a"))
        assert at_once(limiter.get_window_stats(item, "a")).reset_time == pytest.approx(wall.now + 40.0)
    clock.advance(39.9)
    assert at_once(fixed.get_window_stats(item, "a")).remaining == 3
    clock.advance(1.0)
    assert at_once(fixed.get_window_stats(item, "a")).remaining == 5
    # One of two hits has left the moving window.
    assert at_once(moving.get_window_stats(item, "a")).remaining == 4


def test_a_sliding_window_counts_the_previous_one_by_its_share(
    storage: BoundedStorage, clock: ManualClock
) -> None:
    limiter, item = SlidingWindowCounterRateLimiter(storage), parse("10/minute")
    assert at_once(limiter.hit(item, "a", cost=8))
    # 1200 is where a window begins; a quarter into the next one, six of the eight still count.
    clock.advance(75.0)
    assert at_once(storage.get_sliding_window(item.key_for("a"), 60)) == (8, 45.0, 0, 105.0)
    assert not at_once(limiter.hit(item, "a", cost=5))
    assert at_once(limiter.hit(item, "a", cost=4))
    clock.advance(60.0)
    assert at_once(storage.get_sliding_window(item.key_for("a"), 60))[::2] == (4, 0)
    clock.advance(60.0)
    assert at_once(storage.get_sliding_window(item.key_for("a"), 60)) == (0, 0.0, 0, 105.0)


class Counting(RuleBasedStateMachine):
    """Fixed and moving windows beside lists of all hits, with and without room."""

    MAX_KEYS = 50
    LIMIT, EXPIRY = 6, 16

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(1000.0)
        self.storage = BoundedStorage(max_keys=self.MAX_KEYS, clock=self.clock, wall=self.clock)
        self.passed: dict[str, list[float]] = {}
        self.fixed: dict[str, tuple[float, int]] = {}

    @rule(quarters=st.integers(0, 30))
    def wait(self, quarters: int) -> None:
        self.clock.advance(quarters / 4)

    @rule(key=st.sampled_from("abcdefgh"), amount=st.integers(1, 3))
    def move(self, key: str, amount: int) -> None:
        now = self.clock.now
        passed = [moment for moment in self.passed.get(key, []) if moment > now - self.EXPIRY]
        fits = len(passed) + amount <= self.LIMIT
        found = at_once(self.storage.acquire_entry(f"{key}/6/1/x", self.LIMIT, self.EXPIRY, amount))
        self.check(found=found, fits=fits)
        if found:
            self.passed[key] = passed + [now] * amount

    @rule(key=st.sampled_from("abcdefgh"), amount=st.integers(1, 3))
    def count(self, key: str, amount: int) -> None:
        now = self.clock.now
        until, count = self.fixed.get(key, (0.0, 0))
        if until <= now:
            until, count = now + self.EXPIRY, 0
        self.fixed[key] = (until, count + amount)
        found = at_once(self.storage.incr(f"{key}/6/1/x", self.EXPIRY, amount))
        self.check_count(found, count + amount)

    def check(self, *, found: bool, fits: bool) -> None:
        assert found is fits

    def check_count(self, found: int, count: int) -> None:
        assert found == count


class CountingWithoutRoom(Counting):
    """The same with room for two keys, and one coarse count for the others: it may pass less, never more."""

    MAX_KEYS = 2

    def check(self, *, found: bool, fits: bool) -> None:
        assert fits or not found

    def check_count(self, found: int, count: int) -> None:
        # A coarse window may be older than a key's own, so it may end earlier; within it nothing is forgotten.
        assert found >= 1


@pytest.mark.parametrize("machine", [Counting, CountingWithoutRoom])
def test_it_counts_like_a_list_of_all_hits(machine: type[Counting], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "COARSE", 1)
    run_state_machine_as_test(machine, settings=settings(stateful_step_count=40))


def test_a_large_moving_window_keeps_few_groups_and_never_passes_more_than_the_limit(
    storage: BoundedStorage, clock: ManualClock
) -> None:
    passed: list[float] = []
    refused = 0
    for _ in range(10_000):
        clock.advance(0.02)
        if at_once(storage.acquire_entry("a", 1000, 60)):
            passed.append(clock.now)
        else:
            refused += 1
        assert sum(moment > clock.now - 60 for moment in passed[-1100:]) <= 1000
    # 200 seconds at 50 a second, 1000 a minute: a sixteenth of a window is lost at most for each.
    assert 3300 <= len(passed) <= 4000
    groups = storage._moving.read("a", clock.now)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - what it keeps
    assert groups is not None
    assert len(groups[1]) <= 33


def test_hits_that_are_counted_as_one_group_count_until_the_last_of_them_is_over(
    storage: BoundedStorage, clock: ManualClock
) -> None:
    for _ in range(17):
        assert at_once(storage.acquire_entry("a", 1000, 60))
        clock.advance(0.1)
    clock.advance(2.0)
    assert at_once(storage.acquire_entry("a", 1000, 60, 983))
    clock.advance(58.0)
    # The single ones are over, and those of the group are not: the last of them is 58 seconds old.
    assert not at_once(storage.acquire_entry("a", 1000, 60, 17))
    assert at_once(storage.acquire_entry("a", 1000, 60, 15))
    clock.advance(2.0)
    assert at_once(storage.acquire_entry("a", 1000, 60, 985))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_hundred_thousand_keys_take_the_room_of_a_thousand_and_free_no_limited_one(
    strategy: type[RateLimiter], clock: ManualClock, wall: ManualClock
) -> None:
    storage = BoundedStorage(max_keys=1000, clock=clock, wall=wall)
    limiter, item = strategy(storage), parse("2/hour")
    assert at_once(limiter.hit(item, "limited", cost=2))
    threads = threading.active_count()
    for number in range(100_000):
        at_once(limiter.hit(item, f"{number}"))
    assert not at_once(limiter.hit(item, "limited"))
    assert at_once(storage.reset()) == 1000
    # No thread, no task: the storage that limits has starts some.
    assert threading.active_count() <= threads


def test_coarse_counts_of_keys_that_callers_invent_are_bounded(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "COARSE", 4)
    monkeypatch.setattr(memory, "_MOST_COARSE", 8)
    storage = BoundedStorage(max_keys=1, clock=clock, wall=clock)
    for number in range(1000):
        at_once(storage.incr(f"k/{number}/{number}/{number}", 60))
    assert len(storage._fixed._coarse) <= 8 + 4  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - what it keeps


def test_a_long_key_takes_little(storage: BoundedStorage) -> None:
    assert at_once(storage.incr("k" * 100_000, 60)) == 1
    assert at_once(storage.incr("k" * 100_000, 60)) == 2
    assert at_once(storage.get("k" * 100_000)) == 2
    at_once(storage.clear("k" * 100_000))
    assert at_once(storage.get("k" * 100_000)) == 0
    at_once(storage.clear("never seen"))
    assert at_once(storage.get("never seen")) == 0
