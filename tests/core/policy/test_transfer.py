"""What is too large is told exactly at the bound."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from postfacta_core.policy.transfer import TransferLimits

HEADERS = st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=40)), max_size=20)


@given(HEADERS)
def test_headers_fit_up_to_the_limit_and_not_one_byte_more(headers: list[tuple[bytes, bytes]]) -> None:
    size = sum(len(name) + len(value) + 32 for name, value in headers)
    assert TransferLimits(max_header_bytes=max(1, size)).headers_fit(headers)
    if size > 1:
        assert not TransferLimits(max_header_bytes=size - 1).headers_fit(headers)


def test_a_flood_of_empty_headers_is_not_free() -> None:
    assert not TransferLimits(max_header_bytes=1000).headers_fit([(b"", b"")] * 100)


@pytest.mark.parametrize(
    ("length", "fits"),
    [
        (b"0", True),
        (b"10", True),
        (b"0000000010", True),
        (b"11", False),
        (b"99999999999999999999", False),
        (b"9" * 5000, False),
        (b"-1", True),
        (b"1e9", True),
        ("\u0661\u0661".encode(), True),
    ],
)
def test_a_declared_length_is_judged_if_it_is_a_number(length: bytes, fits: bool) -> None:  # noqa: FBT001 - a table
    limits = TransferLimits(max_body_bytes=10)
    assert limits.declared_body_fits([(b"host", b"x"), (b"content-length", length)]) is fits


def test_a_body_without_declared_length_has_to_be_counted() -> None:
    limits = TransferLimits(max_body_bytes=10)
    assert limits.declared_body_fits([(b"transfer-encoding", b"chunked")])
    assert limits.body_fits(10)
    assert not limits.body_fits(11)


@pytest.mark.parametrize("wrong", [{"max_header_bytes": 0}, {"max_body_bytes": -1}])
def test_limits_that_make_no_sense_are_refused_at_once(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="needs at least"):
        TransferLimits(**wrong)
