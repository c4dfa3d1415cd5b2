"""Limit sign-in attempts: guessing is slow, and cannot lock an account's owner out.

What an attacker may do, and what holds:

* guess at many accounts from one network: it has a rate, and so has the site of an IPv6 network;
* guess at one account from one network: each account has a rate for each network;
* guess at one account from many networks: each account has a rate over all of them. Beyond it each
  network has `account_beyond`, which no other network can use up, so its owner always has an
  attempt;
* use up the rates of the network that the owner is in: a device that has signed in to the account
  before needs none of them, and has a rate of its own.

It bounds guesses, and not the work of a verification: hash passwords slowly, and verify few at
once. For an unknown account verify a hash of no password, so that neither the time nor the answer
shows that there is none.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio

from postfacta_core.clock import MONOTONIC, Clock
from postfacta_core.context import current_request
from postfacta_core.errors import DeadlineExceededError, RateLimitExceededError, ResilienceError
from postfacta_core.events import Observer, PolicyCreated, Sample, observing, process_observer
from postfacta_core.limits.address import client_address, site_of
from postfacta_core.limits.rate import (
    Charge,
    RateCounter,
    Rates,
    Store,
    check_store,
    hit_all,
    parse_rates,
)
from postfacta_core.validation import validation

__all__ = ["SignInThrottle", "client_of"]

_LONGEST: Final = 48  # The names of its budgets are longer.


class SignInThrottle:
    """Counts sign-in attempts per network, per account from a network, and per account.

        throttle = SignInThrottle()

        async def sign_in(request, email, password):
            async with throttle.attempt(client_of(request.scope), email) as accept:
                if not await verify(email, password):
                    raise HTTPException(401, "Wrong e-mail or password")
                accept()

    A network is an IPv4 address, or an IPv6 /64, and a site an IPv6 /48, which is what one person
    may have. All attempts count for the network and the site, and those that were not accepted for
    the account too. A store shares the counts of several processes; while it is away each counts by
    itself. Attempts under way count in their own process alone.

    Args:
        name: Names it in errors, metrics and keys of the store, in at most 48 characters. Another
            kind of secret, such as one-time codes, has a throttle and a name of its own.
        network: The attempts of a network.
        site: The attempts of a site.
        account_here: The wrong attempts at an account from a network; from IPv6, from a site.
        account: The wrong attempts at an account, from all networks together.
        account_beyond: What each network has at an account beyond that rate.
        device: The wrong attempts of a known device at its account, in the place of all of the
            above.
        uncounted: Errors which say that no secret was looked at, such as those that are answered by
            429 or 503; each `ResilienceError` does. Never one that a wrong password causes too:
            guesses would be free.
        store: Such as a `postfacta_adapters.limits.SharedStore`; None keeps the counts in this
            process.
        max_keys: The most keys in memory for each rate, some 180 bytes each. Beyond it unknown ones
            share coarse budgets, so that no client can push another's count out.
        observer: Receives its counts. By default the process's, see `asgi.Telemetry`; None for
            none.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        name: str = "sign-in",
        *,
        network: Rates = "20/minute",
        site: Rates = "100/minute",
        account_here: Rates = "5/minute",
        account: Rates = "30/minute",
        account_beyond: Rates = "1/minute",
        device: Rates = "10/minute",
        uncounted: type[Exception] | tuple[type[Exception], ...] = (),
        store: Store | None = None,
        max_keys: int = 20_000,
        observer: Observer | None = process_observer,
        clock: Clock = MONOTONIC,
    ) -> None:
        self.name: str = validation.name(
            "SignInThrottle.name", name, example='SignInThrottle("codes")'
        )
        if len(name) > _LONGEST:
            rule = f"a name of at most {_LONGEST} characters"
            validation.refuse("SignInThrottle.name", name, rule, example='SignInThrottle("codes")')
        check_store("SignInThrottle.store", store)
        validation.whole("SignInThrottle.max_keys", max_keys, example="max_keys=20_000")
        validation.functions("SignInThrottle", clock=clock)
        example = "uncounted=(MailServerBusyError,)"
        busy = validation.error_types("SignInThrottle.uncounted", uncounted, example=example)
        self._uncounted: tuple[type[Exception], ...] = (ResilienceError, *busy)

        def limiter(field: str, rates: Rates) -> RateCounter:
            parsed = parse_rates(rates, field=f"SignInThrottle.{field}")
            # What counts for metrics is an attempt, and not each of its budgets.
            return RateCounter(
                f"{name}-{field}",
                parsed,
                store=store,
                max_keys=max_keys,
                observer=None,
                clock=clock,
            )

        self._network = limiter("network", network)
        self._site = limiter("site", site)
        self._account_here = limiter("account_here", account_here)
        self._account = limiter("account", account)
        self._account_beyond = limiter("account_beyond", account_beyond)
        self._device = limiter("device", device)
        self._pending: Counter[tuple[str, str]] = Counter()
        self._counts = {"allowed": 0, "limited": 0}
        observing("SignInThrottle", name, observer)(PolicyCreated(name, self.tally))

    @asynccontextmanager
    async def attempt(
        self, address: str, account: str = "", *, device: str = ""
    ) -> AsyncGenerator[Callable[[], None]]:
        """Reserve an attempt while the block runs, and count it at the end.

        The block gets a function, to be called once the secret has turned out to be right. Without
        that call, and after an error or a cancellation, the attempt counts as a wrong one. It
        counts nothing after a `ResilienceError` or an error of `uncounted`; but a
        `DeadlineExceededError` counts, since a client may choose its deadline.

        Args:
            address: The client's, see `client_of`; never what a client may make up. Clients without
                one share a budget.
            account: Whose secret is tried, in one spelling, such as an e-mail address in lower
                case, whether it exists or not. Empty if there is none, as for a registration: then
                the network and the site count alone.
            device: Identifies a device that has signed in to this account before, as something that
                only the service can have written proves, such as a signed cookie. Empty for all
                others.

        Raises:
            RateLimitExceededError: Before the block, with `retry_after` in seconds; `harden`
                answers it by 429.
        """
        keys = self._keys(client_address(address, ()), account, device)
        reserved = [(limiter.name, key) for limiter, key in keys.items()]
        # Reserved and read before anything is awaited, so that each of several at once sees those
        # before it.
        self._pending.update(reserved)
        charges = [
            limiter.charge(key, self._pending[limiter.name, key]) for limiter, key in keys.items()
        ]
        counts: Mapping[RateCounter, str] = {}
        accepted = anyio.Event()
        try:
            waits = await _waits(charges)
            if not waits.pop(self._account, 0.0):
                for by_limiter in (keys, waits):
                    by_limiter.pop(self._account_beyond, None)
            self._decide(max(waits.values()))
            counts = keys
            yield accepted.set
            if accepted.is_set():
                counts = {
                    limiter: key
                    for limiter, key in keys.items()
                    if limiter in {self._network, self._site}
                }
        except DeadlineExceededError:
            raise
        except self._uncounted:
            counts = {}
            raise
        finally:
            self._pending.subtract(reserved)
            self._pending = +self._pending  # Without those that are zero.
            with anyio.CancelScope(shield=True):
                for limiter, key in counts.items():
                    await limiter.hit(key)

    def tally(self) -> Iterable[Sample]:
        """Return the number of attempts that were allowed and refused."""
        for decision, count in self._counts.items():
            yield Sample(
                "postfacta_ratelimit_decisions_total", (self.name, decision, "enforce"), count
            )

    def _keys(self, address: str, account: str, device: str) -> dict[RateCounter, str]:
        """Return the limiters of a wrong attempt, and their keys; `account_beyond` counts, too."""
        if device:
            return {self._device: _hashed(account, device)}
        site = site_of(address) or address
        keys = {self._network: address} | ({self._site: site} if site != address else {})
        if account:
            account_at_site = _hashed(account, site)
            keys |= {
                self._account_here: account_at_site,
                self._account: _hashed(account),
                self._account_beyond: account_at_site,
            }
        return keys

    def _decide(self, wait: float) -> None:
        self._counts["limited" if wait else "allowed"] += 1
        if wait:
            raise RateLimitExceededError(self.name, wait)


async def _waits(charges: Sequence[Charge]) -> dict[RateCounter, float]:
    """Return the seconds until each limiter would allow its charge: no more than a period."""
    decisions = await hit_all(charges, spend=False)
    return {
        limiter: 0.0 if decision.allowed else min(decision.retry_after, decision.period)
        for (limiter, _, _), decision in zip(charges, decisions, strict=True)
    }


def client_of(scope: Mapping[str, Any]) -> str:
    """Return the address of the client of an HTTP request.

    An IPv4 address, an IPv6 /64, or empty if it has none.

    Behind the `trusted_proxies` of `harden` it is the client that they name. Without them it is the
    peer.

    Args:
        scope: The request's, such as `request.scope` of Starlette and FastAPI.
    """
    request = current_request()
    if request is not None and request.client:
        return request.client
    peer = scope.get("client")
    return client_address(peer[0] if peer else None, ())


def _hashed(*parts: str) -> str:
    # Hashed, so that a shared store holds no addresses of people.
    # JSON may bring a lone surrogate, which is a character like any other here.
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]
