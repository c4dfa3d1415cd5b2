"""PostgreSQL for services: a pool that outlasts outages, statements within a request's time, outcomes that are known.

* `database`: `Database` and `Connection`, what a service uses.
* `idempotency`: `write_once`, a write that has one effect however often its request is sent.
* `guarded`: what an error means for the circuit, the budget, and the caller.
* `pool`: lends connections; `monitor`: whether there is a database; `connecting`: opens connections.
* `permits`: whether the circuit lets a connection be lent. For pools of other libraries see `postfacta_adapters`.
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
        },
    )
