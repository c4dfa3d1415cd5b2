"""Replace every secret that the service reads again, under load, as Kubernetes replaces a mounted secret.

    python -m chaos.rotation [--markdown FILE]

For each: the seconds until the new one is accepted, whether the former one is accepted until the
overlap ends, and whether it is refused after it. The process is never restarted, and no request may
fail. Exit codes: 0 all held, 1 something did not.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import anyio
import asyncpg
import httpx2
import jwt

from chaos.neighbours import Project, Store
from chaos.processes import command
from chaos.together import drill_folder, drill_parser, publish
from postfacta_embedded import EmbeddedPostgres
from postfacta_lab.engine.page import machine
from postfacta_lab.engine.processes import Child, free_port, wait_until

__all__ = ["Load", "Row", "drill", "main", "replace_folder"]

_PATIENCE = 60.0
_CALLERS = 4
_LINES = ("metrics_token", "traffic_key", "jwt_secret")  # two lines are two valid secrets
_NAMES = ("password", *_LINES, "rate_store", "db_key")
_SUBJECT = str(uuid4())


@dataclass(frozen=True, slots=True)
class Row:
    """What was seen of one secret; `overlaps` is None if no overlap is promised."""

    secret: str
    seconds: float
    overlaps: bool | None
    refused: bool

    @property
    def is_held(self) -> bool:
        """Whether it did what was promised."""
        return self.overlaps is not False and self.refused


def replace_folder(folder: Path, files: Mapping[str, str]) -> None:
    """Replace all files of a folder at once, as Kubernetes does.

    Each is a link into `..data`, which is a link itself.
    """
    former = (folder / "..data").resolve()
    version = folder / f"..{time.monotonic_ns()}"
    version.mkdir()
    for name, text in files.items():
        (version / name).touch(mode=0o400)
        (version / name).chmod(0o600)
        (version / name).write_text(text)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data") / name)
    (folder / "..new").symlink_to(version.name)
    (folder / "..new").replace(folder / "..data")
    if former.name != "..data" and former.exists():
        for file in former.iterdir():
            file.unlink()
        former.rmdir()


class Load:
    """Callers that read and write until the block ends, with a token.

    `answers` counts them by status, 0 for none.
    """

    def __init__(self, url: str, token: str, callers: int = _CALLERS) -> None:
        self.answers: Counter[int] = Counter()
        self._headers = {"Authorization": f"Bearer {token}"}
        self._url = url
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(number,)) for number in range(callers)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def more(self, number: int) -> None:
        """Wait for further answers."""
        wanted = self.answers.total() + number
        wait_until(lambda: self.answers.total() >= wanted, "further answers", within=_PATIENCE)

    def _ask(self, number: int) -> None:
        new = {"title": "Under load", "description": "Recorded by a drill", "severity": "LOW"}
        with httpx2.Client(base_url=self._url, headers=self._headers, timeout=_PATIENCE) as client:
            while not self._stop.is_set():
                try:
                    answer = (
                        client.get("/api/v1/incidents")
                        if number % 2
                        else client.post("/api/v1/incidents", json=new)
                    )
                    self.answers[answer.status_code] += 1
                except httpx2.TransportError:
                    self.answers[0] += 1


class _Service:
    """The service, its secrets, and whether one of them is accepted."""

    def __init__(
        self, server: EmbeddedPostgres, project: Project, store: Store, *, folder: Path
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.project = project
        self.store = store
        self._server = server
        self._folder = folder / "secrets"
        self._folder.mkdir()
        self.former = self._made()
        self.next = self._made()
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith("POSTFACTA_")
        }
        unlimited = {
            "POSTFACTA_RATE_ADDRESS": "1000000/second",
            "POSTFACTA_RATE_READ": "",
            "POSTFACTA_RATE_WRITE": "",
        }
        settings = {
            **kept,
            **unlimited,
            "ENVIRONMENT": "production",
            "LOG_LEVEL": "ERROR",
            "POSTFACTA_AUTH_MODE": "supabase",
            "POSTFACTA_DB_URL": project.url,
            "POSTFACTA_SECRETS_DIR": str(self._folder),
        }
        words = [sys.executable, "-m", "postfacta_app", "serve", "--port", str(self.port)]
        self.child = Child("postfacta", words, log=folder / "log", environment=settings)

    @staticmethod
    def _made() -> dict[str, str]:
        return {name: secrets.token_hex(24) for name in _NAMES}

    def put(self, password: str, *versions: Mapping[str, str]) -> None:
        """Replace the folder: the first version of each secret is in use, and the others are accepted."""
        files = {f"postfacta_{name}": "\n".join(it[name] for it in versions) for name in _LINES}
        files["postfacta_database_dsn"] = self.dsn(password)
        files["postfacta_rate_store"] = self.store.address(versions[0]["rate_store"])
        files["postfacta_db_key"] = versions[0]["db_key"]
        replace_folder(self._folder, files)

    def dsn(self, password: str) -> str:
        parts = urlsplit(self._server.dsn("postfacta"))
        return urlunsplit(
            parts._replace(netloc=f"postfacta:{password}@{parts.netloc.rpartition('@')[2]}")
        )

    def run(self, *statements: str, database: str = "postfacta") -> None:
        """Run statements as the superuser."""

        async def run() -> None:
            connection = await asyncpg.connect(self._server.dsn(database))
            try:
                for statement in statements:
                    await connection.execute(statement)
            finally:
                await connection.close()

        anyio.run(run)

    def token(self, secret: str) -> str:
        """Sign what a Supabase project signs."""
        now = int(time.time())  # noqa: TID251 - of a token, as its issuer writes it
        claims = {
            "iss": f"{self.project.url}/auth/v1",
            "sub": _SUBJECT,
            "aud": "authenticated",
            "role": "authenticated",
            "iat": now,
            "exp": now + 3600,
            "email": "ada@example.org",
            "app_metadata": {"postfacta_role": "responder"},
        }
        return jwt.encode(claims, secret, "HS256")

    def accepts(self, name: str, version: Mapping[str, str]) -> bool:
        """Whether the service, or the database, accepts a secret."""
        accepted: Mapping[str, Callable[[str], bool]] = {
            "password": self._connects,
            "metrics_token": lambda secret: (
                self._get("/metrics", Authorization=f"Bearer {secret}") == 200
            ),
            "jwt_secret": lambda it: (
                self._get("/api/v1/incidents", Authorization=f"Bearer {self.token(it)}") == 200
            ),
            "traffic_key": self._is_trusted,
            "rate_store": self.store.serves,
            "db_key": self._is_sent,
        }
        return accepted[name](version[name])

    def _get(self, path: str, **headers: str) -> int:
        return httpx2.get(f"{self.url}{path}", headers=headers, timeout=_PATIENCE).status_code

    def _is_trusted(self, key: str) -> bool:
        before = self._synthetic()
        self._get("/signin", **{"X-Traffic-Key": key, "X-Traffic-Class": "synthetic"})
        return self._synthetic() > before

    def _is_sent(self, key: str) -> bool:
        """Sign in, and see what the project is sent."""
        self.project.token = self.token(self.next["jwt_secret"])
        person = {"email": f"{secrets.token_hex(4)}@example.org", "password": secrets.token_hex(12)}
        httpx2.post(f"{self.url}/login", json=person, timeout=_PATIENCE)
        return self.project.key == key

    def has_store(self) -> bool:
        """Whether the service counts in the store."""
        return self._sum("postfacta_ratelimit_store_up") > 0

    def _synthetic(self) -> float:
        return self._sum("http_server_request_duration_seconds_count", 'traffic="synthetic"')

    def _sum(self, metric: str, label: str = "") -> float:
        for version in (self.next, self.former):
            headers = {"Authorization": f"Bearer {version['metrics_token']}"}
            answer = httpx2.get(f"{self.url}/metrics", headers=headers, timeout=_PATIENCE)
            if answer.status_code == 200:
                lines = [
                    line
                    for line in answer.text.splitlines()
                    if line.startswith(metric) and label in line
                ]
                return sum(float(line.rpartition(" ")[2]) for line in lines)
        raise RuntimeError("no token reads the metrics")

    def _connects(self, password: str) -> bool:
        async def connect() -> bool:
            with suppress(asyncpg.InvalidPasswordError):
                await (await asyncpg.connect(self.dsn(password))).close()
                return True
            return False

        return anyio.run(connect)

    def is_ready(self) -> bool:
        """Whether it takes traffic."""
        with suppress(httpx2.TransportError):
            return self._get("/healthz/ready") == 200
        return False


def drill(folder: Path) -> tuple[list[Row], Counter[int]]:
    """Replace each secret; return what was seen of each, and how requests were answered."""
    with (
        EmbeddedPostgres(folder / "data") as server,
        Project() as project,
        Store(folder / "valkey") as store,
    ):
        service = _Service(server, project, store, folder=folder)
        service.run(
            "create database postfacta", "create role postfacta_app nologin", database="postgres"
        )
        command("migrate", dsn=server.dsn("postfacta"))
        password = service.former["password"]
        service.run(f"create role postfacta login password '{password}' in role postfacta_app")
        store.add(service.former["rate_store"])
        service.put(password, service.former)
        service.child.start()
        try:
            wait_until(service.is_ready, "the service is ready", within=_PATIENCE, every=0.1)
            return _rotate(service)
        finally:
            service.child.stop()


def _rotate(service: _Service) -> tuple[list[Row], Counter[int]]:
    former = service.former
    new = service.next
    with Load(service.url, service.token(former["jwt_secret"])) as first:
        time.sleep(1)  # noqa: TID251 - load before
        # The overlap: PostgreSQL has one password for a role, so its file follows at once. Only
        # files are replaced.
        service.store.add(new["rate_store"])
        service.run(f"alter role postfacta password '{new['password']}'")
        service.put(new["password"], new, former)
        began = time.monotonic()
        seconds = dict[str, float]()
        for name in _NAMES:
            _until(partial(service.accepts, name, new), f"new {name}")
            seconds[name] = time.monotonic() - began
        overlaps = {name: service.accepts(name, former) for name in _LINES}
        time.sleep(1)  # noqa: TID251 - load with both
    # Connections that were opened with the former password; a write that is sent on one just then
    # would fail.
    service.run(
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'postfacta'"
    )
    _until(service.is_ready, "ready with new connections")
    with Load(service.url, service.token(new["jwt_secret"])) as second:
        time.sleep(1)  # noqa: TID251 - load with new connections
        # The end of the overlap, with the signal that spares the wait.
        service.store.remove(former["rate_store"])
        service.put(new["password"], new)
        os.kill(service.child.pid, signal.SIGHUP)
        with suppress(TimeoutError):
            _until(
                lambda: not any(service.accepts(name, former) for name in _NAMES),
                "former",
                within=15,
            )
        time.sleep(1)  # noqa: TID251 - load after
    refused = {
        name: not service.accepts(name, former) and service.accepts(name, new) for name in _NAMES
    }
    refused["rate_store"] = refused["rate_store"] and service.has_store()
    if not service.child.is_running:
        raise RuntimeError(f"the service ended: {service.child.words}")
    rows = [Row(name, seconds[name], overlaps.get(name), refused[name]) for name in _NAMES]
    return rows, first.answers + second.answers


def _until(true: Callable[[], bool], what: str, *, within: float = _PATIENCE) -> float:
    return wait_until(true, what, within=within, every=0.2)


def main(words: Sequence[str]) -> int:
    """Run the drill; return the exit code."""
    given = drill_parser(__doc__).parse_args(words)
    with drill_folder("rotation") as folder:
        rows, answers = drill(folder)
    report = _report(rows, answers)
    publish(report, given.markdown)
    failed = answers.total() - answers[200] - answers[201]
    return 0 if all(row.is_held for row in rows) and not failed else 1


def _report(rows: Sequence[Row], answers: Counter[int]) -> str:
    failed = answers.total() - answers[200] - answers[201]
    lines = [
        f"| `{row.secret}` | {row.seconds:.1f} s | {_word(row.overlaps)} | {_word(row.refused)} |"
        for row in rows
    ]
    return "\n".join(
        (
            "# Rotation of secrets",
            "",
            (
                "Written by `make drill ONLY=rotation`, which replaces each secret of a running service"
                " as Kubernetes does, while"
            ),
            f"{_CALLERS} callers read and write.",
            "",
            f"**{answers.total()} requests, {failed} failed.** The process was not restarted.",
            "",
            (
                "| secret | the new one is accepted within | the former one until the overlap ends"
                " | refused after it |"
            ),
            "|---|---|---|---|",
            *lines,
            "",
            (
                "PostgreSQL has one password for a role: there is no overlap, and requests go on"
                " with open connections. To the store of rate"
            ),
            (
                "limits, here a user of Valkey for each version, the service connects anew; each"
                " request was counted there. Files are read"
            ),
            "every 10 s, and at once on SIGHUP.",
            "",
            (
                f"Measured on {datetime.now(UTC):%Y-%m-%d}:"  # noqa: TID251 - of a report
                f" {', '.join(f'{name} {text}' for name, text in machine().items())}."
            ),
            "",
        )
    )


def _word(value: bool | None) -> str:  # noqa: FBT001 - a cell of a table
    return "" if value is None else "yes" if value else "**no**"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
