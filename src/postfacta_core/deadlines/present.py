"""Until when the present work must have ended: its request, or the `Timeout` it is in, whichever is earlier."""

from __future__ import annotations

import math
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from ..context import RequestContext, current_request
from ._limits import Deadline


@dataclass(slots=True, eq=False)
class Bound:
    """A call that must end in time."""

    at: float  # Its deadline, whatever enforces it; once it has, `math.inf`, for tasks that it has left behind.
    request: RequestContext | None  # Its own: a server may run another one in the same context variables.


BOUND: Final[ContextVar[Bound | None]] = ContextVar("postfacta_timeout", default=None)
"""The innermost bounded call of the present context."""


def present_limit() -> float:
    """Return the deadline of the present work: the earlier of its request's and its `Timeout`'s, or `math.inf`."""
    request, bound = current_request(), BOUND.get()
    at = math.inf if request is None else request.deadline
    return bound.at if bound is not None and bound.at < at and bound.request is request else at


def current_deadline() -> Deadline | None:
    """Return the earlier deadline of the present request and of the `Timeout` it is in; None if neither has one."""
    at = present_limit()
    return None if at == math.inf else Deadline(at)


def time_to_wait(most: float, now: float) -> float:
    """Return the seconds that present work may wait: less than `most` if it must end before, with time for its answer."""
    at = present_limit()
    return most if at == math.inf else min(most, Deadline(at).for_next_hop(now))
