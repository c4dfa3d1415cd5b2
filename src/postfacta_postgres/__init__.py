"""PostgreSQL for services: a pool that outlasts outages, statements within a request's time, outcomes that are known.

* `database`: `Database` and `Connection`, what a service uses.
* `guarded`: what an error means for the circuit, the budget, and the caller.
* `pool`: lends connections; `presence`: whether there is a database; `connecting`: opens connections.
* `_leases`: who gets a connection, and how long one is kept. No await, no I/O.

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
        },
    )

__all__ = [
    "Connection",
    "Database",
    "Isolation",
    "PasswordFile",
    "PoolOptions",
    "database_circuit",
    "translate",
]
