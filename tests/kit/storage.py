"""A storage of `limits` under a clock of the test.

A list of all hits, by which each strategy counts exactly.
"""

from __future__ import annotations

from limits.aio.storage import MovingWindowSupport, SlidingWindowCounterSupport, Storage

from postfacta_core.clock import Clock

__all__ = ["HitLists"]


class HitLists(Storage, MovingWindowSupport, SlidingWindowCounterSupport):
    """Counts of one process, in the methods that `limits` asks of a storage."""

    STORAGE_SCHEME: list[str] | None = None

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._hits: dict[str, list[float]] = {}
        self._ends: dict[str, float] = {}

    @property
    def base_exceptions(self) -> type[Exception]:
        return OSError

    def _since(self, key: str, begin: float) -> int:
        return sum(hit >= begin for hit in self._hits.get(key, ()))

    def _add(self, key: str, amount: int) -> None:
        self._hits.setdefault(key, []).extend([self._clock()] * amount)

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        if await self.get_expiry(key) <= self._clock():
            self._hits[key], self._ends[key] = [], self._clock() + expiry
        self._add(key, amount)
        return await self.get(key)

    async def get(self, key: str) -> int:
        return len(self._hits.get(key, ())) if await self.get_expiry(key) > self._clock() else 0

    async def get_expiry(self, key: str) -> float:
        return self._ends.get(key, 0.0)

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        _, count = await self.get_moving_window(key, limit, expiry)
        if count + amount <= limit:
            self._add(key, amount)
        return count + amount <= limit

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        begin = self._clock() - expiry
        recent = [hit for hit in self._hits.get(key, ()) if hit > begin]
        return min(recent, default=self._clock()), len(recent)

    async def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        previous, left, current, _ = await HitLists.get_sliding_window(self, key, expiry)
        is_within = int(previous * left / expiry + current) + amount <= limit
        if is_within:
            self._add(key, amount)
        return is_within

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        now = self._clock()
        begin = now // expiry * expiry
        current = self._since(key, begin)
        left = begin + expiry - now
        return self._since(key, begin - expiry) - current, left, current, left + expiry

    async def clear_sliding_window(self, key: str, expiry: int) -> None:
        await self.clear(key)

    async def clear(self, key: str) -> None:
        self._hits.pop(key, None)
        self._ends.pop(key, None)

    async def check(self) -> bool:
        return True

    async def reset(self) -> int:
        count = len(self._hits)
        self._hits.clear()
        self._ends.clear()
        return count
