"""A storage of `limits` in memory whose size and cost are bounded: `async+bounded://`.

It is for those who use `limits` itself; a `RateLimiter` without a store needs none. The storage that `limits`
brings looks at all keys at each turn of the loop, and keeps each hit of a moving window.

1. A key is kept until its window is over, and no longer than the next keys need to come by it. None is dropped
   before: at the bound, unknown keys share 1,024 coarse counts for each rate, as in `limits._rates`.
2. A fixed window begins with its first hit. A sliding window counter keeps two numbers.
3. A moving window keeps up to 32 groups of hits. The first 16 are single calls, so small limits are exact. Then
   calls within a sixteenth of the window become one group, which counts as its latest: it never lets more pass
   than the limit in any window, and may hold back a sixteenth of the window longer than an exact one.
4. It decides by a clock that does not jump. What it returns to `limits` is a time of the wall clock, as required
   there.
"""

from __future__ import annotations

import math
from typing import Final, Generic, TypeVar
from urllib.parse import parse_qs, urlsplit

from limits.aio.storage import MovingWindowSupport, SlidingWindowCounterSupport, Storage

from ..clock import MONOTONIC, WALL, Clock
from ._rates import COARSE, MAX_KEYS, KeyTable, shorten

__all__ = ["BoundedStorage"]

T = TypeVar("T")

_GROUPS: Final = 16
# A limit's key ends with amount, multiples and granularity: its coarse counts are apart from those of other limits.
# There are as many of them as there are limits in the configuration; a caller who invents them has to share.
_MOST_COARSE: Final = 64 * COARSE

_Groups = tuple[tuple[float, int, float], ...]
"""The moment of the latest hit, how many there are, and the moment of the first; the oldest group first."""


class _Book(Generic[T]):
    """Values of a bounded number of keys, each until a moment."""

    def __init__(self, max_keys: int) -> None:
        self._values: dict[str, T] = {}
        self._table = KeyTable(max_keys, forget=self._values.__delitem__)
        self._coarse: dict[tuple[int, str], tuple[float, T]] = {}

    def read(self, key: str, now: float) -> tuple[float, T] | None:
        """Find a value and its end; for an unknown key, those that the keys without room have together."""
        key = shorten(key)
        until = self._table.until.get(key)
        if until is not None:
            return (until, self._values[key]) if until > now else None
        found = self._coarse.get(_coarse(key)) if self._coarse else None
        return found if found is not None and found[0] > now else None

    def write(self, key: str, value: T, *, until: float, now: float) -> None:
        key = shorten(key)
        if key in self._table.until:
            self._table.until[key] = until
        elif not self._table.admit(key, until, now):
            place = _coarse(key)
            if len(self._coarse) >= _MOST_COARSE:
                place = (place[0], "")
            self._coarse[place] = (until, value)
            return
        self._values[key] = value

    def end(self, key: str) -> None:
        key = shorten(key)
        if key in self._table.until:
            self._table.until[key] = -math.inf

    def clear(self) -> int:
        count = len(self._table)
        self._values.clear()
        self._coarse.clear()
        self._table.clear()
        return count


def _coarse(key: str) -> tuple[int, str]:
    return hash(key) % COARSE, "/".join(key.rsplit("/", 3)[1:])


class BoundedStorage(Storage, MovingWindowSupport, SlidingWindowCounterSupport):
    """Counts in this process's memory, for the strategies of `limits.aio`.

    Its methods are those of `limits`: see there what they return.

    Args:
        uri: `async+bounded://`, or with a bound `async+bounded://?max_keys=1000`.
        wrap_exceptions: For `limits`; it raises none.
        max_keys: The most keys that it keeps for each strategy.
        clock: Monotonic seconds.
        wall: Seconds since the epoch.
    """

    STORAGE_SCHEME: list[str] | None = ["async+bounded"]  # noqa: RUF012 - as `limits` has it

    def __init__(
        self,
        uri: str = "async+bounded://",
        wrap_exceptions: bool = False,  # noqa: FBT001, FBT002 - as `limits` has it
        *,
        max_keys: int = MAX_KEYS,
        clock: Clock = MONOTONIC,
        wall: Clock = WALL,
    ) -> None:
        super().__init__(uri, wrap_exceptions)
        asked = parse_qs(urlsplit(uri).query).get("max_keys")
        bound = int(asked[0]) if asked else max_keys
        self._fixed = _Book[int](bound)
        self._sliding = _Book[tuple[int, int, int]](bound)
        self._moving = _Book[_Groups](bound)
        self._clock = clock
        self._wall = wall

    @property
    def base_exceptions(self) -> type[Exception]:
        """What it may raise."""
        return ValueError

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Add to a fixed window; the first hit opens it."""
        now = self._clock()
        until, count = self._fixed.read(key, now) or (now + expiry, 0)
        self._fixed.write(key, count + amount, until=until, now=now)
        return count + amount

    async def get(self, key: str) -> int:
        """Read the count of a fixed window."""
        found = self._fixed.read(key, self._clock())
        return found[1] if found else 0

    async def get_expiry(self, key: str) -> float:
        """Return when a fixed window ends, by the wall clock."""
        now = self._clock()
        found = self._fixed.read(key, now)
        return self._wall() + (found[0] - now if found else 0.0)

    async def acquire_entry(  # noqa: PLR0917 - as `limits` has it
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        """Add to a moving window, if the limit allows it."""
        now = self._clock()
        groups = self._groups(key, expiry, now)
        if sum(count for _, count, _ in groups) + amount > limit:
            return False
        newest = (now, amount, now)
        if len(groups) >= _GROUPS and now < groups[-1][2] + expiry / _GROUPS:
            # From its first hit on: or steady traffic would be one group that never ends.
            newest = (now, groups[-1][1] + amount, groups[-1][2])
            groups = groups[:-1]
        self._moving.write(key, (*groups, newest), until=now + expiry, now=now)
        return True

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """Return the time of the oldest hit in a moving window, by the wall clock, and the number of hits."""
        now = self._clock()
        groups = self._groups(key, expiry, now)
        oldest = groups[0][0] if groups else now
        return self._wall() + (oldest - now), sum(count for _, count, _ in groups)

    async def acquire_sliding_window_entry(  # noqa: PLR0917 - as `limits` has it
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        """Add to a sliding window, if the limit allows it."""
        now = self._clock()
        number, previous, current = self._windows(key, expiry, now)
        left = (number + 1) * expiry - now
        if math.floor(previous * left / expiry + current) + amount > limit:
            return False
        # It counts for something until the end of the next window.
        counts = (number, previous, current + amount)
        self._sliding.write(key, counts, until=(number + 2) * expiry, now=now)
        return True

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Return count and seconds left of the previous window, and of the current one."""
        now = self._clock()
        number, previous, current = self._windows(key, expiry, now)
        left = (number + 1) * expiry - now
        return previous, left if previous else 0.0, current, left + expiry

    async def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Drop a key's sliding windows."""
        self._sliding.end(key)

    async def clear(self, key: str) -> None:
        """Drop a key's counts, but not what it shares with others."""
        self._fixed.end(key)
        self._moving.end(key)

    async def check(self) -> bool:
        """Return True: it works."""
        return True

    async def reset(self) -> int:
        """Drop all keys, and return how many there were."""
        return self._fixed.clear() + self._sliding.clear() + self._moving.clear()

    def _groups(self, key: str, expiry: float, now: float) -> _Groups:
        found = self._moving.read(key, now)
        return tuple(group for group in found[1] if group[0] > now - expiry) if found else ()

    def _windows(self, key: str, expiry: float, now: float) -> tuple[int, int, int]:
        number = int(now // expiry)
        found = self._sliding.read(key, now)
        last, previous, current = found[1] if found else (number, 0, 0)
        # What is older than the previous window was not found any more.
        return (number, previous, current) if last == number else (number, current, 0)
