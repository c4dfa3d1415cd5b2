"""A deadline shrinks at each hop, and no caller's nonsense fails a request."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given, strategies as st

from postfacta_core.clock import MONOTONIC
from postfacta_core.deadlines._limits import Deadline, asked_timeout
from postfacta_core.testing import ManualClock
from tests.kit.every import every

SECONDS = st.floats(min_value=0, max_value=1e12)
NOW = st.floats(min_value=0, max_value=1e7)


def asked(*pairs: tuple[str, bytes]) -> float:
    return asked_timeout([(name.encode(), value) for name, value in pairs])


@given(SECONDS, NOW)
@example(0.004, 0)
@example(1e12, 0)
@example(0.0050000001, 1e7)
def test_each_hop_sees_strictly_less_and_never_less_than_nothing(
    seconds: float, now: float
) -> None:
    clock = ManualClock(now)
    deadline = Deadline(now + seconds, clock)
    hops = 0
    while (left := deadline.remaining()) > 0:
        asked_of_next = asked(("x-request-timeout", deadline.header().encode()))
        assert 0 <= asked_of_next < left
        assert 0 <= deadline.for_next_hop() < left
        # The next hop begins at the same moment: no time has passed on the way.
        deadline = Deadline(now + asked_of_next, clock)
        hops += 1
        assert hops < 1000
    assert deadline.header() == "0.000"
    assert deadline.remaining() == 0


@given(SECONDS, NOW, st.floats(min_value=0, max_value=1e6))
def test_what_remains_is_what_has_not_passed(seconds: float, now: float, later: float) -> None:
    clock = ManualClock(now)
    deadline = Deadline(now + seconds, clock)
    clock.advance(later)
    assert deadline.remaining() >= 0
    assert (clock.now >= deadline.at) is (deadline.remaining() == 0)


def until(at: float) -> Deadline:
    return Deadline(at, ManualClock(100.0))


def test_a_twentieth_is_kept_and_five_milliseconds_at_least() -> None:
    assert until(110).for_next_hop() == pytest.approx(9.5)
    assert until(100.05).for_next_hop() == pytest.approx(0.045)
    assert until(100.004).for_next_hop() == 0
    assert until(99).for_next_hop() == 0


def test_the_header_has_milliseconds_and_is_rounded_down() -> None:
    assert until(102).header() == "1.900"
    assert until(100.0068).header() == "0.001"


def test_a_deadline_that_never_comes_has_no_header_and_takes_nothing_from_the_next_hop() -> None:
    never = until(math.inf)
    assert never.for_next_hop() == math.inf
    assert never.remaining() == math.inf
    with pytest.raises(ValueError, match="never comes"):
        never.header()


def test_a_deadline_without_a_clock_is_on_the_machines() -> None:
    assert 59 < Deadline(MONOTONIC() + 60).remaining() <= 60


def test_a_timeout_is_plain_seconds_or_no_wish() -> None:
    cases: list[tuple[bytes, float]] = [
        (b"2.5", 2.5),
        (b"0", 0),
        (b"0.000", 0),
        (b"007", 7),
        (b"999999999", 999_999_999),
        (b"1.123456789", 1.123456789),
        (b"9999999999", math.inf),
        (b"1.1234567890", math.inf),
        (b"9" * 5000, math.inf),
        (b"-1", math.inf),
        (b"-0", math.inf),
        (b"+1", math.inf),
        (b"nan", math.inf),
        (b"inf", math.inf),
        (b"1e5", math.inf),
        (b"1_0", math.inf),
        (b"0x10", math.inf),
        (b"1,5", math.inf),
        (b".5", math.inf),
        (b"5.", math.inf),
        (b" 5", math.inf),
        (b"5\n", math.inf),
        (b"5s", math.inf),
        (b"", math.inf),
        (b"\xff\xfe", math.inf),
        ("\u0665".encode(), math.inf),
    ]
    with every() as case:
        for value, seconds in cases:
            with case(value, seconds):
                assert asked(("x-request-timeout", value)) == seconds


def test_of_several_wishes_the_shortest_counts_and_nonsense_does_not() -> None:
    assert asked(("x-request-timeout", b"5"), ("host", b"1"), ("x-request-timeout", b"2")) == 2
    assert (
        asked(
            ("x-request-timeout", b"1"), ("x-request-timeout", b"-7"), ("x-request-timeout", b"2")
        )
        == 1
    )
    assert asked(("host", b"5"), ("x-request-timeouts", b"5")) == math.inf
    assert asked() == math.inf


@given(
    st.lists(st.tuples(st.sampled_from([b"x-request-timeout", b"host"]), st.binary(max_size=30)))
)
def test_whatever_a_caller_sends_is_a_length_from_zero_up(
    headers: list[tuple[bytes, bytes]],
) -> None:
    assert 0 <= asked_timeout(headers) <= math.inf
