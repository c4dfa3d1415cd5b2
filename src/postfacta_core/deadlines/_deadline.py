"""Decide how long a request may take, and how much of that time the next hop gets."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_SECONDS: Final = re.compile(rb"[0-9]{1,9}(\.[0-9]{1,9})?").fullmatch
_KEPT_SHARE: Final = 0.05  # Of the remainder, to read the next hop's answer and to give our own.
_KEPT_AT_LEAST: Final = 0.005
_LONGEST: Final = 999_999_999.0  # The longest that `asked_timeout` reads, some 30 years.


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time on the monotonic clock, in its seconds; `math.inf` never comes."""

    at: float

    def remaining(self, now: float) -> float:
        """Return the seconds that are left: 0 once it has passed, never below."""
        return max(0.0, self.at - now)

    def for_next_hop(self, now: float) -> float:
        """Return the seconds that a call made now may take: a twentieth less than is left, and 5 ms at least."""
        left = self.remaining(now)
        return max(0.0, left - max(_KEPT_AT_LEAST, left * _KEPT_SHARE)) if left < math.inf else left

    def header(self, now: float) -> str:
        """Write the `X-Request-Timeout` of a call made now, in seconds; ValueError if the deadline never comes."""
        if self.at == math.inf:
            raise ValueError("a deadline that never comes has no header")
        seconds = min(self.for_next_hop(now), _LONGEST)
        return f"{math.floor(seconds * 1000) / 1000:.3f}"


def asked_timeout(headers: Iterable[tuple[bytes, bytes]]) -> float:
    """Parse the caller's `X-Request-Timeout`, seconds such as `2.5`; of several the shortest, `math.inf` without one.

    What cannot be read is ignored: nonsense must not fail a request.
    """
    return min(
        (float(value) for name, value in headers if name == b"x-request-timeout" and _SECONDS(value)),
        default=math.inf,
    )
