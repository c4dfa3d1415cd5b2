"""Upgrade a database to the schema this program needs, safely when several processes try at once.

A migration that waits for a lock makes all later queries of that table wait, so it gives up early and is
retried; one that was killed resumes. There are no downgrades: a revision only adds what older code tolerates.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import asyncpg

from postfacta_core.clock import LUCK, Luck
from postfacta_postgres import Database
from postfacta_postgres.connecting import RawConnection

from ..errors import CommandFailedError
from .kept import WORDS, upgrade_kept
from .rights import CAN_CHANGE_FACTS, LACKS, grant

Progress = Callable[[str], None]

REVISIONS: Final = {it.name[:4]: it for it in sorted(Path(__file__).with_name("versions").glob("*.sql"))}
"""The file of each revision."""

HEAD: Final = max(REVISIONS)  # The revision this program needs.
_KEEPS: Final = "0002"  # From this revision on, triggers keep the timelines of new facts.
_TRIES: Final = 12
# Any number that no other advisory lock uses: "postfact" in ASCII.
_LOCK: Final = f"select pg_try_advisory_lock({0x706F737466616374})"
# As Alembic has it, which ran the upgrades of earlier programs.
_TABLE: Final = """
create table if not exists alembic_version (
  version_num varchar(32) not null constraint alembic_version_pkc primary key)"""
_EXISTS: Final = "select to_regclass('alembic_version') is not null"
_VERSION: Final = "select version_num from alembic_version"
_NEXT: Final = """
select i.id from incidents i where not exists (select from incident_measures m where m.incident_id = i.id)
 order by i.id limit 500"""


class MigrationError(CommandFailedError):
    """The upgrade failed; the message says why, without the password."""


def upgrade(dsn: str, *, progress: Progress, luck: Luck = LUCK) -> None:
    anyio.run(partial(migrate, dsn, progress=progress, luck=luck))


async def migrate(dsn: str, *, progress: Progress, tries: int = _TRIES, luck: Luck = LUCK) -> None:
    """Upgrade to the newest revision; safe to repeat and to run concurrently. `progress` gets sentences.

    Raise `MigrationError` if the database is unreachable, rejects the upgrade, is newer, or stays locked.
    """
    for attempt in range(1, tries + 1):
        try:
            await _upgrade(dsn, progress)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:
            # Without the cause: asyncpg's messages may repeat the DSN.
            if attempt == tries or not isinstance(error, asyncpg.LockNotAvailableError):
                raise MigrationError(_reason(error)) from None
        else:
            return
        wait = 2.5 * (1 + luck())
        progress(
            f"a lock is not free, or another upgrade is running: try {attempt + 1} of {tries} in {wait:.1f} s"
        )
        await anyio.sleep(wait)


async def revision(database: Database) -> str | None:
    """Return the revision of a connected database; None if it was never migrated."""
    found = await _value(database, _VERSION) if await _value(database, _EXISTS) else None
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


async def _upgrade(dsn: str, progress: Progress) -> None:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        await _lock(connection)
        await connection.execute(_TABLE)
        found = await connection.fetchval(_VERSION) or ""
        if found > HEAD:
            raise MigrationError(f"the database was upgraded by a newer version: it is at revision {found}")
        for number in REVISIONS:
            if number > found:
                await apply(connection, number)
                progress(f"applied revision {number}")
            # A program gets no requests before its revision is there; by then all timelines are kept.
            if number == _KEEPS:
                await _backfill(connection, progress)
        await grant(connection, progress)
    finally:
        await connection.close(timeout=5)


async def _lock(connection: RawConnection) -> None:
    for setting in ("lock_timeout = '1s'", "statement_timeout = '5s'"):
        await connection.execute(f"set {setting}")
    # A session lock: it outlasts the transactions and ends with the connection. It is tried, not waited for: a
    # statement that waits holds up `create index concurrently` of the upgrade that has it.
    for _ in range(10):
        if await connection.fetchval(_LOCK):
            return
        await anyio.sleep(0.1)
    raise asyncpg.LockNotAvailableError("lock timeout: another upgrade is running")


def _reason(error: Exception) -> str:
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return f"{error}: set POSTFACTA_DATABASE_OWNER_DSN, to the role that owns the tables"
    if isinstance(error, asyncpg.PostgresError | asyncpg.exceptions.ClientConfigurationError):
        return str(error)
    if isinstance(error, asyncpg.InterfaceError):
        return "the connection was lost half-way: run `postfacta migrate` again, which resumes"
    if isinstance(error, OSError):
        return f"the database is unreachable: {error.strerror or type(error).__name__}"
    return "invalid database DSN; expected postgresql://user:password@host:5432/name"


async def apply(connection: RawConnection, number: str) -> None:
    parts = statements(REVISIONS[number], WORDS)
    if number == _KEEPS:
        await upgrade_kept(connection, parts)
        parts.clear()
    async with connection.transaction():
        for statement in parts:
            await connection.execute(statement)
        await connection.execute("delete from alembic_version")
        await connection.execute(f"insert into alembic_version values ('{number}')")  # noqa: S608 - our own


async def _backfill(connection: RawConnection, progress: Progress) -> None:
    """Keep the timeline of each incident that has none, in a transaction each: only its writers wait."""
    done = 0
    await connection.execute("set statement_timeout = 0")
    while incidents := await connection.fetch(_NEXT):
        for (incident,) in incidents:
            async with connection.transaction():
                # A statement of its own: what the next one reads begins after the lock.
                await connection.execute("select from incidents where id = $1 for no key update", incident)
                await connection.execute("select timeline_rebuild($1)", incident)
        done += len(incidents)
    await connection.execute("set statement_timeout = '5s'")
    if done:
        progress(f"kept the timelines of {done} incidents")


def statements(file: Path, words: Mapping[str, str]) -> list[str]:
    """Return the statements in a revision's file, between blank lines; `<name>` is one of the words."""
    text = file.read_text(encoding="utf-8")
    for name, word in words.items():
        text = text.replace(f"<{name}>", word)
    return [re.sub(r"\A(--.*\n)+", "", statement) for statement in text.strip().split("\n\n")]
