"""Decide who of those that wait for a slot gets it.

The one that has waited longest, never a newcomer.

More slots may be taken than there are, by those who need not wait: these are not passed on. The
pattern is Nygard's (*Release It!*, 2nd ed., 2018, "Bulkheads").
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Turn:
    """A caller's place in the queue.

    Once `has_come`, the caller has a slot to hand back, even if it no longer waits.
    """

    wake: Callable[[], object]
    has_come: bool = False


class Turns:
    """A number of slots, and a FIFO queue for them.

    Its caller holds a lock, or is the only thread.
    """

    def __init__(self, size: int, max_waiting: int) -> None:
        self.size: int = size
        self.max_waiting: int = max_waiting
        self.used: int = 0
        self._queue: OrderedDict[Turn, None] = OrderedDict()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def enter(self) -> bool:
        if self.used >= self.size:
            return False
        self.used += 1
        return True

    def join(self, wake: Callable[[], object]) -> Turn:
        turn = Turn(wake)
        self._queue[turn] = None
        return turn

    def resize(self, size: int, max_waiting: int) -> None:
        """Have another number of slots; who waits gets those that are new."""
        self.size = size
        self.max_waiting = max_waiting
        while self._queue and self.used < size:
            self.used += 1
            self._admit_next()

    def admit_all(self) -> None:
        while self._queue:
            self.used += 1
            self._admit_next()

    def give_up(self, turn: Turn) -> None:
        """End a wait; a slot that it was just given goes to the next."""
        if turn.has_come:
            self.leave()
        else:
            del self._queue[turn]

    def leave(self) -> None:
        """Return a slot: to the caller that has waited longest, if it may be passed on."""
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
