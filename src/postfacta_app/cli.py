"""The command line: serve, migrate, demo, admin, token, doctor."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import anyio

from postfacta_core.aio.database import Database, PoolOptions
from postfacta_core.clock import WALL
from postfacta_core.errors import ResilienceError
from postfacta_core.events import ConnectionOpened, Event
from postfacta_embedded import EmbeddedPostgresError

from .db import Unit, database_time
from .errors import AppError, InvalidFieldsError
from .identity.local import Passwords, add_token, add_user, mint
from .identity.model import Kind, NewToken, NewUser, Scope
from .identity.postgres import PostgresIdentity
from .migrations import HEAD, MigrationError, current_revision, upgrade
from .principal import Principal, Role
from .server import PortInUseError, check_port, serve
from .settings import AuthMode, Settings, SettingsError, load_settings
from .web.body import parse

__all__ = ["main"]

_OPERATOR = Principal(actor="operator", name="operator", role=Role.ADMIN)
_MOST_DAYS = 3650
_WAIT = 5.0  # Seconds for the database to answer a person who waits.
_SKEW = (1.0, 30.0)  # Above the first, times of different machines look odd; above the second, they lie.

_START = """\
to look around:
  postfacta demo        PostgreSQL, sample incidents and the service, on this machine

to run it for real:
  postfacta migrate     creates or upgrades the tables
  postfacta admin create --email ada@example.org --name "Ada"
  postfacta serve       listens on 127.0.0.1:8080
  postfacta doctor      says whether all is well

Settings come from the environment, such as POSTFACTA_DATABASE_DSN=postgresql://user@host/name, or from a file
that POSTFACTA_DATABASE_DSN_FILE names. Exit codes: 0 done, 1 failed, 2 wrong usage or settings."""
_EXAMPLES: Final = {
    "serve": """\
Needs a database that `postfacta migrate` was run on. It may be away: the service starts, and is ready when it comes.

  postfacta serve
  ENVIRONMENT=production postfacta serve --host 0.0.0.0 --port 80
  postfacta serve --dev --port 9000""",
    "migrate": """\
Needs a role that owns the tables: POSTFACTA_DATABASE_OWNER_DSN, or else POSTFACTA_DATABASE_DSN.
May run while the service serves, twice, and on several machines at once.

  POSTFACTA_DATABASE_OWNER_DSN=postgresql://owner@host/name postfacta migrate""",
    "demo": """\
Needs nothing but a free port and some disk space. What is recorded is there again next time.

  postfacta demo
  postfacta demo --port 9000""",
    "admin": """\
Needs a migrated database. The password has 12 to 128 characters and no other rule.

  postfacta admin create --email ada@example.org --name "Ada"
  postfacta admin create --email ada@example.org --name "Ada" --password-stdin < password.txt""",
    "token": """\
Needs a migrated database. The secret is printed once, and nobody can look it up later.

  postfacta token create --name alertmanager --scope signals:write --source alertmanager
  postfacta token create --name dashboard --scope incidents:read --days 90""",
    "doctor": """\
Needs the settings the service runs with. Looks at settings, database, schema, durability, clocks, and the port.

  postfacta doctor && postfacta serve""",
}

_Commands = Any
"""What `add_subparsers` returns; its class is private."""


class _CommandError(Exception):
    """A sentence for whoever typed the command."""


_FAILURES = (
    _CommandError,
    AppError,
    EmbeddedPostgresError,
    MigrationError,
    PortInUseError,
    ResilienceError,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    args = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        return run(args)
    except (SettingsError, InvalidFieldsError) as error:
        return _complain(error, 2)
    except _FAILURES as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        return 130


def _complain(error: Exception, code: int) -> int:
    text = str(error)
    if isinstance(error, InvalidFieldsError):
        text = "\n".join(f"{it.pointer.lstrip('/') or 'request'} {it.message}" for it in error.errors)
    elif isinstance(error, ResilienceError):
        text = f"the database failed: {type(error).__name__}"
    sys.stderr.write(f"postfacta: {text}\n")
    return code


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


# Arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "postfacta",
        description="Keep the history of operational incidents.",
        epilog=_START,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="<command>")
    serving = _command(commands, "serve", "run the service; needs a migrated database", run=_serve)
    serving.add_argument(
        "--dev", action="store_true", help="as on a developer's machine: local, with debug logs"
    )
    _command(commands, "migrate", "create or upgrade the tables; needs their owner's rights", run=_migrate)
    demo = _command(commands, "demo", "run everything on this machine; needs nothing", run=_demo)
    _admin(_group(commands, "admin", "create an administrator; needs a migrated database"))
    _token(_group(commands, "token", "create a machine's API token; needs a migrated database"))
    doctor = _command(commands, "doctor", "say whether all is well, and what to do if not", run=_doctor)
    for command in (serving, demo, doctor):
        command.add_argument("--host", help="address to listen on (POSTFACTA_HOST, else 127.0.0.1)")
        command.add_argument(
            "--port", type=int, help="port to listen on (POSTFACTA_PORT, else 8080); 0: a free one"
        )
    return parser


def _command(
    commands: _Commands,
    name: str,
    summary: str,
    *,
    run: Callable[[argparse.Namespace], int],
    examples: str = "",
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=_EXAMPLES[examples or name],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _group(commands: _Commands, name: str, summary: str) -> _Commands:
    group: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, epilog=_EXAMPLES[name], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    return group.add_subparsers(title="commands", required=True, metavar="<command>")


def _admin(commands: _Commands) -> None:
    command = _command(commands, "create", "create an administrator", run=_create_admin, examples="admin")
    command.add_argument("--email", required=True, help="what to sign in with")
    command.add_argument("--name", required=True, help="what others read")
    command.add_argument(
        "--password-stdin", action="store_true", help="read the password from standard input"
    )


def _token(commands: _Commands) -> None:
    command = _command(
        commands, "create", "create a machine's API token", run=_create_token, examples="token"
    )
    command.add_argument("--name", required=True, help="what it is for")
    scopes = [str(scope) for scope in Scope]
    command.add_argument("--scope", required=True, action="append", choices=scopes, help="may be given again")
    command.add_argument("--source", help="the one source of its signals; signals:write needs it")
    command.add_argument("--days", type=int, default=365, help="days until it expires (%(default)s)")


# Commands


def _settings(args: argparse.Namespace, **overrides: object) -> Settings:
    return load_settings(None, host=args.host, port=args.port, **overrides)


def _serve(args: argparse.Namespace) -> int:
    settings = _settings(args, environment="local", log_level="DEBUG") if args.dev else _settings(args)
    return serve(settings, say=_say)


def _migrate(args: argparse.Namespace) -> int:
    settings = load_settings()
    dsn = settings.database_owner_dsn or settings.database_dsn
    upgrade(dsn.get_secret_value(), progress=_say)
    _say(f"the database is at revision {HEAD}")
    return 0


def _demo(args: argparse.Namespace) -> int:
    settings = _settings(args)
    from . import demo  # noqa: PLC0415 - the other commands need none of it

    return demo.run(settings, say=_say)


def _create_admin(args: argparse.Namespace) -> int:
    settings = load_settings()
    sent = {"email": args.email, "display_name": args.name, "role": Role.ADMIN}
    new = parse(NewUser, sent | {"password": _password(from_stdin=args.password_stdin)})

    async def run() -> None:
        password_hash = await Passwords().hash(new.password)
        async with _unit(settings) as (unit, store):
            await add_user(unit, store, new, password_hash=password_hash)

    anyio.run(run)
    _say(f"{new.email} is an administrator now, and signs in at /signin")
    return 0


def _password(*, from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise _CommandError("there is no terminal to type the password at: use --password-stdin")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise _CommandError("the two passwords differ: nothing was created")
    return password


def _create_token(args: argparse.Namespace) -> int:
    settings, now = load_settings(), datetime.fromtimestamp(WALL(), UTC)
    if not 1 <= args.days <= _MOST_DAYS:
        raise _CommandError(f"--days must lie between 1 and {_MOST_DAYS}")
    new = parse(NewToken, {"name": args.name, "scopes": args.scope, "source": args.source})
    minted = mint(Kind.API, _OPERATOR, now, expires_at=now + timedelta(days=args.days))

    async def run() -> None:
        async with _unit(settings) as (unit, store):
            await add_token(unit, store, new, minted=minted)

    anyio.run(run)
    _say(minted.secret)
    sys.stderr.write(f"Keep it: it is not shown again. It expires in {args.days} days.\n")
    return 0


# The database


@asynccontextmanager
async def _database(settings: Settings) -> AsyncGenerator[Database]:
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
            raise _CommandError(
                f"no database at {where} ({reason}): is it running, and is POSTFACTA_DATABASE_DSN right?"
            )
        yield database


async def _revision(database: Database) -> str | None:
    async def fetch(sql: str) -> object:
        return await database.fetchval(sql, operation="revision")

    return await current_revision(fetch)


@asynccontextmanager
async def _unit(settings: Settings) -> AsyncGenerator[tuple[Unit, PostgresIdentity]]:
    async with _database(settings) as database:
        if await _revision(database) is None:
            raise _CommandError("the database has no tables yet: run `postfacta migrate` first")
        async with database.transaction() as connection:
            yield Unit(connection, _OPERATOR, None), PostgresIdentity(database)


# Doctor


@dataclass(frozen=True, slots=True)
class _Finding:
    about: str
    verdict: str
    text: str
    advice: str = ""


def _doctor(args: argparse.Namespace) -> int:
    settings = _settings(args)
    findings = [
        *_look_at_settings(settings),
        _look_at_port(settings),
        *anyio.run(_look_at_database, settings),
    ]
    for it in findings:
        _say(f"{it.verdict:<5} {it.about:<11} {it.text}")
        if it.advice:
            _say(f"{'':<17} -> {it.advice}")
    return 1 if any(it.verdict == "fail" for it in findings) else 0


def _look_at_settings(settings: Settings) -> list[_Finding]:
    findings = [
        _Finding("settings", "ok", f"environment {settings.environment}, sign-in {settings.auth_mode}")
    ]
    if settings.auth_mode is AuthMode.NONE:
        findings.append(_Finding("sign-in", "warn", "everybody on this machine may write", "AUTH_MODE=local"))
    if settings.is_local and not settings.is_loopback:
        advice = "set ENVIRONMENT, to production for example"
        findings.append(
            _Finding("cookies", "warn", "they are sent without TLS while ENVIRONMENT is local", advice)
        )
    if settings.metrics_token is None and not settings.is_loopback:
        findings.append(_Finding("metrics", "warn", "/metrics is open to all", "set POSTFACTA_METRICS_TOKEN"))
    return findings


def _look_at_port(settings: Settings) -> _Finding:
    try:
        check_port(settings.host, settings.port)
    except PortInUseError as error:
        return _Finding("port", "warn", str(error), "all is well if it is PostFacta that listens there")
    return _Finding("port", "ok", f"{settings.port} of {settings.host} is free")


async def _look_at_database(settings: Settings) -> list[_Finding]:
    try:
        async with _database(settings) as database:
            looks = (_look_at_schema, _look_at_durability, _look_at_clock)
            return [_Finding("database", "ok", "it answers"), *[await look(database) for look in looks]]
    except (_CommandError, ResilienceError) as error:
        return [_Finding("database", "fail", str(error), "what follows from it was not looked at")]


async def _look_at_schema(database: Database) -> _Finding:
    revision = await _revision(database)
    if revision is not None and revision >= HEAD:
        return _Finding("schema", "ok", f"revision {revision}")
    return _Finding(
        "schema", "fail", f"revision {revision or 'none'}, {HEAD} is needed", "run `postfacta migrate`"
    )


async def _look_at_durability(database: Database) -> _Finding:
    problems = await database.durability_problems()
    if not problems:
        return _Finding("durability", "ok", "what is acknowledged survives a crash")
    advice = "turn them on in postgresql.conf: the service is not ready until then"
    return _Finding("durability", "fail", ", ".join(problems), advice)


async def _look_at_clock(database: Database) -> _Finding:
    skew = abs((await database_time(database)).timestamp() - WALL())
    verdict = "ok" if skew < _SKEW[0] else "warn" if skew < _SKEW[1] else "fail"
    advice = "" if verdict == "ok" else "let both machines follow one time server (NTP)"
    return _Finding("clock", verdict, f"{skew:.1f} s between here and the database", advice)
