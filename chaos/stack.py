"""Puts a whole service together on this machine.

PostgreSQL, instances, a proxy, an administrator.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar
from uuid import uuid4

import httpx2

from chaos.processes import Haproxy, Instance, Postgres, command
from chaos.together import Together
from postfacta_embedded import EmbeddedPostgres
from postfacta_lab.chaos.control import Part

__all__ = ["EMAIL", "Stack", "prepare", "sign_in", "write_post_mortem"]

EMAIL = "chaos@tests.example"
_SECRET = "admin.password"  # noqa: S105 - a file's name


def prepare(folder: Path) -> Path:
    """Make the files of a database with tables and an administrator.

    A stack starts from a copy in no time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # PostgreSQL may run as another user
    password = secrets.token_urlsafe(16)
    (folder / _SECRET).write_text(password)
    (folder / _SECRET).chmod(0o600)
    with EmbeddedPostgres(folder / "data") as server:
        command("migrate", dsn=server.dsn())
        who = ("--email", EMAIL, "--name", "Chaos", "--password-stdin")
        command("user", "add", "--role", "admin", *who, dsn=server.dsn(), given=password + "\n")
    return folder


def sign_in(url: str, password: str, *, email: str = EMAIL) -> str:
    """Get a bearer token."""
    answer = httpx2.post(f"{url}/login", json={"email": email, "password": password}, timeout=30.0)
    return str(answer.raise_for_status().json()["token"])


def write_post_mortem(url: str, token: str) -> str:
    """Record an incident whose timeline a post-mortem saw, for `postfacta verify`.

    Return the incident's path.
    """
    body = {
        "title": "Before",
        "description": "It is read all the while",
        "severity": "LOW",
        "kind": "exercise",
    }
    headers = {"Authorization": f"Bearer {token}"}
    with httpx2.Client(base_url=url, headers=headers, timeout=30.0) as client:
        key = {"Idempotency-Key": f'"{uuid4()}"'}
        made = client.post("/api/v1/incidents", json=body, headers=key).raise_for_status()
        incident = str(made.headers["Location"])
        told = {"content": {"summary": "Written before the outage"}}
        client.put(
            f"{incident}/postmortem", json=told, headers={"If-None-Match": "*"}
        ).raise_for_status()
    return incident


class Stack(Together):
    """A running service, with a handle on each of its processes.

    Args:
        folder: Where data, logs and configuration are written; must be open to all users.
        template: What ``prepare`` made.
        instances: How many there are.
        proxy: Whether a proxy stands in front of them.
        retries: As for ``Haproxy``.
        environment: More settings of the instances.
        database: More settings of PostgreSQL.
    """

    settings: ClassVar[Mapping[str, str]] = {}
    """What this kind of stack sets in PostgreSQL."""

    def __init__(
        self,
        folder: Path,
        template: Path,
        *,
        instances: int = 2,
        proxy: bool = False,
        retries: int = 1,
        environment: Mapping[str, str] | None = None,
        database: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self._template = template
        self._count = instances
        self._has_proxy = proxy
        self._retries = retries
        self._environment = environment
        self._database = {**self.settings, **(database or {})}
        super().__init__()
        self.instances: list[Instance] = []
        self.proxy: Haproxy | None = None
        self.token = ""

    @property
    def urls(self) -> Sequence[str]:
        """Where the instances listen."""
        return [instance.url for instance in self.instances]

    @property
    def url(self) -> str:
        """Where users come in."""
        return self.proxy.url if self.proxy is not None else self.instances[0].url

    @property
    def parts(self) -> dict[str, Part]:
        """Every part, by its name."""
        parts: dict[str, Part] = {"postgres": self.postgres}
        parts |= {instance.name: instance for instance in self.instances}
        return parts | ({"haproxy": self.proxy} if self.proxy is not None else {})

    def dsn(self) -> str:
        """Return the address of the database."""
        return self.postgres.server.dsn()

    def restore(self) -> None:
        """Thaw what is frozen, start what is down, and wait until every instance is ready."""
        for part in self.parts.values():
            part.thaw()
            part.start()
        self.wait_ready()

    def wait_ready(self, within: float = 60.0) -> None:
        """Wait until every instance takes traffic, and the proxy sends some."""
        for instance in self.instances:
            instance.wait_ready(within)
        if self.proxy is not None:
            self.proxy.wait_ready(within)

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        shutil.copytree(self._template / "data", self.folder / "data")
        shutil.copy(self._template / "data.password", self.folder / "data.password")
        server = EmbeddedPostgres(self.folder / "data", settings=self._database)
        self.postgres = Postgres(self._closing.enter_context(server))
        self._closing.callback(self._thaw)
        self._start_around()
        for number in range(1, self._count + 1):
            log = self.folder / f"instance{number}.log"
            instance = Instance(
                f"instance{number}", self.dsn(), log=log, environment=self._environment
            )
            self._closing.callback(instance.kill)
            self.instances.append(instance)
            instance.start()
        if self._has_proxy:
            ports = [instance.port for instance in self.instances]
            self.proxy = Haproxy(self.folder, ports, retries=self._retries)
            self._closing.enter_context(self.proxy)
        self.wait_ready()
        self.token = sign_in(self.url, (self._template / _SECRET).read_text())

    def _thaw(self) -> None:
        self.postgres.thaw()  # whichever server that is by then

    def _start_around(self) -> None:
        """Start what else the database needs; for a stack with more than one server."""
