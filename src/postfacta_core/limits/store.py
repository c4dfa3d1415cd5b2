"""Query a `limits` store shared by several processes, in bounded time, and pause while it is unavailable.

`limits` is imported when a store is made: that takes as long as a quarter of all else that `harden` imports.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Literal, Self, get_args

import anyio

from ..backoff import Backoff
from ..clock import LUCK, MONOTONIC, WALL, Clock, Luck
from ..validation import validation
from ._rates import Decision, StoreWatch

if TYPE_CHECKING:
    from limits import RateLimitItem
    from limits.aio.storage import Storage
    from limits.aio.strategies import RateLimiter

Strategy = Literal["fixed-window", "moving-window", "sliding-window-counter"]
"""The strategies of `limits`."""

_STRATEGIES: Final = get_args(Strategy)

# A busy loop sees an answer late, and takes it for none. A timeout late by this much says nothing about a store that answered
# within the last second; after that it does, or a store that is away would hold up a busy loop for ever.
_LATE: Final = 1.5
_RECENTLY: Final = 1.0
_CLOSE: Final = 1.0
_ROUNDING: Final = 1e-3  # Between the two looks at the wall clock there are some microseconds.


class SharedStore:
    """A store shared by limiters, including those of other processes.

    An error of whatever kind, and an answer later than the timeout, mean that it is away. Then one request at a
    time asks it again, after a wait that grows, and all others do without. No more than `max_calls` requests ask
    it at once; one that got its turn too late does without it, which says nothing about the store.

    A call that is cut off leaves no answer behind for the next one: the Valkey client closes a connection whose
    reading was cancelled. That client runs on asyncio alone: on trio such a store is always away.

    An async context manager, which closes its connections; it is a resource for `harden(resources=[...])`.

    Args:
        storage: An address, such as `async+valkey://valkey:6379`, or a storage of `limits.aio`.
        strategy: How it counts. `sliding-window-counter` is one script on the server, keeps two numbers for each
            key and uses the server's clock; `moving-window` keeps each hit, and uses the clock of each process.
        timeout: Seconds for all that one request asks of it, its turn included.
        max_calls: The most requests that ask it at once, which is the most connections too.
        backoff: How long it is not asked after each failure in a row.
        clock: Monotonic seconds.
        luck: Spreads the retries of processes.

    Raises:
        ValueError: If a setting is wrong, or the storage would block the event loop.
        ModuleNotFoundError: If the storage's client is not installed; it says what to install.
    """

    def __init__(
        self,
        storage: str | Storage,
        *,
        strategy: Strategy = "sliding-window-counter",
        timeout: float = 0.05,
        max_calls: int = 16,
        backoff: Backoff | None = None,
        clock: Clock = MONOTONIC,
        luck: Luck = LUCK,
    ) -> None:
        from limits.aio.strategies import STRATEGIES  # noqa: PLC0415 - see above

        validation.one_of("SharedStore.strategy", strategy, _STRATEGIES)
        validation.seconds("SharedStore.timeout", timeout, example="timeout=0.05")
        validation.whole("SharedStore.max_calls", max_calls, example="max_calls=16")
        if backoff is not None:
            validation.instance("SharedStore.backoff", backoff, Backoff, example="Backoff(base=1.0)")
        validation.functions("SharedStore", clock=clock, luck=luck)
        kind: Callable[[Storage], RateLimiter] = STRATEGIES[strategy]
        self._limits = kind(_storage(storage))
        self._timeout = timeout
        self._turns = anyio.Semaphore(max_calls, fast_acquire=True)
        self._backoff = backoff or Backoff(base=1.0, cap=30.0)
        self._clock = clock
        self._luck = luck
        self._watch = StoreWatch()
        self._answered_at = -math.inf
        self._tell: list[Callable[[bool, str], None]] = []

    @property
    def is_up(self) -> bool:
        """Whether it answered the last query."""
        return self._watch.is_up

    def subscribe(self, tell: Callable[[bool, str], None]) -> None:
        """Call it at each change, with whether the store is there, and the class of the error."""
        self._tell.append(tell)

    async def ask(self, work: Callable[[], Awaitable[object]]) -> bool:
        """Run an operation on the store; return whether the store was available.

        Args:
            work: It is cancelled at the timeout, and may raise anything.
        """
        began = self._clock()
        ticket = self._watch.ask(began)
        if ticket is None:
            return False
        error, turn_at = "", math.inf
        try:
            with anyio.move_on_after(self._timeout):
                async with self._turns:
                    turn_at = self._clock()
                    await work()
                self._answered(ticket)
                return True
            if self._is_news(began, turn_at):
                error = TimeoutError.__name__
        except Exception as raised:  # noqa: BLE001 - a client of a store may raise anything
            error = type(raised).__name__
        finally:
            # An answer that is no longer awaited is no failure of the store.
            self._watch.gave_up(ticket)
        if error:
            self._failed(ticket, error)
        return False

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

    def _answered(self, ticket: int) -> None:
        self._answered_at = self._clock()
        if self._watch.answered(ticket):
            self._changed("")

    def _failed(self, ticket: int, error: str) -> None:
        wait = self._backoff.delay(self._watch.failures + 1, self._luck())
        if self._watch.failed(ticket, self._clock() + wait):
            self._changed(error)

    def _is_news(self, began: float, turn_at: float) -> bool:
        """Return whether a timeout is due to the store, and not to our own load."""
        now = self._clock()
        if now < turn_at + self._timeout / 2:
            return False
        return now < began + _LATE * self._timeout or now >= self._answered_at + _RECENTLY

    def _changed(self, error: str) -> None:
        for tell in self._tell:
            tell(not error, error)


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
            built = built if isinstance(built, Storage) else f"{scheme}://..."
        except ConfigurationError as error:
            if "prerequisite" in str(error):
                hint = "pip install 'postfacta[valkey]'" if "valkey" in scheme else str(error)
                msg = f"SharedStore.storage needs the client of {scheme}: {hint}"
                raise ModuleNotFoundError(msg) from error
            built = f"{scheme}://..."
    if isinstance(built, Storage):
        return built
    return validation.refuse(
        "SharedStore.storage",
        built if isinstance(storage, str) else type(built),
        "the address of an async storage, or one of limits.aio",
        example='"async+valkey://valkey:6379"',
    )
