"""Run asyncio in virtual time: whenever all wait, the clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextvars import Context
from typing import Any, Final, NoReturn, TypeVar, TypeVarTuple

import anyio

from .by_hand import ManualClock

# Real seconds that tasks have to end after a run has failed.
_CLEANING: Final = 10.0
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_REMEDY = (
    "virtual time does not wait for the real world: give it real seconds to wait by `autojump_threshold`"
)


def run_in_virtual_time(
    function: Callable[[*Ts], Awaitable[T]],
    *args: *Ts,
    clock: ManualClock | None = None,
    autojump_threshold: float = 0.0,
) -> T:
    """Run an async function on asyncio to its end; its sleeps and timeouts cost no real time.

    Args:
        function: What to run.
        args: Its arguments.
        clock: The loop's time: it jumps with it. Give it to policies; `anyio.current_time` works for all but `Timeout`.
        autojump_threshold: See `VirtualTimeLoop`.

    Raises:
        RuntimeError: See `VirtualTimeLoop`.
    """
    options = {"loop_factory": lambda: VirtualTimeLoop(clock, autojump_threshold=autojump_threshold)}
    return anyio.run(function, *args, backend="asyncio", backend_options=options)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop of asyncio whose clock stands still while there is work, and jumps when all tasks wait.

    It is the counterpart of `trio.testing.MockClock(autojump_threshold=0)`: code that does the same on both
    takes the same virtual time, and the order of its timers is the same in every run.

    What waits for the real world (a socket, a pipe, a thread, another process) and a timer would race each other,
    and the timer always win. So without a threshold all of those are refused: the run ends with a RuntimeError.
    So it does when all tasks wait for one another, with no timer to come: in real time, that would hang. After such
    an end, tasks that were cancelled have 10 real seconds to clean up.

    Args:
        clock: What `time()` reads. A test may also move it by hand. None is one of its own.
        autojump_threshold: Real seconds in which nothing may happen before the clock jumps. Above 0, sockets and
            threads are allowed, and whatever takes longer than this is late.

    Raises:
        ValueError: If the threshold is below 0.
    """

    # asyncio's own heap of timers: at a jump, the first of it is the next one that was not cancelled.
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, clock: ManualClock | None = None, *, autojump_threshold: float = 0.0) -> None:
        self.clock: ManualClock = clock or ManualClock()
        self._own_thread = threading.get_ident()
        self._waits = _Selector(self._jump, autojump_threshold)
        super().__init__(self._waits)
        if not autojump_threshold >= 0:
            # Only now: asyncio complains of a loop that is thrown away half made.
            self.close()
            raise ValueError(f"needs a threshold in seconds, 0 or more: {autojump_threshold}")
        # Its own pipe to itself is in place now; whatever comes after that is a stranger.
        self._waits.is_closed = autojump_threshold == 0

    def time(self) -> float:
        """Return the clock's time."""
        return self.clock.now

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Run in a thread, as asyncio does; refuse without a threshold."""
        if self._waits.is_closed:
            raise RuntimeError(f"a thread: {_REMEDY}")
        return super().run_in_executor(executor, func, *args)

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Call soon, as asyncio does; without a threshold, another thread that calls it ends the run."""
        if self._waits.is_closed and threading.get_ident() != self._own_thread:
            self._waits.refuse("a thread")
        return super().call_soon_threadsafe(callback, *args, context=context)

    async def _make_subprocess_transport(self, *args: Any, **kwargs: Any) -> Any:
        # What starts a process, with a shell or without.
        if self._waits.is_closed:
            raise RuntimeError(f"another process: {_REMEDY}")
        return await super()._make_subprocess_transport(*args, **kwargs)  # type: ignore[misc]

    def _jump(self) -> None:
        # To the very moment: adding up lengths would miss it by a rounding error.
        self.clock.now = max(self.clock.now, self._scheduled[0].when())


class _Selector(selectors.DefaultSelector):
    """Replaces the real selector: it waits by making the clock jump."""

    def __init__(self, jump: Callable[[], None], threshold: float) -> None:
        super().__init__()
        self.is_closed = False
        self._jump = jump
        self._threshold = threshold
        self._refusal: str | None = None
        self._has_failed = False

    def refuse(self, what: str) -> RuntimeError:
        """Fail at the loop's next wait; raised here, the error could be swallowed."""
        refusal = f"{what}: {_REMEDY}"
        self._refusal = None if self._has_failed else refusal
        return RuntimeError(refusal)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if self.is_closed:
            raise self.refuse("a socket or pipe")
        return super().register(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self._refusal is not None:
            self._fail(self._refusal)
        if timeout is None:
            return self._wait_for_others()
        if timeout <= 0:
            return super().select(0)
        ready = super().select(self._threshold)
        if not ready:
            self._jump()
        return ready

    def _wait_for_others(self) -> list[tuple[selectors.SelectorKey, int]]:
        # Once the run has failed, all is cancelled, and a thread may have to end first: that is waited for.
        patience = _CLEANING if self._has_failed else None if self._threshold else 0
        ready = super().select(patience)
        if not ready and self._has_failed:
            self._fail(f"a cancelled task did not end in {_CLEANING:g} real seconds")
        if not ready:
            self._fail(f"all tasks wait, and no timer will wake one of them; if a thread will: {_REMEDY}")
        return ready

    def _fail(self, why: str) -> NoReturn:
        self._refusal, self._has_failed = None, True
        raise RuntimeError(why)
