"""What a test has in its hands: a clock, virtual time, the waits between tries, the events."""

from __future__ import annotations

import asyncio
import math
import selectors
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from contextvars import Context
from typing import Any, Final, NoReturn, TypeVar, TypeVarTuple, cast

import anyio

from ..clock import hasten
from ..events import Event

# Real seconds that tasks have to end after a run has failed.
_CLEANING: Final = 10.0
E = TypeVar("E")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_REMEDY: Final = "virtual time does not wait for the real world: test it in real time"


class ManualClock:
    """A clock that stands still until it is moved, and shows `start` seconds at first."""

    def __init__(self, start: float = 1000.0) -> None:
        self.now: float = start

    def __call__(self) -> float:
        """Return its time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Advance it."""
        self.now += seconds


class RecordingObserver:
    """Keeps every event, in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event, /) -> None:
        """Keep an event."""
        self.events.append(event)

    def of(self, kind: type[E]) -> list[E]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


def testing_mode(*, attempts: int | None = None) -> AbstractContextManager[None]:  # noqa: PT028 - it is no test
    """Skip the waits of every `Retry` of this process inside the block, in all threads and tasks.

    All else is as it is in production: what is tried again, the budget, the deadline, the counts,
    the events. Blocks may be nested; the innermost counts.

    A call makes at most these attempts, where its own setting is not lower; 1 makes a test see the
    first error.

    Raises:
        ValueError: If the attempts are below 1.
    """
    if attempts is not None and attempts < 1:
        raise ValueError(f"needs 1 attempt or more, or None for as many as are set: {attempts}")
    return hasten(math.inf if attempts is None else attempts)


# Its name begins as that of a test: pytest would run it in each module that imports it.
cast("Any", testing_mode).__test__ = False


def run_in_virtual_time(
    function: Callable[[*Ts], Awaitable[T]], *args: *Ts, clock: ManualClock | None = None
) -> T:
    """Run an async function on asyncio to its end.

    Its sleeps and timeouts cost no real time: see `VirtualTimeLoop`.

    The clock is the loop's, and jumps with it. Give it to policies; `anyio.current_time` works for
    all but `Timeout`.
    """
    options = {"loop_factory": lambda: VirtualTimeLoop(clock)}
    return anyio.run(function, *args, backend="asyncio", backend_options=options)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still under work, and jumps to a timer when all wait.

    It is the counterpart of `trio.testing.MockClock(autojump_threshold=0)`: code takes the same
    virtual time on both, and the order of its timers is the same in every run.

    What waits for the real world (a socket, a pipe, a thread, another process) would lose each race
    against a timer. So the run ends with a RuntimeError; also when all tasks wait for one another,
    with no timer to come. After that, tasks that were cancelled have 10 real seconds to clean up. A
    test may also move its `clock` by hand.
    """

    # asyncio's own heap of timers: at a jump, the first of it is the next one that was not
    # cancelled.
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, clock: ManualClock | None = None) -> None:
        self.clock: ManualClock = clock or ManualClock()
        self._own_thread = threading.get_ident()
        self._waits = _Selector(self._jump)
        super().__init__(self._waits)
        # Its own pipe to itself is in place now; whatever comes after that is a stranger.
        self._waits.is_closed = True

    def time(self) -> float:
        """Return the clock's time."""
        return self.clock.now

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Refuse: a thread takes real time."""
        raise RuntimeError(f"a thread: {_REMEDY}")

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Call soon, as asyncio does; another thread that calls it ends the run."""
        if self._waits.is_closed and threading.get_ident() != self._own_thread:
            self._waits.refuse("a thread")
        return super().call_soon_threadsafe(callback, *args, context=context)

    async def _make_subprocess_transport(self, *_args: Any, **_options: Any) -> Any:
        # What starts a process, with a shell or without.
        raise RuntimeError(f"another process: {_REMEDY}")

    def _jump(self) -> None:
        # To the very moment: adding up lengths would miss it by a rounding error.
        self.clock.now = max(self.clock.now, self._scheduled[0].when())


class _Selector(selectors.DefaultSelector):
    """Waits by making the clock jump."""

    def __init__(self, jump: Callable[[], None]) -> None:
        super().__init__()
        # Whether the real world is refused; not while the loop is made, nor once a run has failed:
        # then all is cancelled, and a thread may have to end first.
        self.is_closed = False
        self._jump = jump
        self._refusal = ""

    def refuse(self, problem: str) -> RuntimeError:
        """Fail at the loop's next wait; raised here, the error could be swallowed."""
        self._refusal = f"{problem}: {_REMEDY}"
        return RuntimeError(self._refusal)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if self.is_closed:
            raise self.refuse("a socket or pipe")
        return super().register(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self._refusal:
            self._fail(self._refusal)
        ready = super().select(_CLEANING if timeout is None and not self.is_closed else 0)
        if timeout is None and not ready:
            has_failed = f"a cancelled task did not end in {_CLEANING:g} real seconds"
            is_stuck = (
                f"all tasks wait, and no timer will wake one of them; if a thread will: {_REMEDY}"
            )
            self._fail(is_stuck if self.is_closed else has_failed)
        elif timeout and timeout > 0 and not ready:
            self._jump()
        return ready

    def _fail(self, why: str) -> NoReturn:
        self._refusal = ""
        self.is_closed = False
        raise RuntimeError(why)
