"""Connect to the database for an interactive command."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import anyio

from postfacta_core.events import ConnectionOpened, Event
from postfacta_postgres import Database, PoolOptions

from .db import SCHEMA_ERRORS
from .settings import Settings

__all__ = ["NoDatabaseError", "reach"]

_WAIT = 5.0  # Seconds.


class NoDatabaseError(Exception):
    """The database is unreachable; the message says where, why, and what to check."""


@asynccontextmanager
async def reach(settings: Settings) -> AsyncGenerator[Database]:
    """Connect, and disconnect at the end of the block.

    Raises:
        NoDatabaseError: If it is not reachable in time, or lacks tables or grants that the block needs.
    """
    dsn = settings.database_dsn.get_secret_value()
    reason = "no response"

    def listen(event: Event, /) -> None:
        nonlocal reason
        if isinstance(event, ConnectionOpened) and event.error_type:
            reason = event.error_type

    async with Database(dsn, options=PoolOptions(max_size=2), observer=listen) as database:
        with anyio.move_on_after(_WAIT):
            await database.wait_connected()
        if not database.is_connected:
            where = urlsplit(dsn).netloc.rpartition("@")[2]
            raise NoDatabaseError(
                f"no database at {where} ({reason}); check that it is running, and POSTFACTA_DATABASE_DSN"
            )
        try:
            yield database
        except SCHEMA_ERRORS as error:
            raise NoDatabaseError(f"{error}: run `postfacta doctor` for advice") from error
