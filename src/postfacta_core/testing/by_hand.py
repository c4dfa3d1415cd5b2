"""A clock moved by hand, and an observer that keeps its events in a list."""

from __future__ import annotations

from typing import TypeVar

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
