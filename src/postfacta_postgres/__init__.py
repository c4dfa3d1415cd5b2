"""PostgreSQL for services: a pool that outlasts outages, statements within a request's time, outcomes that are known.

* `database`: `Database` and `Connection`, what a service uses.
* `idempotency`: `write_once`, a write that has one effect however often its request is sent.
* `guarded`: what an error means for the circuit, the budget, and the caller.
* `pool`: lends connections; `monitor`: whether there is a database; `connecting`: opens connections.
* `psycopg`, `sqlalchemy`: the same for the pools of other libraries, by what `borrowing` does around them.
* `_leases`: who gets a connection, and how long one is kept; `_verdicts`: what an error means. No await, no I/O.

A module imports only those below it, and of PostFacta only `postfacta_core`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from postfacta_core._face import lazy

if TYPE_CHECKING:
    from ._verdicts import database_circuit as database_circuit
    from .connecting import PasswordFile as PasswordFile, PoolOptions as PoolOptions
    from .database import Connection as Connection, Database as Database, Isolation as Isolation
    from .guarded import translate as translate
    from .idempotency import (
        KEYS_TABLE as KEYS_TABLE,
        KeyInUseError as KeyInUseError,
        KeyReusedError as KeyReusedError,
        StoredAnswer as StoredAnswer,
        prune_keys as prune_keys,
        write_once as write_once,
    )
    from .psycopg import AsyncGuardedPool as AsyncGuardedPool, GuardedPool as GuardedPool
    from .sqlalchemy import guard_engine as guard_engine
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "_verdicts": ("database_circuit",),
            "connecting": ("PasswordFile", "PoolOptions"),
            "database": ("Connection", "Database", "Isolation"),
            "guarded": ("translate",),
            "idempotency": (
                "KEYS_TABLE",
                "KeyInUseError",
                "KeyReusedError",
                "StoredAnswer",
                "prune_keys",
                "write_once",
            ),
            "psycopg": ("AsyncGuardedPool", "GuardedPool"),
            "sqlalchemy": ("guard_engine",),
        },
    )
