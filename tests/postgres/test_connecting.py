"""A connection is opened to a host that answers, with the present password, and no secret is shown."""

from __future__ import annotations

import socket
from collections.abc import Generator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest

from postfacta_core.clock import LUCK, MONOTONIC
from postfacta_core.errors import DatabaseUnavailableError, OutcomeUnknownError
from postfacta_core.events import ConnectionOpened, QueryFinished, ignore
from postfacta_core.testing import RecordingObserver
from postfacta_postgres import Database
from postfacta_postgres.connecting import Connector, PasswordFile, PoolOptions, Setup, hosts_of
from tests.kit.pg import execute

from .postgres import QUICK, opened, watcher

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])  # asyncpg knows no other

_ROLES = count(1)
END_ALL_OF = "select pg_terminate_backend(pid) from pg_stat_activity where usename = $1"


def among(dsn: str, *others: str) -> str:
    """Put other hosts before the one of an address."""
    parts = urlsplit(dsn)
    credentials, _, place = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{credentials}@{','.join([*others, place])}").geturl()


@pytest.fixture
def deaf() -> Generator[str]:
    """Name a place that takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    ("dsn", "hosts"),
    [
        (
            "postgresql://u:p@a:1,b:2/d?x=y",
            ["postgresql://u:p@a:1/d?x=y", "postgresql://u:p@b:2/d?x=y"],
        ),
        (
            "postgresql://u:p,q@[::1]:1,b/d",
            ["postgresql://u:p,q@[::1]:1/d", "postgresql://u:p,q@b/d"],
        ),
        ("postgresql://a,b", ["postgresql://a", "postgresql://b"]),
        ("postgresql:///d?host=/run/postgresql", ["postgresql:///d?host=/run/postgresql"]),
    ],
)
def test_an_address_with_several_hosts_is_one_for_each(
    dsn: str, hosts: list[str], anyio_backend: str
) -> None:
    assert hosts_of(dsn) == hosts


@pytest.mark.parametrize(
    ("address", "server", "namespace"),
    [
        ("postgresql://u:p@db.example:5432/billing?sslmode=require", "db.example", "billing"),
        ("postgresql://[::1]/billing", "::1", "billing"),
        ("postgresql://a:1,b:2/billing", "a", "billing"),
        ("postgresql:///billing?host=/run/postgresql", "", "billing"),
    ],
)
def test_a_span_names_the_server_where_it_is_plain(
    address: str, server: str, namespace: str, anyio_backend: str
) -> None:
    connector = Connector(Setup("db", PoolOptions(), ignore, MONOTONIC, LUCK), address, None)
    assert (connector.server, connector.namespace) == (server, namespace)


@pytest.mark.clock("0.4 s")
async def test_a_host_that_does_not_answer_has_its_share_of_the_time_and_is_asked_last_from_then_on(
    database_dsn: str, deaf: str
) -> None:
    seen = RecordingObserver()
    dsn = among(database_dsn, deaf, "localhost:1")
    options = replace(QUICK, connect_timeout=1.5, acquire_timeout=1.0)
    async with opened(dsn, options, seen) as database:
        assert 0.4 < seen.of(ConnectionOpened)[0].seconds < 1.4
        assert (
            await database.fetchval("select 1") == 1
        )  # a new connection, in less than the deaf host's share
        assert seen.of(ConnectionOpened)[1].seconds < 0.4
        told = f"{database!r} {seen.events!r}"
    assert urlsplit(database_dsn).password not in (None, "")
    assert str(urlsplit(database_dsn).password) not in told
    assert {event.server for event in seen.of(QueryFinished)} == {"127.0.0.1"}


@pytest.mark.clock("0.6 s")
async def test_if_no_host_answers_the_attempt_takes_no_longer_than_one(deaf: str) -> None:
    seen = RecordingObserver()
    options = replace(QUICK, connect_timeout=0.4)
    dsn = f"postgresql://someone:canary-secret@{deaf},{deaf}/nowhere"
    async with Database(dsn, name="db", options=options, observer=seen) as database:
        with anyio.fail_after(5):
            while not seen.of(ConnectionOpened):
                await anyio.sleep(0.01)
        with pytest.raises(DatabaseUnavailableError) as refusal:
            await database.fetchval("select 1")
        told = f"{refusal.value!r} {database!r} {seen.events!r}"
    assert seen.of(ConnectionOpened)[0].seconds < 1
    assert "canary" not in told


async def test_the_server_itself_sees_to_the_limits(database_dsn: str) -> None:
    names = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "TimeZone"]
    async with opened(database_dsn, PoolOptions()) as database:
        settings = [await database.fetchval(f"show {name}") for name in names]
        assert settings == ["5s", "1s", "15s", "UTC"]
        assert await database.fetchval("show client_connection_check_interval") == "1s"


async def test_a_password_may_be_a_function_that_is_asked_each_time(database_dsn: str) -> None:
    right = str(urlsplit(database_dsn).password)
    asked: list[str] = []

    def password() -> str:
        asked.append("wrong" if not asked else right)
        return asked[-1]

    nameless = database_dsn.replace(f":{right}@", "@")
    async with Database(nameless, name="db", options=QUICK, password=password) as database:
        with anyio.fail_after(10):
            await database.wait_connected()
        assert await database.fetchval("select 1") == 1
    assert asked[:2] == ["wrong", right]


@pytest.fixture
def role(database_dsn: str) -> Generator[str]:
    """Name a role whose password is `first`."""
    name = f"rotated_{next(_ROLES)}"
    execute(database_dsn, f"create role {name} login password 'first'")
    yield name
    execute(database_dsn, f"drop role {name}")


async def keep_asking(database: Database, answers: list[bool], done: anyio.Event) -> None:
    """Ask until it is enough, and keep what came of it."""
    while not done.is_set():
        try:
            answers.append(await database.fetchval("select true"))
        except (DatabaseUnavailableError, OutcomeUnknownError):
            answers.append(False)
            await anyio.sleep(0.001)  # A refusal comes at once, and lets nobody else run.


async def test_a_password_that_is_changed_needs_no_restart_and_fails_only_those_who_were_cut_off(
    database_dsn: str, role: str, tmp_path: Path
) -> None:
    place = urlsplit(database_dsn)
    nameless = f"postgresql://{role}@{place.hostname}:{place.port}{place.path}"
    file = tmp_path / "password"
    file.write_text("first\n")
    file.chmod(0o600)
    seen = RecordingObserver()
    answers: list[bool] = []
    ended = 0
    done = anyio.Event()

    options = replace(QUICK, max_size=4)
    async with (
        watcher(database_dsn) as other,
        Database(nameless, options=options, password=PasswordFile(file), observer=seen) as database,
        anyio.create_task_group() as group,
    ):
        with anyio.fail_after(10):
            await database.wait_connected()
            for _ in range(4):
                group.start_soon(keep_asking, database, answers, done)
            # One that is opened while the password is being changed would be refused.
            while len(answers) < 20 or len(seen.of(ConnectionOpened)) < options.max_size + 1:
                await anyio.sleep(0.001)
            await other.execute(f"alter role {role} password 'second'")
            file.write_text("second\n")
            ended = len(await other.fetch(END_ALL_OF, role))
            before = len(answers)
            while len(answers) < before + 100:
                await anyio.sleep(0.001)
        done.set()
    assert answers.count(False) <= ended
    assert not [event for event in seen.of(ConnectionOpened) if event.error_type]


async def test_a_password_file_that_is_missing_for_a_moment_is_read_again(
    database_dsn: str, tmp_path: Path
) -> None:
    right = str(urlsplit(database_dsn).password)
    file = tmp_path / "password"
    nameless = database_dsn.replace(f":{right}@", "@")
    seen = RecordingObserver()
    async with Database(
        nameless, name="db", options=QUICK, password=PasswordFile(file), observer=seen
    ) as database:
        with anyio.fail_after(10):
            while not seen.of(ConnectionOpened):
                await anyio.sleep(0.01)
            file.write_text(right)
            await database.wait_connected()
    assert seen.of(ConnectionOpened)[0].error_type == "FileNotFoundError"
    assert right not in f"{seen.events!r} {PasswordFile(file)!r}"


@pytest.mark.parametrize(
    ("dsn", "said"),
    [
        ("", "begins with"),
        ("kanarie", "begins with"),
        ("host=localhost password=kanarie", "begins with"),
        ("mysql://someone:kanarie@db/name", "begins with"),
        ("postgresql://someone:kanarie@db:99999/name", "db:99999"),
        ("postgresql://someone:kanarie@db:five/name", "db:five"),
        ("postgresql://someone:kanarie@one:1,two:2:3/name", "one:1,two:2:3"),
        ("postgresql://someone:kanarie@[::1/name", "hosts and ports"),
        ("postgresql://someone:kanarie@d b/name", "hosts and ports"),
        ("postgresql://someone:kanarie@\N{DIGIT ONE}\N{CARE OF}/name", "hosts and ports"),
        ("postgresql://someone:kan/arie@db/name", "%2F"),
        ("postgresql://someone:kan?arie@db/name", "%3F"),
        ("postgresql://someone:kan#arie@db/name", "%23"),
        ("postgresql://someone:kanarie@db/name?sslmode=banana", "sslmode is one of"),
        (
            "postgresql://someone:kanarie@db/name?target_session_attrs=rw",
            "target_session_attrs is one of",
        ),
        (None, "a text"),
    ],
    ids=str,
)
def test_an_address_where_no_server_can_be_is_refused_without_its_password(
    dsn: Any, said: str, anyio_backend: str
) -> None:
    with pytest.raises(ValueError, match="must be") as refused:
        Database(dsn)
    assert said in str(refused.value)
    assert "for example" in str(refused.value)
    assert "arie" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://",
        "postgres://db",
        "postgresql:///name?host=/run/postgresql",
        "postgresql://someone:p%40ss@db.example:5432/name?user=a@b",
        "postgresql://someone:p@ss@[::1]:5432/name",
        "postgresql://one:1,two,three:2/name?target_session_attrs=read-write&sslmode=verify-full",
    ],
)
def test_an_address_where_a_server_can_be_is_taken(dsn: str, anyio_backend: str) -> None:
    if "a@b" in dsn:
        dsn = dsn.replace("?user=a@b", "?user=a%40b")
    assert repr(Database(dsn)) == "Database('postgres')"


async def test_a_password_file_is_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "password"
    password = PasswordFile(file)
    with pytest.raises(OSError, match="password"):
        await password()
    for secret in ("hunter2", "hunter3"):
        file.write_text(f"{secret}\n")
        assert await password() == secret
