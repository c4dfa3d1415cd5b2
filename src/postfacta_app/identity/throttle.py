"""Limit sign-in attempts: guessing is slow, and cannot lock an account's owner out.

An attacker can exhaust only the budget of unknown devices on their own networks: a known device and another
network always have an attempt.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import anyio

from postfacta_adapters.limits import SharedStore
from postfacta_core.clock import MONOTONIC, Clock
from postfacta_core.errors import DeadlineExceededError, ResilienceError
from postfacta_core.limits._address import site_of
from postfacta_core.limits.rate import RateLimiter, hit_all

from ..errors import RateLimitedError, slow_down

_MOST_KEYS: Final = 20_000  # Far more than can be verified in a minute.
_Place = tuple[RateLimiter, str]


class Throttle:
    """Counts attempts per network, per account from a network, and per account; the store shares them."""

    def __init__(self, *, store: SharedStore | None = None, clock: Clock = MONOTONIC) -> None:
        # Outcomes of attempts are counted by the caller.
        limiter = partial(RateLimiter, store=store, max_keys=_MOST_KEYS, observer=None, clock=clock)
        self._address = limiter("sign-in-address", "20/minute")
        self._site = limiter("sign-in-site", "100/minute")
        self._account_here = limiter("sign-in-account", "5/minute")
        # From all networks together. Beyond it, each network has one attempt a minute.
        self._account = limiter("sign-in-account-anywhere", "30/minute")
        self._slowly = limiter("sign-in-account-slow", "1/minute")
        self._device = limiter("sign-in-device", "10/minute")
        self._pending: Counter[tuple[str, str]] = Counter()

    @asynccontextmanager
    async def attempt(self, address: str, account: str = "", *, device: str = "") -> AsyncGenerator[None]:
        """Reserve an attempt while the block runs, and count it at the end, unless it ended in 429 or 503.

        A right password costs the account nothing. Without one the network counts, from a known device only it.
        """
        places, wrong = await self._places(address, account, device)
        held = [(limiter.name, key) for limiter, key in places]
        # Reserved first, so that concurrent attempts count.
        self._pending.update(held)
        counts: Sequence[_Place] = ()
        try:
            if wait := await self._wait(places):
                raise slow_down(wait)
            counts = (*places, *wrong)
            yield
            # A correct password costs the account nothing.
            counts = [it for it in places if it[0] in {self._address, self._site}]
        except DeadlineExceededError:
            raise  # The caller's deadline may already have passed.
        except (ResilienceError, RateLimitedError):
            counts = ()
            raise
        finally:
            self._pending.subtract(held)
            self._pending = +self._pending  # Without those that are zero.
            with anyio.CancelScope(shield=True):
                for limiter, key in counts:
                    await limiter.hit(key)

    async def _places(
        self, address: str, account: str, device: str
    ) -> tuple[Sequence[_Place], Sequence[_Place]]:
        """Return the limits of every attempt, and those of wrong passwords only."""
        who, site = _hashed(account), site_of(address) or address
        if device:
            return [(self._device, _hashed(account, device))], ()
        places = [(self._address, address)]
        if site != address:
            places.append((self._site, site))
        if not account:
            return places, ()
        here, everywhere = _hashed(account, site), [(self._account, who)]
        places.append((self._account_here, here))
        if await self._wait(everywhere, more=1):
            places.append((self._slowly, here))
        return places, everywhere

    async def _wait(self, places: Sequence[_Place], *, more: int = 0) -> float:
        charges = [limiter.charge(key, self._pending[limiter.name, key] + more) for limiter, key in places]
        decisions = await hit_all(charges, spend=False)
        return max(0.0 if one.allowed else min(one.retry_after, one.period) for one in decisions)


def _hashed(*parts: str) -> str:
    # Hashed, so that the shared store holds no addresses.
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
