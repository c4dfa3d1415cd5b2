"""What a feed keeps for its watchers, and how far each of them is.

1. Each event has a position, from 1 up, which is of this process alone. An id names one event: a
   second one of the same id is none.
2. Of several events of one key the newest is kept. Of more than `most` the oldest is lost; `floor`
   is the position of the last that was lost so.
3. The ids of as many events again, replaced or lost, are remembered. So their readers can return,
   and what is published twice is recognised.
4. A watcher below the floor may have missed something. So may a watcher that returns with an id
   that is not remembered, or is of an event that it may not see. That is a gap, and nothing is
   searched for it.
5. All that is held for one watcher is its position and a few references. It is slow if more than
   half of what is kept came while it was sent what was there before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Final

from ._events import GAP, LONGEST_ID, Entry, FeedEvent, written

MaySee = Callable[[FeedEvent], bool]
"""Returns whether a watcher may see an event."""

# Entries that a watcher takes at once: to find the first costs as many steps as it is behind.
_MOST_TAKEN: Final = 50


class Kept:
    """The newest events.

    Args:
        most: How many.
        origin: Names this process among all that ever publish the same events.

    Attributes:
        head: The position of the last one.
        last_id: Its id; empty before the first.
        floor: That of the last that was lost.
    """

    def __init__(self, most: int, origin: str) -> None:
        self.most: int = most
        self.head: int = 0
        self.floor: int = 0
        self.last_id: str = ""
        self._origin = origin
        self._newest: dict[tuple[str, str], Entry] = {}  # From the oldest to the newest.
        self._ids: dict[str, Entry] = {}
        self._past: deque[str] = deque()

    def add(self, event: FeedEvent) -> Entry | None:
        """Add an event; return None for one that was added before."""
        if event.id in self._ids:
            return None
        self.head += 1
        self.last_id = event.id
        entry = Entry(self.head, event, written(event, event.id))
        place = _place(event)
        replaced = self._newest.pop(place, None)
        self._newest[place] = self._ids[event.id] = entry
        if replaced is None and len(self._newest) > self.most:
            replaced = self._newest.pop(next(iter(self._newest)))
            self.floor = replaced.position
        if replaced is not None:
            self._past.append(replaced.event.id)
            if len(self._past) > self.most:
                del self._ids[self._past.popleft()]
        return entry

    def after(self, position: int) -> list[Entry]:
        """Return what is kept after a position, the newest first."""
        entries: list[Entry] = []
        for entry in reversed(self._newest.values()):
            if entry.position <= position:
                break
            entries.append(entry)
        return entries

    def is_replaced(self, entry: Entry) -> bool:
        """Return whether a newer event of its key is kept."""
        return self._newest.get(_place(entry.event), entry) is not entry

    def place_of(self, event_id: str, may_see: MaySee) -> int | None:
        """Return the position of an id, None if it is not known to a client that may have it."""
        if len(event_id) > LONGEST_ID:
            return None
        entry = self._ids.get(event_id)
        if entry is not None:
            position = entry.position if may_see(entry.event) else None
        else:
            position = self._of_mark(event_id)
        return None if position is None or position < self.floor else position

    def mark(self, may_see: MaySee) -> str:
        """Return an id that stands for the head.

        That of the newest event that its reader may see, so that all processes know it; without
        one, a mark of this process alone.
        """
        for entry in reversed(self._newest.values()):
            if may_see(entry.event):
                return entry.event.id
        return f"{self._origin}.{self.head}"

    def _of_mark(self, text: str) -> int | None:
        origin, _, position = text.rpartition(".")
        is_ours = origin == self._origin and position.isascii() and position.isdecimal()
        return int(position) if is_ours and int(position) <= self.head else None


def _place(event: FeedEvent) -> tuple[str, str]:
    return (event.key, "") if event.key else ("", event.id)


class Turn(Enum):
    """What a watcher does if there is no entry for it."""

    WAIT = 1
    LEAVE = 2


class Cursor:
    """How far one watcher is.

    Args:
        events: What it reads.
        may_see: Whether it may see an event.
        last_id: With what it returns; None or empty if it does not.
        may_lag: Never call it slow.
    """

    def __init__(
        self, events: Kept, may_see: MaySee, last_id: str | None, *, may_lag: bool
    ) -> None:
        self._events = events
        self._may_see = may_see
        self._may_lag = may_lag
        place = events.place_of(last_id, may_see) if last_id else events.head
        self._has_gap = place is None
        self.position: int = events.head if place is None else place
        self._goal: int | None = None  # The head when it began to take what is there.
        self._taken: deque[Entry] = deque()

    def place(self) -> str:
        """Return the id that stands for where it begins; empty if it begins with a gap."""
        if self._has_gap:
            return ""
        if self.position == self._events.head:
            return self._events.mark(self._may_see)
        return ""

    def pass_over(self, entry: Entry) -> None:
        """Go past an entry, having seen all before."""
        self.position = entry.position

    def next(self) -> Entry | Turn:
        """Return what it is sent next."""
        while True:
            while self._taken:
                entry = self._taken.popleft()
                self.position = entry.position
                if not self._events.is_replaced(entry) and self._may_see(entry.event):
                    return entry
            if self._has_gap or self.position < self._events.floor:
                return self._gap()
            if self.position == self._events.head:
                self._goal = None
                return Turn.WAIT
            if self._is_slow():
                return Turn.LEAVE
            self._taken.extend(self._events.after(self.position)[: -_MOST_TAKEN - 1 : -1])

    def _gap(self) -> Entry:
        self._has_gap = False
        self._goal = None
        self.position = self._events.head
        return Entry(self.position, GAP, written(GAP, self._events.mark(self._may_see)))

    def _is_slow(self) -> bool:
        if self._goal is None:
            self._goal = self._events.head
        return not self._may_lag and len(self._events.after(self._goal)) > self._events.most // 2
