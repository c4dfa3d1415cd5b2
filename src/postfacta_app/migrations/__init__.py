"""Upgrade a database to the schema this program needs, safely when several processes try at once.

A migration that waits for a lock makes all later queries of that table wait, so it gives up early
and is retried; one that was killed resumes. There are no downgrades: a revision only adds what
older code tolerates. Revisions hold tables. The functions and triggers that keep the timelines
stand in `timeline.sql`, which is applied again whenever it changed; the comment of
`timeline_entries` has its hash once all timelines are kept. Two versions may serve by the same
functions, so what the older one does not tolerate gets a new name, as in a revision.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import asyncpg

from postfacta_core.clock import LUCK, Luck
from postfacta_postgres import Database
from postfacta_postgres.connecting import RawConnection

from ..errors import CommandFailedError

Progress = Callable[[str], None]

REVISIONS: Final = {
    file.name[:4]: file for file in sorted(Path(__file__).with_name("versions").glob("*.sql"))
}
"""The file of each revision."""

HEAD: Final = max(REVISIONS)  # The revision this program needs.
_TIMELINE: Final = Path(__file__).with_name("timeline.sql")
# Any number that no other advisory lock uses: "postfact" in ASCII.
_LOCK: Final = f"select pg_try_advisory_lock({0x706F737466616374})"
# As Alembic has it, which ran the upgrades of earlier programs.
_TABLE: Final = """
create table if not exists alembic_version (
  version_num varchar(32) not null constraint alembic_version_pkc primary key)"""
_VERSION: Final = "select version_num from alembic_version"
_TIMELINE_HASH: Final = "select obj_description(to_regclass('timeline_entries'), 'pg_class')"
_CONCURRENT: Final = re.compile(r"create index concurrently if not exists (\w+)")
# What a build that was killed leaves: `if not exists` would take it for the index.
_INVALID: Final = "select from pg_index where indexrelid = to_regclass($1) and not indisvalid"
_NEXT: Final = """
select i.id
  from incidents i
 where not exists (select from incident_measures m where m.incident_id = i.id)
 order by i.id
 limit 500"""
_LOCK_INCIDENT: Final = "select from incidents where id = $1 for no key update"
# What earlier rules folded otherwise; what was never folded stays so.
_REFOLD: Final = """
update timeline_entries e
   set alike = timeline_alike(s.source, s.kind, s.services, s.title)
  from signals s
 where e.incident_id = $1
   and s.id = e.signal_id
   and e.alike <> timeline_alike(s.source, s.kind, s.services, s.title)"""

_HAS_ROLE: Final = "select exists (select from pg_roles where rolname = 'postfacta_app')"
# A role belongs to the whole cluster: another database's migration may create it at the same
# moment.
_MAKE_ROLE: Final = """
do $$ begin
  create role postfacta_app nologin;
exception when duplicate_object or unique_violation or insufficient_privilege then null; end $$"""
_ADVICE: Final = (
    "role postfacta_app is missing and this role may not create it, so nothing was granted;"
    " run `create role postfacta_app nologin` as a superuser, then `postfacta migrate` again"
)

# Of a role; of the current one for null. Fact tables have a trigger that rejects changes. The
# version is read for readiness; what is derived is kept by triggers.
_LACKS: Final = """
select verb, object
  from (
    select v.verb,
           format('%I', c.relname) as object,
           has_table_privilege(coalesce($1::name, current_user), c.oid, v.verb) as has_it
      from pg_class c
      left join pg_trigger t on t.tgrelid = c.oid and t.tgname = 'append_only',
           unnest(array['select', 'insert', 'update', 'delete']) as v (verb)
     where c.relnamespace = 'public'::regnamespace
       and c.relkind = 'r'
       and case
         when t.tgname is not null
         then v.verb in ('select', 'insert')
         when c.relname in ('alembic_version', 'incident_measures', 'timeline_entries')
         then v.verb = 'select'
         when c.relname in ('idempotency_keys', 'tokens')
         then true
         when c.relname in ('incident_labels', 'incident_links')
         then v.verb <> 'update'
         else c.relname in ('action_items', 'incidents', 'users') and v.verb <> 'delete'
       end
    union all
    select 'usage',
           'schema public',
           has_schema_privilege(coalesce($1, current_user), 'public', 'usage')
  ) needed
 where not has_it"""
_RIGHTS: Final = f"""
select current_user::text,
       (select coalesce(
                 array_agg(verb || ' on ' || object order by object, verb),
                 '{{}}')
          from ({_LACKS}) lacking),
       (select coalesce(
                 bool_or(
                   pg_has_role(c.relowner, 'member')
                   or has_table_privilege(c.oid, 'update, delete, truncate')),
                 false)
          from pg_class c
          join pg_trigger t on t.tgrelid = c.oid
         where t.tgname = 'append_only')"""  # noqa: S608 - ours


def upgrade(dsn: str, *, progress: Progress, luck: Luck = LUCK) -> None:
    anyio.run(partial(migrate, dsn, progress=progress, luck=luck))


async def migrate(dsn: str, *, progress: Progress, tries: int = 12, luck: Luck = LUCK) -> None:
    """Upgrade to the newest revision; safe to repeat and to run concurrently.

    `progress` gets sentences.

    Raise `CommandFailedError`, without the password, if the database is unreachable, rejects it, is
    newer, or stays locked.
    """
    for attempt in range(1, tries + 1):
        try:
            await _upgrade(dsn, progress)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:
            # Without the cause: asyncpg's messages may repeat the DSN.
            if attempt == tries or not isinstance(error, asyncpg.LockNotAvailableError):
                raise CommandFailedError(_reason(error)) from None
        else:
            return
        wait = 2.5 * (1 + luck())
        progress(
            f"a lock is not free, or another upgrade is running: try {attempt + 1} of {tries} in"
            f" {wait:.1f} s"
        )
        await anyio.sleep(wait)


async def revision(database: Database) -> str | None:
    """Return the revision of a connected database; None if no migration came to its end."""
    read = partial(database.fetchval, operation="revision", repeatable=True)
    if not await read(_TIMELINE_HASH):
        return None
    number: str | None = await read(_VERSION)
    return number


async def role_rights(database: Database) -> tuple[str, list[str], bool]:
    """Return the connected role, the rights it lacks, and whether it could change facts."""
    (row,) = await database.fetch(_RIGHTS, None, operation="revision", repeatable=True)
    role, lacking, can_change = row
    return role, lacking, can_change


async def _upgrade(dsn: str, progress: Progress) -> None:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        await _lock(connection)
        await connection.execute(_TABLE)
        current = await connection.fetchval(_VERSION) or ""
        if current > HEAD:
            raise CommandFailedError(
                f"the database was upgraded by a newer version: it is at revision {current}"
            )
        for number in REVISIONS:
            if number > current:
                await apply(connection, number)
                progress(f"applied revision {number}")
        timeline_hash = hashlib.sha256(_TIMELINE.read_bytes()).hexdigest()
        is_changed = await connection.fetchval(_TIMELINE_HASH) != timeline_hash
        if is_changed:
            await _apply_timeline(connection)
            progress("applied the rules of timelines")
        await _backfill(connection, progress)
        if is_changed:
            await _refold(connection)
            # A program gets no requests before this is there.
            await connection.execute(f"comment on table timeline_entries is '{timeline_hash}'")
        await _grant(connection, progress)
    finally:
        await connection.close(timeout=5)


async def _lock(connection: RawConnection) -> None:
    await connection.execute("set lock_timeout = '1s'; set statement_timeout = '5s'")
    # A session lock: it outlasts the transactions and ends with the connection. It is tried, not
    # waited for: a statement that waits holds up `create index concurrently` of the upgrade that
    # has it.
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
    """Apply a revision in a transaction.

    One that builds indexes concurrently cannot, so its steps can be repeated.
    """
    parts = statements(REVISIONS[number])
    if any(map(_CONCURRENT.match, parts)):
        for statement in parts:
            index = _CONCURRENT.match(statement)
            if index and await connection.fetchrow(_INVALID, index[1]) is not None:
                await connection.execute(f"drop index concurrently {index[1]}")
            await connection.execute(statement)
        parts.clear()
    async with connection.transaction():
        for statement in parts:
            await connection.execute(statement)
        await connection.execute("delete from alembic_version")
        version = f"insert into alembic_version values ('{number}')"  # noqa: S608 - our own
        await connection.execute(version)


async def _apply_timeline(connection: RawConnection) -> None:
    """Replace the functions at once, and then each trigger, which waits for its table's writers."""
    parts = statements(_TIMELINE)
    triggers = [part for part in parts if part.startswith("create or replace trigger")]
    async with connection.transaction():
        for statement in parts:
            if statement not in triggers:
                await connection.execute(statement)
    for statement in triggers:
        await connection.execute(statement)


async def _backfill(connection: RawConnection, progress: Progress) -> None:
    """Keep the timeline of each incident that has none, in a transaction each.

    Only its writers wait.
    """
    done = 0
    await connection.execute("set statement_timeout = 0")
    while incidents := await connection.fetch(_NEXT):
        for (incident,) in incidents:
            async with connection.transaction():
                # A statement of its own: what the next one reads begins after the lock.
                await connection.execute(_LOCK_INCIDENT, incident)
                await connection.execute("select timeline_rebuild($1)", incident)
        done += len(incidents)
    await connection.execute("set statement_timeout = '5s'")
    if done:
        progress(f"kept the timelines of {done} incidents")


def statements(file: Path) -> list[str]:
    """Return the statements in a file, between blank lines, without the comments above them."""
    parts = file.read_text(encoding="utf-8").strip().split("\n\n")
    bare = [re.sub(r"\A(--.*(\n|\Z))+", "", statement) for statement in parts]
    return [statement for statement in bare if statement]


async def _refold(connection: RawConnection) -> None:
    """Fold the kept entries by the present rules, an incident at a time: only its writers wait."""
    await connection.execute("set statement_timeout = 0")
    for (incident,) in await connection.fetch("select id from incidents order by id"):
        async with connection.transaction():
            await connection.execute(_LOCK_INCIDENT, incident)
            await connection.execute(_REFOLD, incident)
    await connection.execute("set statement_timeout = '5s'")


async def _grant(connection: RawConnection, progress: Progress) -> None:
    """Create the role if it is missing and grant its missing rights.

    The service logs in as a member of it.
    """
    if not await connection.fetchval(_HAS_ROLE):
        await connection.execute(_MAKE_ROLE)
        if not await connection.fetchval(_HAS_ROLE):
            progress(_ADVICE)
            return
    for verb, name in await connection.fetch(_LACKS, "postfacta_app"):
        await connection.execute(f"grant {verb} on {name} to postfacta_app")
