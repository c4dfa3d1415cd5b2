"""Reach the database for a person who waits for the answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import anyio

from postfacta_core.aio.database import Database, PoolOptions
from postfacta_core.events import ConnectionOpened, Event

from .migrations import current_revision
from .settings import Settings

__all__ = ["NoDatabaseError", "reach", "revision"]

_WAIT = 5.0  # Seconds.


class NoDatabaseError(Exception):
    """There is none, or it does not answer; the text says where, why, and what to look at."""


@asynccontextmanager
async def reach(settings: Settings) -> AsyncGenerator[Database]:
    """Connect, and disconnect at the end of the block.

    Raises:
        NoDatabaseError: If it does not answer in time.
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
        yield database


async def revision(database: Database) -> str | None:
    """Tell the revision of the schema; None before the first migration."""

    async def fetch(sql: str) -> object:
        return await database.fetchval(sql, operation="revision", repeatable=True)

    return await current_revision(fetch)
