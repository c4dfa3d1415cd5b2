"""End a call that takes too long, and give its deadline to everything that it calls.

On asyncio, calls of one `Timeout` end in the order in which they began. So they stand in a queue,
and one timer looks at its head. A call is cancelled as a task, the way `asyncio.timeout` does it,
but what it shields by anyio is left alone until the shield is gone. On trio a cancel scope does all
of that.

Where its request or an outer `Timeout` leaves a call less, that one ends it: else a circuit breaker
between the two would take the hurry of a caller for a failure of the dependency.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass, field
from itertools import takewhile
from threading import get_ident
from typing import Any, ClassVar, Final

import anyio

from ..clock import MONOTONIC, Clock
from ..context import CURRENT
from ..deadlines.present import BOUND, Bound, time_left
from ..deadlines.shield import is_shielded, scope_of
from ..errors import DeadlineExceededError
from ..events import DeadlineExceeded, Mode, Observer, process_observer
from ..functions import answer_of
from ..validation import validation
from ._guard import Guard, P, Runner, T, registry
from ._waits import running_loop

_UNNAMED: Final = "timeout"
_TICK: Final = 0.025  # How often it is looked whether a shield is gone.


@dataclass(slots=True, eq=False)
class _Bounded(Bound):
    """A call under way, and what was bound when it began.

    On asyncio the queue ends it, on trio a scope.
    """

    ends_at: float
    outer: Bound | None
    task: asyncio.Task[Any] | None  # On asyncio, until it has ended.
    has_fired: bool = False
    already: int = field(init=False)  # How often others had cancelled the task.
    entered: Any = field(init=False)  # The cancel scope that it began in.
    queue: dict[_Bounded, asyncio.Task[Any]] = field(init=False)
    scope: anyio.CancelScope = field(init=False)


class _Queue:
    """The calls of one `Timeout` on one event loop, in the order in which they must end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self.loop = loop
        self.thread = get_ident()
        self.calls: dict[_Bounded, asyncio.Task[Any]] = {}
        self.is_watched = False
        # Timers run in it: else each would keep the request alive that began it.
        self._context = Context()
        self._clock = clock

    def watch(self, seconds: float) -> None:
        self.is_watched = True
        self.loop.call_later(seconds, self._look, context=self._context)

    def _look(self) -> None:
        self.is_watched = False
        now = self._clock()
        for call, task in tuple(
            takewhile(lambda entry: entry[0].ends_at <= now, self.calls.items())
        ):
            if not is_shielded(task, within=call.entered):
                del self.calls[call]
                call.has_fired = True
                task.cancel()
        if self.calls:
            left = next(iter(self.calls)).ends_at - now
            self.watch(left if left > 0 else _TICK)


class Timeout(Guard):
    """Bound each call by `seconds`, or by what its request has left, if that is less.

    After its seconds the call is cancelled and awaited, and `DeadlineExceededError` is raised.

    * `current_deadline()` inside of the call knows the bound, as does code that respects it, such
      as `Database`.
    * If the request or an outer `Timeout` leaves less, the call is cancelled by that one, and this
      one raises nothing.
    * A call without time left is not started. One that swallows its cancellation goes on, and its
      result counts.
    * It has no mode but `ENFORCE`. What it ends is counted as
      `postfacta_deadline_exceeded_total{stage="timeout"}`.

    Args:
        seconds: For each call.
        name: The `policy` of its error. With a name of its own it is listed, see `Guard`.
        observer: Receives each call that it ends.
    """

    kind = "timeout"
    no_sync = "a thread cannot be stopped"
    modes: ClassVar[tuple[Mode, ...]] = (Mode.ENFORCE,)

    def __init__(
        self,
        seconds: float,
        *,
        name: str = _UNNAMED,
        observer: Observer | None = process_observer,
        clock: Clock = MONOTONIC,
    ) -> None:
        self.seconds: float = validation.seconds("Timeout.seconds", seconds, example="Timeout(5.0)")
        super().__init__(name, observer=observer, clock=clock)
        self._numbers = {"seconds": seconds}
        self._settings["seconds"] = self.seconds
        self._queue: _Queue | None = None
        if name != _UNNAMED and not self._is_draft:
            registry.add(self)

    def call_sync(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Raise `TypeError`: it guards async functions only."""
        return Runner.call_sync(self, function, *args, **kwargs)

    async def call(
        self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run it within the bound.

        Raise `DeadlineExceededError` if it did not end in time, or if none is left.
        """
        bounded = self._begin()
        try:
            coro: Any = function(*args, **kwargs)
            answer: T = await (
                coro if hasattr(coro, "__await__") else answer_of("Timeout", function, coro)
            )
        except BaseException as error:
            if self._end(bounded, error):
                raise DeadlineExceededError(self.name) from error
            raise
        self._end(bounded, None)
        return answer

    def _adopt(self, draft: Timeout) -> None:
        self.seconds = draft.seconds
        # Calls under way keep their own queue, in the order of their ends.
        self._queue = None

    def _begin(self) -> _Bounded:
        request = CURRENT.get()
        outer = BOUND.get()
        now = self._clock()
        at = ends_at = now + self.seconds
        if request is not None or outer is not None:
            at = min(at, now + time_left())
            if at <= now:
                raise DeadlineExceededError(self.name)
        queue = self._queue
        task = None
        if queue is not None and queue.thread == get_ident():
            # Without the loop it would be looked for, with a system call until Python 3.12.
            task = asyncio.current_task(queue.loop)
        if task is None and (loop := running_loop()) is not None:
            task = asyncio.current_task(loop)
        bounded = _Bounded(at, self._clock, request, ends_at, outer, task)
        if task is None:
            bounded.scope = anyio.move_on_after(self.seconds)
            bounded.scope.__enter__()
        else:
            if queue is None or queue.loop is not task.get_loop():
                # Calls on another loop keep their own queue, and its timer.
                queue = self._queue = _Queue(task.get_loop(), self._clock)
            bounded.already = task.cancelling()
            bounded.entered = scope_of(task)
            bounded.queue = queue.calls
            queue.calls[bounded] = task
            if not queue.is_watched:
                queue.watch(self.seconds)
        BOUND.set(bounded)
        return bounded

    def _end(self, bounded: _Bounded, error: BaseException | None) -> bool:
        """End the watch; return whether this timeout caused the error."""
        BOUND.set(bounded.outer)
        bounded.at = math.inf
        task = bounded.task
        if task is None:
            kind, trace = (None, None) if error is None else (type(error), error.__traceback__)
            is_ours = bool(bounded.scope.__exit__(kind, error, trace)) and error is not None
        else:
            bounded.task = None
            bounded.queue.pop(bounded, None)
            if not bounded.has_fired:
                return False
            # Another canceller must see it raised.
            is_ours = task.uncancel() <= bounded.already and isinstance(
                error, asyncio.CancelledError
            )
        if is_ours:
            self._observe(DeadlineExceeded("timeout"))
        return is_ours
