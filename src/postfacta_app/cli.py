"""The subcommands of the service."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial, wraps
from typing import Any, Concatenate, TextIO, TypeVar
from uuid import UUID

import anyio
import click

from postfacta_core.clock import WALL
from postfacta_core.errors import ResilienceError
from postfacta_embedded import EmbeddedPostgresError
from postfacta_postgres import Database

from . import COMMANDS, doctor
from .app import declared
from .db import Unit, reach
from .errors import AppError, CommandFailedError, InvalidFieldsError
from .identity import accounts, model
from .identity.accounts import Passwords
from .identity.api import new_password
from .migrations import HEAD, revision, upgrade
from .principal import Principal, Role
from .server import serve
from .settings import AuthMode, Settings, SettingsError, exposed_secrets, load_settings
from .timeline.verify import REPAIR, verify
from .web.body import parse

T = TypeVar("T")

_OPERATOR = Principal(actor="operator", name="operator", role=Role.ADMIN)
_MOST_LISTED = 10_000
_ROLES = click.Choice([role.value for role in Role])
_SCOPES = click.Choice([scope.value for scope in model.Scope])
CommandOutput = tuple[Iterable[str], str]  # Lines of standard output; a notice on standard error.
Command = Callable[Concatenate[Unit, ...], Awaitable[CommandOutput]]


def main(words: Sequence[str]) -> int:
    """Run a command; return its exit code: 0, 1 for a failure, 2 for wrong settings or input."""
    try:
        with _root_group.make_context("postfacta", list(words)) as context:
            return int(_root_group.invoke(context) or 0)
    except click.exceptions.Exit as done:
        raise SystemExit(done.exit_code) from None
    except click.UsageError as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except (KeyboardInterrupt, click.Abort):
        return 130
    except InvalidFieldsError as error:
        message = "\n".join(
            f"{field.pointer.lstrip('/') or 'request'} {field.message}" for field in error.errors
        )
        code = 2
    except ResilienceError as error:
        message = f"the database failed: {type(error).__name__}"
        code = 1
    except (SettingsError, AppError, CommandFailedError, EmbeddedPostgresError) as error:
        message = str(error)
        code = 2 if isinstance(error, SettingsError) else 1
    click.echo(f"postfacta: {message}", err=True)
    return code


_user = click.Group("user", short_help=COMMANDS["user"])
_token = click.Group("token", short_help=COMMANDS["token"])
_root_group = click.Group("postfacta", commands=[_user, _token])


def _command(
    name: str, summary: str = "", *, of: click.Group = _root_group
) -> Callable[[Callable[..., object]], click.Command]:
    summary = summary or COMMANDS[name]
    return of.command(name, help=f"{summary[0].upper()}{summary[1:]}.", short_help=summary)


def _address(function: Callable[[Callable[[], Settings]], T]) -> Callable[..., T]:
    """Pass a command a reader of the settings, in which the options for the address win."""

    @click.option("--host", help="address to listen on (POSTFACTA_HOST, else 127.0.0.1)")
    @click.option(
        "--port", type=int, help="port to listen on (POSTFACTA_PORT, else 8080); 0 for a free one"
    )
    def run(**address: object) -> T:
        return function(partial(load_settings, None, **address))

    return run


def _read_line(
    _: click.Context,
    __: click.Parameter,
    is_set: bool,  # noqa: FBT001 - click passes it so
) -> str | None:
    return sys.stdin.readline().rstrip("\r\n") if is_set else None


_from_stdin = click.option(
    "--password-stdin",
    "stdin_password",
    is_flag=True,
    callback=_read_line,
    help="read the password from standard input",
)
_person = click.argument("person")


def _run(work: Callable[[Database], Awaitable[T]]) -> T:
    """Run a function with a migrated database."""

    async def run() -> T:
        async with reach(load_settings().database_dsn) as database:
            if await revision(database) is None:
                raise CommandFailedError(
                    "the database is not migrated: run `postfacta migrate` first"
                )
            return await work(database)

    return anyio.run(run)


def _transaction_command(
    group: click.Group, name: str, summary: str
) -> Callable[[Command], click.Command]:
    """Make a command of a function that works in one transaction.

    The output is printed after the commit.
    """

    def declare(function: Command) -> click.Command:
        @_command(name, summary, of=group)
        @wraps(function)
        def run(**options: object) -> None:
            async def work(database: Database) -> CommandOutput:
                async with database.transaction() as connection:
                    return await function(Unit(connection, _OPERATOR, None), **options)

            lines, notice = _run(work)
            for line in lines:
                click.echo(line)
            if notice:
                click.echo(notice, err=True)

        return run

    return declare


def _line(*parts: object) -> str:
    return "\t".join(
        f"{part:%Y-%m-%d %H:%M}Z" if isinstance(part, datetime) else str(part) for part in parts
    )


@_command("serve")
@_address
def _serve(read: Callable[[], Settings]) -> int:
    for file in exposed_secrets():
        click.echo(
            f"postfacta: warning: every user can read {file}; run chmod 600 {file}", err=True
        )
    settings = read()
    if settings.metrics_token is None and not settings.is_local:
        click.echo(
            "postfacta: warning: no one can read /metrics; set POSTFACTA_METRICS_TOKEN", err=True
        )
    return serve(settings, say=click.echo, read=read)


@_command("migrate")
def _migrate() -> None:
    settings = load_settings()
    dsn = settings.database_owner_dsn or settings.database_dsn
    upgrade(dsn.get_secret_value(), progress=click.echo)
    click.echo(f"the database is at revision {HEAD}")


@_command("demo")
@_address
def _demo(read: Callable[[], Settings]) -> int:
    from . import demo  # noqa: PLC0415 - the other commands do not need it

    return demo.run(read(), say=click.echo)


@_command("verify")
def _verify() -> int:
    result = _run(verify)
    for incident in result["kept_fault"]:
        number = incident["number"]
        message = "the kept timeline is not that of the facts; repair it as the owner"
        click.echo(f"INC-{number}: {message}: {REPAIR.format(number)}", err=True)
    for entry in result["fault"]:
        revision = f"INC-{entry['number']}, revision {entry['rev']}"
        click.echo(f"{revision}: the timeline has changed", err=True)
    for entry in result["other_rules"]:
        revision = f"INC-{entry['number']}, revision {entry['rev']}"
        click.echo(f"{revision}: written under rules {entry['rules']}, not compared")
    click.echo(f"{len(result['equal'])} revisions are equal, {len(result['fault'])} differ")
    return 1 if result["fault"] or result["kept_fault"] else 0


@_command("routes")
def _routes() -> None:
    load_settings()  # They change no route, but no command takes wrong ones.
    for rule in declared():
        route = f"{rule.method:6} {rule.path:66} {rule.access:9} {rule.route_class:6}"
        click.echo(f"{route} {rule.summary}".rstrip())


@_command("doctor")
@_address
def _doctor(read: Callable[[], Settings]) -> int:
    return doctor.run(read(), say=click.echo)


def _content(_: click.Context, __: click.Parameter, file: TextIO | None) -> str:
    return file.read().strip() if file else ""


_secret_file = partial(click.option, type=click.File(), callback=_content)


@_command("smoke")
@click.option("--url", required=True, help="where users come in, or one instance")
@_secret_file("--token-file", "token", help="holds a token; - reads standard input")
@_secret_file("--metrics-token-file", "metrics_token", help="holds the token of /metrics")
@_secret_file(
    "--traffic-key-file",
    "traffic_key",
    help="holds the traffic key: no objective counts these requests",
)
@click.option("--expect-version", "version", default="", help="the version that must run")
@click.option(
    "--write/--read-only",
    "may_write",
    default=None,
    help="whether to record an exercise (not in a production)",
)
def _smoke(**options: Any) -> int:
    from .smoke import Smoke  # noqa: PLC0415 - the other commands do not need it

    return anyio.run(Smoke(**options).run, click.echo)


async def _account(unit: Unit, person: str) -> model.Account:
    account = await accounts.person(unit, person)
    if account is None:
        raise CommandFailedError(f"no account {person}: see `postfacta user list`")
    return account


@_transaction_command(_user, "list", "list people")
async def _list_users(unit: Unit) -> CommandOutput:
    people = await accounts.users(unit, None, _MOST_LISTED)
    lines = [
        _line(user.id, user.email, user.role, "disabled" if user.disabled_at else "active")
        for user in people
    ]
    return lines, ""


@_transaction_command(_user, "add", "add a person; prints their password")
@click.option("--email", required=True, help="the address to sign in with")
@click.option("--name", help="display name (default: the part of the address before the @)")
@click.option("--role", type=_ROLES, default=Role.VIEWER.value, help="their role (viewer)")
@click.option("--sub", type=UUID, help="in auth mode supabase: the `User UID` of the account there")
@_from_stdin
async def _add_user(
    unit: Unit,
    *,
    email: str,
    name: str | None,
    role: str,
    sub: UUID | None,
    stdin_password: str | None,
) -> CommandOutput:
    settings = load_settings()
    if (settings.auth_mode is AuthMode.SUPABASE) != (sub is not None):
        raise CommandFailedError(
            "--sub is required with POSTFACTA_AUTH_MODE=supabase, and only allowed there"
        )
    password = new_password() if stdin_password is None else stdin_password
    new = parse(
        model.NewUser, {"email": email, "display_name": name, "role": role, "password": password}
    )
    if sub is not None:
        external = accounts.external_name(settings.issuer, sub)
        await accounts.meet(unit, external, email=new.email, display_name=new.name, role=new.role)
        user = await accounts.external(unit, external)
        if user and user.role is not new.role:  # They may have signed in before.
            await accounts.change_user(unit, user.id, model.UserChange(role=new.role))
    else:
        await accounts.add_user(unit, new, password_hash=await Passwords().hash(new.password))
    notice = f"{new.email} can sign in at /signin, as {role}."
    lines = [password] if stdin_password is None and sub is None else []
    return lines, notice


@_transaction_command(_user, "reset-password", "set a new password and end all sessions")
@_person
@_from_stdin
async def _reset_password(unit: Unit, person: str, *, stdin_password: str | None) -> CommandOutput:
    account = await _account(unit, person)
    if account.password_hash is None:
        raise CommandFailedError("this account's password is managed elsewhere")
    password = new_password() if stdin_password is None else stdin_password
    change = parse(model.PasswordChange, {"current_password": "", "password": password})
    hashed = await Passwords().hash(change.password)
    await accounts.change_password(unit, account.id, hashed)
    notice = f"The password of {account.email} was reset. All sessions have ended."
    lines = [password] if stdin_password is None else []
    return lines, notice


@_transaction_command(_user, "sessions", "list a person's sessions")
@_person
async def _list_sessions(unit: Unit, person: str) -> CommandOutput:
    account = await _account(unit, person)
    now = datetime.fromtimestamp(WALL(), UTC)
    sessions = await accounts.sessions(unit, account.id, current=None, now=now)
    lines = [
        _line(row.id, row.kind, row.created_at, row.last_used_at or "never", row.expires_at)
        for row in sessions
    ]
    return lines, ""


@_transaction_command(_user, "sign-out", "end a person's sessions, or one of them")
@_person
@click.option("--session", type=UUID, help="the session's id (default: all sessions)")
async def _sign_out(unit: Unit, person: str, *, session: UUID | None) -> CommandOutput:
    user = await _account(unit, person)
    ended = await accounts.end_sessions(unit, user.id, "session.revoke", only=session)
    return [f"sessions ended: {ended}"], ""


async def _change(unit: Unit, /, person: str, **members: object) -> CommandOutput:
    change = model.UserChange.model_validate(members)
    account = await _account(unit, person)
    changed = await accounts.change_user(unit, account.id, change)
    state = "disabled" if changed.disabled_at else f"enabled, as {changed.role}"
    return [f"{changed.email} is {state}"], ""


_transaction_command(_user, "role", "change a person's role")(
    _person(click.argument("role", type=_ROLES)(partial(_change)))
)
_transaction_command(_user, "disable", "disable an account and end all sessions")(
    _person(partial(_change, disabled=True))
)
_transaction_command(_user, "enable", "enable a disabled account")(
    _person(partial(_change, disabled=False))
)


@_transaction_command(_token, "create", "create an API token for a machine")
@click.option("--name", required=True, help="a name for it")
@click.option(
    "--scope", "scopes", required=True, multiple=True, type=_SCOPES, help="may be repeated"
)
@click.option("--source", help="the source of its signals (required for signals:write)")
@click.option(
    "--days", type=click.IntRange(1, 3650), default=365, help="days until it expires (365)"
)
async def _create_token(
    unit: Unit, *, name: str, scopes: Sequence[str], source: str | None, days: int
) -> CommandOutput:
    now = datetime.fromtimestamp(WALL(), UTC)
    members = {
        "name": name,
        "scopes": scopes,
        "source": source,
        "expires_at": now + timedelta(days=days),
    }
    issued = await accounts.create_token(unit, parse(model.NewToken, members), now)
    return [issued.secret], f"Store it now: it is not shown again. It expires in {days} days."


@_transaction_command(_token, "list", "list API tokens")
async def _list_tokens(unit: Unit) -> CommandOutput:
    tokens = await accounts.tokens(unit, None, _MOST_LISTED)
    lines = [
        _line(row.id, row.name, ",".join(row.scopes), row.last_used_at or "never", row.expires_at)
        for row in tokens
        if row.revoked_at is None
    ]
    return lines, ""


@_transaction_command(_token, "revoke", "revoke an API token")
@click.argument("token", metavar="ID", type=UUID)
async def _revoke_token(unit: Unit, token: UUID) -> CommandOutput:
    if not await accounts.revoke_token(unit, token):
        raise CommandFailedError("no such token, or it is already revoked")
    return ["the token is revoked"], ""
