"""Behind a real pgbouncer in transaction mode, without any setting of its own, all works as without it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import anyio
import asyncpg
import pytest

from postfacta_core.errors import DatabaseUnavailableError, DeadlineExceededError
from postfacta_core.events import ConnectionAcquired, DeadlineExceeded
from postfacta_core.testing import RecordingObserver
from postfacta_embedded.account import choose_account
from postfacta_postgres import PoolOptions
from tests.adapters.borrowers import PSYCOPG, Opens, fails, kind_of
from tests.kit.pg import open_folder
from tests.kit.ports import free_port

from .postgres import QUICK, opened, request_within, until_answers, until_pinged, watcher

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
pytestmark = [
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),  # asyncpg knows no other
    pytest.mark.skipif(
        PROGRAM is None and "TEST_REQUIRE_ALL" not in os.environ,
        reason="pgbouncer is not installed",
    ),
]
POOLED = replace(QUICK, transaction_pooling=True, acquire_timeout=5.0)
SERVER_CONNECTIONS = 5


class PgBouncer:
    """A pgbouncer before a server, as a direct child that a test may stop and start."""

    def __init__(self, folder: Path, dsn: str) -> None:
        self._account = choose_account()
        self._config = folder / "pgbouncer.ini"
        self._log = folder / "pgbouncer.log"
        self._child: subprocess.Popen[bytes] | None = None
        server = urlsplit(dsn)
        self._port = free_port()
        users = folder / "users.txt"
        users.write_text(f'"{server.username}" "{unquote(server.password or "")}"\n')
        self._config.write_text(f"""
[databases]
* = host={server.hostname} port={server.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self._port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = transaction
default_pool_size = {SERVER_CONNECTIONS}
max_client_conn = 500
""")
        for file in (users, self._config):
            os.chown(file, self._account.uid, self._account.gid)
        self.dsn = server._replace(netloc=f"{server.username}@127.0.0.1:{self._port}").geturl()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        with self._log.open("ab") as log:
            self._child = self._account.start([str(PROGRAM), self._config], output=log)
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
        raise AssertionError(self._log.read_text())

    def stop(self) -> None:
        """End it at once, with all connections."""
        if self._child is not None:
            self._child.send_signal(signal.SIGQUIT)  # SIGTERM waits until the last client has gone
            self._child.wait(10)
            self._child = None


@pytest.fixture
def bouncer(programs: None, database_dsn: str) -> Generator[PgBouncer]:
    """Run a pgbouncer before the test's database."""
    with open_folder() as folder:
        bouncer = PgBouncer(folder, database_dsn)
        try:
            bouncer.start()
            yield bouncer
        finally:
            bouncer.stop()


async def test_the_plain_pool_is_refused_and_the_option_is_what_it_takes(
    bouncer: PgBouncer,
) -> None:
    with pytest.raises(asyncpg.ProtocolViolationError, match="unsupported startup parameter"):
        await asyncpg.connect(bouncer.dsn, server_settings=PoolOptions().session_settings())
    async with opened(bouncer.dsn, POOLED) as database:
        assert await database.fetchval("select $1::int + 1", 41) == 42
        await until_pinged(database)


async def test_reads_and_transactions_work(bouncer: PgBouncer) -> None:
    async with opened(bouncer.dsn, POOLED) as database:
        await database.execute("create table t (a int, b text[], c jsonb)")
        async with database.transaction() as connection:
            for number in range(3):
                await connection.execute(
                    "insert into t values ($1, $2, $3)",
                    number,
                    ["x"],
                    '{"a": 1}',
                    operation="t_add",
                )
            limits = (
                "select array_agg(setting order by name) from pg_settings where name = any ($1)"
            )
            names = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"]
            assert await connection.fetchval(limits, names) == ["15000", "1000", "5000"]
        with pytest.raises(LookupError):
            async with database.transaction() as connection:
                await connection.execute("delete from t")
                raise LookupError
        rows = await database.fetch("select a, b from t order by a")
        assert [(row["a"], row["b"]) for row in rows] == [(0, ["x"]), (1, ["x"]), (2, ["x"])]
        assert (
            await database.fetchval("show statement_timeout") == "0"
        )  # nothing of it stays in the session


@pytest.mark.clock("0.3 s to a connection and the statement")
async def test_time_runs_out_for_a_statement_and_for_a_transaction(
    bouncer: PgBouncer, database_dsn: str
) -> None:
    seen = RecordingObserver()
    busy = "select count(*) from pg_stat_activity where query like '%pg_sleep(60%' and state <> 'idle' and pid <> pg_backend_pid()"
    async with opened(bouncer.dsn, POOLED, seen) as database, watcher(database_dsn) as other:
        with request_within(0.3), pytest.raises(DeadlineExceededError):
            await database.execute("select pg_sleep(60)")
        with request_within(0.3), pytest.raises(DeadlineExceededError):
            async with database.transaction() as connection:
                await connection.execute("select pg_sleep(60)")
        with anyio.move_on_after(0.2):
            await database.execute("select pg_sleep(60)")
        with anyio.fail_after(5):
            while await other.fetchval(busy):
                await anyio.sleep(0.01)
        assert await database.fetchval("select 1") == 1
    assert [event.stage for event in seen.of(DeadlineExceeded)] == ["database", "database"]


async def test_many_callers_share_few_server_connections(
    bouncer: PgBouncer, database_dsn: str
) -> None:
    seen = RecordingObserver()
    answers: list[int] = []
    options = replace(
        POOLED, max_size=50, max_waiting=200, acquire_timeout=20.0, statement_timeout=20.0
    )
    async with opened(bouncer.dsn, options, seen) as database, watcher(database_dsn) as other:
        await database.execute("create table t (a int)")

        async def ask(number: int) -> None:
            async with database.transaction() as connection:
                await connection.execute("insert into t values ($1)", number)
                answers.append(await connection.fetchval("select $1::int", number))
            answers.append(await database.fetchval("select $1::int", number))

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for number in range(200):
                    group.start_soon(ask, number)
        ours = "select count(*) from pg_stat_activity where application_name = 'postfacta db' and datname = current_database()"
        assert await other.fetchval(ours) <= SERVER_CONNECTIONS
        assert sorted(answers) == sorted([*range(200), *range(200)])
        assert await database.fetchval("select count(*) from t") == 200
    assert not [event for event in seen.of(ConnectionAcquired) if event.error_type]


async def test_a_pgbouncer_that_is_restarted_is_used_again(bouncer: PgBouncer) -> None:
    async with opened(bouncer.dsn, POOLED) as database:
        async with database.acquire() as one, database.acquire() as two:
            assert await one.fetchval("select 1") == await two.fetchval("select 1")
        await anyio.to_thread.run_sync(bouncer.stop)
        with anyio.fail_after(10), pytest.raises(DatabaseUnavailableError):
            while True:
                await database.fetchval("select 1", repeatable=True)
        await anyio.to_thread.run_sync(bouncer.start)
        started = anyio.current_time()
        await until_answers(database)
        assert anyio.current_time() - started < 2
        async with database.transaction() as connection:
            assert await connection.fetchval("select 1") == 1


@PSYCOPG
async def test_a_limit_of_a_borrowed_connection_ends_with_its_transaction(
    bouncer: PgBouncer, opens: Opens
) -> None:
    setting = "select current_setting('statement_timeout')"
    async with opens(bouncer.dsn, RecordingObserver()) as run:
        with request_within(0.4):
            assert kind_of(await fails(run("select pg_sleep(60)"))) is DeadlineExceededError
        with request_within(5.0):
            assert await run(setting) != "0"
        for _ in range(SERVER_CONNECTIONS):
            assert await run(setting) == "0"
