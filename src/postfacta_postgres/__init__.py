"""PostgreSQL for services: a pool that outlasts outages, statements within a request's time, outcomes that are known.

* `database`: `Database` and `Connection`, what a service uses.
* `guarded`: what an error means for the circuit, the budget, and the caller.
* `pool`: lends connections; `presence`: whether there is a database; `connecting`: opens connections.
* `psycopg`, `sqlalchemy`: the same for the pools of other libraries, by what `borrowing` does around them.
* `_leases`: who gets a connection, and how long one is kept; `_verdicts`: what an error means. No await, no I/O.

A module imports only those below it, and of PostFacta only `postfacta_core`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from postfacta_core._face import lazy

if TYPE_CHECKING:
    from .database import (
        Connection,
        Database,
        Isolation,
        PasswordFile,
        PoolOptions,
        database_circuit,
        translate,
    )
    from .psycopg import AsyncGuardedPool, GuardedPool
    from .sqlalchemy import guard_engine
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "database": (
                "Connection",
                "Database",
                "Isolation",
                "PasswordFile",
                "PoolOptions",
                "database_circuit",
                "translate",
            ),
            "psycopg": ("AsyncGuardedPool", "GuardedPool"),
            "sqlalchemy": ("guard_engine",),
        },
    )

__all__ = [
    "AsyncGuardedPool",
    "Connection",
    "Database",
    "GuardedPool",
    "Isolation",
    "PasswordFile",
    "PoolOptions",
    "database_circuit",
    "guard_engine",
    "translate",
]
