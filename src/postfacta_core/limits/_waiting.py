"""Decide which requests wait for room, in which order, and when a queue is an overload.

1. A burst is not refused. Its queue is FIFO; once the oldest has waited longer than `patience`, the newest goes
   first, because a late answer is worth less than one in time. The old ones stay, and are served when the burst is
   over.
2. The first refusal begins an overload: the queue had no place, or a request waited to the end. It lasts until none
   was refused for a second. Meanwhile none waits longer than `spare`, the newest goes first, and a newcomer takes the
   place of the oldest: its caller has probably given up. (With thanks to CoDel: Nichols and Jacobson, ACM Queue 2012;
   and to the adaptive LIFO of Maurer, "Fail at Scale", ACM Queue 2015.)
3. A queue grows by what comes and is not answered. So its length separates chance from overload: 16 places, or what is
   answered within `patience`, are next to never full at 80 % of the capacity, and soon full above it.
4. Higher priorities go first, and take the places of lower ones.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

__all__ = ["ADMIT", "Admit", "Priority", "Shed", "Wait", "WaitingLine"]

_PLACES: Final = 16
_MOST_PLACES: Final = 256
_LONGEST: Final = 4.0
_OVERLOAD_LASTS: Final = 1.0
_LEAST: Final = 0.2
"""The share of `spare` that a request may wait even if the event loop takes all of it."""


class Priority(IntEnum):
    """How much a request matters; the names are those of "Site Reliability Engineering" (Google, chapter 21)."""

    CRITICAL_PLUS = 0
    CRITICAL = 1
    SHEDDABLE_PLUS = 2
    SHEDDABLE = 3


@dataclass(frozen=True, slots=True)
class Admit:
    """The request may start now; the limiter's `finish` must follow in any case."""


@dataclass(frozen=True, slots=True)
class Shed:
    """The request is refused; a new try makes sense after `retry_after` seconds."""

    retry_after: float


ADMIT: Final = Admit()


@dataclass(slots=True, eq=False)
class Wait:
    """A request's place in the queue, until a moment at which the limiter's `give_up` is due.

    The verdict is None while it waits. `wake` is called when there is one; set it before the limiter is called again.
    """

    priority: int
    since: float
    until: float
    shed: Shed
    verdict: Admit | Shed | None = None
    decided: float = 0.0
    wake: Callable[[], object] = lambda: None


class WaitingLine:
    """Requests that wait for room; the bounds are those of `OverloadConfig`."""

    def __init__(self, spare: float, patience: float) -> None:
        self.count: int = 0
        self._spare = spare
        self._patience = patience
        self._queues = tuple(OrderedDict[Wait, None]() for _ in Priority)
        self._overloaded_until = -math.inf
        self.pace(0.0, 0.0)

    def pace(self, rate: float, lag: float, possible: float = 0.0) -> None:
        """Set the bounds of the queue.

        Args:
            rate: Answers a second; 0 if that is not known.
            lag: Seconds that a request waited for the event loop, unseen.
            possible: Answers a second that may be possible, of a service that was asked for less; 0 if that is not known.
        """
        self._longest = max(self._patience, min(_PLACES / rate, _LONGEST) if rate else 0.0)
        burst = min(possible * self._patience, _MOST_PLACES)
        self._places = max(_PLACES, rate * self._patience, burst)
        self._places_in_overload = max(2.0, rate * self._spare)
        self._longest_in_overload = max(_LEAST * self._spare, self._spare - 2.0 * lag)

    def is_overloaded(self, now: float) -> bool:
        """Return whether a request was refused within the last second."""
        return now < self._overloaded_until

    def refuse(self, now: float) -> None:
        self._overloaded_until = now + _OVERLOAD_LASTS

    def enter(self, priority: int, now: float, *, shed: Shed) -> Wait:
        """Add a request; a place is not checked."""
        longest = self._longest_in_overload if now < self._overloaded_until else self._longest
        wait = Wait(priority, now, now + longest, shed=shed)
        self._queues[priority][wait] = None
        self.count += 1
        return wait

    def is_full(self, now: float) -> bool:
        """Return whether the next request must replace another."""
        return self.count >= (self._places_in_overload if now < self._overloaded_until else self._places)

    def displaced_by(self, priority: int, now: float) -> Wait | None:
        """Return the request that a newcomer replaces; None if all that wait go before it."""
        for queue in reversed(self._queues):
            if queue:
                oldest = next(iter(queue))
                if oldest.priority > priority or (oldest.priority == priority and self.is_overloaded(now)):
                    return oldest
                return None
        return None

    def first(self, now: float) -> Wait | None:
        for queue in self._queues:
            if queue:
                oldest = next(iter(queue))
                if now < self._overloaded_until or now >= oldest.since + self._patience:
                    # Those who have waited to the end leave first, so that no refusal waits for a turn.
                    return oldest if now >= oldest.until else next(reversed(queue))
                return oldest
        return None

    def remove(self, wait: Wait) -> None:
        """Remove a request, which must be in the queue."""
        del self._queues[wait.priority][wait]
        self.count -= 1
