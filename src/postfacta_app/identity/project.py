"""Put together what signs people in by the Supabase project."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Protocol

import httpx2

from postfacta_core.aio.breaker import CircuitBreaker
from postfacta_core.aio.bulkhead import Bulkhead
from postfacta_core.aio.resources import Resource
from postfacta_core.aio.timeout import Timeout
from postfacta_core.errors import DeadlineExceededError
from postfacta_core.events import Observer
from postfacta_core.policy.breaker import CircuitConfig

from ..db import Transactions
from ..settings import Settings
from .client import Client
from .gotrue import SupabaseAccounts
from .jwks import Jwks
from .model import Store
from .supabase import People, SupabaseTokens
from .throttle import Throttle

__all__ = ["Project"]


class _Accounts(Store, People, Protocol):
    """Where accounts of both kinds are."""


class Project:
    """The Supabase project, as far as we need it.

    Args:
        settings: Where it is.
        store: Where accounts and sessions are.
        transactions: Runs the writes.
        throttle: Counts tries.
        secrets: Tells what its tokens may be signed with by HS256.
        attempted: Told how each attempt to sign in ended.
        observer: Told of calls, and of the circuit.

    Attributes:
        tokens: Reads its tokens.
        accounts: Signs people in.
        keys: Its public keys.
        resources: What must be open for all that.
    """

    def __init__(
        self,
        settings: Settings,
        store: _Accounts,
        transactions: Transactions,
        *,
        throttle: Throttle,
        secrets: Callable[[], Collection[str]],
        attempted: Callable[[str], object],
        observer: Observer,
    ) -> None:
        # In their own pipelines: who cannot sign in is no reason to stop those who have, and the other way round.
        publisher = Client("jwks", settings, Timeout(3, name="jwks"), observer=observer)
        gotrue = Client(
            "gotrue",
            settings,
            CircuitBreaker(
                "gotrue",
                # People sign in seldom: with the usual numbers it would not open before an hour has passed.
                config=CircuitConfig(sliding_window_size=20, minimum_number_of_calls=5),
                failures=(httpx2.HTTPError, DeadlineExceededError, ValueError),
                observer=observer,
            ),
            Bulkhead("gotrue", 20, observer=observer),
            # A request to sign in has 5 seconds, and must still be answered.
            Timeout(4, name="gotrue"),
            observer=observer,
        )
        self.keys: Jwks = Jwks(partial(publisher.ask, "GET", ".well-known/jwks.json"))
        self.tokens: SupabaseTokens = SupabaseTokens(
            settings, store, transactions, keys=self.keys, secrets=secrets
        )
        self.accounts: SupabaseAccounts = SupabaseAccounts(
            gotrue, self.tokens, store, transactions=transactions, throttle=throttle, attempted=attempted
        )
        self.resources: Sequence[Resource] = (publisher, gotrue, self.keys.running())
