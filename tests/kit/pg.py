"""Fresh databases on a running server, and a folder for one; conftest.py makes fixtures of them."""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path

import asyncpg

from postfacta_embedded import EmbeddedPostgres
from tests.kit.kept import Kept, Store
from tests.kit.leftovers import prefix

__all__ = [
    "create_database",
    "drop_database",
    "execute",
    "fetch_value",
    "fresh_database",
    "open_folder",
    "prepared_server",
]

_NUMBERS = count(1)
_STORE = Store()


@contextmanager
def open_folder() -> Generator[Path]:
    """Make a folder that each user may enter.

    Pytest's own are closed to the user that PostgreSQL may run as.
    """
    with tempfile.TemporaryDirectory(prefix=prefix()) as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        yield folder


@cache
def _prepared() -> Path:
    """Return a folder with an empty cluster; each server of a test's own begins as a copy."""
    folder = Path(tempfile.mkdtemp(prefix=prefix())).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)
    with EmbeddedPostgres(folder / "data", settings={"fsync": "off"}):
        pass
    return folder


@contextmanager
def prepared_server(settings: Mapping[str, str] | None = None) -> Generator[EmbeddedPostgres]:
    """Run a PostgreSQL of the test's own, which it may stop, break and kill."""
    with open_folder() as folder:
        shutil.copytree(
            _prepared(),
            folder,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("*.lock", "*.log"),
        )
        with EmbeddedPostgres(folder / "data", settings=settings) as server:
            yield server


def create_database(server: EmbeddedPostgres, name: str, template: str = "template0") -> str:
    """Copy a database without connections; not to be called inside an event loop.

    Returns:
        The address of the copy.
    """
    _STORE.forget(server, name)
    execute(server.dsn(), f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    return server.dsn(name)


def drop_database(server: EmbeddedPostgres, name: str) -> None:
    """Remove a database, and end its connections; not to be called inside an event loop."""
    execute(server.dsn(), f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@contextmanager
def fresh_database(server: EmbeddedPostgres, template: str = "template0") -> Generator[str]:
    """Lend a database to one test, by its address.

    It is as a copy of the template, but a test before may have used it: see `kept.py`.
    """
    kept = _STORE.take(server, template)
    if kept is None:
        name = f"test_{os.getpid()}_{next(_NUMBERS)}"
        create_database(server, name, template)
        kept = asyncio.run(Kept.of(name, server.dsn(name)))
    is_kept = False
    try:
        yield kept.dsn
        is_kept = _STORE.give_back(server, template, kept)
    finally:
        if not is_kept:
            drop_database(server, kept.name)


def execute(dsn: str, *statements: str) -> None:
    """Run statements, each in a transaction of its own; not to be called inside an event loop."""

    async def run() -> None:
        connection = await asyncpg.connect(dsn, timeout=30, command_timeout=120)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


def fetch_value(dsn: str, query: str) -> object:
    """Ask for one value; not to be called inside an event loop."""

    async def run() -> object:
        connection = await asyncpg.connect(dsn, timeout=30, command_timeout=120)
        try:
            value: object = await connection.fetchval(query)
        finally:
            await connection.close()
        return value

    return asyncio.run(run())
