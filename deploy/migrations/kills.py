"""Kill an upgrade of the schema before each statement that it sends, and resume it.

Two things are killed: the process that migrates (SIGKILL), and the backend that works for it. An
upgrade that was killed and resumed must leave the same schema, rights, facts and timelines as one
that was not.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Final
from unittest.mock import patch

import anyio
import asyncpg

from postfacta_app.errors import CommandFailedError
from postfacta_app.migrations import upgrade
from postfacta_embedded import EmbeddedPostgres
from postfacta_postgres.connecting import RawConnection

__all__ = ["HOW", "Kills", "before_each", "every_statement", "fetch_value", "kill_each", "run"]

_SCHEMA: Final = """
select md5(string_agg(line, e'\\n' order by line)) from (
  select format('%s.%s %s %s %s', attrelid::regclass, attname, format_type(atttypid, atttypmod), attnotnull,
                pg_get_expr(adbin, adrelid)) as line
    from pg_attribute left join pg_attrdef on (adrelid, adnum) = (attrelid, attnum)
   where attrelid in (select oid from pg_class where relnamespace = 'public'::regnamespace) and attnum > 0
  union all select format('%s %s', pg_get_indexdef(indexrelid), indisvalid) from pg_index
   where indrelid in (select oid from pg_class where relnamespace = 'public'::regnamespace)
  union all select format('%s %s', conrelid::regclass, pg_get_constraintdef(oid)) from pg_constraint
   where connamespace = 'public'::regnamespace
  union all select format('%s %s', pg_get_functiondef(oid), proacl) from pg_proc where pronamespace = 'public'::regnamespace
  union all select pg_get_triggerdef(oid) from pg_trigger where not tgisinternal
  union all select format('%s %s', relname, relacl) from pg_class where relnamespace = 'public'::regnamespace) found"""
_TABLES: Final = (
    *("incidents", "status_changes", "signals", "edits", "annotations"),
    *("timeline_entries", "incident_measures", "alembic_version"),
)
_ROWS: Final = "\nunion all ".join(
    f"select '{name}' || t::text as line from {name} t"  # noqa: S608 - fixed names
    for name in _TABLES
)
_DATA: Final = f"select md5(string_agg(line, e'\\n' order by line)) from ({_ROWS}) found"  # noqa: S608
_END_BACKEND: Final = """
select count(pg_terminate_backend(pid)) from pg_stat_activity
 where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"""


@dataclass(slots=True)
class Kills:
    """What was seen of one way to kill, from one database.

    Attributes:
        number: How often it was killed.
        faults: What was not as it is without a kill.
    """

    how: str
    start: str
    number: int = 0
    faults: list[str] = field(default_factory=list[str])


def run(dsn: str, *statements: str) -> None:
    """Run statements, each in a transaction of its own."""

    async def work() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    anyio.run(work)


def fetch_value(dsn: str, query: str) -> object:
    """Ask for one value."""

    async def work() -> object:
        connection = await asyncpg.connect(dsn)
        try:
            value: object = await connection.fetchval(query)
        finally:
            await connection.close()
        return value

    return anyio.run(work)


@contextmanager
def before_each(do: Callable[[str], None]) -> Generator[None]:
    """Call it with each statement of an upgrade, before that is sent."""
    send = asyncpg.Connection.execute

    async def told(connection: RawConnection, query: str, *args: object) -> str:
        do(query)
        return await send(connection, query, *args)

    with patch.object(asyncpg.Connection, "execute", told):
        yield


def _migrate(dsn: str, do: Callable[[int], None] = lambda _: None) -> None:
    """Upgrade; call it with the number of each statement, before that is sent."""
    numbers = count(1)
    with before_each(lambda _: do(next(numbers))):
        upgrade(dsn, progress=lambda _: None, luck=lambda: -0.8)


def _count(dsn: str) -> int:
    seen: list[int] = []
    _migrate(dsn, seen.append)
    return len(seen)


def _kill_process(dsn: str, at: int) -> bool:
    def work() -> None:
        _migrate(dsn, lambda number: os.kill(os.getpid(), signal.SIGKILL) if number == at else None)

    # Forked, as a fresh interpreter takes longer than the upgrade.
    child = multiprocessing.get_context("fork").Process(target=work)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which are idle
        child.start()
    child.join()
    return child.exitcode == -signal.SIGKILL


def _kill_backend(dsn: str, at: int) -> bool:
    def end(number: int) -> None:
        if number == at:
            # The loop of this thread is at work.
            thread = threading.Thread(target=fetch_value, args=(dsn, _END_BACKEND))
            thread.start()
            thread.join()

    with suppress(CommandFailedError):
        _migrate(dsn, end)
        return False
    return True


def every_statement(number: int) -> Iterable[int]:
    """Choose the statements to kill before; a test chooses fewer."""
    return range(1, number + 1)


HOW: Final = {"process": _kill_process, "backend": _kill_backend}


def kill_each(server: EmbeddedPostgres, template: str, how: str) -> Kills:
    """Kill the upgrade of a copy of a database before each of its statements, and resume each.

    Args:
        server: Where the database is.
        template: Its name; it must have no connections.
        how: What is killed.
    """

    @contextmanager
    def copy() -> Generator[str]:
        run(server.dsn(), f'create database "{template}_killed" template "{template}"')
        try:
            yield server.dsn(f"{template}_killed")
        finally:
            run(server.dsn(), f'drop database "{template}_killed" with (force)')

    with copy() as dsn:
        statements = _count(dsn)
        wanted = _seen(dsn)
    found = Kills(how, template)
    for at in every_statement(statements):
        with copy() as dsn:
            if not HOW[how](dsn, at):
                found.faults.append(f"statement {at}: it was not killed")
            found.number += 1
            _migrate(dsn)
            if _seen(dsn) != wanted:
                found.faults.append(f"statement {at}: resumed, it left something else")
    return found


def _seen(dsn: str) -> tuple[object, object]:
    return fetch_value(dsn, _SCHEMA), fetch_value(dsn, _DATA)
