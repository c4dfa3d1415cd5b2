"""Whether a task of asyncio is cancelled, or protected from that by a shield of anyio."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from anyio._backends import _asyncio as anyio_asyncio

# anyio keeps the scopes of a task to itself. If it keeps them elsewhere one day, a test turns red.
_TASK_STATES: Final[Mapping[asyncio.Task[Any], Any]] = getattr(anyio_asyncio, "_task_states", {})


def scope_of(task: asyncio.Task[Any]) -> Any:
    """Return the innermost cancel scope that a task is in; None if there is none."""
    state = _TASK_STATES.get(task)
    return None if state is None else state.cancel_scope


def is_shielded(task: asyncio.Task[Any], *, within: object = None) -> bool:
    """Return whether a shielded cancel scope, inside of the scope `within`, protects a task."""
    scope = scope_of(task)
    while scope is not None and scope is not within and not scope.shield:
        scope = scope._parent_scope  # noqa: SLF001 - see above
    return scope is not None and scope is not within


def is_cancelled_itself() -> bool:
    """Return whether the present task was cancelled, and not only what it awaits."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return True  # trio, where a task is cancelled for no other reason
    return task is None or task.cancelling() > 0
