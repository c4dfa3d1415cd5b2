"""Find until when the present work must have ended, by its request and its `Timeout`, unless a shield protects it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from anyio._backends import _asyncio as anyio_asyncio

from ..context import RequestContext, current_request
from ._deadline import Deadline

# anyio keeps the scopes of a task to itself. If it keeps them elsewhere one day, a test turns red.
_TASK_STATES: Final[Mapping[asyncio.Task[Any], Any]] = getattr(anyio_asyncio, "_task_states", {})


@dataclass(slots=True, eq=False)
class Bound:
    """A call that must end in time.

    Attributes:
        at: Its deadline, whatever enforces it; once it has, `math.inf`, for tasks that it has left behind.
        request: The request it is part of. A server may run another one in the same context variables.
    """

    at: float
    request: RequestContext | None


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


def scope_of(task: asyncio.Task[Any]) -> Any:
    """Return the innermost cancel scope that a task is in; None if there is none."""
    state = _TASK_STATES.get(task)
    return None if state is None else state.cancel_scope


def is_shielded(task: asyncio.Task[Any], *, within: object = None) -> bool:
    """Return whether a shielded cancel scope, entered inside of the scope `within`, protects a task."""
    scope = scope_of(task)
    while scope is not None and scope is not within and not scope.shield:
        scope = scope._parent_scope  # noqa: SLF001 - see above
    return scope is not None and scope is not within
