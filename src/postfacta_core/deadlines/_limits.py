"""Decide how long a request may take, how large it may be, and how slow its client."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ..clock import MONOTONIC, Clock
from ..validation import validation

_SECONDS: Final = re.compile(rb"[0-9]{1,9}(\.[0-9]{1,9})?").fullmatch
# A share of the remainder, and seconds: to read the next hop's answer and to give our own.
_KEPT_SHARE: Final = 0.05
_KEPT_AT_LEAST: Final = 0.005
_LONGEST: Final = 999_999_999.0  # The longest that `asked_timeout` reads, some 30 years.


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time on a clock, which it reads by itself: times of two clocks cannot be compared.

    Attributes:
        at: In the seconds of its clock; `math.inf` never comes.
        clock: Monotonic seconds.
    """

    at: float
    clock: Clock = MONOTONIC

    def remaining(self) -> float:
        """Return the seconds that are left: 0 once it has passed, never below."""
        return max(0.0, self.at - self.clock())

    def for_next_hop(self) -> float:
        """Return the seconds that a call made now may take.

        A twentieth less than is left, and 5 ms at least.
        """
        return time_for_next_hop(self.remaining())

    def header(self) -> str:
        """Write the `X-Request-Timeout` of a call made now, in seconds.

        ValueError if the deadline never comes.
        """
        if self.at == math.inf:
            raise ValueError("a deadline that never comes has no header")
        seconds = min(self.for_next_hop(), _LONGEST)
        return f"{math.floor(seconds * 1000) / 1000:.3f}"


def time_for_next_hop(left: float) -> float:
    """Return how many of the seconds that are left a call made now may take: never below 0."""
    return max(0.0, left - max(_KEPT_AT_LEAST, left * _KEPT_SHARE)) if left < math.inf else left


def asked_timeout(headers: Iterable[tuple[bytes, bytes]]) -> float:
    """Return the shortest `X-Request-Timeout`, seconds such as `2.5`.

    `math.inf` without one that can be read.
    """
    return min(
        (
            float(value)
            for name, value in headers
            if name == b"x-request-timeout" and _SECONDS(value)
        ),
        default=math.inf,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferLimits:
    """The largest header section and body, in bytes, and the seconds to wait for a slow client.

    The waiting for a body ends after `body_idle_timeout` seconds of silence, and in all after
    `body_grace` seconds and one more for every `min_body_rate` bytes that came: else one byte a
    second could hold a handler for ever.

    Attributes:
        max_header_bytes: Of the path, the query and the header section together, with 32 more for
            each field.
        max_body_bytes: Of the body as it arrives.
        max_message_bytes: Of one message of a WebSocket; a larger one closes it with 1009. The
            server holds a message before any application sees it: give it the same limit, see
            docs/reference/slow-clients.md.
        body_idle_timeout: Longest silence while the body is waited for.
        body_grace: The time allowed for a body of any size.
        min_body_rate: Bytes a second that a body must reach beyond the grace; a phone at its
            network's edge does 2,000.
        write_timeout: Longest time that one piece of a long response may take to be sent.
            `math.inf` turns any of these limits off.
    """

    max_header_bytes: int = 32_768
    max_body_bytes: int = 1_048_576
    max_message_bytes: int = 1_048_576
    body_idle_timeout: float = 10.0
    body_grace: float = 10.0
    min_body_rate: float = 1000.0
    write_timeout: float = 60.0

    def __post_init__(self) -> None:
        sizes = (("max_header_bytes", 1), ("max_body_bytes", 0), ("max_message_bytes", 1))
        for field, least in sizes:
            if (value := getattr(self, field)) != math.inf:
                validation.whole(
                    f"TransferLimits.{field}", value, at_least=least, example="1_048_576"
                )
        for field in ("body_idle_timeout", "min_body_rate", "write_timeout"):
            validation.seconds(
                f"TransferLimits.{field}", getattr(self, field), finite=False, example="10.0"
            )
        grace = self.body_grace
        validation.number(
            "TransferLimits.body_grace", grace, at_least=0, finite=False, example="10.0"
        )

    def next_chunk_due(self, now: float, *, received: int, waited: float) -> float:
        """Return when the next chunk is due, after `waited` seconds for `received` bytes."""
        return now + min(
            self.body_idle_timeout, self.body_grace + received / self.min_body_rate - waited
        )


def may_have_body(headers: Iterable[tuple[bytes, bytes]], http_version: str) -> bool:
    """Return whether a request may have a body.

    In HTTP/1, only if a header says so (RFC 9112, section 6.3).
    """
    if not http_version.startswith("1"):
        return True
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in headers
    )
