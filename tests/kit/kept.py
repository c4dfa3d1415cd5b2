"""Databases that are lent to one test after another, because to make one costs 0.2 s of processor.

What a test leaves behind is taken away when it gives the database back: connections, rows, and what
it created. A database whose schema, settings or initial rows differ then from those of the template
is not lent again.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary

import asyncpg

from postfacta_embedded import EmbeddedPostgres

__all__ = ["Kept", "Store"]

# What makes a schema, and what the database itself is set to. A row that was added or changed has
# the number of a newer transaction, and one that was removed lowers the count. An analysis changes
# none of these.
_CATALOGS: Final = (
    "pg_attrdef",
    "pg_attribute",
    "pg_class",
    "pg_collation",
    "pg_constraint",
    "pg_default_acl",
    "pg_enum",
    "pg_event_trigger",
    "pg_extension",
    "pg_index",
    "pg_inherits",
    "pg_namespace",
    "pg_policy",
    "pg_proc",
    "pg_publication",
    "pg_rewrite",
    "pg_sequence",
    "pg_statistic_ext",
    "pg_trigger",
    "pg_type",
    "pg_database where datname = current_database()",
    "pg_db_role_setting where setdatabase in (select oid from pg_database where datname = current_database())",
)
_NEWEST: Final = "select max(o) from (select max(oid) from pg_class union all select max(oid) from pg_type union all select max(oid) from pg_proc union all select max(oid) from pg_namespace) as made (o)"
_TABLES: Final = "select oid::regclass::text as name from pg_class where relkind = 'r' and relnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) and relpersistence <> 't'"
_SEQUENCES: Final = "select format('select setval(%L, %s, %L)', format('%I.%I', schemaname, sequencename), coalesce(last_value, start_value), last_value is not null) from pg_sequences"
_IS_FILLED: Final = "select true from {} limit 1"
_END_OTHERS: Final = "select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"
_CREATED: Final = """\
select format('drop %s if exists %s cascade', kind, name) from (
  select oid, oid::regclass::text, case relkind when 'v' then 'view' when 'm' then 'materialized view'
    when 'S' then 'sequence' when 'c' then 'type' else 'table' end
  from pg_class where relkind in ('r', 'p', 'v', 'm', 'S', 'c') and relpersistence <> 't'
  union all select oid, oid::regprocedure::text, 'routine' from pg_proc
  union all select oid, oid::regtype::text, 'type' from pg_type where typtype in ('d', 'e', 'r')
  union all select oid, format('%I', nspname), 'schema' from pg_namespace where nspname !~ '^pg_'
) as created (oid, name, kind) where oid > $1
"""


@dataclass(frozen=True, slots=True)
class Kept:
    """A database, and what it was when it was new."""

    name: str
    dsn: str
    newest: int
    """The last number of an object that is of the template."""
    clear: tuple[str, ...]
    """What removes rows, and sets sequences back."""
    look: str
    """The query for its state."""
    state: str

    @classmethod
    async def of(cls, name: str, dsn: str) -> Kept:
        """Look at a database that is new."""
        connection = await _connect(dsn)
        try:
            names = [row["name"] for row in await connection.fetch(_TABLES)]
            filled = [name for name in names if await connection.fetchval(_IS_FILLED.format(name))]
            sequences = [row[0] for row in await connection.fetch(_SEQUENCES)]
            deletes = [f"delete from {name}" for name in names if name not in filled]  # noqa: S608
            look = _look((*_CATALOGS, *filled))
            newest = await connection.fetchval(_NEWEST)
            state = await connection.fetchval(look)
        finally:
            await connection.close()
        return cls(name, dsn, newest, (*deletes, *sequences), look, state)

    async def reset(self) -> bool:
        """Take away what a test left; return whether the database is as it was."""
        try:
            connection = await _connect(self.dsn)
        except (OSError, asyncpg.PostgresError):
            return False  # The test removed it, or closed it to us.
        try:
            await connection.execute(_END_OTHERS)
            created = [row[0] for row in await connection.fetch(_CREATED, self.newest)]
            # No trigger runs, and no foreign key gives an order.
            begin, end = "set session_replication_role = replica", "select pg_stat_reset()"
            await connection.execute("; ".join((begin, *created, *self.clear, end)))
            return bool(await connection.fetchval(self.look) == self.state)
        except asyncpg.PostgresError:
            return False
        finally:
            await connection.close()


class Store:
    """The databases that are free, by server and template.

    A process that was forked from this one keeps none: it may be killed before it gives one back.
    """

    def __init__(self) -> None:
        self._free: WeakKeyDictionary[EmbeddedPostgres, defaultdict[str, list[Kept]]] = (
            WeakKeyDictionary()
        )
        self._process = os.getpid()

    def take(self, server: EmbeddedPostgres, template: str) -> Kept | None:
        """Lend a database, if one is free."""
        free = self._of(server)[template]
        return free.pop() if free and self._process == os.getpid() else None

    def give_back(self, server: EmbeddedPostgres, template: str, kept: Kept) -> bool:
        """Clear a database for the next test; return whether it could be kept."""
        is_kept = self._process == os.getpid() and asyncio.run(kept.reset())
        if is_kept:
            self._of(server)[template].append(kept)
        return is_kept

    def forget(self, server: EmbeddedPostgres, template: str) -> None:
        """Lend no copy of a template again that is made anew."""
        self._of(server).pop(template, None)

    def _of(self, server: EmbeddedPostgres) -> defaultdict[str, list[Kept]]:
        return self._free.setdefault(server, defaultdict(list))


async def _connect(dsn: str) -> Any:
    return await asyncpg.connect(dsn, timeout=30, command_timeout=120)


def _look(sources: tuple[str, ...]) -> str:
    counts = (
        f"(select concat_ws(' ', count(*), max(xmin::text::bigint)) from {source})"  # noqa: S608
        for source in sources
    )
    return f"select concat_ws(',', {', '.join(counts)})"
