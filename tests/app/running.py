"""The whole service as a process of its own, as an operator starts it, for tests that look from outside."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import httpx2

from postfacta_embedded import EmbeddedPostgres
from tests.kit.ending import end
from tests.kit.pg import fresh_database

__all__ = [
    "ADMIN",
    "Account",
    "LiveService",
    "command",
    "demo",
    "live_service",
    "read_until",
    "sign_in",
    "started",
]

_LISTENING = re.compile(r"listening on (http://\S+?);")
_PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Account:
    """A person who can sign in."""

    email: str
    password: str


ADMIN = Account("admin@tests.example", "correct horse battery staple")


@dataclass(frozen=True, slots=True)
class LiveService:
    """A running service with an administrator.

    Attributes:
        url: Where it listens.
        client: Talks to it as the administrator.
        process: Itself.
    """

    url: str
    client: httpx2.Client
    process: subprocess.Popen[str]

    def record(self, **fields: object) -> dict[str, Any]:
        """Record an incident."""
        new = {
            "title": "An incident",
            "description": "Recorded by a test",
            "severity": "LOW",
            **fields,
        }
        answer = self.client.post("/api/v1/incidents", json=new)
        assert answer.status_code == 201, answer.text
        recorded: dict[str, Any] = answer.json()
        return recorded

    def person(self, role: str = "responder") -> Account:
        """Make an account of its own for a test: sign-ins are throttled for each."""
        account = Account(f"{uuid4()}@tests.example", "a password for one test")
        new = {
            "email": account.email,
            "password": account.password,
            "display_name": "Somebody",
            "role": role,
        }
        answer = self.client.post("/api/v1/users", json=new)
        assert answer.status_code == 201, answer.text
        return account


def command(*arguments: str, environment: Mapping[str, str], given: str = "") -> str:
    """Run one command to its end, and return what it printed."""
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "postfacta_app", *arguments],
        env={**_environment(), **environment},
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def add_admin(environment: Mapping[str, str]) -> None:
    """Add the administrator, as the first command on a new database does."""
    who = ("--email", ADMIN.email, "--name", "Admin", "--password-stdin")
    password = f"{ADMIN.password}\n"
    command("user", "add", "--role", "admin", *who, environment=environment, given=password)


@contextmanager
def started(
    *arguments: str, environment: Mapping[str, str]
) -> Generator[tuple[subprocess.Popen[str], str]]:
    """Run `postfacta serve` on a free port until the block ends.

    Give the process and its address.
    """
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "postfacta_app", "serve", "--port", "0", *arguments],
        env={**_environment(), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        yield process, _address(process.stdout)
    finally:
        end(process)
        process.communicate(timeout=_PATIENCE)


@contextmanager
def live_service(server: EmbeddedPostgres, template: str) -> Generator[LiveService]:
    """Run the service on a fresh database until the block ends."""
    with fresh_database(server, template) as dsn:
        # Its log is not read: at this level it never fills the pipe.
        environment = {
            "POSTFACTA_DATABASE_DSN": dsn,
            "LOG_LEVEL": "ERROR",
            "POSTFACTA_READY_REQUIRES_DB": "false",
        }
        add_admin(environment)
        with (
            started(environment=environment) as (process, url),
            httpx2.Client(base_url=url) as client,
        ):
            client.headers["Authorization"] = f"Bearer {sign_in(client, ADMIN)}"
            yield LiveService(url, client, process)
        # Whatever a test did to it: no timeline that a post-mortem saw has changed.
        command("verify", environment=environment)


@contextmanager
def demo(folder: Path) -> Generator[tuple[subprocess.Popen[str], str]]:
    """Run the demo until the block ends; give the process and what it printed until it listened."""
    process = subprocess.Popen(
        [sys.executable, "-m", "postfacta_app", "demo", "--port", "0"],
        env={**os.environ, "POSTFACTA_DEMO_DIR": str(folder), "LOG_LEVEL": "ERROR"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process, read_until("listening on", process.stdout)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def sign_in(client: httpx2.Client, who: Account) -> str:
    """Get a bearer token; a service that has just started may not have found its database yet."""
    started_at = time.monotonic()
    # By what it knows, and not by signing in again and again: there are five tries a minute.
    while not _has_database(client) and time.monotonic() < started_at + _PATIENCE:
        time.sleep(0.05)  # noqa: TID251 - there is no loop to block
    answer = client.post("/login", json={"email": who.email, "password": who.password})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["token"])


def _has_database(client: httpx2.Client) -> bool:
    checks = client.get("/healthz/deps").json()["checks"]
    return any(check["name"] == "database" and check["passed"] for check in checks)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("POSTFACTA_")}


def read_until(word: str, output: IO[str]) -> str:
    """Read lines until one has the word, or there are no more; bounded in time."""
    seen: list[str] = []
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while selector.select(_PATIENCE):
            seen.append(output.readline())
            if word in seen[-1] or not seen[-1]:
                break
    return "".join(seen)


def _address(output: IO[str]) -> str:
    said = read_until("listening on", output)
    found = _LISTENING.search(said)
    assert found, f"it never said where it listens:\n{said}"
    return found[1]
