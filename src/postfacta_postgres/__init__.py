"""PostgreSQL for services: a pool that outlasts outages, and outcomes that are known.

For pools of other libraries see `postfacta_adapters`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from postfacta_core.face import lazy

if TYPE_CHECKING:
    from ._verdicts import database_circuit as database_circuit
    from .connecting import PasswordFile as PasswordFile, PoolOptions as PoolOptions
    from .database import Connection as Connection, Database as Database, Isolation as Isolation
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
