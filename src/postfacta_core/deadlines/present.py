"""Until when the present work must have ended.

Its request, or the `Timeout` it is in, whichever is earlier.
"""

from __future__ import annotations

import math
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from ..clock import Clock
from ..context import RequestContext, current_request
from ._limits import (
    Deadline as Deadline,
    asked_timeout as asked_timeout,
    time_for_next_hop as time_for_next_hop,
)


@dataclass(slots=True, eq=False)
class Bound:
    """A call that must end in time."""

    # Its deadline, whatever enforces it; once it has, `math.inf`, for tasks that it left behind.
    at: float
    clock: Clock  # On which its deadline is.
    # Its own: a server may run another one in the same context variables.
    request: RequestContext | None


BOUND: Final[ContextVar[Bound | None]] = ContextVar("postfacta_timeout", default=None)
"""The innermost bounded call of the present context."""


def time_left() -> float:
    """Return the seconds until the earlier deadline of request and `Timeout`, or `math.inf`.

    Each deadline is read on its own clock. Below 0 it has passed.
    """
    request = current_request()
    bound = BOUND.get()
    left = math.inf if request is None else request.deadline - request.clock()
    return (
        left
        if bound is None or bound.request is not request
        else min(left, bound.at - bound.clock())
    )


def current_deadline() -> Deadline | None:
    """Return the earlier deadline of the present request and of the `Timeout` it is in.

    None if neither has one.
    """
    request = current_request()
    bound = BOUND.get()
    deadline = Deadline(math.inf) if request is None else Deadline(request.deadline, request.clock)
    if bound is not None and bound.request is request:
        deadline = min(deadline, Deadline(bound.at, bound.clock), key=Deadline.remaining)
    return None if deadline.at == math.inf else deadline


def time_to_wait(most: float) -> float:
    """Return the seconds that present work may wait.

    Less than `most` if it must end before, with time for its answer.
    """
    return min(most, time_for_next_hop(time_left()))
