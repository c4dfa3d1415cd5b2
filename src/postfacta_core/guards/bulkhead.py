"""Limit concurrent calls to a dependency; wait for a slot no longer than the request can."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar, Final

from ..clock import MONOTONIC, Clock
from ..context import Slot, add_wait, lend_slot, reclaim_slot
from ..deadlines.present import time_to_wait
from ..errors import BulkheadFullError
from ..events import Mode, Observer, Sample, process_observer
from ..validation import validation
from ._guard import RAISE, BlockGuard
from ._slots import Turn, Turns as Turns
from ._waits import Waiting, Wake

_Ticket = Slot | None  # What its request lent.

_MAX_WAIT: Final = 1.0  # Seconds, by default.


class Bulkhead(BlockGuard):
    """Run at most `slots` calls to a dependency at once, let a few more wait, and refuse the rest.

    * A caller waits no longer than `max_wait`, and no longer than its request or an outer `Timeout`
      gives it.
    * Callers are admitted in FIFO order. One that is cancelled leaves no trace.
    * Calls under way are counted in every mode. `SHADOW` counts a call that would have waited as
      admitted.
    * A call inside of another takes a slot of its own, and may wait for the other: give nested
      calls one bulkhead each.

    Args:
        slots: The calls at once, from 1 up.
        max_waiting: How many may wait for a slot; by default none.
        max_wait: How long each may wait, in seconds; by default 1.
        lends: Whether a request that waits or runs here gives its slot in the limit on requests
            under way to others: for one kind of work that this bulkhead bounds by itself, such as
            the hashing of passwords. Not where all requests pass: nothing else would bound their
            queue. It has no effect in worker threads.
        mode: `SHADOW` and `OFF` let pass, and on a change to them all waiting callers are admitted.
    """

    kind = "bulkhead"
    metric = "postfacta_bulkhead_decisions_total"
    kinds: ClassVar[tuple[str, ...]] = ("admitted", "refused")

    def __init__(
        self,
        name: str,
        slots: int,
        *,
        max_waiting: int = 0,
        max_wait: float | None = None,
        lends: bool = False,
        mode: Mode | str = Mode.ENFORCE,
        observer: Observer | None = process_observer,
        clock: Clock = MONOTONIC,
    ) -> None:
        super().__init__(name, mode=mode, observer=observer, clock=clock)
        validation.whole("Bulkhead.slots", slots, example='Bulkhead("billing", 10)')
        validation.whole("Bulkhead.max_waiting", max_waiting, at_least=0, example="max_waiting=20")
        wait = _MAX_WAIT if max_wait is None else max_wait
        self._max_wait = validation.seconds("Bulkhead.max_wait", wait, example="max_wait=1.0")
        if max_wait is not None and max_waiting == 0:
            rule = "at least 1 where max_wait is set"
            validation.refuse("Bulkhead.max_waiting", max_waiting, rule, example="max_waiting=20")
        self._lends = validation.flag("Bulkhead.lends", lends)
        self._turns = Turns(slots, max_waiting)
        self._may_wait = max_waiting > 0
        self._numbers = {"slots": slots, "max_waiting": max_waiting, "max_wait": max_wait}
        self._announce(slots=slots, max_waiting=max_waiting, max_wait=wait, lends=lends)

    @property
    def used(self) -> int:
        """The number of calls under way."""
        return self._turns.used

    @property
    def waiting(self) -> int:
        """The number of calls that wait for a slot."""
        return self._turns.waiting

    def status(self) -> Mapping[str, object]:
        """Return how many calls are under way, and how many wait."""
        return {"used": self.used, "waiting": self.waiting}

    def collect(self) -> Iterable[Sample]:
        """Return its counts, for metrics."""
        for gauge, number in (
            ("used", self.used),
            ("waiting", self.waiting),
            ("slots", self._turns.size),
        ):
            yield Sample(f"postfacta_bulkhead_{gauge}", (self.name,), number)
        # What is off decides nothing.
        yield from (sample for sample in super().collect() if sample.labels[-1] != Mode.OFF)

    def _adopt(self, draft: Bulkhead) -> None:
        self._max_wait = draft._max_wait
        self._may_wait = draft._may_wait
        self._turns.resize(draft._turns.size, draft._turns.max_waiting)

    def _mode_was_set(self) -> None:
        super()._mode_was_set()
        if self._mode is not Mode.ENFORCE:
            self._turns.admit_all()

    def _enter(self, function: object, args: object, kwargs: object) -> _Ticket | Waiting[_Ticket]:
        turns = self._turns
        self._acquire()
        try:
            if turns.used < turns.size:
                self._counts["admitted"] += 1
            elif self._mode is not Mode.ENFORCE:
                would_refuse = turns.used >= turns.size + turns.max_waiting
                self._counts["refused" if would_refuse else "admitted"] += 1
            elif turns.waiting < turns.max_waiting:
                return partial(self._wait)
            else:
                raise self._refusal()
            turns.used += 1
            return lend_slot() if self._lends else None
        finally:
            self._release()

    def _refusal(self) -> BulkheadFullError:
        self._counts["refused"] += 1
        # By then all that wait now are served or refused. Without a queue there is no estimate.
        return BulkheadFullError(self.name, self._max_wait if self._turns.max_waiting else None)

    def _wait(self, wake: Wake) -> Generator[float, None, _Ticket]:
        began = self._clock()
        patience = time_to_wait(self._max_wait)
        with self._lock:
            # A slot may have come free since, or the queue be full.
            ticket = self._enter(None, (), {})
            if not isinstance(ticket, partial):
                return ticket
            if not patience > 0:
                raise self._refusal()
            turn = self._turns.join(wake)
            lent = lend_slot() if self._lends else None
        try:
            yield patience
        except BaseException:
            self._give_up(turn, lent)
            raise
        finally:
            if lent is None:
                add_wait(self._clock() - began)
        with self._lock:
            if turn.has_come:
                self._counts["admitted"] += 1
                return lent
            refusal = self._refusal()
        self._give_up(turn, lent)
        raise refusal

    def _give_up(self, turn: Turn, lent: _Ticket) -> None:
        with self._lock:
            self._turns.give_up(turn)
        reclaim_slot(lent)

    def _passed(self, ticket: _Ticket, result: Any) -> Any:
        self._acquire()
        try:
            self._turns.leave()
        finally:
            self._release()
        if ticket is not None:
            reclaim_slot(ticket)
        return result

    def _failed(self, ticket: _Ticket, error: Exception) -> Any:
        self._dropped(ticket)
        return RAISE

    def _dropped(self, ticket: _Ticket) -> None:
        with self._lock:
            self._turns.leave()
        reclaim_slot(ticket)
