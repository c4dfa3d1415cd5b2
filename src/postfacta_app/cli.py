"""The subcommands of the service: serve, migrate, demo, admin, user, token, verify, doctor."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import anyio

from postfacta_core.clock import WALL
from postfacta_core.errors import ResilienceError
from postfacta_embedded import EmbeddedPostgresError
from postfacta_postgres import Database

from . import COMMANDS
from .app import declared
from .db import Unit
from .errors import AppError, InvalidFieldsError
from .identity.api import new_password, reset_password
from .identity.local import Passwords, add_token, add_user, mint
from .identity.model import (
    Account,
    Kind,
    NewToken,
    NewUser,
    PasswordChange,
    Scope,
    User,
    UserChange,
    keep_an_admin,
)
from .identity.postgres import PostgresIdentity
from .migrations import HEAD, MigrationError, revision, upgrade
from .principal import Principal, Role
from .reach import NoDatabaseError, reach
from .server import SERVERS, PortInUseError, serve
from .settings import AuthMode, Settings, SettingsError, exposed_secrets, load_settings
from .timeline.postgres import TimelineStore
from .timeline.verify import Verified, verify, write_metrics
from .web.body import parse

__all__ = ["main"]

_OPERATOR = Principal(actor="operator", name="operator", role=Role.ADMIN)
_MOST_DAYS = 3650
_MOST_LISTED = 10_000

_EXAMPLES: Final = {
    "serve": """\
Needs a migrated database. It may be down at first: the service starts, and becomes ready once the database is up.

  postfacta serve
  ENVIRONMENT=production postfacta serve --host 0.0.0.0 --port 80
  postfacta serve --dev --port 9000""",
    "migrate": """\
Needs the role that owns the tables, from POSTFACTA_DATABASE_OWNER_DSN, or else POSTFACTA_DATABASE_DSN.
Safe to run while the service is running, repeatedly, and on several machines at once.

  POSTFACTA_DATABASE_OWNER_DSN=postgresql://owner@host/name postfacta migrate""",
    "demo": """\
Needs only a free port and some disk space. Data is kept between runs.

  postfacta demo
  postfacta demo --port 9000""",
    "admin": """\
Needs a migrated database. The password must have 12 to 128 characters.

  postfacta admin create --email ada@example.org --name "Ada"
  postfacta admin create --email ada@example.org --name "Ada" --password-stdin < password.txt

In auth mode supabase the project holds the password; --sub is the user's id there:

  postfacta admin create --email ada@example.org --name "Ada" --sub 8d0fd2b3-9ca7-4d9e-a95f-9e13dded323e""",
    "token": """\
Needs a migrated database. The secret is printed once and cannot be looked up later.

  postfacta token create --name alertmanager --scope signals:write --source alertmanager
  postfacta token create --name dashboard --scope incidents:read --days 90
  postfacta token list
  postfacta token revoke 8d0fd2b3-9ca7-4d9e-a95f-9e13dded323e""",
    "user": """\
Needs a migrated database. Identify a person by e-mail address or id.

  postfacta user list
  postfacta user reset-password ada@example.org
  postfacta user sessions ada@example.org
  postfacta user sign-out ada@example.org
  postfacta user disable ada@example.org""",
    "verify": """\
Rebuilds the timeline of each post-mortem revision from the stored facts and compares digests. Read-only; run it
every night and after every restore. Exits with 1 if a digest differs: facts were lost or changed.

  postfacta verify
  postfacta verify --metrics-file /var/lib/node_exporter/postfacta.prom""",
    "routes": """\
Needs no database.

  postfacta routes | grep admin""",
    "doctor": """\
Needs the settings of the service. Checks settings, port, machine limits, the database (schema, durability,
connections, clock) and the server's time-outs. Exits with 1 if a check fails.

  postfacta doctor && postfacta serve
  postfacta doctor --server granian""",
}

_Commands = Any
"""What `add_subparsers` returns; its class is private."""
_Run = Callable[[argparse.Namespace], int]


class _CommandError(Exception):
    """A one-sentence error for the user of the command."""


_FAILURES = (
    _CommandError,
    AppError,
    EmbeddedPostgresError,
    MigrationError,
    NoDatabaseError,
    PortInUseError,
    ResilienceError,
)


def main(words: Sequence[str]) -> int:
    """Run one command; return the exit code."""
    args = _parser().parse_args(words)
    try:
        return int(args.run(args))
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
    parser = argparse.ArgumentParser("postfacta")
    commands = parser.add_subparsers(required=True, metavar="<command>")
    serving = _command(commands, "serve", run=_serve)
    serving.add_argument(
        "--dev", action="store_true", help="development mode: ENVIRONMENT=local and debug logs"
    )
    _command(commands, "migrate", run=_migrate)
    demo = _command(commands, "demo", run=_demo)
    _admin(_group(commands, "admin"))
    _user(_group(commands, "user"))
    _token(_group(commands, "token"))
    verifying = _command(commands, "verify", run=_verify)
    verifying.add_argument(
        "--metrics-file", type=Path, help="write metrics there, for node_exporter's textfile collector"
    )
    _command(commands, "routes", run=_routes)
    doctor = _command(commands, "doctor", run=_doctor)
    doctor.add_argument(
        "--server",
        choices=SERVERS,
        default="uvicorn",
        help="the ASGI server that will run it (default: %(default)s, as in `serve`)",
    )
    for command in (serving, demo, doctor):
        command.add_argument("--host", help="address to listen on (POSTFACTA_HOST, else 127.0.0.1)")
        command.add_argument(
            "--port", type=int, help="port to listen on (POSTFACTA_PORT, else 8080); 0 for a free one"
        )
    return parser


def _command(
    commands: _Commands, name: str, summary: str = "", *, run: _Run, examples: str = ""
) -> argparse.ArgumentParser:
    summary = summary or COMMANDS[name]
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=_EXAMPLES[examples or name],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _group(commands: _Commands, name: str) -> _Commands:
    group: argparse.ArgumentParser = commands.add_parser(
        name, epilog=_EXAMPLES[name], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    return group.add_subparsers(title="commands", required=True, metavar="<command>")


def _admin(commands: _Commands) -> None:
    command = _command(commands, "create", "create an administrator", run=_create_admin, examples="admin")
    command.add_argument("--email", required=True, help="the address to sign in with")
    command.add_argument("--name", required=True, help="display name")
    command.add_argument(
        "--password-stdin", action="store_true", help="read the password from standard input"
    )
    command.add_argument(
        "--sub", type=UUID, help="in auth mode supabase: the `User UID` of the account there"
    )


def _user(commands: _Commands) -> None:
    named: Sequence[tuple[str, str, _Run]] = (
        ("list", "list people", _list_users),
        ("reset-password", "set a new password and end all sessions", _reset_password),
        ("sessions", "list a person's sessions", _list_sessions),
        ("sign-out", "end a person's sessions, or one of them", _sign_out),
        ("disable", "disable an account and end all sessions", _disable),
        ("enable", "enable a disabled account", _disable),
    )
    for name, summary, run in named:
        command = _command(commands, name, summary, run=run, examples="user")
        command.set_defaults(is_disabled=name == "disable")
        if name != "list":
            command.add_argument("person", help="e-mail address or id")
        if name == "reset-password":
            command.add_argument("--password-stdin", action="store_true", help="read it from standard input")
        if name == "sign-out":
            command.add_argument("--session", type=UUID, help="the session's id (default: all sessions)")


def _token(commands: _Commands) -> None:
    _command(commands, "list", "list API tokens", run=_list_tokens, examples="token")
    revoke = _command(commands, "revoke", "revoke an API token", run=_revoke_token, examples="token")
    revoke.add_argument("id", type=UUID, help="the id shown by `token list`")
    command = _command(
        commands, "create", "create an API token for a machine", run=_create_token, examples="token"
    )
    command.add_argument("--name", required=True, help="a name for it")
    scopes = [str(scope) for scope in Scope]
    command.add_argument("--scope", required=True, action="append", choices=scopes, help="may be repeated")
    command.add_argument("--source", help="the source of its signals (required for signals:write)")
    command.add_argument("--days", type=int, default=365, help="days until it expires (%(default)s)")


# Commands


def _settings(args: argparse.Namespace, **overrides: object) -> Settings:
    return load_settings(None, host=args.host, port=args.port, **overrides)


def _serve(args: argparse.Namespace) -> int:
    dev = {"environment": "local", "log_level": "DEBUG"} if args.dev else {}
    read = partial(_settings, args, **dev)
    for file in exposed_secrets():
        sys.stderr.write(f"postfacta: warning: every user can read {file}; run chmod 600 {file}\n")
    return serve(read(), say=_say, read=read)


def _migrate(args: argparse.Namespace) -> int:
    settings = load_settings()
    dsn = settings.database_owner_dsn or settings.database_dsn
    upgrade(dsn.get_secret_value(), progress=_say)
    _say(f"the database is at revision {HEAD}")
    return 0


def _demo(args: argparse.Namespace) -> int:
    settings = _settings(args)
    from . import demo  # noqa: PLC0415 - the other commands do not need it

    return demo.run(settings, say=_say)


def _create_admin(args: argparse.Namespace) -> int:
    settings = load_settings()
    sent = {"email": args.email, "display_name": args.name, "role": Role.ADMIN}
    if (settings.auth_mode is AuthMode.SUPABASE) != (args.sub is not None):
        raise _CommandError("--sub is required with POSTFACTA_AUTH_MODE=supabase, and only allowed there")
    if args.sub is not None:
        return _adopt_admin(settings, args.sub, sent)
    new = parse(NewUser, sent | {"password": _password(from_stdin=args.password_stdin)})

    async def run() -> None:
        password_hash = await Passwords().hash(new.password)
        async with _unit(settings) as (unit, store):
            await add_user(unit, store, new, password_hash=password_hash)

    anyio.run(run)
    _say(f"{new.email} is now an administrator and can sign in at /signin")
    return 0


def _adopt_admin(settings: Settings, sub: UUID, sent: Mapping[str, object]) -> int:
    from .identity.supabase import Newcomer, external_name, meet  # noqa: PLC0415 - only this mode needs its cryptography

    new, name = parse(Newcomer, sent), external_name(settings.issuer, sub)

    async def run() -> None:
        async with _unit(settings) as (unit, store):
            if await meet(unit, store, name, new=new) or (user := await store.external(name)) is None:
                return
            await store.change_user(unit, user.id, UserChange(role=Role.ADMIN), now=_now())
            await unit.audit("user.change", f"user:{user.id}", detail={"role": Role.ADMIN})

    anyio.run(run)
    _say(f"{new.email} is now an administrator and can sign in at /signin")
    return 0


def _password(*, from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise _CommandError("no terminal to read the password from: use --password-stdin")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise _CommandError("the passwords do not match; nothing was created")
    return password


def _create_token(args: argparse.Namespace) -> int:
    settings, now = load_settings(), _now()
    if not 1 <= args.days <= _MOST_DAYS:
        raise _CommandError(f"--days must be between 1 and {_MOST_DAYS}")
    new = parse(NewToken, {"name": args.name, "scopes": args.scope, "source": args.source})
    minted = mint(Kind.API, _OPERATOR, now, expires_at=now + timedelta(days=args.days))

    async def run() -> None:
        async with _unit(settings) as (unit, store):
            await add_token(unit, store, new, minted=minted)

    anyio.run(run)
    _say(minted.secret)
    sys.stderr.write(f"Store it now: it is not shown again. It expires in {args.days} days.\n")
    return 0


def _now() -> datetime:
    return datetime.fromtimestamp(WALL(), UTC)


def _each(lines: Callable[[PostgresIdentity], Awaitable[Sequence[Sequence[object]]]]) -> int:
    settings = load_settings()

    async def run() -> Sequence[Sequence[object]]:
        async with _migrated(settings) as database:
            return await lines(PostgresIdentity(database))

    for line in anyio.run(run):
        _say("\t".join(f"{it:%Y-%m-%d %H:%M}Z" if isinstance(it, datetime) else str(it) for it in line))
    return 0


def _list_users(args: argparse.Namespace) -> int:
    async def lines(store: PostgresIdentity) -> Sequence[Sequence[object]]:
        people = await store.users(None, _MOST_LISTED)
        return [(it.id, it.email, it.role, "disabled" if it.disabled_at else "active") for it in people]

    return _each(lines)


def _list_tokens(args: argparse.Namespace) -> int:
    async def lines(store: PostgresIdentity) -> Sequence[Sequence[object]]:
        tokens = await store.tokens(None, _MOST_LISTED)
        return [
            (it.id, it.name, ",".join(it.scopes), it.last_used_at or "never", it.expires_at)
            for it in tokens
            if it.revoked_at is None
        ]

    return _each(lines)


def _list_sessions(args: argparse.Namespace) -> int:
    async def lines(store: PostgresIdentity) -> Sequence[Sequence[object]]:
        user = (await _person(store, args.person)).user
        sessions = await store.sessions(user.id, b"", _now())
        return [(it.id, it.kind, it.created_at, it.last_used_at or "never", it.expires_at) for it in sessions]

    return _each(lines)


async def _person(store: PostgresIdentity, who: str) -> Account:
    account = await store.person(who)
    if account is None:
        raise _CommandError(f"no account {who}: see `postfacta user list`")
    return account


def _reset_password(args: argparse.Namespace) -> int:
    settings = load_settings()
    given = _password(from_stdin=True) if args.password_stdin else new_password()

    async def run() -> User:
        async with _unit(settings) as (unit, store):
            account = await _person(store, args.person)
            if account.password_hash is None:
                raise _CommandError("this account's password is managed elsewhere")
            sent = parse(PasswordChange, {"current_password": "", "password": given})
            hashed = await Passwords().hash(sent.password)
            await reset_password(unit, store, account.user, hashed=hashed, now=_now())
            return account.user

    user = anyio.run(run)
    if not args.password_stdin:
        _say(given)
    sys.stderr.write(f"The password of {user.email} was reset. All sessions have ended.\n")
    return 0


def _sign_out(args: argparse.Namespace) -> int:
    settings = load_settings()

    async def run() -> int:
        async with _unit(settings) as (unit, store):
            user = (await _person(store, args.person)).user
            ended = await store.end_sessions(unit, user.id, _now(), only=args.session)
            await unit.audit("session.revoke", user.actor, detail={"sessions": ended})
            return ended

    _say(f"sessions ended: {anyio.run(run)}")
    return 0


def _disable(args: argparse.Namespace) -> int:
    settings = load_settings()

    async def run() -> User:
        async with _unit(settings) as (unit, store):
            user, admins = await store.lock_user(unit, (await _person(store, args.person)).user.id)
            if user is None:
                raise _CommandError("this account no longer exists")
            change = UserChange(disabled=args.is_disabled)
            keep_an_admin(user, change, admins)
            changed = await store.change_user(unit, user.id, change, now=_now())
            await unit.audit("user.change", user.actor, detail={"disabled": args.is_disabled})
            return changed

    user = anyio.run(run)
    _say(f"{user.email} is {'disabled' if user.disabled_at else 'enabled'}")
    return 0


def _revoke_token(args: argparse.Namespace) -> int:
    settings = load_settings()

    async def run() -> None:
        async with _unit(settings) as (unit, store):
            if not await store.revoke_token(unit, args.id, _now()):
                raise _CommandError("no such token, or it is already revoked")
            await unit.audit("token.revoke", f"token:{args.id}")

    anyio.run(run)
    _say("the token is revoked")
    return 0


def _verify(args: argparse.Namespace) -> int:
    settings = load_settings()

    async def run() -> Verified:
        async with _migrated(settings) as database:
            return await verify(TimelineStore(database))

    result = anyio.run(run)
    if args.metrics_file:
        write_metrics(result, args.metrics_file, now=WALL())
    for found in result.faults:
        sys.stderr.write(f"{found.incident}, revision {found.rev}: the timeline has changed\n")
    for found in result.other_rules:
        _say(f"{found.incident}, revision {found.rev}: written under rules {found.rules}, not compared")
    _say(f"{len(result.equal)} revisions are equal, {len(result.faults)} differ")
    return 1 if result.faults else 0


@asynccontextmanager
async def _migrated(settings: Settings) -> AsyncGenerator[Database]:
    async with reach(settings) as database:
        if await revision(database) is None:
            raise _CommandError("the database is not migrated: run `postfacta migrate` first")
        yield database


@asynccontextmanager
async def _unit(settings: Settings) -> AsyncGenerator[tuple[Unit, PostgresIdentity]]:
    async with _migrated(settings) as database, database.transaction() as connection:
        yield Unit(connection, _OPERATOR, None), PostgresIdentity(database)


def _routes(_: argparse.Namespace) -> int:
    for rule in declared(load_settings()):
        _say(f"{rule.method:6} {rule.path:66} {rule.access:9} {rule.route_class:6} {rule.summary}".rstrip())
    return 0


def _doctor(args: argparse.Namespace) -> int:
    settings = _settings(args)
    from . import doctor  # noqa: PLC0415 - the other commands do not need it

    return doctor.run(settings, server=args.server, say=_say)
