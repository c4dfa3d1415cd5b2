"""Count in a store of `limits` that processes share, in bounded time, or without it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, Final, Self

import anyio
from limits import RateLimitItem, RateLimitItemPerSecond
from limits.aio.storage import Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import ConfigurationError
from limits.storage import storage_from_string

from postfacta_core.backoff import Backoff
from postfacta_core.clock import LUCK, MONOTONIC, WALL, Clock, Luck
from postfacta_core.installation import install_command
from postfacta_core.limits.rate import Charge, Decision, Rate, strictest
from postfacta_core.validation import validation

__all__ = ["SharedStore"]

# A busy loop sees an answer late, and takes it for none: a timeout late by this much says nothing
# about a store that answered within the last second.
_LATE: Final = 1.5
_RECENTLY: Final = 1.0
_CLOSE: Final = 1.0  # Seconds for the connections to close.
_ROUNDING: Final = 1e-3  # Between two looks at the wall clock.
# Requests that ask it, and connections: a burst of 100 opened 100, and took it for one that is
# away.
_MOST_AT_ONCE: Final = 16


class SharedStore:
    """A store shared by limiters, including those of other processes.

    An error of whatever kind, and an answer later than the timeout, mean that it is away. Then one
    request at a time asks it again, after a wait that grows, and all others do without; so does one
    that got its turn too late.

    It counts by the sliding window counter of `limits`: one script on the server, two numbers for
    each key, the server's clock. The Valkey client runs on asyncio alone: on trio such a store is
    always away.

    An async context manager, which closes its connections; it is a resource for
    `harden(resources=[...])`.

    Args:
        storage: An address, such as `async+valkey://valkey:6379`, or a storage of `limits.aio`.
        timeout: Seconds for all that one request asks of it, its turn included.
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
        backoff: Backoff | None = None,
        clock: Clock = MONOTONIC,
        luck: Luck = LUCK,
    ) -> None:
        validation.seconds("SharedStore.timeout", timeout, example="timeout=0.05")
        if backoff is not None:
            validation.instance(
                "SharedStore.backoff", backoff, Backoff, example="Backoff(base=1.0)"
            )
        validation.functions("SharedStore", clock=clock, luck=luck)
        self._limits = SlidingWindowCounterRateLimiter(_storage(storage))
        self._timeout = timeout
        self._turns = anyio.Semaphore(_MOST_AT_ONCE, fast_acquire=True)
        self._backoff = backoff or Backoff(base=1.0, cap=30.0)
        self._clock = clock
        self._luck = luck
        self._answered_at = self._again_at = -math.inf
        self._tell: list[Callable[[bool, str], None]] = []
        self.is_up: bool = True
        self._failures = self._changes = 0
        self._is_tried = False

    def subscribe(self, rates: Sequence[Rate], tell: Callable[[bool, str], None]) -> None:
        """Count these rates too, and tell each change.

        Whether the store is there, and the class of the error.
        """
        for rate in rates:
            if rate.period != int(rate.period):
                rule = "of whole seconds, where a store is shared"
                validation.refuse("RateCounter.rates", rate, rule, example="'100/minute'")
        self._tell.append(tell)

    async def decide(self, charges: Sequence[Charge], *, spend: bool) -> list[Decision] | None:
        """Decide as `hit_all` does, within the timeout; None if it is away."""
        decisions: list[Decision] = []
        is_answered = await self.ask(partial(self._decide, charges, decisions, spend=spend))
        return decisions if is_answered else None

    async def ask(self, work: Callable[[], Awaitable[object]]) -> bool:
        """Run an operation on the store, which is cancelled at the timeout.

        Return whether the store was available.
        """
        began = self._clock()
        changes = self._changes
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
                self._answered_at = self._clock()
                error = ""
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
        """Take ownership of its connections.

        It works without that too, but then they are never closed.
        """
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close its connections, within a second. It may be used again, and opens new ones then."""
        await _close(self._limits.storage)

    async def replace(self, storage: str | Storage) -> None:
        """Use another storage from now on, such as the same one with a new password.

        Calls under way end with the former.
        """
        former = self._limits.storage
        self._limits = type(self._limits)(_storage(storage))
        await anyio.sleep(self._timeout)
        await _close(former)

    async def _decide(
        self, charges: Sequence[Charge], decisions: list[Decision], *, spend: bool
    ) -> None:
        for limiter, key, cost in charges:
            of_rates = [await self._test(rate, cost, limiter.name, key) for rate in limiter.rates]
            decisions.append(strictest(of_rates))
        if not spend or any(
            not decision.allowed and limiter.enforces
            for (limiter, _, _), decision in zip(charges, decisions, strict=True)
        ):
            return
        for place, (limiter, key, cost) in enumerate(charges):
            for rate in limiter.rates if decisions[place].allowed else ():
                if not await self._limits.hit(_item(rate), limiter.name, key, cost=cost):
                    # Another request was quicker since the test.
                    wait = decisions[place].reset_after
                    decisions[place] = decisions[place]._replace(
                        allowed=False, remaining=0, retry_after=wait
                    )

    async def _test(self, rate: Rate, cost: int, *key: str) -> Decision:
        reset_at, left = await self._limits.get_window_stats(_item(rate), *key)
        # The strategies read this clock too, and cannot be given another. Without any hit, a window
        # ends now.
        reset = min(max(0.0, reset_at - WALL()), rate.period)
        reset = reset if reset > _ROUNDING else rate.period
        if left >= cost:
            return Decision(True, rate.amount, left - cost, reset, 0.0, rate.period)  # noqa: FBT003 - a record
        wait = math.inf if cost > rate.amount else reset
        return Decision(False, rate.amount, left, reset, wait, rate.period)  # noqa: FBT003 - a record

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


@lru_cache
def _item(rate: Rate) -> RateLimitItem:
    return RateLimitItemPerSecond(rate.amount, int(rate.period), namespace="POSTFACTA")


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
    built: object = storage
    if isinstance(storage, str):
        scheme = storage.partition("://")[0]
        try:
            built = storage_from_string(storage)
        except ConfigurationError as error:
            if "prerequisite" in str(error):
                hint = install_command("valkey") if "valkey" in scheme else str(error)
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
