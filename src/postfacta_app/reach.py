"""Reach the database for a person who waits for the answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import anyio

from postfacta_core.aio.database import Database, PoolOptions
from postfacta_core.events import ConnectionOpened, Event

from .db import SCHEMA_ERRORS
from .settings import Settings

__all__ = ["NoDatabaseError", "reach"]

_WAIT = 5.0  # Seconds.


class NoDatabaseError(Exception):
    """There is none, or it does not answer; the text says where, why, and what to look at."""


@asynccontextmanager
async def reach(settings: Settings) -> AsyncGenerator[Database]:
    """Connect, and disconnect at the end of the block.

    Raises:
        NoDatabaseError: If it does not answer in time, or has not the tables or grants that the block needs.
    """
    dsn = settings.database_dsn.get_secret_value()
    reason = "it does not answer"

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
                f"no database at {where} ({reason}): is it running, and is POSTFACTA_DATABASE_DSN right?"
            )
        try:
            yield database
        except SCHEMA_ERRORS as error:
            raise NoDatabaseError(f"{error}: run `postfacta doctor`, which says what to do") from error
