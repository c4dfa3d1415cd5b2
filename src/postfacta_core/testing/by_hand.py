"""What a test has in its hands: a clock, the waits between tries, the events."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

from ..clock import hasten
from ..events import Event

E = TypeVar("E")


class ManualClock:
    """A clock that stands still until it is moved.

    Args:
        start: What it shows at first, in seconds.
    """

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
    """Skip the waits of every `Retry` of this process inside the block.

    All else is as it is in production: what is tried again, the budget, the deadline, the counts, the events. It
    holds for all threads and tasks, those of a server or a `TestClient` too. Blocks may be nested; the innermost
    counts. In virtual time there is no need for it.

    Args:
        attempts: The most tries of a call, where its own setting is not lower; 1 makes a test see the first error.

    Raises:
        ValueError: If the attempts are below 1.
    """
    if attempts is not None and attempts < 1:
        raise ValueError(f"needs 1 attempt or more, or None for as many as are set: {attempts}")
    return hasten(math.inf if attempts is None else attempts)


# Its name begins as that of a test: pytest would run it in each module that imports it.
cast("Any", testing_mode).__test__ = False
