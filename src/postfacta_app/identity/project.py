"""The composition of sign-in with the Supabase project."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial

import httpx2

from postfacta_core.drain.resources import Resource
from postfacta_core.errors import DeadlineExceededError
from postfacta_core.events import Observer
from postfacta_core.guards._circuit import CircuitConfig
from postfacta_core.guards.breaker import CircuitBreaker
from postfacta_core.guards.bulkhead import Bulkhead
from postfacta_core.guards.timeout import Timeout

from ..db import Transactions
from ..settings import Settings
from .client import Client
from .gotrue import SupabaseAccounts
from .jwks import Jwks
from .postgres import PostgresIdentity
from .supabase import SupabaseTokens
from .throttle import Throttle

__all__ = ["Project"]


class Project:
    """The parts that sign-in with a Supabase project needs.

    Attributes:
        tokens: Verifies its tokens.
        accounts: Signs people in.
        keys: Its public keys.
        resources: The context managers to keep open.
    """

    def __init__(
        self,
        settings: Settings,
        store: PostgresIdentity,
        transactions: Transactions,
        *,
        throttle: Throttle,
        secrets: Callable[[], Collection[str]],
        attempted: Callable[[str], object],
        observer: Observer,
    ) -> None:
        # Separate pipelines: failing sign-ins must not stop the fetching of keys, nor the reverse.
        publisher = Client("jwks", settings, Timeout(3, name="jwks"), observer=observer)
        gotrue = Client(
            "gotrue",
            settings,
            CircuitBreaker(
                "gotrue",
                # Sign-ins are rare: with the defaults the circuit would take an hour to open.
                config=CircuitConfig(sliding_window_size=20, minimum_number_of_calls=5),
                on=(httpx2.HTTPError, DeadlineExceededError, ValueError),
                observer=observer,
            ),
            Bulkhead("gotrue", 20, observer=observer),
            # A sign-in request has a deadline of 5 seconds.
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
