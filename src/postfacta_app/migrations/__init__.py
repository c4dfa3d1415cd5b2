"""Upgrade a database to the schema this program needs, safely when several processes try at once.

Each revision runs in its own transaction with a short lock timeout: a migration that waits for a lock makes
all later queries of that table wait behind it, so it gives up early and the whole upgrade is retried. An
upgrade that was killed half-way resumes where it stopped. There are no downgrades: a revision only adds what
older code tolerates, and the next one fixes its mistakes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import anyio
from alembic import command, op
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from postfacta_core.clock import LUCK, Luck
from postfacta_postgres import Database

from ..errors import CommandFailedError
from .rights import CAN_CHANGE_FACTS, LACKS, grant

HEAD: Final = "0004"
"""The revision this program needs."""

Progress = Callable[[str], None]

_KEEPS = "0002"  # From this revision on, triggers keep the timelines of new facts.
_TRIES = 12
_LOCK_NOT_AVAILABLE = "55P03"
_INSUFFICIENT_PRIVILEGE = "42501"
# Any number that no other advisory lock uses: "postfact" in ASCII.
_ONE_AT_A_TIME = 0x706F737466616374


class MigrationError(CommandFailedError):
    """The upgrade failed; the message says why, without the password."""


class _LockedError(Exception):
    """Another upgrade is running."""


def upgrade(dsn: str, *, progress: Progress, luck: Luck = LUCK) -> None:
    anyio.run(partial(migrate, dsn, progress=progress, luck=luck))


async def migrate(dsn: str, *, progress: Progress, tries: int = _TRIES, luck: Luck = LUCK) -> None:
    """Upgrade to the newest revision; safe to repeat and to run concurrently.

    `progress` is called with a sentence for each applied revision and each wait of 2.5 to 5 seconds for a lock. Raise
    `MigrationError` if the database is unreachable, rejects the upgrade, is newer, or stays locked.
    """
    # The DSN goes to asyncpg unparsed: SQLAlchemy supports neither `sslmode` nor several hosts.
    connect = {"dsn": dsn, "timeout": 10}
    engine = create_async_engine("postgresql+asyncpg://", connect_args=connect, poolclass=NullPool)
    try:
        for attempt in range(1, tries + 1):
            if await _try(engine, progress, last=attempt == tries):
                return
            wait = 2.5 * (1 + luck())
            progress(
                f"a lock is not free, or another upgrade is running: try {attempt + 1} of {tries} in {wait:.1f} s"
            )
            await anyio.sleep(wait)
    finally:
        await engine.dispose()


async def revision(database: Database) -> str | None:
    """Return the revision of a connected database; None if it was never migrated."""
    if await _value(database, "select to_regclass('alembic_version') is null"):
        return None
    found = await _value(database, "select version_num from alembic_version")
    return None if found is None else str(found)


async def role_rights(database: Database) -> tuple[str, Sequence[str], bool]:
    """Return the connected role, the rights it lacks, and whether it could change recorded facts."""
    lacking = await _value(database, LACKS)
    return (
        str(await _value(database, "select current_user")),
        str(lacking).split(", ") if lacking else [],
        bool(await _value(database, CAN_CHANGE_FACTS)),
    )


async def _value(database: Database, sql: str) -> object:
    return await database.fetchval(sql, operation="revision", repeatable=True)


async def _try(engine: AsyncEngine, progress: Progress, *, last: bool) -> bool:
    try:
        async with engine.connect() as connection:
            await _lock(connection)
            # A program gets no requests before its revision is there; by then all timelines are kept.
            await connection.run_sync(_run, progress, _KEEPS)
            await backfill(connection, progress)
            await connection.run_sync(_run, progress, "head")
            await connection.run_sync(grant, progress)
            await connection.commit()
    except (_LockedError, SQLAlchemyError, OSError, ValueError, CommandError) as error:
        # Without the cause: SQLAlchemy's and asyncpg's messages may repeat the DSN.
        if last or not (isinstance(error, _LockedError) or _state(error) == _LOCK_NOT_AVAILABLE):
            raise MigrationError(_reason(error)) from None
        return False
    return True


async def _lock(connection: AsyncConnection) -> None:
    for setting in ("lock_timeout = '1s'", "statement_timeout = '5s'"):
        await connection.exec_driver_sql(f"set {setting}")
    # A session lock: it outlasts the transactions and ends with the connection. It is tried, not waited for: a
    # statement that waits holds up `create index concurrently` of the upgrade that has it.
    for _ in range(10):
        if (await connection.exec_driver_sql(f"select pg_try_advisory_lock({_ONE_AT_A_TIME})")).scalar():
            await connection.commit()
            return
        await connection.commit()
        await anyio.sleep(0.1)
    raise _LockedError("lock timeout: another upgrade is running")


def _run(connection: Connection, progress: Progress, to: str) -> None:
    config = Config(attributes={"connection": connection, "progress": progress})
    config.set_main_option("script_location", "postfacta_app:migrations")
    config.set_main_option("path_separator", "os")
    command.upgrade(config, to)
    connection.commit()


def _state(error: Exception) -> str | None:
    return getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None


def _reason(error: Exception) -> str:
    if isinstance(error, DBAPIError):
        text = re.sub(r"^<class '[\w.]+'>: ", "", str(error.orig))
        hint = ": set POSTFACTA_DATABASE_OWNER_DSN, to the role that owns the tables"
        return text + hint if _state(error) == _INSUFFICIENT_PRIVILEGE else text
    if isinstance(error, SQLAlchemyError):  # Its own, once the connection of a transaction is lost.
        return "the connection was lost half-way: run `postfacta migrate` again, which resumes"
    if isinstance(error, CommandError):
        return f"the database was upgraded by a newer version: {error}"
    if isinstance(error, OSError):
        return f"the database is unreachable: {error.strerror or type(error).__name__}"
    locked = isinstance(error, _LockedError)
    return (
        str(error) if locked else "invalid database DSN; expected postgresql://user:password@host:5432/name"
    )


_NEXT: Final = """
select i.id::text from incidents i where not exists (select from incident_measures m where m.incident_id = i.id)
 order by i.id limit 500"""


async def backfill(connection: AsyncConnection, progress: Callable[[str], None]) -> None:
    """Keep the timeline of each incident that has none, each in its own transaction; resumes where it stopped.

    Only writers of that one incident wait.
    """
    done, run = 0, connection.exec_driver_sql
    await run("set statement_timeout = 0")
    while incidents := (await run(_NEXT)).scalars().all():
        await connection.commit()
        for incident in incidents:
            # A statement of its own: what the next one reads begins after the lock.
            await run("select from incidents where id = $1::text::uuid for no key update", (incident,))
            await run("select timeline_rebuild($1::text::uuid)", (incident,))
            await connection.commit()
        done += len(incidents)
    await run("set statement_timeout = '5s'")
    await connection.commit()
    if done:
        progress(f"kept the timelines of {done} incidents")


# What revisions are made of


def statements(revision: str, words: Mapping[str, str] | None = None) -> list[str]:
    """Return the statements in the file of SQL beside a revision's Python file, one by one as asyncpg prepares them.

    Blank lines separate them; `<name>` stands for one of the words, and comments before one are left out.
    """
    text = Path(revision).with_suffix(".sql").read_text(encoding="utf-8")
    for name, word in (words or {}).items():
        text = text.replace(f"<{name}>", word)
    return [re.sub(r"\A(--.*\n)+", "", statement) for statement in text.strip().split("\n\n")]


def run_sql(revision: str, words: Mapping[str, str] | None = None) -> None:
    for statement in statements(revision, words):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    """Always raise: facts would be lost."""
    raise MigrationError("there is no downgrade: write a new revision that fixes it")


def ways(revision: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return the way up of a revision that is all SQL, and the one down."""

    def upgrade() -> None:
        run_sql(revision)

    return upgrade, downgrade
