"""Limit how often a password may be tried, so that guessing is slow and locks nobody out.

An outsider can use up what is for unknown devices on a network of theirs, and nothing else: a known device has a budget
of its own, and a network that has not tried an account before always has a try. Only what was answered counts: a right
password costs an account nothing, and a try that failed for want of the database costs nobody anything.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import IPv6Network, ip_network
from typing import Final

import anyio

from postfacta_core.aio.ratelimit import RateLimiter, hit_all
from postfacta_core.aio.ratelimit_store import SharedStore
from postfacta_core.clock import MONOTONIC, Clock
from postfacta_core.errors import DeadlineExceededError, ResilienceError

from ..errors import RateLimitedError

__all__ = ["Throttle", "site_of", "slow_down"]

_SITE_BITS: Final = 48
_MOST_KEYS: Final = 20_000  # Far more than passwords that can be verified in a minute.
_Place = tuple[RateLimiter, str]


class Throttle:
    """Counts tries per network, per account from a network, and per account.

    Args:
        store: Where several processes count together; without one each process counts by itself.
        clock: Monotonic seconds.
    """

    def __init__(self, *, store: SharedStore | None = None, clock: Clock = MONOTONIC) -> None:
        # What became of each try is counted where people sign in.
        limiter = partial(RateLimiter, store=store, max_keys=_MOST_KEYS, observer=None, clock=clock)
        self._address = limiter("sign-in-address", "20/minute")
        self._site = limiter("sign-in-site", "100/minute")
        self._account_here = limiter("sign-in-account", "5/minute")
        # From all networks together. What is beyond it is only slowed down: one try a minute from each network.
        self._account = limiter("sign-in-account-anywhere", "30/minute")
        self._slowly = limiter("sign-in-account-slow", "1/minute")
        self._device = limiter("sign-in-device", "10/minute")
        self._pending: Counter[tuple[str, str]] = Counter()

    @asynccontextmanager
    async def attempt(self, address: str, account: str = "", *, device: str = "") -> AsyncGenerator[None]:
        """Hold a try while its block runs, and count it at the end.

        A block that raises UnauthenticatedError was a wrong password. One that was refused or had no database, which
        ends in 429 or 503, was no try.

        Args:
            address: The network that it comes from; an IPv6 network counts for the /48 around it as well.
            account: The account, whether it exists or not; empty counts for the network alone.
            device: Names a device that the account's owner has used before; then nothing else counts.

        Raises:
            RateLimitedError: If it is one too many.
        """
        places, wrong = await self._places(address, account, device)
        held = [(limiter.name, key) for limiter, key in places]
        # Before it is asked for: another that comes meanwhile is one more.
        self._pending.update(held)
        counts: Sequence[_Place] = ()
        try:
            if wait := await self._wait(places):
                raise slow_down(wait)
            counts = (*places, *wrong)
            yield
            # A right one costs the account nothing.
            counts = [it for it in places if it[0] in {self._address, self._site}]
        except DeadlineExceededError:
            raise  # The caller may have asked for less time than it takes.
        except (ResilienceError, RateLimitedError):
            counts = ()
            raise
        finally:
            self._pending.subtract(held)
            for name in held:
                if not self._pending[name]:
                    del self._pending[name]
            with anyio.CancelScope(shield=True):
                for limiter, key in counts:
                    await limiter.hit(key)

    async def _places(
        self, address: str, account: str, device: str
    ) -> tuple[Sequence[_Place], Sequence[_Place]]:
        """List where a try counts, and where beside that only a wrong one does."""
        who, site = _hashed(account), site_of(address)
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


def site_of(address: str) -> str:
    """Name the /48 that an IPv6 network lies in, as one site often has all of it; any other address as it is."""
    if "/" not in address:
        return address
    try:
        network = ip_network(address)
    except ValueError:
        return address
    return str(network.supernet(new_prefix=_SITE_BITS)) if isinstance(network, IPv6Network) else address


def slow_down(seconds: float) -> RateLimitedError:
    """Refuse a try for a while."""
    wait = max(1, math.ceil(seconds))
    return RateLimitedError("Too many tries: wait before the next one", headers={"Retry-After": str(wait)})


def _hashed(*parts: str) -> str:
    # The store that processes share learns no addresses of people.
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
