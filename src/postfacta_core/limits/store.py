"""Query a `limits` store shared by several processes, in bounded time, and pause while it is unavailable.

`limits` is imported when a store is made: that takes as long as a quarter of all else that `harden` imports.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

import anyio

from ..backoff import Backoff
from ..clock import LUCK, MONOTONIC, WALL, Clock, Luck
from ..validation import validation
from ._rates import Decision

if TYPE_CHECKING:
    from limits import RateLimitItem
    from limits.aio.storage import Storage

# A busy loop sees an answer late, and takes it for none: a timeout late by this much says nothing about a store that
# answered within the last second.
_LATE: Final = 1.5
_RECENTLY: Final = 1.0
_CLOSE: Final = 1.0
_ROUNDING: Final = 1e-3  # Between two looks at the wall clock.


class SharedStore:
    """A store shared by limiters, including those of other processes.

    An error of whatever kind, and an answer later than the timeout, mean that it is away. Then one request at a
    time asks it again, after a wait that grows, and all others do without; so does one that got its turn too late.

    It counts by the sliding window counter of `limits`: one script on the server, two numbers for each key, the
    server's clock. The Valkey client runs on asyncio alone: on trio such a store is always away.

    An async context manager, which closes its connections; it is a resource for `harden(resources=[...])`.

    Args:
        storage: An address, such as `async+valkey://valkey:6379`, or a storage of `limits.aio`.
        timeout: Seconds for all that one request asks of it, its turn included.
        max_calls: The most requests that ask it at once, and its connections.
        backoff: How long it is not asked after each failure in a row.
        clock: Monotonic seconds.
        luck: Spreads the retries of processes.

    Attributes:
        is_up: Whether it answered the last query.

    Raises:
        ValueError: If a setting is wrong, or the storage would block the event loop.
        ModuleNotFoundError: If the storage's client is not installed; it says what to install.
    """

    def __init__(
        self,
        storage: str | Storage,
        *,
        timeout: float = 0.05,
        max_calls: int = 16,
        backoff: Backoff | None = None,
        clock: Clock = MONOTONIC,
        luck: Luck = LUCK,
    ) -> None:
        from limits.aio.strategies import SlidingWindowCounterRateLimiter  # noqa: PLC0415 - see above

        validation.seconds("SharedStore.timeout", timeout, example="timeout=0.05")
        validation.whole("SharedStore.max_calls", max_calls, example="max_calls=16")
        if backoff is not None:
            validation.instance("SharedStore.backoff", backoff, Backoff, example="Backoff(base=1.0)")
        validation.functions("SharedStore", clock=clock, luck=luck)
        self._limits = SlidingWindowCounterRateLimiter(_storage(storage))
        self._timeout = timeout
        self._turns = anyio.Semaphore(max_calls, fast_acquire=True)
        self._backoff = backoff or Backoff(base=1.0, cap=30.0)
        self._clock = clock
        self._luck = luck
        self._answered_at = self._again_at = -math.inf
        self._tell: list[Callable[[bool, str], None]] = []
        self.is_up: bool = True
        self._failures = self._changes = 0
        self._is_tried = False

    def subscribe(self, tell: Callable[[bool, str], None]) -> None:
        """Call it at each change, with whether the store is there, and the class of the error."""
        self._tell.append(tell)

    async def ask(self, work: Callable[[], Awaitable[object]]) -> bool:
        """Run an operation on the store, which is cancelled at the timeout; return whether the store was available."""
        began, changes = self._clock(), self._changes
        if not self.is_up:
            if self._is_tried or began < self._again_at:
                return False
            self._is_tried = True
        error: str | None = None
        turn_at = math.inf
        try:
            with anyio.move_on_after(self._timeout):
                async with self._turns:
                    turn_at = self._clock()
                    await work()
                self._answered_at, error = self._clock(), ""
            if error is None and self._is_news(began, turn_at):
                error = TimeoutError.__name__
        except Exception as raised:  # noqa: BLE001 - a client of a store may raise anything
            error = type(raised).__name__
        finally:
            # News from before the last change changes nothing.
            if changes == self._changes:
                self._is_tried = False
                if error is not None:
                    self._learn(error)
        return error == ""

    async def __aenter__(self) -> Self:
        """Take ownership of its connections. It works without that too, but then they are never closed."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close its connections, within a second. It may be used again, and opens new ones then."""
        await _close(self._limits.storage)

    async def replace(self, storage: str | Storage) -> None:
        """Use another storage from now on, such as the same one with a new password; calls under way end with the former."""
        former, self._limits = self._limits.storage, type(self._limits)(_storage(storage))
        await anyio.sleep(self._timeout)
        await _close(former)

    async def test(self, item: RateLimitItem, cost: int, *key: str) -> Decision:
        """Return whether a cost is within the rate, and what is left without it."""
        reset_at, left = await self._limits.get_window_stats(item, *key)
        period = float(item.get_expiry())
        # The strategies read this clock too, and cannot be given another. Without any hit, a window ends now.
        reset = min(max(0.0, reset_at - WALL()), period)
        reset = reset if reset > _ROUNDING else period
        if left >= cost:
            return Decision(True, item.amount, left - cost, reset, 0.0, period)  # noqa: FBT003 - a record
        wait = math.inf if cost > item.amount else reset
        return Decision(False, item.amount, left, reset, wait, period)  # noqa: FBT003 - a record

    async def hit(self, item: RateLimitItem, cost: int, *key: str) -> bool:
        """Spend a cost, if it is still within the rate."""
        return await self._limits.hit(item, *key, cost=cost)

    def _learn(self, error: str) -> None:
        """Record an answer, without an error, or a failure, and report it if that is a change."""
        if error:
            self._failures += 1
            self._again_at = self._clock() + self._backoff.delay(self._failures, self._luck())
        else:
            self._failures = 0
        if self.is_up is bool(error):
            self.is_up = not error
            self._changes += 1
            for tell in self._tell:
                tell(self.is_up, error)

    def _is_news(self, began: float, turn_at: float) -> bool:
        """Return whether a timeout is due to the store, and not to our own load."""
        now = self._clock()
        if now < turn_at + self._timeout / 2:
            return False
        return now < began + _LATE * self._timeout or now >= self._answered_at + _RECENTLY


async def _close(storage: Storage) -> None:
    # `limits` has no word for it: this is where its Valkey and Redis storages keep their clients.
    bridge = getattr(storage, "bridge", None)
    clients: list[Any] = [getattr(bridge, name, None) for name in ("storage", "storage_replica")]
    clients += getattr(getattr(bridge, "sentinel", None), "sentinels", ())
    with anyio.move_on_after(_CLOSE, shield=True):
        for client in filter(None, clients):
            with suppress(Exception):  # Foreign code; what cannot be closed is gone already.
                await client.aclose()


def _storage(storage: str | Storage) -> Storage:
    """Build the storage of an address. An address may hold a password, so no error repeats it."""
    from limits.aio.storage import Storage  # noqa: PLC0415 - see above
    from limits.errors import ConfigurationError  # noqa: PLC0415
    from limits.storage import storage_from_string  # noqa: PLC0415

    built: object = storage
    if isinstance(storage, str):
        scheme = storage.partition("://")[0]
        try:
            built = storage_from_string(storage)
        except ConfigurationError as error:
            if "prerequisite" in str(error):
                hint = "pip install 'postfacta[valkey]'" if "valkey" in scheme else str(error)
                msg = f"SharedStore.storage needs the client of {scheme}: {hint}"
                raise ModuleNotFoundError(msg) from error
    if isinstance(built, Storage):
        return built
    return validation.refuse(
        "SharedStore.storage",
        f"{storage.partition('://')[0]}://..." if isinstance(storage, str) else type(storage),
        "the address of an async storage, or one of limits.aio",
        example='"async+valkey://valkey:6379"',
    )
