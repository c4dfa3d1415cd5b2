"""What asyncio and anyio keep of a task: whether it is shielded or cancelled, whose it is."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Mapping
from contextvars import Context
from typing import Any, Final

from anyio._backends import _asyncio as anyio_asyncio

from ..context import CURRENT

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


def tasks_of_requests() -> list[asyncio.Task[Any]]:
    """Return the tasks of asyncio that live and were made by a request or its work; none on trio.

    A task has a copy of the context in which it was made.
    """
    try:
        tasks = asyncio.all_tasks()
    except RuntimeError:
        return []
    contexts = ((task, _context_of(task)) for task in tasks)
    return [task for task, context in contexts if context and context.get(CURRENT) is not None]


def _context_of(task: asyncio.Task[Any]) -> Context | None:
    if hasattr(task, "get_context"):
        return task.get_context()  # type: ignore[no-any-return, unused-ignore] # from Python 3.12 on
    referents = gc.get_referents(task)
    return next((referent for referent in referents if isinstance(referent, Context)), None)


def name_of(task: asyncio.Task[Any]) -> str:
    """Return the name that a task was given, or else that of its function."""
    name = task.get_name()
    is_default = name.startswith("Task-")
    return getattr(task.get_coro(), "__qualname__", name) if is_default else name
