"""Drive a guard's wait, in a task or in a thread.

A wait gets the function that wakes it, once, and is a generator. It yields the seconds to wait, is
resumed when they are over or it is woken, and returns the ticket. What interrupts it is raised in
it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, TypeVar, cast

T = TypeVar("T")

Wake = Callable[[], object]
Waiting = partial[Generator[float, None, T]]


def running_loop() -> Any:
    """Return asyncio's loop that runs in this thread, or None.

    Where asyncio is not imported, no loop runs.
    """
    events = sys.modules.get("asyncio.events")
    # A public one raises if there is none.
    return None if events is None else events._get_running_loop()  # noqa: SLF001


def refuse_on_loop(owner: object) -> None:
    """Raise `RuntimeError` for a call that may block its thread, where an event loop runs in it."""
    trio = sys.modules.get("trio.lowlevel")
    if running_loop() is not None or (trio is not None and trio.in_trio_run()):
        raise RuntimeError(
            f"{owner!r} may wait, which would block the event loop: decorate an async function, "
            "await call(...), use async with, or run the plain function by anyio.to_thread.run_sync"
        )


def wait_in_thread(owner: object, wait: Waiting[T]) -> T:
    """Run a wait of a guard in this thread, where no event loop runs, and return its ticket."""
    event = threading.Event()
    steps = wait(event.set)
    try:
        while True:
            seconds = next(steps)
            try:
                refuse_on_loop(owner)
                event.wait(min(seconds, threading.TIMEOUT_MAX))
            except BaseException as error:
                steps.throw(error)
                raise
    except StopIteration as end:
        return cast("T", end.value)


async def wait_in_task(wait: Waiting[T]) -> T:
    """Run a wait in this task, and return its ticket. Any thread may wake it."""
    import anyio  # noqa: PLC0415 - code without an event loop needs none
    from anyio.lowlevel import current_token  # noqa: PLC0415

    event = anyio.Event()
    thread = threading.get_ident()
    loop: Any = current_token().native_token
    soon = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon
    steps = wait(lambda: event.set() if threading.get_ident() == thread else soon(event.set))
    try:
        while True:
            seconds = next(steps)
            try:
                with anyio.move_on_after(seconds):
                    await event.wait()
            except BaseException as error:
                steps.throw(error)
                raise
    except StopIteration as end:
        return cast("T", end.value)
