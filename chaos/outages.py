"""What can happen to a database, one thing at a time: how it is caused, and how it is mended.

Each outage works on a `Site`: a service, its PostgreSQL, a fault proxy between the two, and for the
failover a standby.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import asyncpg
from anyio.from_thread import BlockingPortal, start_blocking_portal

from chaos.failover import FailoverStack
from chaos.stack import Stack
from postfacta_lab.proxy import Toxiproxy, fault_proxy

__all__ = ["OUTAGES", "Outage", "ProxiedStack", "Site", "opened", "small_disk"]

_LINK = "database"
_TMPFS_MIB = 220
_SESSIONS = "select pid from pg_stat_activity where application_name like 'postfacta%'"
_OUR_SESSIONS = f"select count(*) from ({_SESSIONS}) as ours"  # noqa: S608 - constants
_END_OUR_SESSIONS = f"select count(pg_terminate_backend(pid)) from ({_SESSIONS}) as ours"  # noqa: S608 - constants


class ProxiedStack(Stack):
    """A stack whose instances reach the database through a fault proxy."""

    proxy_api: Toxiproxy

    def dsn(self) -> str:
        return self._through

    def _start_around(self) -> None:
        parts = urlsplit(self.postgres.server.dsn())
        user, _, server = parts.netloc.rpartition("@")
        self.proxy_api = self._closing.enter_context(fault_proxy())
        listen = self.proxy_api.create(_LINK, server)
        self._through = f"postgresql://{user}@{listen}{parts.path}"


class _CrowdedStack(Stack):
    """A stack whose database takes few connections."""

    settings: ClassVar[Mapping[str, str]] = {
        "max_connections": "25",
        "superuser_reserved_connections": "0",
    }


@dataclass(slots=True)
class Site:
    """What an outage works on.

    Attributes:
        stack: The service, its database, and what stands around it.
        folder: Where the data are.
        portal: Runs what is asynchronous.
    """

    stack: Stack
    folder: Path
    portal: BlockingPortal
    _held: list[asyncpg.Connection[Any]] = field(default_factory=list["asyncpg.Connection[Any]"])

    @property
    def link(self) -> Toxiproxy:
        """The fault proxy's API."""
        if not isinstance(self.stack, ProxiedStack):
            raise TypeError("this site has no fault proxy")
        return self.stack.proxy_api

    def ask(self, sql: str) -> Any:
        """Ask the database itself, past the service and the proxy, as its superuser."""
        return self.portal.call(self._ask, sql)

    async def _ask(self, sql: str) -> Any:
        connection = await asyncpg.connect(self.stack.postgres.server.dsn(), timeout=5)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    def ask_held(self, sql: str) -> Any:
        """Ask on a connection that is held, when there may be no other."""
        return self.portal.call(self._held[0].fetchval, sql)

    def hold(self, *, count: int, sql: str = "") -> int:
        """Open connections of another client and keep them, each in a transaction with this statement if any."""
        return self.portal.call(self._hold, count, sql)

    async def _hold(self, count: int, sql: str) -> int:
        for _ in range(count):
            try:
                connection = await asyncpg.connect(self.stack.postgres.server.dsn(), timeout=5)
            except asyncpg.TooManyConnectionsError:
                break
            self._held.append(connection)
            if sql:
                await connection.execute("begin")
                await connection.execute(sql)
        return len(self._held)

    def let_go(self) -> None:
        """Close what is held."""
        self.portal.call(self._let_go)

    async def _let_go(self) -> None:
        while self._held:
            connection = self._held.pop()
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await connection.close(timeout=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """One thing that happens to a database.

    Attributes:
        name: In tables and on the command line.
        what: In words.
        cause: Causes it. For `at_boot` it is caused before the service starts.
        mend: Ends it; when it returns, the database would serve.
        kind: The stack that it needs.
        reads: Statuses that a read may get meanwhile; 200 may be a stale answer, or a true one
            where reads go on.
        writes: Statuses that a write may get meanwhile.
        falls: Whether readiness must fall, if the outage lasts long enough for three checks.
        at_boot: The service starts into it.
        needs_root: For a file system of its own.
    """

    name: str
    what: str
    cause: Callable[[Site], object]
    mend: Callable[[Site], object]
    kind: type[Stack] = Stack
    reads: frozenset[int] = frozenset({200, 503, 504})
    writes: frozenset[int] = frozenset({201, 503, 504})
    falls: bool = True
    at_boot: bool = False
    needs_root: bool = False
    settings: Mapping[str, str] = field(default_factory=dict[str, str])


def _cut(site: Site) -> None:
    for stream in ("upstream", "downstream"):
        site.link.add(_LINK, "timeout", stream=stream, timeout=0)


def _reset(site: Site) -> None:
    site.link.add(_LINK, "reset_peer", stream="downstream", timeout=0)
    site.link.add(_LINK, "reset_peer", stream="upstream", timeout=0)


def _crowd(site: Site) -> None:
    # Others take what is free, and then, again and again, what the service loses.
    for _ in range(50):
        site.hold(count=100)
        if not site.ask_held(_OUR_SESSIONS):
            return
        site.ask_held(_END_OUR_SESSIONS)
    raise RuntimeError("the others did not get all the connections")


def _lock(site: Site) -> None:
    site.hold(count=1, sql="lock table incidents in access exclusive mode")


def _fill(site: Site) -> None:
    free = shutil.disk_usage(site.folder).free
    filler = site.folder / "filler"
    with filler.open("wb") as file, contextlib.suppress(OSError):
        block = bytes(1 << 20)
        for _ in range(free // len(block) + 2):
            file.write(block)
            file.flush()
        for _ in range(4096):
            file.write(bytes(4096))
            file.flush()


def _free(site: Site) -> None:
    (site.folder / "filler").unlink()
    # Out of space for its log, PostgreSQL ends itself; an operator then restarts it.
    if not site.stack.postgres.is_running:
        site.stack.postgres.kill()
        site.stack.postgres.start()


def _fail_over(site: Site) -> None:
    if not isinstance(site.stack, FailoverStack):
        raise TypeError("this site has no standby")
    site.stack.fail_over()


OUTAGES = (
    Outage(
        name="away-at-boot",
        what="away when the service starts",
        cause=lambda site: site.stack.postgres.stop(),
        mend=lambda site: site.stack.postgres.start(),
        at_boot=True,
    ),
    Outage(
        name="stop",
        what="fast stop, then start",
        cause=lambda site: site.stack.postgres.stop(),
        mend=lambda site: site.stack.postgres.start(),
    ),
    Outage(
        name="kill",
        what="kill -9 of all processes, then start with recovery",
        cause=lambda site: site.stack.postgres.kill(),
        mend=lambda site: site.stack.postgres.start(),
    ),
    Outage(
        name="frozen",
        what="SIGSTOP of all processes",
        cause=lambda site: site.stack.postgres.freeze(),
        mend=lambda site: site.stack.postgres.thaw(),
    ),
    Outage(
        name="black-hole",
        what="the network swallows everything (toxic `timeout` 0)",
        cause=_cut,
        mend=lambda site: site.link.reset(),
        kind=ProxiedStack,
    ),
    Outage(
        name="reset",
        what="the network resets every connection (toxic `reset_peer`)",
        cause=_reset,
        mend=lambda site: site.link.reset(),
        kind=ProxiedStack,
    ),
    Outage(
        name="crowded",
        what="others take all connections (53300)",
        cause=_crowd,
        mend=lambda site: site.let_go(),
        kind=_CrowdedStack,
    ),
    Outage(
        name="lock",
        what="another session holds an exclusive lock on the incidents",
        cause=_lock,
        mend=lambda site: site.let_go(),
        falls=False,
    ),
    Outage(
        name="disk-full",
        what=f"no space left (tmpfs of {_TMPFS_MIB} MiB)",
        cause=_fill,
        mend=_free,
        falls=False,
        needs_root=True,
    ),
    Outage(
        name="failover",
        what="kill -9 of the primary, then promotion of a streaming standby",
        cause=lambda site: site.stack.postgres.kill(),
        mend=_fail_over,
        kind=FailoverStack,
    ),
)
"""All of them, in the order of the issue they come from."""


@contextmanager
def opened(outage: Outage, folder: Path, template: Path) -> Generator[Site]:
    """Build the site of an outage, and take it down at the end of the block."""
    with ExitStack() as closing:
        if outage.needs_root:
            closing.enter_context(small_disk(folder))
        stack = closing.enter_context(
            outage.kind(
                folder / "site", template, instances=1, environment={"POSTFACTA_DRAIN_DELAY": "0"}
            )
        )
        portal = closing.enter_context(start_blocking_portal())
        site = Site(stack, folder / "site", portal)
        closing.callback(site.let_go)
        yield site


@contextmanager
def small_disk(folder: Path) -> Generator[None]:
    if os.geteuid() != 0:
        raise PermissionError("only root can mount a small disk")
    folder.mkdir(parents=True, exist_ok=True)
    size = f"size={_TMPFS_MIB}m,mode=755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], check=True)  # noqa: S603, S607 - found on PATH
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=False)  # noqa: S603, S607 - found on PATH
