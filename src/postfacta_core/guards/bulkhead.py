"""Limit concurrent calls to a dependency; wait for a slot no longer than the request can."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from ..clock import MONOTONIC, Clock
from ..context import add_wait
from ..deadlines.present import time_to_wait
from ..events import Mode, Observer, Sample, process_observer
from ._guard import BlockGuard
from ._outcome import RAISE
from ._slots import Slots
from ._waits import Wait, Wake

__all__ = ["Bulkhead"]


class Bulkhead(BlockGuard):
    """Run at most `slots` calls to a dependency at once, let a few more wait, and refuse the rest.

    One dependency that hangs then holds this many tasks or threads, and not all of them.

    * A caller waits no longer than `max_wait`, and no longer than its request or an outer `Timeout` gives it, less
      what is kept for the answer (`Deadline.for_next_hop`).
    * Callers are admitted in FIFO order. One that is cancelled leaves no trace.
    * A call inside of another takes a slot of its own. With one slot it waits for what it holds itself, until
      `max_wait` ends that: give nested calls one bulkhead each.

    Args:
        slots: The calls at once, from 1 up.
        max_waiting: How many may wait for a slot; by default none.
        max_wait: How long each may wait, in seconds.
        mode: `SHADOW` and `OFF` let pass, and on a change to them all waiting callers are admitted.
    """

    kind = "bulkhead"
    example = 'Bulkhead("billing", 10)'

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
        super().__init__(name, mode=mode, observer=observer, clock=clock)
        self._slots = Slots(name, slots, max_waiting, max_wait=max_wait, mode=self._mode)
        self._announce()

    @property
    def used(self) -> int:
        """The number of calls under way."""
        return self._slots.used

    @property
    def waiting(self) -> int:
        """The number of calls that wait for a slot."""
        return self._slots.waiting

    def settings(self) -> Mapping[str, object]:
        """Return its bounds."""
        slots = self._slots
        return {
            "slots": slots.size,
            "max_waiting": slots.max_waiting,
            "max_wait": slots.max_wait,
            **super().settings(),
        }

    def status(self) -> Mapping[str, object]:
        """Return how many calls are under way, and how many wait."""
        return {"used": self.used, "waiting": self.waiting}

    def collect(self) -> list[Sample]:
        """Return its counts, for metrics."""
        return self._slots.tally()

    def _mode_was_set(self) -> None:
        self._slots.mode = self._mode

    def _enter(self, function: object, args: object, kwargs: object) -> Wait | None:
        self._acquire()
        try:
            if self._slots.enter():
                return None
            self._slots.refuse_if_full()
            return Wait(self._wait)
        finally:
            self._release()

    def _wait(self, wake: Wake) -> Generator[float, None, None]:
        began = self._clock()
        patience = time_to_wait(self._slots.max_wait, began)
        with self._lock:
            # A slot may have come free since `_enter`.
            if self._slots.enter():
                return
            turn = self._slots.queue(wake, patience)
        try:
            yield patience
        except BaseException:
            with self._lock:
                self._slots.give_up(turn)
            raise
        finally:
            add_wait(self._clock() - began)
        with self._lock:
            self._slots.take(turn)

    def _passed(self, ticket: object, result: Any) -> Any:
        self._acquire()
        try:
            self._slots.leave()
        finally:
            self._release()
        return result

    def _failed(self, ticket: object, error: Exception) -> Any:
        self._dropped(ticket)
        return RAISE

    def _dropped(self, ticket: object) -> None:
        with self._lock:
            self._slots.leave()
