"""Check whether the service can run here, and suggest fixes."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from platform import python_version

import anyio

from postfacta_adapters.uvicorn import BoundedHttp
from postfacta_core.asgi.stack import IS_SLOW, SLOW_COOKIES_WARNING
from postfacta_core.clock import WALL
from postfacta_core.errors import ResilienceError
from postfacta_postgres import Database

from .db import reach
from .errors import CommandFailedError
from .flags import Flags
from .migrations import HEAD, revision, role_rights
from .server import BACKLOG, graceful_timeout, listen
from .settings import AuthMode, Settings, exposed_secrets

_SKEW = (1.0, 30.0)  # Above the first, timestamps look odd; above the second, they are wrong.
_OTHER_FILES = 100  # Libraries, logs, the event loop.
_SERVER = """
select current_setting('max_connections')::int
         - current_setting('superuser_reserved_connections')::int
         - coalesce(current_setting('reserved_connections', true), '0')::int,
       extract(epoch from clock_timestamp())::float8"""
_MANY = 3  # The most missing rights to name.


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found; the verdict is ok, warn, fail or skip."""

    about: str
    verdict: str
    text: str
    advice: str = ""


def run(settings: Settings, *, say: Callable[[str], None]) -> int:
    """Run all checks and print a line for each; return 1 if any fails."""
    local_findings = [*_look_at_settings(settings), *_look_at_process(settings)]
    return report([*local_findings, *anyio.run(_look_at_database, settings)], say)


def report(findings: Iterable[Finding], say: Callable[[str], None]) -> int:
    code = 0
    for finding in findings:
        say(f"{finding.verdict:<5} {finding.about:<11} {finding.text}")
        if finding.advice:
            say(f"{'':<17} -> {finding.advice}")
        code |= finding.verdict == "fail"
    return code


def _look_at_settings(settings: Settings) -> Iterator[Finding]:
    yield Finding(
        "settings", "ok", f"environment {settings.environment}, sign-in {settings.auth_mode}"
    )
    for file in exposed_secrets():
        yield Finding(
            "secrets", "warn", f"every user of this machine can read {file}", f"chmod 600 {file}"
        )
    if settings.flags:
        yield _look_at_flags(settings.flags)
    if settings.auth_mode is AuthMode.NONE:
        yield Finding("sign-in", "warn", "anyone on this machine can write", "AUTH_MODE=local")
    if settings.is_local and not settings.is_loopback:
        advice = "set ENVIRONMENT, for example to production"
        yield Finding("cookies", "warn", "sent without TLS while ENVIRONMENT is local", advice)
    if settings.metrics_token is None and not (settings.is_local and settings.is_loopback):
        readers = "anyone" if settings.is_local else "no one"
        text = f"{readers} can read /metrics"
        yield Finding("metrics", "warn", text, "set POSTFACTA_METRICS_TOKEN")
    if settings.rate("address") and not settings.trusted_proxies:
        advice = (
            "behind a proxy all clients share one limit: list the proxy in"
            " POSTFACTA_TRUSTED_PROXIES"
        )
        verdict = "warn" if settings.is_loopback else "ok"
        yield Finding("rates", verdict, "limits count by the address that connects", advice)


def _look_at_flags(file: Path) -> Finding:
    try:
        states = Flags(file).read()
    except ValueError as error:
        return Finding(
            "flags", "fail", str(error), "correct the file; until then the former flags hold"
        )
    off = [
        f"{name} ({state.reason or 'no reason'})" for name, state in states.items() if not state.on
    ]
    if off:
        text = f"off: {', '.join(off)}"
        return Finding("flags", "warn", text, "turn each on again when it can be")
    return Finding("flags", "ok", f"all on: {', '.join(states)}")


def _look_at_process(settings: Settings) -> Iterator[Finding]:
    slow = Finding("python", "warn", SLOW_COOKIES_WARNING, "update Python")
    yield slow if IS_SLOW else Finding("python", "ok", python_version())
    try:
        listen(settings.host, settings.port).close()
        yield Finding("port", "ok", f"{settings.port} of {settings.host} is free")
    except CommandFailedError as error:
        yield Finding("port", "warn", str(error), "ignore this if PostFacta itself listens there")
    # The hard limit: `postfacta serve` raises its soft limit itself.
    _, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = BACKLOG + settings.pool_max_size + _OTHER_FILES
    if allowed == resource.RLIM_INFINITY or allowed >= needed:
        yield Finding("files", "ok", f"room for {BACKLOG} connections")
    else:
        advice = f"ulimit -n {4 * BACKLOG}, or LimitNOFILE={4 * BACKLOG} in the systemd unit"
        text = f"the limit is {allowed}; {BACKLOG} connections need {needed}"
        yield Finding("files", "warn", text, advice)
    yield Finding(
        "headers", "ok", f"`postfacta serve` waits {BoundedHttp.patience:g} s for them, then closes"
    )
    longest = round(settings.delay + graceful_timeout(settings))
    advice = "set a longer stop timeout in systemd or Kubernetes"
    yield Finding("stop", "ok", f"within {longest} s of SIGTERM", advice)


async def _look_at_database(settings: Settings) -> list[Finding]:
    try:
        async with reach(settings.database_dsn) as database:
            return [
                Finding("database", "ok", "reachable"),
                *await _look_at_schema(database, is_local=settings.is_local),
                *await _look_at_server(database, settings.pool_max_size + 1),
            ]
    except (CommandFailedError, ResilienceError) as error:
        return [Finding("database", "fail", str(error), "dependent checks were skipped")]


async def _look_at_schema(database: Database, *, is_local: bool) -> list[Finding]:
    role, lacking, can_change = await role_rights(database)
    if lacking:
        more = f" and {len(lacking) - _MANY} more" if len(lacking) > _MANY else ""
        text = f"role {role} lacks {', '.join(lacking[:_MANY])}{more}"
        advice = f"as the tables' owner: `postfacta migrate`, then `grant postfacta_app to {role}`"
        return [Finding("rights", "fail", text, advice)]
    current = await revision(database)
    if current is None or current < HEAD:
        text = (
            f"the tables are at revision {current}"
            if current
            else "no migration has come to its end"
        )
        advice = "run `postfacta migrate` with the owner's address in POSTFACTA_DATABASE_OWNER_DSN"
        return [Finding("schema", "fail", f"{text}; revision {HEAD} is needed", advice)]
    schema = Finding("schema", "ok", f"revision {current}")
    if not can_change:
        return [schema, Finding("rights", "ok", f"role {role} can add facts, but not change them")]
    text = f"role {role} can change or delete recorded facts"
    advice = "use a role in POSTFACTA_DATABASE_DSN that is only a member of postfacta_app"
    return [schema, Finding("rights", "warn" if is_local else "fail", text, advice)]


async def _look_at_server(database: Database, connections: int) -> list[Finding]:
    if problems := await database.durability_problems():
        advice = "enable them in postgresql.conf; the service is not ready until then"
        durable = Finding("durability", "fail", ", ".join(problems), advice)
    else:
        durable = Finding("durability", "ok", "acknowledged writes survive a crash")
    ((allowed, now),) = await database.fetch(_SERVER, operation="server", repeatable=True)
    return [durable, _judge_connections(connections, allowed), _judge_clock(abs(now - WALL()))]


def _judge_connections(connections: int, allowed: int) -> Finding:
    """Judge the connections of a process: its pool's, and the one that listens for changes."""
    text = f"up to {connections} per process; PostgreSQL allows {allowed}"
    advice = "lower POSTFACTA_POOL_MAX_SIZE or raise max_connections"
    if connections > allowed:
        verdict = "fail"
    elif connections * 2 > allowed:
        verdict = "warn"
    else:
        return Finding("connections", "ok", text)
    return Finding("connections", verdict, text, f"{advice}: two processes run during a restart")


def _judge_clock(skew: float) -> Finding:
    odd, wrong = _SKEW
    text = f"{skew:.1f} s difference from the database"
    if skew < odd:
        return Finding("clock", "ok", text)
    verdict = "warn" if skew < wrong else "fail"
    return Finding("clock", verdict, text, "synchronize both machines with NTP")
