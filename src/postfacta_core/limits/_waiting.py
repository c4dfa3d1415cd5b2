"""Keep the requests that wait for room: their order, how long they wait, and which makes way.

1. A burst is not refused. Its requests wait in the order of coming; once the oldest has waited for
   `patience`, the newest goes first.
2. A refusal begins an overload, until none was refused for a second. In it the newest goes first,
   and none waits longer than `spare`: the caller of the oldest has probably given up.
3. A newcomer replaces the oldest of a lower priority, in an overload also of its own.
4. Within a rank, those whose time is up leave before others are admitted.
5. The client that holds too many slots stands behind all others of all priorities.
6. While the limit may still grow (`is_patient`), there are 1,024 places, and 2 s of patience.

CoDel: Nichols and Jacobson, "Controlling Queue Delay", ACM Queue 2012. Adaptive LIFO: Maurer, "Fail
at Scale", ACM Queue 2015.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import IntEnum
from operator import attrgetter
from typing import Final

from ..events import Mode

# Of a burst, before the rate of answers is known: as many as the limit starts from.
_PLACES: Final = 16
# Of a burst on a service that was asked for little, whose capacity is not measured.
_MOST_PLACES: Final = 256
# Seconds; of a service so slow that it does not answer a full queue within `patience`.
_LONGEST_WAIT: Final = 4.0
# A thousand waits are some megabytes, and two seconds are less than most callers' time (rule 6).
_PATIENT_PLACES: Final = 1024
_PATIENT_WAIT: Final = 2.0
_OVERLOAD_LASTS: Final = 1.0  # Seconds since the last refusal (rule 2).
# The share of `spare` that a request may wait even if the event loop takes all of it.
_LEAST: Final = 0.2


class Priority(IntEnum):
    """How much a request matters.

    The names are those of "Site Reliability Engineering" (Google, chapter 21).
    """

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
NOBODY: Final = object()
"""The client that holds too many slots, while none does."""


@dataclass(slots=True, eq=False)
class Wait:
    """A request's place in the queue, until a moment at which the limiter's `give_up` is due.

    `wake` is called when there is a verdict; set it before the limiter is called again.
    """

    priority: int
    since: float
    until: float
    shed: Shed
    verdict: Admit | Shed | None = None
    decided: float = 0.0
    wake: Callable[[], object] = lambda: None
    mode: Mode = Mode.ENFORCE  # In which it is counted.
    client: Hashable = None


_since: Final[Callable[[Wait], float]] = attrgetter("since")


class WaitingLine:
    """Requests that wait for room."""

    def __init__(self, spare: float, patience: float) -> None:
        self.count: int = 0
        self._spare = spare
        self._patience = patience
        # One for each priority; and as many behind them, of the client that holds too many slots.
        self._queues = tuple(OrderedDict[Wait, None]() for _ in (*Priority, *Priority))
        self.crowd: Hashable = NOBODY
        self._overloaded_until = -math.inf
        self.is_patient: bool = False
        self.pace(0.0, 0.0)

    def pace(self, rate: float, lag: float, possible: float = 0.0) -> None:
        """Set the bounds of the queue, by answers a second and seconds of wait for the loop.

        `possible` are the answers a second of a service that was asked for less. What is not known
        is 0.
        """
        self._longest = max(self._patience, min(_PLACES / rate, _LONGEST_WAIT) if rate else 0.0)
        burst = min(possible * self._patience, _MOST_PLACES)
        self._places = max(_PLACES, rate * self._patience, burst)
        self._places_in_overload = max(2.0, rate * self._spare)
        self._longest_in_overload = max(_LEAST * self._spare, self._spare - 2.0 * lag)

    def is_overloaded(self, now: float) -> bool:
        return now < self._overloaded_until

    def refuse(self, now: float) -> None:
        self._overloaded_until = now + _OVERLOAD_LASTS

    def rank(self, priority: int, client: Hashable) -> int:
        """Return the place of a request's queue: lower ones go first."""
        return priority + len(Priority) if client == self.crowd else priority

    def set_crowd(self, client: Hashable) -> None:
        """Let all others go before the requests of this client."""
        if client == self.crowd:
            return
        self.crowd = client
        waits = sorted((wait for queue in self._queues for wait in queue), key=_since)
        for queue in self._queues:
            queue.clear()
        for wait in waits:
            self._queues[self.rank(wait.priority, wait.client)][wait] = None

    def enter(
        self,
        priority: int,
        now: float,
        *,
        shed: Shed,
        mode: Mode = Mode.ENFORCE,
        client: Hashable = None,
    ) -> Wait:
        longest = self._longest_in_overload if now < self._overloaded_until else self._longest
        if self.is_patient:
            longest = max(longest, _PATIENT_WAIT)
        wait = Wait(priority, now, now + longest, shed=shed, mode=mode, client=client)
        self._queues[self.rank(priority, client)][wait] = None
        self.count += 1
        return wait

    def is_full(self, now: float) -> bool:
        if self.is_patient:
            return self.count >= _PATIENT_PLACES
        return self.count >= (
            self._places_in_overload if now < self._overloaded_until else self._places
        )

    def displaced_by(self, priority: int, now: float, client: Hashable = None) -> Wait | None:
        """Return the request that a newcomer replaces; None if all that wait go before it."""
        own_rank = self.rank(priority, client)
        for rank in reversed(range(len(self._queues))):
            if queue := self._queues[rank]:
                is_replaced = rank > own_rank or (rank == own_rank and self.is_overloaded(now))
                return next(iter(queue)) if is_replaced else None
        return None

    def first(self, now: float) -> Wait | None:
        for queue in self._queues:
            if queue:
                oldest = next(iter(queue))
                if now < self._overloaded_until or now >= oldest.since + self._patience:
                    # Those who have waited to the end leave first, so that no refusal waits for a
                    # turn.
                    return oldest if now >= oldest.until else next(reversed(queue))
                return oldest
        return None

    def remove(self, wait: Wait) -> None:
        del self._queues[self.rank(wait.priority, wait.client)][wait]
        self.count -= 1
