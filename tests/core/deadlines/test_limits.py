"""What is too large or too slow is found exactly at the bound."""

from __future__ import annotations

import math

from hypothesis import example, given, strategies as st

from postfacta_core.deadlines._limits import TransferLimits, may_have_body
from tests.kit.every import every


def test_the_narrowest_limits_are_no_body_and_some_time() -> None:
    soon = math.nextafter(0, 1)
    limits = TransferLimits(
        max_header_bytes=1,
        max_body_bytes=0,
        body_idle_timeout=soon,
        body_grace=0,
        min_body_rate=soon,
        write_timeout=soon,
    )
    assert limits.next_chunk_due(7.0, received=0, waited=0.0) == 7.0


def cut_after(rate: float, limits: TransferLimits, *, size: int, chunk: int = 1) -> float | None:
    """Play a client that sends at one rate.

    Return when it is cut, or None if all its bytes were taken.
    """
    now, received = 0.0, 0
    while received < size:
        due = limits.next_chunk_due(now, received=received, waited=now)
        arrives = now + chunk / rate
        if arrives > due:
            return max(now, due)
        now, received = arrives, received + chunk
    return None


def test_a_byte_a_second_is_cut_soon_after_the_grace() -> None:
    cut = cut_after(1, TransferLimits(), size=100_000)
    assert cut is not None
    assert 10 <= cut <= 10.1


def test_a_slow_phone_brings_a_whole_megabyte() -> None:
    assert cut_after(2000, TransferLimits(), size=1_000_000, chunk=1400) is None


def test_a_silent_client_is_cut_after_the_idle_timeout_however_much_it_brought() -> None:
    limits = TransferLimits(body_idle_timeout=3)
    assert limits.next_chunk_due(100.0, received=1_000_000, waited=1.0) == 103.0


def test_the_limits_can_be_turned_off() -> None:
    limits = TransferLimits(body_idle_timeout=math.inf, body_grace=math.inf, write_timeout=math.inf)
    assert limits.next_chunk_due(100.0, received=0, waited=1e9) == math.inf


@given(
    rate=st.floats(0.5, 50_000),
    grace=st.floats(0, 30),
    least=st.floats(10, 5000),
    chunk=st.integers(1, 5000),
)
@example(rate=0.5, grace=0.0, least=10.0, chunk=1)
def test_who_keeps_the_rate_is_never_cut_and_who_does_not_is(
    rate: float, grace: float, least: float, chunk: int
) -> None:
    limits = TransferLimits(body_idle_timeout=math.inf, body_grace=grace, min_body_rate=least)
    enough = math.ceil(grace * least * 20 / chunk + 1) * chunk
    cut = cut_after(rate, limits, size=min(enough, 2000 * chunk), chunk=chunk)
    if rate >= least:
        # The first chunk has nothing but the grace.
        assert cut is None or chunk / rate > grace
    elif cut is not None:
        # Exactly when the line of the client falls below that of the rate, to one chunk.
        assert grace <= cut <= grace / (1 - rate / least) + chunk / rate + 1e-6


def test_only_http_1_says_beforehand_that_there_is_no_body() -> None:
    cases: list[tuple[list[tuple[bytes, bytes]], str, bool]] = [
        ([], "1.1", False),
        ([], "1.0", False),
        ([(b"content-length", b"0")], "1.1", False),
        ([(b"content-length", b"1")], "1.1", True),
        ([(b"host", b"x"), (b"transfer-encoding", b"chunked")], "1.1", True),
        ([], "2", True),
        ([], "3", True),
    ]
    with every() as case:
        for headers, version, may in cases:
            with case(headers, version, may):
                assert may_have_body(headers, version) is may


def test_infinity_turns_a_limit_of_bytes_off() -> None:
    limits = TransferLimits(max_header_bytes=math.inf, max_body_bytes=math.inf)  # type: ignore[arg-type] # as the docs say
    assert (limits.max_header_bytes, limits.max_body_bytes) == (math.inf, math.inf)
