"""Wait in a task or in a thread: a wait is written once, as a generator, and driven by either.

The generator yields the seconds it is willing to wait, is resumed when they are over or when it is woken, and returns
what the wait was for. What interrupts the wait is raised in it.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Generator
from typing import Any, TypeVar

__all__ = ["Wait", "Wake", "pause", "refuse_on_loop", "running_loop", "wait_in_task", "wait_in_thread"]

T = TypeVar("T")

Wake = Callable[[], object]


class Wait:
    """A call that has to wait first. `steps` makes the generator, from the function that wakes it."""

    __slots__ = ("steps",)

    def __init__(self, steps: Callable[[Wake], Generator[float, None, Any]]) -> None:
        self.steps = steps


def running_loop() -> Any:
    """Return asyncio's loop that runs in this thread, or None."""
    # Looked up, and not imported: where it is not imported, no loop runs.
    events = sys.modules.get("asyncio.events")
    return None if events is None else events._get_running_loop()  # noqa: SLF001 - a public one raises if there is none


def refuse_on_loop(owner: object) -> None:
    """Raise `RuntimeError` for a call that may block its thread, where an event loop runs in it."""
    if running_loop() is not None:
        raise RuntimeError(
            f"{owner!r} may wait, which would block the event loop: decorate an async function, await call(...), "
            "or run the plain function by anyio.to_thread.run_sync"
        )


def pause(seconds: float) -> None:
    threading.Event().wait(seconds)


def wait_in_thread(owner: object, steps: Callable[[Wake], Generator[float, None, T]]) -> T:
    """Run a wait of a guard in this thread, where no event loop runs, and return its result."""
    event = threading.Event()
    wait = steps(event.set)
    try:
        seconds = next(wait)
        while True:
            try:
                refuse_on_loop(owner)
                event.wait(None if seconds == math.inf else min(seconds, threading.TIMEOUT_MAX))
            except BaseException as error:
                wait.throw(error)
                raise
            event.clear()
            seconds = wait.send(None)
    except StopIteration as end:
        result: T = end.value
        return result


async def wait_in_task(steps: Callable[[Wake], Generator[float, None, T]]) -> T:
    """Run a wait in this task, and return its result. Any thread may wake it."""
    import anyio  # noqa: PLC0415 - code without an event loop needs none
    from anyio.lowlevel import current_token  # noqa: PLC0415

    event, here = anyio.Event(), threading.get_ident()
    loop: Any = current_token().native_token
    soon = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon

    def wake() -> None:
        if threading.get_ident() == here:
            event.set()
        else:
            soon(lambda: event.set())  # noqa: PLW0108 - the present event, and not that of now

    wait = steps(wake)
    try:
        seconds = next(wait)
        while True:
            try:
                with anyio.move_on_after(seconds):
                    await event.wait()
            except BaseException as error:
                wait.throw(error)
                raise
            if event.is_set():
                event = anyio.Event()
            seconds = wait.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
