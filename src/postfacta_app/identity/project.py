"""The composition of sign-in with the Supabase project."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import httpx2

from postfacta_core.drain.resources import Resource
from postfacta_core.errors import DeadlineExceededError
from postfacta_core.events import Observer
from postfacta_core.guards._circuit import CircuitConfig
from postfacta_core.guards.breaker import CircuitBreaker
from postfacta_core.guards.bulkhead import Bulkhead
from postfacta_core.guards.timeout import Timeout
from postfacta_postgres import Database

from ..db import Transactions
from ..rotation import Rotation
from .client import Client
from .gotrue import SupabaseAccounts
from .jwks import Jwks
from .postgres import PostgresIdentity
from .supabase import SupabaseTokens
from .throttle import Throttle


class Project:
    """What verifies its tokens, what signs people in, its public keys, and the context managers to keep open."""

    def __init__(
        self,
        rotation: Rotation,
        database: Database,
        *,
        throttle: Throttle,
        attempted: Callable[[str], object],
        observer: Observer,
    ) -> None:
        settings, store, transactions = rotation.current, PostgresIdentity(database), Transactions(database)
        # Separate pipelines: failing sign-ins must not stop the fetching of keys, nor the reverse.
        publisher = Client(
            "jwks", settings, Timeout(3, name="jwks"), current=lambda: rotation.current, observer=observer
        )
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
            Timeout(4, name="gotrue"),  # A sign-in request has a deadline of 5 seconds.
            current=lambda: rotation.current,
            observer=observer,
        )
        self.keys: Jwks = Jwks(partial(publisher.ask, "GET", ".well-known/jwks.json"))
        self.tokens: SupabaseTokens = SupabaseTokens(
            settings, store, transactions, keys=self.keys, secrets=lambda: rotation.current.jwt_secrets
        )
        self.accounts: SupabaseAccounts = SupabaseAccounts(
            gotrue, self.tokens, store, transactions, throttle=throttle, attempted=attempted
        )
        self.resources: Sequence[Resource] = (publisher, gotrue, self.keys.running())
