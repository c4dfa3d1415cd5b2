"""No key gets more than the rate, whatever others do; and no counts are dropped for a new key."""

from __future__ import annotations

import math
from collections import OrderedDict
from fractions import Fraction

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from postfacta_core.limits._rates import (
    COARSE,
    LONGEST_KEY,
    Buckets,
    Decision,
    Rate,
    buckets_of,
    shorten,
    strictest,
)

# An interval of 2 seconds, and moments in eighths: all sums are exact in floats.
RATE = Rate(amount=4, period=8.0)
KEYS = st.sampled_from([f"192.0.2.{number}" for number in range(9)])
STEPS = st.integers(min_value=0, max_value=40)
COSTS = st.integers(min_value=0, max_value=5)


class TokenBucket:
    """The definition: a bucket that is full at first, and fills up in steps of time."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.tokens = Fraction(rate.amount)
        self.at = Fraction(0)

    def fill(self, now: float) -> Fraction:
        gained = (Fraction(now) - self.at) * self.rate.amount / Fraction(self.rate.period)
        self.tokens = min(Fraction(self.rate.amount), self.tokens + gained)
        self.at = Fraction(now)
        return self.tokens

    def holds(self, cost: int, now: float) -> bool:
        return self.fill(now) >= cost

    def take(self, cost: int, now: float) -> None:
        self.fill(now)
        self.tokens -= cost


class Limiting(RuleBasedStateMachine):
    """One rate, keys, and a bound that is out of reach."""

    MAX_KEYS = 100
    RATE = RATE

    def __init__(self) -> None:
        super().__init__()
        self.buckets = Buckets(self.RATE, self.MAX_KEYS)
        self.oracle: dict[str, TokenBucket] = {}
        self.now = 0.0

    def of(self, key: str) -> TokenBucket:
        return self.oracle.setdefault(key, TokenBucket(self.RATE))

    @rule(eighths=STEPS)
    def wait(self, eighths: int) -> None:
        self.now += eighths / 8

    @rule(key=KEYS, cost=COSTS)
    def spend(self, key: str, cost: int) -> None:
        tested = self.buckets.spend(key, cost, self.now)
        if tested.allowed:
            self.buckets.refund(key, cost, self.now)
        decision = self.buckets.spend(key, cost, self.now)
        # A key that has nothing spent is forgotten, and without room for it may get less than
        # before.
        assert tested == decision or (self.MAX_KEYS == 3 and decision.remaining <= tested.remaining)
        bucket = self.of(key)
        self.check(decision, bucket, cost)
        if decision.allowed:
            bucket.take(cost, self.now)

    def check(self, decision: Decision, bucket: TokenBucket, cost: int) -> None:
        before = bucket.fill(self.now)
        assert decision.allowed is (before >= cost)
        after = before - cost if decision.allowed else before
        assert decision.remaining == math.floor(after)
        missing = self.RATE.amount - after
        assert decision.reset_after == pytest.approx(float(missing) * 2, abs=1e-9)
        if not decision.allowed:
            wait = float(cost - before) * 2 if cost <= self.RATE.amount else math.inf
            assert decision.retry_after == pytest.approx(wait, abs=1e-5)
        assert (decision.limit, decision.period) == (4, 8.0)

    @invariant()
    def the_table_is_bounded(self) -> None:
        assert len(self.buckets) <= self.MAX_KEYS


class BoundedLimiting(Limiting):
    """The same with room for three keys, and one coarse bucket for all others."""

    MAX_KEYS = 3

    def check(self, decision: Decision, bucket: TokenBucket, cost: int) -> None:
        # It may get less, never more: so a key that is over its rate is refused, whoever else came
        # by.
        if decision.allowed:
            assert bucket.holds(cost, self.now)


@pytest.mark.parametrize("machine", [Limiting, BoundedLimiting])
def test_each_key_gets_what_a_token_bucket_of_its_own_would_give(
    machine: type[Limiting], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postfacta_core.limits._rates.COARSE", 1)
    run_state_machine_as_test(machine, settings=settings(stateful_step_count=40))


@given(
    st.lists(st.tuples(st.floats(min_value=0, max_value=3), st.integers(1, 3)), max_size=60),
    st.integers(1, 20),
    st.floats(min_value=0.01, max_value=100),
)
def test_no_window_sees_more_than_the_amount_and_its_share_of_the_rate(
    hits: list[tuple[float, int]], amount: int, period: float
) -> None:
    rate = Rate(amount=amount, period=period)
    buckets = Buckets(rate)
    now = 1e6
    admitted: list[tuple[float, int]] = []
    for wait, cost in hits:
        now += wait
        if buckets.spend("key", cost, now).allowed:
            admitted.append((now, cost))
    for first, (begin, _) in enumerate(admitted):
        spent = 0
        for end, cost in admitted[first:]:
            spent += cost
            assert spent <= amount + (end - begin) * amount / period + 1e-3


def test_a_burst_is_given_whole_and_then_the_rate() -> None:
    buckets = Buckets(Rate(amount=100, period=60.0))
    # 0.6 has no exact float: a hundred of them must not add up to more than a minute.
    decisions = [buckets.spend("a", 1, 1000.0) for _ in range(100)]
    assert [decision.remaining for decision in decisions] == list(range(99, -1, -1))
    refused = buckets.spend("a", 1, 1000.0)
    assert (refused.allowed, refused.remaining) == (False, 0)
    assert refused.retry_after == pytest.approx(0.6, abs=1e-5)
    assert refused.reset_after == pytest.approx(60.0)
    assert not buckets.spend("a", 1, 1000.59).allowed
    assert buckets.spend("a", 1, 1000.6).allowed


def test_a_limited_key_stays_limited_while_thousands_of_others_come() -> None:
    buckets = Buckets(Rate(amount=2, period=3600.0), max_keys=100)
    assert buckets.spend("limited", 2, 0.0).allowed
    for number in range(20_000):
        buckets.spend(f"other-{number}", 1, number / 1000)
        if number % 100 == 0:
            assert not buckets.spend("limited", 1, number / 1000).allowed
    assert len(buckets) == 100


def test_a_key_without_room_gets_no_more_than_the_rate_before_and_after_there_is_room() -> None:
    rate = Rate(amount=2, period=3600.0)
    buckets = Buckets(rate, max_keys=1)
    buckets.spend("first", 1, 0.0)
    assert buckets.spend("second", 2, 0.0).allowed
    assert not buckets.spend("second", 1, 0.0).allowed
    # The first one's hit has come back: there is room now, and the second is remembered all the
    # same.
    assert not buckets.spend("second", 1, 1799.0).allowed
    assert buckets.spend("second", 1, 1801.0).allowed
    assert not buckets.spend("second", 1, 1801.0).allowed
    assert len(buckets) == 1


def test_keys_without_room_are_spread_over_many_buckets() -> None:
    buckets = Buckets(Rate(amount=1, period=3600.0), max_keys=1)
    buckets.spend("first", 1, 0.0)
    admitted = sum(buckets.spend(f"{number}", 1, 0.0).allowed for number in range(20 * COARSE))
    assert 0.99 * COARSE < admitted <= COARSE


def test_keys_that_have_nothing_spent_make_room() -> None:
    buckets = Buckets(RATE, max_keys=50)
    for number in range(10_000):
        assert buckets.spend(f"{number}", 1, float(number)).allowed
    # The interval is two seconds: two keys have something spent at any time.
    assert len(buckets) <= 5


class Watched(OrderedDict[str, float]):
    """Counts how often a moment is read."""

    reads = 0

    def __getitem__(self, key: str) -> float:
        self.reads += 1
        return super().__getitem__(key)


def test_a_new_key_costs_the_same_however_many_there_are() -> None:
    for size in (10, 10_000):
        table = Buckets(RATE, size)
        table.until = watched = Watched()
        for number in range(size):
            assert table.admit(f"{number}", 100.0, 0.0)
        assert watched.reads <= 2 * size
        watched.reads = 0
        assert not table.admit("one more", 100.0, 0.0)
        assert watched.reads <= 8


def test_a_table_forgets_what_is_over_and_no_other() -> None:
    table = Buckets(RATE, 4)
    for number, key in enumerate("abcd"):
        assert table.admit(key, float(number), -1.0)
    assert not table.admit("e", 9.0, -0.5)
    assert sorted(table.until) == ["a", "b", "c", "d"]
    assert table.admit("e", 9.0, 1.0)
    assert sorted(table.until) == ["c", "d", "e"]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12)), max_size=80))
def test_a_table_never_drops_a_key_before_its_moment(steps: list[tuple[int, int]]) -> None:
    table = Buckets(RATE, 5)
    expected: dict[str, float] = {}
    for now, (number, lasts) in enumerate(steps):
        expected = {key: until for key, until in expected.items() if until > now}
        key = f"{number}"
        if key in table.until:
            table.until[key] = float(now + lasts)
            expected[key] = float(now + lasts)
        elif table.admit(key, float(now + lasts), float(now)):
            expected[key] = float(now + lasts)
        assert len(table.until) <= 5
        assert expected.items() <= table.until.items()


def test_several_rates_hold_together_and_a_refused_hit_is_spent_from_none() -> None:
    both = buckets_of([Rate(amount=2, period=1.0), Rate(amount=3, period=100.0)])
    assert [both.spend("a", 1, 0.0).remaining for _ in range(2)] == [1, 0]
    for _ in range(50):
        refused = both.spend("a", 1, 0.0)
        assert (refused.allowed, refused.limit) == (False, 2)
    decision = both.spend("a", 1, 10.0)
    assert (decision.allowed, decision.limit, decision.remaining, decision.period) == (
        True,
        3,
        0,
        100.0,
    )
    refused = both.spend("a", 1, 20.0)
    assert (refused.allowed, refused.limit) == (False, 3)
    assert len(both) == 1


def test_what_is_given_back_may_be_spent_again_and_leaves_no_key_behind() -> None:
    both = buckets_of([Rate(amount=2, period=1.0), Rate(amount=3, period=100.0)])
    for _ in range(50):
        assert both.spend("a", 2, 0.0).remaining == 0
        both.refund("a", 2, 0.0)
    assert len(both) == 0
    assert both.spend("a", 1, 0.0).remaining == 1
    both.spend("a", 1, 0.0)
    both.refund("a", 1, 0.0)
    assert both.spend("a", 1, 0.0).remaining == 0


def test_what_a_coarse_bucket_gave_is_given_back_to_it() -> None:
    table = Buckets(RATE, 1)
    assert table.spend("a", 1, 0.0).allowed
    for _ in range(50):
        assert table.spend("b", 4, 0.0).allowed
        assert not table.spend("b", 1, 0.0).allowed
        table.refund("b", 4, 0.0)
    assert list(table.until) == ["a"]


def test_one_rate_needs_no_more_than_itself() -> None:
    one = buckets_of([RATE])
    assert one.spend("a", 3, 0.0) == one.spend("b", 3, 0.0)
    assert one.spend("a", 2, 0.0).allowed is False


def decided(*, allowed: bool, remaining: int = 0, retry_after: float = 0.0) -> Decision:
    return Decision(allowed, 10, remaining, 0.0, retry_after, 1.0)


def test_the_strictest_is_the_longest_refusal_or_else_the_least_left() -> None:
    least, more = decided(allowed=True, remaining=1), decided(allowed=True, remaining=2)
    short, long = decided(allowed=False, retry_after=1.0), decided(allowed=False, retry_after=9.0)
    assert strictest([more, least]) is strictest([least, more]) is least
    assert strictest([least, short, long, more]) is strictest([long, short, least]) is long
    assert strictest([short, least]) is strictest([least, short]) is short
    assert strictest([least]) is least


def test_a_key_of_any_length_takes_a_bounded_place() -> None:
    assert shorten("k" * LONGEST_KEY) == "k" * LONGEST_KEY
    long, other = "k" * 100_000, "k" * 99_999 + "l"
    assert len(shorten(long)) <= LONGEST_KEY
    assert shorten(long) == shorten(long)
    assert shorten(long) != shorten(other)
    # Not `hash`, which differs by process: those that share a store would count a caller each for
    # itself.
    assert shorten("k" * 129) == f"{'k' * 64}#e48758c8b6f5e8722637b2781d4d24cd"
    assert len(shorten("\ud800" * 200)) <= LONGEST_KEY


def test_the_greatest_rate_counts_to_the_last_unit() -> None:
    buckets = buckets_of([Rate(amount=2**53, period=1e9)])
    assert buckets.spend("key", 2**53 - 1, 0.0).allowed
    assert buckets.spend("key", 1, 0.0).allowed
    assert not buckets.spend("key", 1, 0.0).allowed


def test_an_allowed_caller_need_not_wait_and_size_is_kept() -> None:
    buckets = buckets_of([Rate(amount=5, period=1.0), Rate(amount=9, period=9.0)], 2)
    for key in ("a", "b", "c"):
        assert buckets.spend(key, 1, 0.0).retry_after == 0.0
    assert buckets_of([Rate(amount=5, period=1.0)]).spend("a", 1, 0.0).retry_after == 0.0
    assert len(buckets) == 2


def test_a_decision_says_when_all_is_there_again_and_when_the_cost_is() -> None:
    buckets = Buckets(RATE)
    assert [buckets.spend("a", 1, 100.0).reset_after for _ in range(2)] == [2.0, 4.0]
    # All of the burst at once: not now, but in as long as is missing.
    refused = buckets.spend("a", 4, 100.0)
    assert not refused.allowed
    assert (refused.remaining, refused.reset_after) == (2, 4.0)
    assert refused.retry_after == pytest.approx(4.0, abs=1e-3)
    assert buckets.spend("a", 4, 104.0).allowed


def test_of_equal_decisions_the_first_rate_is_named() -> None:
    first, second = decided(allowed=True, remaining=1), decided(allowed=True, remaining=1)
    assert strictest([first, second]) is first
    shut, other = decided(allowed=False, retry_after=1.0), decided(allowed=False, retry_after=1.0)
    assert strictest([shut, other]) is shut
