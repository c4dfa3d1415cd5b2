"""What is done to the stage: each fault is caused on entering its block, and mended on leaving it.

All of it is done from outside, with signals, the network, SQL and load. Nothing in the service
knows of it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx2

from chaos.gameday.site import Site
from chaos.outages import OUTAGES

__all__ = ["FAULTS", "CannotBeCausedError", "Fault"]

Fault = Callable[[Site], AbstractContextManager[None]]

_ROOT = Path(__file__).parent.parent.parent
_LINK = "database"  # the fault proxy's name for the way to the database
_FROZEN = 0.4
_RUNNING = 0.4
_BETWEEN_CRASHES = 3.0
_GUESSES_A_SECOND = 20.0


class CannotBeCausedError(Exception):
    """This machine, or the service, has no way to cause the fault.

    The text says what is missing.
    """


@contextmanager
def _again_and_again(deed: Callable[[threading.Event], object]) -> Generator[None]:
    """Do something in a thread until the block is left; an event ends it.

    Raises:
        RuntimeError: At the end, if it could not be done once: then there was no fault.
    """
    stop = threading.Event()
    wrong: list[Exception] = []

    def run() -> None:
        try:
            while not stop.is_set():
                deed(stop)
        except Exception as error:  # noqa: BLE001 - it is raised in the other thread
            wrong.append(error)

    thread = threading.Thread(target=run, name="fault", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(90.0)
    if wrong:
        raise RuntimeError(f"the fault ended by itself: {wrong[0]}") from wrong[0]


def _outage(name: str) -> Fault:
    """Take a fault of the database from `chaos.outages`."""
    (outage,) = (one for one in OUTAGES if one.name == name)

    @contextmanager
    def fault(site: Site) -> Generator[None]:
        outage.cause(site.database)
        try:
            yield
        finally:
            outage.mend(site.database)

    return fault


def _killed(*parts: str) -> Fault:
    """Kill parts of the stage, and start them again at the end."""

    @contextmanager
    def fault(site: Site) -> Generator[None]:
        chosen = [site.stack.parts[name] for name in parts]
        for part in chosen:
            part.kill()
        try:
            yield
        finally:
            for part in chosen:
                part.start()

    return fault


def _slow_database(milliseconds: int) -> Fault:
    """Make each answer of the database take longer."""

    @contextmanager
    def fault(site: Site) -> Generator[None]:
        site.database.link.add(_LINK, "latency", latency=milliseconds)
        try:
            yield
        finally:
            site.database.link.reset()

    return fault


def _altered(table: str, there: str, back: str) -> Fault:
    """Change a table so that the code's statements fail, as a migration that came too early does."""

    def fault(site: Site) -> AbstractContextManager[None]:
        return _changed(site, f"alter table {table} rename {there}", back)

    return fault


@contextmanager
def _rare_crash(site: Site) -> Generator[None]:
    """Break one page that is rarely requested."""
    headers = {"Authorization": f"Bearer {site.stack.token}"}

    def ask(stop: threading.Event) -> None:
        with contextlib.suppress(httpx2.TransportError):
            httpx2.get(f"{site.stack.url}/api/v1/users", headers=headers, timeout=5.0)
        stop.wait(4.0)

    # A column that is missing is a schema that does not match, answered with 503; text for a number
    # crashes the page.
    do = "do $$ begin {}; {}; end $$"
    broken = _changed(
        site,
        do.format(
            "alter table users rename column version to version_gone",
            "alter table users add column version text not null default 'x'",
        ),
        do.format(
            "alter table users drop column version",
            "alter table users rename column version_gone to version",
        ),
    )
    with broken, _again_and_again(ask):
        yield


def _crowd(path: str, *, connections: int, pause: float = 0.0, signed_in: bool = False) -> Fault:
    """Send more requests than are served."""

    @contextmanager
    def fault(site: Site) -> Generator[None]:
        token = site.token("incidents:read") if signed_in else ""
        command = (sys.executable, "-m", "chaos.gameday.crowd", site.stack.url + path)
        with subprocess.Popen(  # noqa: S603 - our own program
            [*command, "--connections", str(connections), "--pause", f"{pause:g}"],
            cwd=_ROOT,
            env={**os.environ, "CROWD_TOKEN": token},
            stderr=subprocess.DEVNULL,
        ) as crowd:
            try:
                yield
            finally:
                crowd.kill()

    return fault


@contextmanager
def _crash_loop(site: Site) -> Generator[None]:
    """Kill an instance each time shortly after it has started."""
    victim = site.stack.instances[0]

    def crash(stop: threading.Event) -> None:
        victim.kill()
        victim.start()
        victim.wait_ready()
        stop.wait(_BETWEEN_CRASHES)  # it must be seen in each of its lives

    with _again_and_again(crash):
        yield
    victim.start()


@contextmanager
def _blocked_loop(site: Site) -> Generator[None]:
    """Stop an instance for moments, again and again: its event loop gets no turn then."""
    pid = site.stack.instances[0].pid

    def block(stop: threading.Event) -> None:
        os.kill(pid, signal.SIGSTOP)
        stop.wait(_FROZEN)
        os.kill(pid, signal.SIGCONT)
        stop.wait(_RUNNING)

    with _again_and_again(block):
        yield


@contextmanager
def _guessed_passwords(site: Site) -> Generator[None]:
    """Try passwords of an account that there is none of."""

    def guess(stop: threading.Event) -> None:
        body = {"email": "nobody@tests.example", "password": "a guess of many"}
        try:
            httpx2.post(f"{site.stack.url}/login", json=body, timeout=10.0)
        except httpx2.TransportError:
            stop.wait(1.0)
        stop.wait(1.0 / _GUESSES_A_SECOND)

    with _again_and_again(guess):
        yield


@contextmanager
def _changed(site: Site, do: str, undo: str) -> Generator[None]:
    """Run a statement on the database, and another one to take it back."""
    site.database.ask(do)
    try:
        yield
    finally:
        site.database.ask(undo)


def _old_secret(site: Site) -> AbstractContextManager[None]:
    older = "update tokens set created_at = created_at {} interval '400 days' where kind = 'api'"
    return _changed(site, older.format("-"), older.format("+"))


def _old_schema(site: Site) -> AbstractContextManager[None]:
    revision = str(site.database.ask("select version_num from alembic_version"))
    change = "update alembic_version set version_num = '{}'"  # no text of others' goes in here
    return _changed(site, change.format("0000"), change.format(revision))


@contextmanager
def _unsafe_commits(site: Site) -> Generator[None]:
    """Make the database acknowledge what is not on disk yet, to every session that begins from now on."""
    setting = "alter role all {} synchronous_commit"
    end_sessions = (
        "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name like"
        " 'postfacta%'"
    )
    for statement in (f"{setting.format('set')} = off", end_sessions):
        site.database.ask(statement)
    try:
        yield
    finally:
        for statement in (setting.format("reset"), end_sessions):
            site.database.ask(statement)


@contextmanager
def _hanging_writes(site: Site) -> Generator[None]:
    """Make one write of seven hang in the database for longer than its request may take.

    The others are as quick as ever.
    """
    hang = "begin if random() < 0.15 then perform pg_sleep(8); end if; return new; end"
    site.database.ask(f"create function hang() returns trigger language plpgsql as '{hang}'")
    site.database.ask(
        "create trigger hang before insert on audit_log for each row execute function hang()"
    )
    try:
        yield
    finally:
        site.database.ask("drop function hang() cascade")


@contextmanager
def _wrong_target(site: Site) -> Generator[None]:
    """Make Prometheus scrape something else in place of the service, as a slip in its configuration does."""
    prometheus = site.prometheus
    right = site.prometheus.targets["postfacta"]
    prometheus.targets["postfacta"] = prometheus.targets["postfacta-journey"]
    prometheus.reload()
    try:
        yield
    finally:
        prometheus.targets["postfacta"] = right
        prometheus.reload()


@contextmanager
def _broken_configuration(site: Site) -> Generator[None]:
    """Give Prometheus a configuration that it cannot read."""
    prometheus = site.prometheus
    prometheus.config.write_text("scrape_configs: [{job_name: ]\n")
    os.kill(prometheus.pid, signal.SIGHUP)
    try:
        yield
    finally:
        prometheus.reload()


FAULTS: Mapping[str, Fault] = {
    "database_killed": _outage("kill"),
    "database_frozen": _outage("frozen"),
    "database_locked": _outage("lock"),
    "hanging_writes": _hanging_writes,
    "latency_burst": _slow_database(100),
    "disk_full": _outage("disk-full"),
    "table_gone": _altered(
        "incidents", "to incidents_gone", "alter table incidents_gone rename to incidents"
    ),
    "rare_crash": _rare_crash,
    "overload": _crowd("/openapi.json", connections=300),
    "flood": _crowd("/api/v1/incidents?limit=1", connections=10, pause=0.05, signed_in=True),
    "guessed_passwords": _guessed_passwords,
    "old_secret": _old_secret,
    "old_schema": _old_schema,
    "unsafe_commits": _unsafe_commits,
    "rate_store_killed": _killed("valkey"),
    "instance_killed": _killed("instance1"),
    "all_instances_killed": _killed("instance1", "instance2"),
    "proxy_killed": _killed("haproxy"),
    "crash_loop": _crash_loop,
    "loop_blocked": _blocked_loop,
    "wrong_target": _wrong_target,
    "broken_configuration": _broken_configuration,
}
"""All of them, by the names that the table uses."""
