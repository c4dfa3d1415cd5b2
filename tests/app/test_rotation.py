"""Secrets are replaced in a running service, and no request fails of it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import anyio
import httpx2
import pytest

from chaos.rotation import Load
from postfacta_adapters.limits import SharedStore
from postfacta_app.settings import (
    AGES,
    Rotation,
    Settings,
    load_settings,
    password_of,
)
from postfacta_embedded import EmbeddedPostgres
from tests.app.running import ADMIN, add_admin, read_until, started
from tests.kit.pg import execute, fetch_value, fresh_database
from tests.kit.waiting import wait_until

PATIENCE = 30.0
FORMER, NEXT = "the-former-secret", "the-next-secret"


class Source:
    """Where settings are read from."""

    def __init__(self, **environ: str) -> None:
        self.environ = {f"POSTFACTA_{name}": value for name, value in environ.items()}

    def __call__(self) -> Settings:
        return load_settings(self.environ)

    def set(self, name: str, value: str) -> None:
        self.environ[f"POSTFACTA_{name}"] = value


def replace(file: Path, text: str) -> None:
    """Put another file in the place of one, as orchestrators do."""
    new = file.with_name("new")
    new.touch(mode=0o600)
    new.write_text(text)
    new.replace(file)


def test_a_replaced_secret_is_used_and_logged_by_name_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = Source(METRICS_TOKEN=FORMER, DATABASE_DSN="postgresql://app:one@db/shop")
    rotation = Rotation(source(), source)
    source.set("METRICS_TOKEN", f"{NEXT}\n{FORMER}\n")
    source.set("DATABASE_DSN", "postgresql://app:t%20wo@db/shop")
    rotation.reread()
    rotation.reread()
    assert rotation.current.valid("metrics_token") == (NEXT, FORMER)
    assert anyio.run(rotation.password) == "t wo"
    told = [(record.getMessage(), vars(record).get("settings")) for record in caplog.records]
    assert told == [("secrets.changed", "database_dsn, metrics_token")]
    assert NEXT not in str([vars(record) for record in caplog.records])


def test_nothing_but_secrets_changes() -> None:
    source = Source(PORT="8080", TRAFFIC_KEY=FORMER)
    rotation = Rotation(source(), source)
    source.set("PORT", "9090")
    source.set("TRAFFIC_KEY", NEXT)
    rotation.reread()
    assert (rotation.current.port, rotation.current.valid("traffic_key")) == (8080, (NEXT,))


def test_an_unreadable_secret_keeps_the_former_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = Source(METRICS_TOKEN=FORMER)
    rotation = Rotation(source(), source)
    source.set("METRICS_TOKEN", "")
    for _ in range(3):
        rotation.reread()
    assert rotation.current.valid("metrics_token") == (FORMER,)
    source.set("METRICS_TOKEN", NEXT)
    rotation.reread()
    assert rotation.current.valid("metrics_token") == (NEXT,)
    assert [record.getMessage() for record in caplog.records] == [
        "secrets.unreadable",
        "secrets.changed",
    ]
    assert "POSTFACTA_METRICS_TOKEN" in vars(caplog.records[0])["reason"]


def test_another_database_needs_a_restart_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    source = Source(DATABASE_DSN="postgresql://app:one@db/shop")
    rotation = Rotation(source(), source)
    source.set("DATABASE_DSN", "postgresql://app:two@elsewhere/shop")
    source.set("TRAFFIC_KEY", NEXT)
    rotation.reread()
    assert anyio.run(rotation.password) == "one"
    assert rotation.current.valid("traffic_key") == (NEXT,)
    assert caplog.records[0].getMessage() == "secrets.need_restart"
    assert "elsewhere" not in str(vars(caplog.records[0]))


@pytest.mark.parametrize(
    ("name", "former", "new"),
    [
        ("DB_KEY", FORMER, NEXT),
        ("RATE_STORE", "async+valkey://:one@127.0.0.1:9", "async+valkey://:two@127.0.0.1:9"),
        ("PROMETHEUS_URL", "http://a:one@127.0.0.1:9", "http://a:two@127.0.0.1:9"),
    ],
)
def test_addresses_and_keys_of_others_are_replaced_too(name: str, former: str, new: str) -> None:
    source = Source(**{name: former})
    rotation = Rotation(source(), source)
    source.set(name, new)
    rotation.reread()
    assert getattr(rotation.current, name.lower()).get_secret_value() == new


class FakeStore(SharedStore):
    """A store that only remembers what replaced it."""

    def __init__(self) -> None:
        self.replaced_by: list[object] = []

    async def replace(self, storage: object) -> None:
        self.replaced_by.append(storage)


async def test_the_store_of_rates_is_replaced_when_its_address_or_a_file_of_it_changes(
    tmp_path: Path,
) -> None:
    certificate = tmp_path / "client.pem"
    certificate.touch()
    address = f"async+valkeys://:{{}}@127.0.0.1:9?ssl_certfile={certificate}"
    source, store = Source(RATE_STORE=address.format("one")), FakeStore()
    rotation = Rotation(source(), source, every=0.01)
    async with rotation.renewing(store):
        source.set("RATE_STORE", address.format("two"))
        with anyio.fail_after(PATIENCE):
            while len(store.replaced_by) < 1:
                await anyio.sleep(0.01)
            os.utime(certificate, (1, 1))
            while len(store.replaced_by) < 2:
                await anyio.sleep(0.01)
    assert store.replaced_by == [address.format("two")] * 2


def test_the_age_of_a_secret_is_that_of_its_oldest_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, key, root = (tmp_path / name for name in ("token", "key.pem", "root.pem"))
    for number, file in enumerate((token, key, root), 1):
        file.write_text(FORMER)
        os.utime(file, (100 * number, 100 * number))
    source = Source(
        METRICS_TOKEN_FILE=str(token),
        DATABASE_DSN=f"postgresql://db/shop?sslkey={key}&sslrootcert={root}",
    )
    monkeypatch.setenv("POSTFACTA_METRICS_TOKEN_FILE", str(token))
    rotation = Rotation(source(), source, wall=lambda: 1000.0)
    assert {name: rotation.age(name) for name in AGES if rotation.age(name)} == {
        "metrics_token": 900.0,
        "database_tls": 800.0,
    }
    os.utime(token, (990, 990))
    rotation.reread()
    assert rotation.age("metrics_token") == 10.0
    assert Rotation(source()).age("metrics_token") is None


def test_without_a_source_all_stays() -> None:
    rotation = Rotation(load_settings({}))
    rotation.reread()
    assert rotation.current == load_settings({})
    assert anyio.run(rotation.password) == ""


@pytest.mark.parametrize(
    ("dsn", "password"),
    [
        ("postgresql://app:p%40ss@one:1,two:2/shop", "p@ss"),
        ("postgresql://app@one/shop?password=p%40ss&sslmode=require", "p@ss"),
        ("postgresql://app@one/shop", None),
        ("postgresql://one/shop", None),
    ],
)
def test_the_password_is_found_wherever_it_stands_in_the_address(
    dsn: str, password: str | None
) -> None:
    assert password_of(load_settings({"POSTFACTA_DATABASE_DSN": dsn})) == password


# The service as a process.


class Service:
    """The service as a process, its secrets, and what its database sees of it."""

    process: subprocess.Popen[str]
    url: str
    session: str

    def __init__(self, owner: str, role: str, folder: Path) -> None:
        self.dsn, self.token = folder / "dsn", folder / "token"
        self._owner = owner
        self._role = role

    def put_password(self, password: str) -> None:
        parts = urlsplit(self._owner)
        where = parts.netloc.rpartition("@")[2]
        replace(self.dsn, urlunsplit(parts._replace(netloc=f"{self._role}:{password}@{where}")))

    def load(self, callers: int) -> Load:
        return Load(self.url, self.session, callers)

    def scrape(self, secret: str) -> int:
        return self._get(secret, "/metrics").status_code

    def has_database(self, secret: str) -> bool:
        checks = self._get(secret, "/healthz/deps").json().get("checks", ())
        return any(check["name"] == "database" and check["passed"] for check in checks)

    def connections(self) -> int:
        return int(str(fetch_value(self._owner, f"select count(*) {self._own}")))

    def end_connections(self) -> None:
        execute(self._owner, f"select pg_terminate_backend(pid) {self._own}")

    @property
    def _own(self) -> str:
        return f"from pg_stat_activity where usename = '{self._role}'"

    def _get(self, secret: str, path: str) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {secret}"}
        return httpx2.get(f"{self.url}{path}", headers=headers, timeout=PATIENCE)


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("requests", [5, pytest.param(100, marks=pytest.mark.long)])
def test_a_password_and_a_token_are_replaced_under_load(
    requests: int, postgres_server: EmbeddedPostgres, app_template: str, tmp_path: Path
) -> None:
    role = f"rotating_{os.getpid()}"
    with fresh_database(postgres_server, app_template) as owner:
        add_admin({"POSTFACTA_DATABASE_DSN": owner})
        execute(
            owner,
            f"create role {role} login password '{FORMER}' in role postfacta_app",
        )
        try:
            _rotate(owner, role, tmp_path, requests)
        finally:
            execute(owner, f"drop owned by {role}", f"drop role {role}")


@contextmanager
def serving(owner: str, role: str, folder: Path) -> Generator[Service]:
    """Run the service with its secrets in files, and a signed-in user."""
    service = Service(owner, role, folder)
    service.put_password(FORMER)
    replace(service.token, FORMER)
    environment = {
        "POSTFACTA_DATABASE_DSN_FILE": str(service.dsn),
        "POSTFACTA_METRICS_TOKEN_FILE": str(service.token),
        "POSTFACTA_READY_REQUIRES_DB": "false",
        "LOG_LEVEL": "ERROR",
    }
    with started(environment=environment) as (service.process, service.url):
        wait_until(lambda: service.has_database(FORMER))
        login = {"email": ADMIN.email, "password": ADMIN.password}
        service.session = httpx2.post(f"{service.url}/login", json=login, timeout=PATIENCE).json()[
            "token"
        ]
        yield service


def _rotate(owner: str, role: str, folder: Path, requests: int) -> None:
    with serving(owner, role, folder) as service:
        with service.load(1) as few:
            few.more(requests // 5)
            execute(owner, f"alter role {role} password '{NEXT}'")
            service.put_password(NEXT)
            few.more(requests // 5)
            before = service.connections()
            # More callers need more connections, which are opened with the new password.
            with service.load(8) as many:
                wait_until(lambda: service.connections() > before)
                many.more(2 * requests)
        replace(service.token, f"{NEXT}\n{FORMER}\n")
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: service.scrape(NEXT) == 200)
        assert service.scrape(FORMER) == 200
        # As at the end of their lives: nothing is left that was opened with the former password.
        service.end_connections()
        wait_until(lambda: service.has_database(NEXT))
        with service.load(4) as renewed:
            renewed.more(requests)
        replace(service.token, NEXT)
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: service.scrape(FORMER) == 401)
        assert service.scrape(NEXT) == 200
        assert service.process.poll() is None
    for load in (few, many, renewed):
        assert load.answers.keys() <= {200, 201}


@pytest.mark.usefixtures("programs")
def test_a_service_whose_terminal_is_closed_drains() -> None:
    terminal, its_side = pty.openpty()
    process = subprocess.Popen(
        [
            "/usr/bin/setsid",
            "--ctty",
            "--wait",
            sys.executable,
            "-m",
            "postfacta_app",
            "serve",
            "--port",
            "0",
        ],
        stdin=its_side,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            "POSTFACTA_DATABASE_DSN": "postgresql://127.0.0.1:1/none",
            "LOG_LEVEL": "ERROR",
            "PATH": os.environ["PATH"],
        },
    )
    assert process.stdout is not None
    try:
        assert "listening" in read_until("listening on", process.stdout)
        os.close(its_side)
        os.close(terminal)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.communicate()
