"""Check which functions a guard can serve, and refuse the others at decoration."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar, cast

T = TypeVar("T")


def is_async(function: object) -> bool:
    """Return whether it is an async function, or a partial or object that is called as one."""
    while isinstance(function, partial):
        function = function.func
    by_object = getattr(function, "__call__", None)  # noqa: B004 - it is looked at, and not only whether it is there
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(by_object)


def must_be_guardable(owner: str, function: object, *, if_async: bool = False) -> None:
    """Raise `TypeError` for what no call can guard; with `if_async` also for a plain function.

    It says what to do.
    """
    name = getattr(function, "__qualname__", repr(function))
    msg = ""
    if isinstance(function, staticmethod | classmethod):
        kind = "staticmethod" if isinstance(function, staticmethod) else "classmethod"
        msg = (
            f"{owner} cannot decorate a {kind} object: put @{kind} above it, as the outermost"
            " decorator"
        )
    elif not callable(function):
        msg = (
            f"{owner} decorates functions, not {function!r}; for example @{owner}(...) above an"
            " async def"
        )
    elif inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        msg = (
            f"{owner} cannot guard {name}: the body of a generator function runs after the call. "
            "Guard the calls inside of it"
        )
    elif if_async and not is_async(function):
        msg = (
            f"{owner} decorates async functions, and {name} is a plain one, which would block the"
            " event loop: make it an async def, and run what blocks by anyio.to_thread.run_sync"
        )
    if msg:
        raise TypeError(msg)


async def answer_of(owner: str, function: Callable[..., Awaitable[T]], result: Any) -> T:
    """Return the result of a call, awaited if it is awaitable.

    Raise `TypeError` if its body has not begun.

    Guards ask `hasattr(result, "__await__")` themselves, which is all that a coroutine needs.
    """
    if inspect.isawaitable(result):
        return cast("T", await result)
    must_be_guardable(owner, function)
    return cast("T", result)
