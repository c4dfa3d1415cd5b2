"""Decide which values are kept for the time in which no new one can be had.

The last of each key, within bounds.

Of two calls at once, the one that began later has the newer value. What was asked for before
something was forgotten is not kept after it: its caller may have lost access. Beyond the bounds,
what was not used for longest goes first.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class LastValues(Generic[T]):
    """The last value of each key. Its owner holds a lock, or is the only thread."""

    def __init__(self, max_age: float, max_entries: int, max_bytes: float = math.inf) -> None:
        self.generation: int = 0
        self._max_age = max_age
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        # When its call began, the value, and its bytes.
        self._entries: OrderedDict[Hashable, tuple[float, T, int]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def keep(  # noqa: PLR0917 - by position, for each call
        self, key: Hashable, value: T, began: float, generation: int, size: int = 0
    ) -> None:
        """Keep a value whose call began at a moment, and in a generation."""
        if generation != self.generation:
            return
        entry = self._entries.get(key)
        if entry is None or entry[0] <= began:
            self._entries[key] = (began, value, size)
            self._bytes += size - (0 if entry is None else entry[2])
            if size > self._max_bytes:
                self.drop(key)
                return
        self._entries.move_to_end(key)
        while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
            self.drop(next(iter(self._entries)))

    def find(self, key: Hashable, now: float) -> tuple[T, float] | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now >= entry[0] + self._max_age:
            self.drop(key)
            return None
        self._entries.move_to_end(key)
        return entry[1], now - entry[0]

    def drop(self, key: Hashable) -> None:
        entry = self._entries.pop(key, None)
        self._bytes -= 0 if entry is None else entry[2]

    def clear(self) -> None:
        """Remove all values, and keep none of the calls under way."""
        self._entries.clear()
        self._bytes = 0
        self.generation += 1
