"""Move time by hand, and keep the events on a list."""

from __future__ import annotations

from typing import TypeVar

from ..events import Event

__all__ = ["ManualClock", "RecordingObserver"]

E = TypeVar("E")


class ManualClock:
    """A clock that stands until it is moved.

    Args:
        start: What it shows at first, in seconds.
    """

    def __init__(self, start: float = 1000.0) -> None:
        self.now: float = start

    def __call__(self) -> float:
        """Read it."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Move it on."""
        self.now += seconds


class RecordingObserver:
    """Keeps every event it is told of, in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event, /) -> None:
        """Keep one."""
        self.events.append(event)

    def of(self, kind: type[E]) -> list[E]:
        """Pick the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]
