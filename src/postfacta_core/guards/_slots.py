"""Decide which calls to a dependency run at once, which wait for a slot, and which are refused.

1. There is a fixed number of slots. A caller takes a free slot without waiting.
2. When all slots are taken, callers queue in FIFO order. A caller that finds the queue full is refused immediately,
   and one that has waited too long is refused then.
3. A returned slot goes to the caller that has waited longest, never to a newcomer. A caller that leaves the queue
   just as its turn comes passes the slot on.
4. Calls under way are counted in every mode, so that a change of mode takes effect on the next call. Only `ENFORCE`
   makes callers wait and refuses them; when it ends, all waiting callers are admitted.

The pattern is Nygard's (*Release It!*, 2nd ed., 2018, "Bulkheads").
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import BulkheadFullError
from ..events import Mode, Sample
from ..validation import validation

__all__ = ["Slots", "Turn", "Turns"]


@dataclass(slots=True, eq=False)
class Turn:
    """A caller's place in the queue. Once `has_come`, the caller has a slot to hand back, even if it no longer waits."""

    wake: Callable[[], object]
    has_come: bool = False


@dataclass(slots=True)
class _Decisions:
    admitted: int = 0
    refused: int = 0


class Turns:
    """A number of slots, and a FIFO queue for them. Its caller holds a lock, or is the only thread."""

    def __init__(self, size: int, max_waiting: int) -> None:
        self.size: int = size
        self.max_waiting: int = max_waiting
        self.used: int = 0
        self._queue: OrderedDict[Turn, None] = OrderedDict()

    @property
    def waiting(self) -> int:
        """The number of callers in the queue."""
        return len(self._queue)

    def occupy(self) -> None:
        self.used += 1

    def join(self, wake: Callable[[], object]) -> Turn:
        """Join the queue, whose length is not checked."""
        turn = Turn(wake)
        self._queue[turn] = None
        return turn

    def give_up(self, turn: Turn) -> None:
        """End the wait of a caller that left; a slot that it was given goes to the next."""
        if turn.has_come:
            self.leave()
        else:
            del self._queue[turn]

    def leave(self) -> None:
        """Return a slot: to the caller that has waited longest, if one waits and there is one to pass on."""
        if self._queue and self.used <= self.size:
            self._admit_next()
        else:
            self.used -= 1

    def _admit_next(self) -> None:
        turn, _ = self._queue.popitem(last=False)
        turn.has_come = True
        try:
            turn.wake()
        except RuntimeError:
            # Its event loop is closed: the slot would never come back.
            self.leave()


class Slots(Turns):
    """The slots of one dependency, and its queue, in seconds and numbers as `Bulkhead` has them.

    `used` is more than `size` only by another mode than `ENFORCE`.
    """

    def __init__(
        self,
        name: str,
        size: int,
        max_waiting: int = 0,
        *,
        max_wait: float = 1.0,
        mode: Mode | str = Mode.ENFORCE,
    ) -> None:
        validation.whole("Bulkhead.slots", size, example='Bulkhead("billing", 10)')
        validation.whole("Bulkhead.max_waiting", max_waiting, at_least=0, example="max_waiting=20")
        super().__init__(size, max_waiting)
        self.max_wait: float = validation.seconds("Bulkhead.max_wait", max_wait, example="max_wait=1.0")
        self._name = validation.name("Bulkhead.name", name)
        self._counts = {each: _Decisions() for each in Mode}
        self.mode = mode

    @property
    def mode(self) -> Mode:
        """How decisions are used. On a change away from `ENFORCE`, all waiting callers are admitted."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode | str) -> None:
        self._mode = validation.choice("Bulkhead.mode", mode, Mode)
        # At hand: the path of every call looks nothing up.
        self._count = self._counts[self._mode]
        if self._mode is not Mode.ENFORCE:
            while self._queue:
                self.occupy()
                self._admit_next()

    def enter(self) -> bool:
        """Take a slot if one is free, or if the mode does not refuse.

        In `SHADOW` a call that would have waited counts as admitted: a slot may have come in time.
        """
        if self.used < self.size:
            self.occupy()
            self._count.admitted += 1
            return True
        return self._mode is not Mode.ENFORCE and self._let_pass()

    def _let_pass(self) -> bool:
        if self.used < self.size + self.max_waiting:
            self._count.admitted += 1
        else:
            self._count.refused += 1
        self.occupy()
        return True

    def refuse_if_full(self) -> None:
        """Raise `BulkheadFullError` for a caller that finds no place in the queue."""
        if len(self._queue) >= self.max_waiting:
            raise self._refusal()

    def queue(self, wake: Callable[[], object], patience: float) -> Turn:
        """Join the queue, after `enter` returned False; leave it by `take` or `give_up`. Raise if it is full, or time is up."""
        self.refuse_if_full()
        if not patience > 0:
            raise self._refusal()
        return self.join(wake)

    def take(self, turn: Turn) -> None:
        """End a wait with the slot, which must be returned by `leave`; raise if its turn has not come."""
        if not turn.has_come:
            del self._queue[turn]
            raise self._refusal()
        self._count.admitted += 1

    def _refusal(self) -> BulkheadFullError:
        self._count.refused += 1
        # By then everyone who waits now is served or refused. Without a queue there is no estimate.
        return BulkheadFullError(self._name, self.max_wait if self.max_waiting else None)

    def tally(self) -> list[Sample]:
        name = self._name
        gauges = {"used": self.used, "waiting": len(self._queue), "slots": self.size}
        samples = [Sample(f"postfacta_bulkhead_{what}", (name,), number) for what, number in gauges.items()]
        for mode in (Mode.ENFORCE, Mode.SHADOW):
            count = self._counts[mode]
            for decision, number in (("admitted", count.admitted), ("refused", count.refused)):
                samples.append(
                    Sample("postfacta_bulkhead_decisions_total", (name, decision, mode.value), number)
                )
        return samples
