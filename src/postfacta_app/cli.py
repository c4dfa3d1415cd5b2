"""The subcommands of the service."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TextIO, TypeVar
from uuid import UUID

import anyio
import click

from postfacta_core.clock import WALL
from postfacta_core.errors import ResilienceError
from postfacta_embedded import EmbeddedPostgresError
from postfacta_postgres import Database, PoolOptions

from . import COMMANDS
from .app import declared
from .db import Unit
from .errors import AppError, CommandFailedError, InvalidFieldsError
from .examples import EXAMPLES
from .identity import model, postgres
from .identity.api import new_password
from .identity.local import Passwords, mint
from .incidents.access import read_ref
from .migrations import HEAD, revision, upgrade
from .principal import Principal, Role
from .reach import reach
from .server import serve
from .settings import AuthMode, Settings, SettingsError, exposed_secrets, load_settings
from .timeline.rebuild import Compared, compare, verify, write_metrics
from .web.body import parse

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object])

_OPERATOR = Principal(actor="operator", name="operator", role=Role.ADMIN)
_MOST_LISTED = 10_000
_ROLES = click.Choice([role.value for role in Role])


def main(words: Sequence[str]) -> int:
    """Run one command; return the exit code."""
    try:
        with _all.make_context("postfacta", list(words)) as context:
            return int(_all.invoke(context) or 0)
    except click.exceptions.Exit as done:
        raise SystemExit(done.exit_code) from None
    except click.UsageError as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except (SettingsError, InvalidFieldsError) as error:
        return _complain(error, 2)
    except (AppError, CommandFailedError, EmbeddedPostgresError, ResilienceError) as error:
        return _complain(error, 1)
    except (KeyboardInterrupt, click.Abort):
        return 130


def _complain(error: Exception, code: int) -> int:
    text = str(error)
    if isinstance(error, InvalidFieldsError):
        text = "\n".join(f"{it.pointer.lstrip('/') or 'request'} {it.message}" for it in error.errors)
    elif isinstance(error, ResilienceError):
        text = f"the database failed: {type(error).__name__}"
    click.echo(f"postfacta: {text}", err=True)
    return code


def _now() -> datetime:
    return datetime.fromtimestamp(WALL(), UTC)


# How a command is declared


class _Help(click.Command):
    """A command whose help ends with its examples, as they are."""

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, " ".join(self.collect_usage_pieces(ctx)), "usage: ")

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(f"\n{self.epilog}\n")


class _Group(_Help, click.Group):
    command_class: type[click.Command] | None = _Help


_all = _Group("postfacta", epilog="")
_admin, _user, _token = (
    _Group(name, short_help=COMMANDS[name], epilog=EXAMPLES[name]) for name in ("admin", "user", "token")
)
for _group in (_admin, _user, _token):
    _all.add_command(_group)


def _command(
    name: str, summary: str = "", *, of: click.Group = _all
) -> Callable[[Callable[..., object]], click.Command]:
    summary = summary or COMMANDS[name]
    epilog = EXAMPLES[name if of is _all else str(of.name)]
    return of.command(name, help=f"{summary[0].upper()}{summary[1:]}.", short_help=summary, epilog=epilog)


def _address(function: F) -> F:
    host = click.option("--host", help="address to listen on (POSTFACTA_HOST, else 127.0.0.1)")
    port = click.option(
        "--port", type=int, help="port to listen on (POSTFACTA_PORT, else 8080); 0 for a free one"
    )
    return host(port(function))


_from_stdin = click.option("--password-stdin", is_flag=True, help="read the password from standard input")
_person = click.argument("person")


def _run(settings: Settings, work: Callable[[Database], Awaitable[T]], **others: Any) -> T:
    """Do it with a migrated database; `others` are those of `reach`."""

    async def run() -> T:
        async with reach(settings, **others) as database:
            if await revision(database) is None:
                raise CommandFailedError("the database is not migrated: run `postfacta migrate` first")
            return await work(database)

    return anyio.run(run)


def _transact(settings: Settings, work: Callable[[Unit], Awaitable[T]]) -> T:
    """Do it in one transaction of the operator."""

    async def run(database: Database) -> T:
        async with database.transaction() as connection:
            return await work(Unit(connection, _OPERATOR, None))

    return _run(settings, run)


def _says(function: Callable[Concatenate[Unit, P], Awaitable[Iterable[str]]]) -> Callable[P, None]:
    """Make a command of a function that works in one transaction; print its lines once it is committed."""

    @wraps(function)
    def run(*args: P.args, **given: P.kwargs) -> None:
        async def work(unit: Unit) -> Iterable[str]:
            return await function(unit, *args, **given)

        for line in _transact(load_settings(), work):
            click.echo(line)

    return run


def _line(*parts: object) -> str:
    return "\t".join(f"{it:%Y-%m-%d %H:%M}Z" if isinstance(it, datetime) else str(it) for it in parts)


# The service


@_command("serve")
@click.option("--dev", is_flag=True, help="development mode: ENVIRONMENT=local and debug logs")
@_address
def _serve(host: str | None, port: int | None, *, dev: bool) -> int:
    more = {"environment": "local", "log_level": "DEBUG"} if dev else {}
    read = partial(load_settings, None, host=host, port=port, **more)
    for file in exposed_secrets():
        click.echo(f"postfacta: warning: every user can read {file}; run chmod 600 {file}", err=True)
    return serve(read(), say=click.echo, read=read)


@_command("migrate")
def _migrate() -> None:
    settings = load_settings()
    dsn = settings.database_owner_dsn or settings.database_dsn
    upgrade(dsn.get_secret_value(), progress=click.echo)
    click.echo(f"the database is at revision {HEAD}")


@_command("demo")
@_address
def _demo(host: str | None, port: int | None) -> int:
    settings = load_settings(None, host=host, port=port)
    from . import demo  # noqa: PLC0415 - the other commands do not need it

    return demo.run(settings, say=click.echo)


@_command("verify")
@click.option("--metrics-file", type=Path, help="write metrics there, for node_exporter's textfile collector")
def _verify(metrics_file: Path | None) -> int:
    result = _run(load_settings(), verify)
    if metrics_file:
        write_metrics(result, metrics_file, now=WALL())
    for found in result["fault"]:
        click.echo(f"{found['incident']}, revision {found['rev']}: the timeline has changed", err=True)
    for found in result["other_rules"]:
        click.echo(
            f"{found['incident']}, revision {found['rev']}: written under rules {found['rules']}, not compared"
        )
    click.echo(f"{len(result['equal'])} revisions are equal, {len(result['fault'])} differ")
    return 1 if result["fault"] else 0


@_command("rebuild-timeline")
@click.argument("incidents", nargs=-1)
@click.option("--verify", is_flag=True, help="change nothing")
def _rebuild(incidents: Sequence[str], *, verify: bool) -> int:
    settings, numbers = load_settings(), [read_ref(it.upper()) for it in incidents]
    options = PoolOptions(max_size=2, statement_timeout=600.0, lock_timeout=30.0)
    named = [number for number in numbers if isinstance(number, int)]

    async def work(database: Database) -> Sequence[Compared]:
        return [it async for it in compare(database, named, repair=not verify)]

    found: Sequence[Compared] = ()
    if named or not numbers:
        found = _run(settings, work, dsn=settings.database_owner_dsn, options=options)
    for it in found:
        said = [f"{count} {fault}" for fault, count in it.faults.items()]
        if said := said if it.is_built else [*said, "not as the rules build it"]:
            click.echo(f"{it.ref}: {', '.join(said)}")
    if unknown := sorted({it.upper() for it in incidents} - {it.ref for it in found}):
        raise CommandFailedError(f"no incident {unknown[0]}: write INC-7, for example")
    differ = sum(bool(it.faults) for it in found)
    click.echo(f"{len(found)} timelines compared, {differ} {'differ' if verify else 'written again'}")
    return 1 if not all(it.is_built for it in found) or (verify and differ) else 0


@_command("routes")
def _routes() -> None:
    load_settings()  # They change no route, but no command takes wrong ones.
    for rule in declared():
        click.echo(
            f"{rule.method:6} {rule.path:66} {rule.access:9} {rule.route_class:6} {rule.summary}".rstrip()
        )


@_command("doctor")
@_address
def _doctor(host: str | None, port: int | None) -> int:
    settings = load_settings(None, host=host, port=port)
    from . import doctor  # noqa: PLC0415 - the other commands do not need it

    return doctor.run(settings, say=click.echo)


_secret_file = partial(click.option, type=click.File(), default=None)


@_command("smoke")
@click.option("--url", required=True, help="where users come in, or one instance")
@_secret_file("--token-file", "token", help="holds a token; - reads standard input")
@_secret_file("--metrics-token-file", "metrics_token", help="holds the token of /metrics")
@_secret_file(
    "--traffic-key-file", "traffic_key", help="holds the traffic key: no objective counts these requests"
)
@click.option("--expect-version", "version", default="", help="the version that must run")
@click.option(
    "--write/--read-only",
    "may_write",
    default=None,
    help="whether to record an exercise (not in a production)",
)
def _smoke(
    *, token: TextIO | None, metrics_token: TextIO | None, traffic_key: TextIO | None, **others: Any
) -> int:
    from .smoke import Smoke  # noqa: PLC0415 - the other commands do not need it

    own, metrics, key = (it.read().strip() if it else "" for it in (token, metrics_token, traffic_key))
    return anyio.run(Smoke(token=own, metrics_token=metrics, traffic_key=key, **others).run, click.echo)


# People


@_command("create", "create an administrator", of=_admin)
@click.option("--email", required=True, help="the address to sign in with")
@click.option("--name", required=True, help="display name")
@_from_stdin
@click.option("--sub", type=UUID, help="in auth mode supabase: the `User UID` of the account there")
def _create_admin(*, email: str, name: str, password_stdin: bool, sub: UUID | None) -> None:
    settings = load_settings()
    sent = {"email": email, "display_name": name, "role": Role.ADMIN}
    if (settings.auth_mode is AuthMode.SUPABASE) != (sub is not None):
        raise CommandFailedError(
            "--sub is required with POSTFACTA_AUTH_MODE=supabase, and only allowed there"
        )
    if sub is None:
        new = parse(model.NewUser, sent | {"password": _password(from_stdin=password_stdin)})
        hashed = anyio.run(Passwords().hash, new.password)
        who = _transact(settings, partial(postgres.add_user, new=new, password_hash=hashed)).email
    else:
        who = _transact(settings, partial(_adopt, settings=settings, sub=sub, sent=sent))
    click.echo(f"{who} is now an administrator and can sign in at /signin")


async def _adopt(unit: Unit, *, settings: Settings, sub: UUID, sent: Mapping[str, object]) -> str:
    new, name = parse(model.Newcomer, sent), postgres.external_name(settings.issuer, sub)
    if not await postgres.meet(unit, name, new) and (user := await postgres.external(unit, name)) is not None:
        await postgres.change_user(unit, user.id, model.UserChange(role=Role.ADMIN), now=_now())
    return new.email


def _password(*, from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise CommandFailedError("no terminal to read the password from: use --password-stdin")
    password: str = click.prompt("Password", hide_input=True, confirmation_prompt="Again", err=True)
    return password


async def _found(unit: Unit, person: str) -> model.Account:
    account = await postgres.person(unit, person)
    if account is None:
        raise CommandFailedError(f"no account {person}: see `postfacta user list`")
    return account


@_command("list", "list people", of=_user)
@_says
async def _list_users(unit: Unit) -> Iterable[str]:
    people = await postgres.users(unit, None, _MOST_LISTED)
    return [_line(it.id, it.email, it.role, "disabled" if it.disabled_at else "active") for it in people]


@_command("reset-password", "set a new password and end all sessions", of=_user)
@_person
@_from_stdin
def _reset_password(person: str, *, password_stdin: bool) -> None:
    settings = load_settings()
    given = _password(from_stdin=True) if password_stdin else new_password()

    async def work(unit: Unit) -> str:
        account = await _found(unit, person)
        if account.password_hash is None:
            raise CommandFailedError("this account's password is managed elsewhere")
        sent = parse(model.PasswordChange, {"current_password": "", "password": given})
        hashed = await Passwords().hash(sent.password)
        await postgres.reset_password(unit, account, hashed=hashed, now=_now())
        return account.email

    email = _transact(settings, work)
    if not password_stdin:
        click.echo(given)
    click.echo(f"The password of {email} was reset. All sessions have ended.", err=True)


@_command("sessions", "list a person's sessions", of=_user)
@_person
@_says
async def _list_sessions(unit: Unit, person: str) -> Iterable[str]:
    sessions = await postgres.sessions(unit, (await _found(unit, person)).id, this=b"", now=_now())
    return [
        _line(it.id, it.kind, it.created_at, it.last_used_at or "never", it.expires_at) for it in sessions
    ]


@_command("sign-out", "end a person's sessions, or one of them", of=_user)
@_person
@click.option("--session", type=UUID, help="the session's id (default: all sessions)")
@_says
async def _sign_out(unit: Unit, person: str, *, session: UUID | None) -> Iterable[str]:
    user = await _found(unit, person)
    ended = await postgres.revoke_sessions(unit, user, _now(), only=session)
    return [f"sessions ended: {ended}"]


@_command("add", "add a person; prints their password", of=_user)
@click.option("--email", required=True, help="the address to sign in with")
@click.option("--name", help="display name (default: the part of the address before the @)")
@click.option("--role", type=_ROLES, default=Role.VIEWER.value, help="their role (viewer)")
@_from_stdin
def _add_user(*, email: str, name: str | None, role: str, password_stdin: bool) -> None:
    settings = load_settings()
    if settings.auth_mode is AuthMode.SUPABASE:
        raise CommandFailedError(
            "add people in the Supabase project; they appear here when they first sign in"
        )
    given = _password(from_stdin=True) if password_stdin else new_password()
    new = parse(model.NewUser, {"email": email, "display_name": name, "role": role, "password": given})
    hashed = anyio.run(Passwords().hash, new.password)
    added = _transact(settings, partial(postgres.add_user, new=new, password_hash=hashed)).email
    if not password_stdin:
        click.echo(given)
    click.echo(f"{added} can sign in at /signin.", err=True)


async def _change(unit: Unit, person: str, **wish: object) -> Iterable[str]:
    change = model.UserChange.model_validate(wish)
    changed = await postgres.change_user(unit, (await _found(unit, person)).id, change, now=_now())
    return [f"{changed.email} is {'disabled' if changed.disabled_at else f'enabled, as {changed.role}'}"]


@_command("role", "change a person's role", of=_user)
@_person
@click.argument("role", type=_ROLES)
@_says
async def _set_role(unit: Unit, person: str, *, role: str) -> Iterable[str]:
    return await _change(unit, person, role=role)


@_command("disable", "disable an account and end all sessions", of=_user)
@_person
@_says
async def _disable(unit: Unit, person: str) -> Iterable[str]:
    return await _change(unit, person, disabled=True)


@_command("enable", "enable a disabled account", of=_user)
@_person
@_says
async def _enable(unit: Unit, person: str) -> Iterable[str]:
    return await _change(unit, person, disabled=False)


# Tokens


@_command("create", "create an API token for a machine", of=_token)
@click.option("--name", required=True, help="a name for it")
@click.option(
    "--scope",
    "scopes",
    required=True,
    multiple=True,
    type=click.Choice([scope.value for scope in model.Scope]),
    help="may be repeated",
)
@click.option("--source", help="the source of its signals (required for signals:write)")
@click.option("--days", type=click.IntRange(1, 3650), default=365, help="days until it expires (365)")
def _create_token(*, name: str, scopes: Sequence[str], source: str | None, days: int) -> None:
    settings, now = load_settings(), _now()
    new = parse(model.NewToken, {"name": name, "scopes": scopes, "source": source})
    minted = mint(model.Kind.API, _OPERATOR, now, expires_at=now + timedelta(days=days))
    _transact(settings, partial(postgres.add_token, new=new, minted=minted))
    click.echo(minted.secret)
    click.echo(f"Store it now: it is not shown again. It expires in {days} days.", err=True)


@_command("list", "list API tokens", of=_token)
@_says
async def _list_tokens(unit: Unit) -> Iterable[str]:
    return [
        _line(it.id, it.name, ",".join(it.scopes), it.last_used_at or "never", it.expires_at)
        for it in await postgres.tokens(unit, None, _MOST_LISTED)
        if it.revoked_at is None
    ]


@_command("revoke", "revoke an API token", of=_token)
@click.argument("token", metavar="ID", type=UUID)
@_says
async def _revoke_token(unit: Unit, token: UUID) -> Iterable[str]:
    if not await postgres.revoke_token(unit, token, _now()):
        raise CommandFailedError("no such token, or it is already revoked")
    return ["the token is revoked"]
