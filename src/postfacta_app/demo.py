"""Run everything on this machine: an embedded PostgreSQL, the schema, sample incidents, and the server."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import anyio
from pydantic import SecretStr

from postfacta_core.clock import WALL
from postfacta_embedded import EmbeddedPostgres
from postfacta_postgres import Database

from . import migrations
from .db import Unit
from .identity.local import Passwords
from .identity.model import NewUser
from .identity.postgres import add_user
from .principal import Role
from .samples import SEEDER, record
from .server import check_port, serve
from .settings import AuthMode, Settings

EMAIL = "admin@demo.example"
# The service does not own its tables, so not even faulty SQL could change recorded facts.
_ROLE = """
do $$ begin if not exists (select from pg_roles where rolname = 'postfacta_demo') then
  create role postfacta_demo login in role postfacta_app; end if; end $$"""

Say = Callable[[str], None]


def run(settings: Settings, *, say: Say) -> int:
    """Serve until Ctrl-C or SIGTERM; return the exit code. Data is kept between runs."""
    check_port(settings.host, settings.port)
    folder = settings.demo_dir.absolute()
    say("starting PostgreSQL")
    with EmbeddedPostgres(folder / "postgres", binaries=settings.postgres_bin, log=say) as server:
        password, dsn = anyio.run(_prepare, server, folder, say)
        say(f"\n  PostFacta     http://{settings.host}:{settings.port}/incidents")
        if settings.auth_mode is AuthMode.LOCAL:
            say(f"  sign in as    {EMAIL}")
            say(f"  password      {password}")
        say(f"  metrics       http://{settings.host}:{settings.port}/metrics")
        say(f"  data and log  {folder}\n")
        return serve(settings.model_copy(update={"database_dsn": SecretStr(dsn)}), say=say)


async def _prepare(server: EmbeddedPostgres, folder: Path, say: Say) -> tuple[str, str]:
    async with Database(server.dsn(), name="setup") as database:
        await database.wait_connected()
        if not await database.fetchval("select exists (select from pg_database where datname = 'postfacta')"):
            await database.execute("create database postfacta")
    owner = server.dsn("postfacta")
    await migrations.migrate(owner, progress=say)
    password = _secret(folder / "admin-password")
    role_password = _secret(folder / "service-password")
    async with Database(owner, name="setup") as database:
        await database.wait_connected()
        await database.execute(_ROLE)
        await database.execute(f"alter role postfacta_demo password '{role_password}'")
        if not await database.fetchval("select exists (select from users)"):
            say("recording the sample incidents")
            await _seed(database, password)
    parts = urlsplit(owner)
    return password, f"postgresql://postfacta_demo:{role_password}@{parts.hostname}:{parts.port}/postfacta"


def _secret(file: Path) -> str:
    if not file.exists():
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as made:
            made.write(secrets.token_urlsafe(12))
    return file.read_text()


async def _seed(database: Database, password: str) -> None:
    now = datetime.fromtimestamp(WALL(), UTC)
    person = NewUser(email=EMAIL, password=password, display_name="Demo admin", role=Role.ADMIN)
    password_hash = await Passwords().hash(password)
    async with database.transaction() as connection:
        unit = Unit(connection, SEEDER, None)
        await add_user(unit, person, password_hash=password_hash)
        await record(connection, now=now)
