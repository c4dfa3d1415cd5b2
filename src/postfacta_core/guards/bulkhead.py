"""Limit concurrent calls to a dependency; wait for a slot no longer than the request can."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import wraps
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

import anyio

from .._functions import answer_of, must_be_async
from ..clock import MONOTONIC, Clock
from ..context import add_wait
from ..deadlines.present import current_deadline
from ..events import Mode, ModeChanged, Observer, PolicyCreated, Sample, observing, process_observer
from ..validation import validation
from ._slots import Slots

__all__ = ["Bulkhead"]

P = ParamSpec("P")
T = TypeVar("T")


class Bulkhead:
    """Run at most `size` calls to a dependency at once, let a few more wait, and refuse the rest.

    One dependency that hangs then holds this many tasks, and not all of them. Use it as a guard of a `Pipeline`,
    by `call`, as a decorator of async functions, or by `async with`, all of them on one event loop.

    * A caller waits no longer than `max_wait`, and no longer than its request or an outer `Timeout` gives it, less
      what is kept for the answer (`Deadline.for_next_hop`).
    * Callers are admitted in FIFO order. One that is cancelled leaves no trace.
    * A call inside of another takes a slot of its own. With one slot it waits for what it holds itself, until
      `max_wait` ends that: give nested calls one bulkhead each.

    Args:
        name: Its metric label, and the `policy` of its refusals.
        slots: The calls at once, from 1 up.
        max_waiting: How many may wait for a slot; by default none.
        max_wait: How long each may wait, in seconds.
        mode: `SHADOW` counts and lets pass, `OFF` lets pass; see `guards._slots`.
        observer: Receives its announcement once, and each change of mode. It may raise. By default the process's, see
            `asgi.Telemetry`; None for none.
        clock: Monotonic seconds; it must be the clock of the request contexts.

    Raises:
        ValueError: If a setting is wrong.
    """

    def __init__(
        self,
        name: str,
        slots: int,
        *,
        max_waiting: int = 0,
        max_wait: float = 1.0,
        mode: Mode | str = Mode.ENFORCE,
        observer: Observer | None = process_observer,
        clock: Clock = MONOTONIC,
    ) -> None:
        self.name = name
        self._slots = Slots(name, slots, max_waiting, max_wait=max_wait, mode=mode)
        validation.functions("Bulkhead", clock=clock)
        self._observe = observing("Bulkhead", name, observer)
        self._clock = clock
        self._observe(PolicyCreated(name, self.tally))

    def __repr__(self) -> str:
        slots = self._slots
        return (
            f"Bulkhead({self.name!r}, {slots.size}, max_waiting={slots.max_waiting}, "
            f"max_wait={slots.max_wait:g}, mode={slots.mode.value!r})"
        )

    @property
    def mode(self) -> Mode:
        """How its decisions are used. On a change away from `ENFORCE`, all waiting callers are admitted."""
        return self._slots.mode

    @mode.setter
    def mode(self, mode: Mode | str) -> None:
        old = self._slots.mode
        self._slots.mode = mode
        if self._slots.mode is not old:
            self._observe(ModeChanged(self.name, old, self._slots.mode))

    @property
    def used(self) -> int:
        """The number of calls under way."""
        return self._slots.used

    @property
    def waiting(self) -> int:
        """The number of calls that wait for a slot."""
        return self._slots.waiting

    def tally(self) -> list[Sample]:
        """Return its counts, for metrics."""
        return self._slots.tally()

    async def call(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run it in a slot.

        Raises:
            BulkheadFullError: If it was refused; the function was not called.
        """
        slots = self._slots
        if not slots.enter():
            await self._wait()
        try:
            result: Any = function(*args, **kwargs)
            answer: T = await (
                result if hasattr(result, "__await__") else answer_of("Bulkhead", function, result)
            )
        finally:
            slots.leave()
        return answer

    def __call__(self, function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        """Decorate an async function, so that each call of it runs in a slot."""
        must_be_async("Bulkhead", function)

        @wraps(function)
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            return await self.call(function, *args, **kwargs)

        return guarded

    async def __aenter__(self) -> Self:
        if not self._slots.enter():
            await self._wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._slots.leave()

    async def _wait(self) -> None:
        slots = self._slots
        patience = slots.patience(self._left())
        event = anyio.Event()
        turn = slots.queue(event.set, patience)
        began = self._clock()
        try:
            with anyio.move_on_after(patience):
                await event.wait()
        except BaseException:
            slots.give_up(turn)
            raise
        finally:
            add_wait(self._clock() - began)
        slots.take(turn)

    def _left(self) -> float:
        deadline = current_deadline()
        return math.inf if deadline is None else deadline.for_next_hop(self._clock())
