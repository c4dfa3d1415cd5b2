"""Run everything on this machine.

An embedded PostgreSQL, the schema, sample incidents, and the server.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import anyio
from pydantic import SecretStr

from postfacta_core.clock import WALL
from postfacta_embedded import EmbeddedPostgres
from postfacta_postgres import Connection

from . import actions, links, migrations
from .db import Unit, reach
from .identity.accounts import Passwords, add_user
from .identity.model import NewUser
from .incidents import api as incidents
from .incidents.model import Move, NewIncident
from .postmortems import api as postmortems
from .postmortems.model import Draft, Transition
from .principal import Principal, Role
from .server import listen, serve
from .settings import AuthMode, Settings
from .signals import api as signals
from .signals.model import Attachments, Fact, NewSignal
from .timeline import api as timeline
from .timeline.model import AnyEdit, NewAnnotation
from .web.body import format_time, parse

EMAIL = "admin@demo.example"
# The service does not own its tables, so not even faulty SQL could change recorded facts.
_ROLE = """
do $$ begin
  if not exists (select from pg_roles where rolname = 'postfacta_demo') then
    create role postfacta_demo login in role postfacta_app;
  end if;
end $$"""

Say = Callable[[str], None]

SEEDER: Final = Principal(actor="demo", name="demo", role=Role.ADMIN)  # records the samples
# An instant in minutes from the declaration, or a date in days from today.
_RELATIVE: Final = re.compile(r'"([TD])([+-]\d+(?:\.\d+)?)"')


def run(settings: Settings, *, say: Say) -> int:
    """Serve until Ctrl-C or SIGTERM; return the exit code. Data is kept between runs."""
    listen(settings.host, settings.port).close()
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
    """Migrate the database, and record the samples if it is empty.

    Return the administrator's password and the DSN of the service, whose role owns no table.
    """
    async with reach(SecretStr(server.dsn())) as database:
        if not await database.fetchval(
            "select exists (select from pg_database where datname = 'postfacta')"
        ):
            await database.execute("create database postfacta")
    owner = server.dsn("postfacta")
    await migrations.migrate(owner, progress=say)
    password = _secret(folder / "admin-password")
    role_password = _secret(folder / "service-password")
    async with reach(SecretStr(owner)) as database:
        await database.execute(_ROLE)
        await database.execute(f"alter role postfacta_demo password '{role_password}'")
        if not await database.fetchval("select exists (select from users)"):
            say("recording the sample incidents")
            person = NewUser(
                email=EMAIL, password=password, display_name="Demo admin", role=Role.ADMIN
            )
            password_hash = await Passwords().hash(password)
            async with database.transaction() as connection:
                await add_user(Unit(connection, SEEDER, None), person, password_hash=password_hash)
                await record(connection, now=datetime.fromtimestamp(WALL(), UTC))
    parts = urlsplit(owner)
    address = f"{parts.hostname}:{parts.port}"
    return password, f"postgresql://postfacta_demo:{role_password}@{address}/postfacta"


def _secret(file: Path) -> str:
    if not file.exists():
        file.touch(0o600, exist_ok=False)
        file.write_text(secrets.token_urlsafe(12))
    return file.read_text()


async def record(connection: Connection, *, now: datetime) -> None:
    """Record each sample with everything below it, in one transaction.

    Links only lead to earlier samples.
    """
    unit = Unit(connection, SEEDER, None)
    references: dict[str, str] = {}
    for template in json.loads(Path(__file__).with_name("samples.json").read_text()):
        sample = _read(template, now)
        new = parse(NewIncident, sample["incident"])
        reply = await incidents.create(unit, new, now=now)
        incident = reply.value.id
        references[sample["key"]] = str(incident)
        for name, store in _writers(unit, incident, references, now=now).items():
            for item in sample.get(name, ()):
                await store(item)


def _writers(
    unit: Unit, incident: UUID, references: Mapping[str, str], *, now: datetime
) -> Mapping[str, Callable[[Any], Awaitable[object]]]:
    """Return the functions that record an item of each member of a sample, in this order."""

    async def attach(batch: Mapping[str, Any]) -> None:
        # Machine sources need a token; people do not.
        source = batch["source"]
        scopes = frozenset({"signals:write"})
        token = Principal(actor="demo", name=source, scopes=scopes, source=source)
        recorder = SEEDER if source == "manual" else token
        facts = [
            Fact.of(index, parse(NewSignal, signal), recorder)
            for index, signal in enumerate(batch["items"])
        ]
        done = await signals.store(Unit(unit.connection, recorder, None), facts, now=now)
        ids = [result.signal_id for result in done.results if result.signal_id]
        await signals.attach(unit, incident, Attachments(ids=ids))

    return {
        "moves": lambda item: incidents.transition(unit, incident, parse(Move, item), now=now),
        "signals": attach,
        "edits": lambda item: timeline.add_edit(unit, incident, parse(AnyEdit, item).root, now=now),
        "annotations": lambda item: timeline.add_annotation(
            unit, incident, parse(NewAnnotation, item), now=now
        ),
        "actions": lambda item: actions.add(unit, incident, parse(actions.NewAction, item)),
        "links": lambda item: links.link(
            unit, incident, parse(links.NewLink, item | {"to": references[item["to"]]})
        ),
        "drafts": lambda item: postmortems.write(
            unit, incident, parse(Draft, item), follows=lambda _: None
        ),
        "stages": lambda item: postmortems.transition(
            unit, incident, parse(Transition, item), follows=lambda _: None
        ),
    }


def _read(template: Mapping[str, Any], now: datetime) -> Any:
    """Replace relative times: `T-2.5` is two and a half minutes before the declaration."""
    began = now.replace(second=0, microsecond=0) - timedelta(hours=template["hours_ago"])

    def absolute(match: re.Match[str]) -> str:
        if match[1] == "D":
            return f'"{now.date() + timedelta(days=int(match[2]))}"'
        at = began + timedelta(minutes=float(match[2]))
        return f'"{format_time(min(at, now))}"'

    return json.loads(_RELATIVE.sub(absolute, json.dumps(template)))
