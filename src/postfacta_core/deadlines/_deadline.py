"""Decide how long a request may take, and how much of that time the next hop gets."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_SECONDS: Final = re.compile(rb"[0-9]{1,9}(\.[0-9]{1,9})?").fullmatch
# Kept of the remainder for what is still to do when the next hop has answered: to read it and to answer.
_KEPT_SHARE: Final = 0.05
_KEPT_AT_LEAST: Final = 0.005
# The longest that `asked_timeout` reads, some 30 years.
_LONGEST: Final = 999_999_999.0


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time on the monotonic clock, in its seconds; `math.inf` never comes.

    It is a point and not a length, so that it means the same moment to every holder, however late.
    """

    at: float

    def remaining(self, now: float) -> float:
        """Return the seconds that are left: 0 once it has passed, never below."""
        return max(0.0, self.at - now)

    def for_next_hop(self, now: float) -> float:
        """Return the seconds that a call made now may take: less than is left, so that its answer is of use.

        A twentieth is kept, and 5 ms at least; so each hop sees strictly less than the one before.
        """
        left = self.remaining(now)
        return max(0.0, left - max(_KEPT_AT_LEAST, left * _KEPT_SHARE)) if left < math.inf else left

    def header(self, now: float) -> str:
        """Write the value of `X-Request-Timeout` for a call made now: seconds with three digits, rounded down.

        Raises:
            ValueError: If it never comes: then send no header.
        """
        if self.at == math.inf:
            raise ValueError("a deadline that never comes has no header")
        seconds = min(self.for_next_hop(now), _LONGEST)
        return f"{math.floor(seconds * 1000) / 1000:.3f}"


def asked_timeout(headers: Iterable[tuple[bytes, bytes]]) -> float:
    """Parse the caller's `X-Request-Timeout`, seconds such as `2.5`; `math.inf` if there is none.

    What cannot be read is ignored: nonsense must not fail a request. Of several, the shortest counts.
    """
    return min(
        (float(value) for name, value in headers if name == b"x-request-timeout" and _SECONDS(value)),
        default=math.inf,
    )
