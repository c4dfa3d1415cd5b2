"""Open streams have a bound of a process and one of a caller, and what left counts no longer."""

from __future__ import annotations

from collections import Counter

import pytest

from postfacta_core.errors import BulkheadFullError, RateLimitExceededError, RejectedError
from postfacta_core.events import PolicyCreated
from postfacta_core.limits.streams import OpenStreams, StreamLimits
from postfacta_core.testing import RecordingObserver


def refused(streams: OpenStreams, caller: str, luck: float = 0.0) -> RejectedError | None:
    try:
        streams.admit(caller, luck=luck)
    except RejectedError as error:
        return error
    return None


def test_a_process_and_a_caller_have_a_bound_each() -> None:
    streams = OpenStreams(StreamLimits(most=3, per_caller=2))
    assert [refused(streams, caller) for caller in ("a", "a")] == [None, None]
    assert isinstance(refused(streams, "a"), RateLimitExceededError)
    assert refused(streams, "b") is None
    assert isinstance(refused(streams, "b"), BulkheadFullError)
    # What a caller does is no error of the service, also where no place is left.
    assert isinstance(refused(streams, "a"), RateLimitExceededError)
    streams.leave("a")
    assert refused(streams, "c") is None


def test_those_that_are_refused_come_back_between_30_and_60_seconds() -> None:
    streams = OpenStreams(StreamLimits(most=1))
    assert refused(streams, "a") is None
    times = [refused(streams, "b", luck) for luck in (0.0, 0.5, 1.0)]
    assert [error and error.retry_after for error in times] == [30.0, 45.0, 60.0]


def test_none_is_any_number() -> None:
    streams = OpenStreams(StreamLimits(most=None))
    assert not any(refused(streams, "a") for _ in range(20_000))
    assert "postfacta_bulkhead_slots" not in {sample.metric for sample in streams.tally()}


def test_callers_that_left_take_no_memory() -> None:
    streams = OpenStreams(StreamLimits(most=100, per_caller=1))
    for number in range(10_000):
        assert refused(streams, f"caller {number}") is None
        assert refused(streams, f"caller {number}") is not None
        streams.leave(f"caller {number}")
    assert (streams.count, vars(streams)["_by_caller"]) == (0, Counter())


def test_its_numbers_are_those_of_a_bulkhead() -> None:
    observer = RecordingObserver()
    streams = OpenStreams(StreamLimits(most=1), observer=observer)
    assert [event.policy for event in observer.of(PolicyCreated)] == ["streams"]
    for caller in ("a", "b", "c"):
        refused(streams, caller)
    assert {sample.labels: sample.value for sample in streams.tally()} == {
        ("streams",): 1,
        ("streams", "admitted", "enforce"): 1,
        ("streams", "refused", "enforce"): 2,
    }


@pytest.mark.parametrize("name", ["most", "per_caller"])
def test_a_bound_below_one_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"StreamLimits\.{name} must be a whole number"):
        StreamLimits(**{name: 0})
