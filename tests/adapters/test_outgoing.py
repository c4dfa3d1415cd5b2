"""What a request to another service carries, and what its response means."""

from __future__ import annotations

from email.utils import formatdate

import httpx2
import pytest

from postfacta_adapters.httpx import is_failure, outgoing_headers, refusal_in
from postfacta_core.errors import DeadlineExceededError, RejectedError
from postfacta_core.testing import ManualClock
from tests.adapters.test_httpx import request
from tests.kit.every import every

NOW = 1_700_000_000.0


def test_by_default_a_failure_is_a_server_error_or_a_refusal() -> None:
    cases: list[tuple[int, bool]] = [
        (200, False),
        (404, False),
        (429, True),
        (500, True),
        (501, False),
        (503, True),
    ]
    with every() as case:
        for status, failed in cases:
            with case(status, failed):
                assert is_failure(httpx2.Response(status)) is failed


def test_headers_for_any_client() -> None:
    clock = ManualClock()
    assert outgoing_headers() == {}
    with request(10, clock=clock):
        assert outgoing_headers() == {
            "X-Request-ID": "request-id",
            "X-Priority": "critical",
            "X-Request-Timeout": "9.500",
        }
        clock.advance(9.996)
        with pytest.raises(DeadlineExceededError) as caught:
            outgoing_headers("billing")
        assert caught.value.policy == "billing"
    # Less than the millisecond that the header can say is nothing.
    with request(0.0055, clock=clock), pytest.raises(DeadlineExceededError):
        outgoing_headers()
    with request(float("inf"), priority=99, clock=clock):
        assert outgoing_headers(priority_key="k") == {
            "X-Request-ID": "request-id",
            "X-Priority": "sheddable",
            "X-Priority-Key": "k",
        }
    with request(float("inf"), priority=-1, clock=clock):
        assert outgoing_headers() == {
            "X-Request-ID": "request-id",
            "X-Priority": "critical_plus",
        }


def test_retry_after_is_read_as_seconds_or_as_a_date() -> None:
    cases: list[tuple[str, float | None]] = [
        ("0", 0.0),
        ("120", 120.0),
        (" 5 ", 5.0),
        ("9" * 400, 86_400.0),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW - 90, usegmt=True), 0.0),
        (formatdate(NOW + 900_000, usegmt=True), 86_400.0),
        (formatdate(NOW + 90, usegmt=True).removesuffix(" GMT"), 90.0),
        ("-5", None),
        ("1.5", None),
        ("²", None),
        ("soon", None),
        ("Tue, 99 Nov 2026 99:99:99 GMT", None),
        ("", None),
    ]
    with every() as case:
        for text, seconds in cases:
            with case(text, seconds):
                response = httpx2.Response(429, headers=[(b"retry-after", text.encode())])
                refusal = refusal_in(response, "billing", wall=lambda: NOW)
                assert refusal is not None
                assert (type(refusal), refusal.policy, refusal.retry_after) == (
                    RejectedError,
                    "billing",
                    seconds,
                )
                other = httpx2.Response(503, headers=[(b"retry-after", text.encode())])
                assert (refusal_in(other, "billing", wall=lambda: NOW) is None) is (seconds is None)


def test_a_date_is_read_by_the_clock_of_the_service_that_sent_it() -> None:
    headers = {
        "retry-after": formatdate(NOW + 90, usegmt=True),
        "date": formatdate(NOW, usegmt=True),
    }
    refusal = refusal_in(httpx2.Response(503, headers=headers), "billing", wall=lambda: NOW + 3600)
    assert refusal is not None
    assert refusal.retry_after == 90


def test_no_other_status_says_that_nothing_was_done() -> None:
    with every() as case:
        for status in (200, 302, 400, 408, 500, 502, 504):
            with case(status):
                assert (
                    refusal_in(httpx2.Response(status, headers={"retry-after": "5"}), "billing")
                    is None
                )
