"""Bring a database to the schema this program needs, once, whoever else tries at the same time.

Each revision runs in its own transaction under a short lock timeout: a migration that waits for a lock makes
all later queries of that table wait behind it, so it gives up early, and the whole upgrade tries again. An
upgrade that was killed half-way goes on where it stopped. There is no way down: a revision only adds what
older code does not mind, and a mistake is mended by the next one.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import anyio
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from postfacta_core.aio.database import Database
from postfacta_core.clock import LUCK, Luck

from .rights import CAN_CHANGE_FACTS, LACKS, grant

__all__ = [
    "HEAD",
    "MigrationError",
    "NoDowngradeError",
    "current_revision",
    "migrate",
    "revision",
    "role_rights",
    "upgrade",
]

HEAD: Final = "0001"
"""The revision this program needs."""

Progress = Callable[[str], None]
FetchValue = Callable[[str], Awaitable[object]]

_TRIES = 12
_LOCK_NOT_AVAILABLE = "55P03"
# Any number will do, as long as nobody else's advisory lock has it: "postfact" in ASCII.
_ONE_AT_A_TIME = 0x706F737466616374


class MigrationError(Exception):
    """The upgrade did not happen; the text says why, without the password."""


class NoDowngradeError(MigrationError):
    """There is no way down."""

    def __init__(self, revision: str) -> None:
        super().__init__(f"revision {revision} has no way back: write a new revision that mends it")


def upgrade(dsn: str, *, progress: Progress, luck: Luck = LUCK) -> None:
    """Run `migrate` to its end, for callers without an event loop."""

    async def run() -> None:
        await migrate(dsn, progress=progress, luck=luck)

    anyio.run(run)


async def migrate(dsn: str, *, progress: Progress, tries: int = _TRIES, luck: Luck = LUCK) -> None:
    """Upgrade to the newest revision; may be called again and by several at once.

    Args:
        dsn: The owner's address, as asyncpg reads it: several hosts and `sslmode` are fine.
        progress: Told, in a sentence, each revision that was applied and each wait.
        tries: How often to start when a lock is not free.
        luck: Spreads the waits of 2.5 to 5 seconds.

    Raises:
        MigrationError: If the database cannot be reached, refuses, is newer, or stays locked.
    """
    engine = _engine(dsn)
    try:
        for attempt in range(1, tries + 1):
            if await _try(engine, progress, last=attempt == tries):
                return
            wait = 2.5 * (1 + luck())
            progress(
                f"a lock is not free, or another upgrade runs: try {attempt + 1} of {tries} in {wait:.1f} s"
            )
            await anyio.sleep(wait)
    finally:
        await engine.dispose()


async def current_revision(database: str | FetchValue) -> str | None:
    """Read the revision a database is at; None if it was never migrated.

    Args:
        database: Its address, or a coroutine function that answers one SQL text with one value.
    """
    if not isinstance(database, str):
        return await _revision(database)
    engine = _engine(database)
    try:
        async with engine.connect() as connection:

            async def fetch(sql: str) -> object:
                return (await connection.exec_driver_sql(sql)).scalar()

            return await _revision(fetch)
    except (DBAPIError, OSError, ValueError) as error:
        raise MigrationError(_reason(error)) from None
    finally:
        await engine.dispose()


async def revision(database: Database) -> str | None:
    """Return the revision of a connected database; None if it was never migrated."""
    return await _revision(_asking(database))


async def role_rights(database: Database) -> tuple[str, Sequence[str], bool]:
    """Return the connected role, what it lacks to run the service, and whether it could change recorded facts."""
    ask = _asking(database)
    lacking = await ask(LACKS)
    return (
        str(await ask("select current_user")),
        str(lacking).split(", ") if lacking else [],
        bool(await ask(CAN_CHANGE_FACTS)),
    )


def _asking(database: Database) -> FetchValue:
    async def ask(sql: str) -> object:
        return await database.fetchval(sql, operation="revision", repeatable=True)

    return ask


async def _revision(fetch: FetchValue) -> str | None:
    if await fetch("select to_regclass('alembic_version') is null"):
        return None
    found = await fetch("select version_num from alembic_version")
    return None if found is None else str(found)


def _engine(dsn: str) -> AsyncEngine:
    # The address goes to asyncpg as it is: SQLAlchemy's own parser knows neither `sslmode` nor several hosts.
    return create_async_engine(
        "postgresql+asyncpg://", connect_args={"dsn": dsn, "timeout": 10}, poolclass=NullPool
    )


async def _try(engine: AsyncEngine, progress: Progress, *, last: bool) -> bool:
    try:
        async with engine.connect() as connection:
            await _lock(connection)
            await connection.run_sync(_run, progress)
    except (DBAPIError, OSError, ValueError, CommandError) as error:
        # The cause is cut off: SQLAlchemy's and asyncpg's may repeat the address.
        if last or _state(error) != _LOCK_NOT_AVAILABLE:
            raise MigrationError(_reason(error)) from None
        return False
    return True


async def _lock(connection: AsyncConnection) -> None:
    for setting in ("lock_timeout = '1s'", "statement_timeout = '5s'"):
        await connection.exec_driver_sql(f"set {setting}")
    # Held by the session, so it outlasts the transactions and ends with the connection.
    await connection.exec_driver_sql(f"select pg_advisory_lock({_ONE_AT_A_TIME})")
    await connection.commit()


def _run(connection: Connection, progress: Progress) -> None:
    config = Config(attributes={"connection": connection, "progress": progress})
    config.set_main_option("script_location", "postfacta_app:migrations")
    config.set_main_option("path_separator", "os")
    command.upgrade(config, "head")
    grant(connection, progress)
    connection.commit()


def _state(error: Exception) -> str | None:
    return getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None


def _reason(error: Exception) -> str:
    if isinstance(error, DBAPIError):
        return re.sub(r"^<class '[\w.]+'>: ", "", str(error.orig))
    if isinstance(error, CommandError):
        return f"the database was upgraded by a newer program: {error}"
    if isinstance(error, OSError):
        return f"no database answers: {error.strerror or type(error).__name__}"
    return "the database address cannot be read; it looks like postgresql://user:password@host:5432/name"
