"""When the database moves to another host, callers find it there by themselves, and no old connection is used."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace

import anyio
import pytest

from postfacta_core.errors import (
    CircuitOpenError,
    DatabaseUnavailableError,
    DeadlineExceededError,
    OutcomeUnknownError,
    ReadOnlyDatabaseError,
    RejectedError,
)
from postfacta_core.events import ConnectionAcquired, ConnectionOpened
from postfacta_core.testing import RecordingObserver
from postfacta_embedded import EmbeddedPostgres, StandbyPostgres
from postfacta_postgres import Database
from tests.kit.pg import open_folder, prepared_server

from .postgres import (
    QUICK,
    SHORT_WAIT,
    opened,
    request_within,
    until,
    until_answers,
    until_quiet,
    watcher,
)

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])  # asyncpg knows no other

FAST = {"fsync": "off"}
TABLE = "create table if not exists t (a int)"


class Pair:
    """A primary and its standby."""

    def __init__(self, primary: EmbeddedPostgres, standby: StandbyPostgres) -> None:
        self.primary = primary
        self.standby = standby

    def dsn(self, attributes: str = "?target_session_attrs=read-write") -> str:
        """Give the address that names both; the roles and their passwords are the same on both."""
        place = f"127.0.0.1:{self.primary.port}"
        return (
            self.primary.dsn().replace(place, f"{place},127.0.0.1:{self.standby.port}") + attributes
        )


@pytest.fixture
def pair(programs: None) -> Generator[Pair]:
    """Run a primary and a standby that a test may kill and promote."""
    with (
        prepared_server(FAST) as primary,
        open_folder() as folder,
        StandbyPostgres(primary, folder / "two", settings=FAST) as standby,
    ):
        yield Pair(primary, standby)


async def write(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute("insert into t values (1)")


async def until_writes(database: Database) -> float:
    """Write until it works, and return how long that took."""
    started = anyio.current_time()
    with anyio.fail_after(20):
        while True:
            try:
                await write(database)
            except (RejectedError, DeadlineExceededError):
                await anyio.sleep(0.01)
            else:
                return anyio.current_time() - started


async def two_ports(database: Database) -> set[int]:
    """Return the ports behind the pool's connections, which must be two."""
    async with database.acquire() as one, database.acquire() as two:
        return {await c.fetchval("select inet_server_port()") for c in (one, two)}


@asynccontextmanager
async def frozen(server: EmbeddedPostgres) -> AsyncGenerator[None]:
    """Stop all of a server's processes for a while; its connections stay open."""
    async with watcher(server.dsn()) as other:
        rows = await other.fetch("select pid from pg_stat_activity where pid <> pg_backend_pid()")
    pids = [server.pid or 0, *(row["pid"] for row in rows)]
    try:
        send(signal.SIGSTOP, pids)
        yield
    finally:
        send(signal.SIGCONT, pids)


def send(number: signal.Signals, pids: list[int]) -> None:
    """Send a signal to all that are still there; a server's helpers come and go."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


async def make_table(database: Database, pair: Pair) -> None:
    await database.execute(TABLE)
    await until(pair.standby.dsn(), "select count(*) from pg_class where relname = 't'", 1)


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_after_a_failover_writes_go_to_the_new_primary_within_a_reconnect_interval(
    pair: Pair, how: str
) -> None:
    async with opened(pair.dsn()) as database:
        await make_table(database, pair)
        async with database.acquire() as lent, database.acquire():
            assert await lent.fetchval("select inet_server_port()") == pair.primary.port
        await anyio.to_thread.run_sync(getattr(pair.primary, how))
        with pytest.raises((DatabaseUnavailableError, DeadlineExceededError)):
            await write(database)
        await anyio.to_thread.run_sync(pair.standby.promote)
        assert await until_writes(database) < 1.0
        assert await database.fetchval("select inet_server_port()") == pair.standby.port
        await database.ping()
        async with watcher(pair.standby.dsn()) as other:
            assert await until_quiet(other, most=3) <= 3


@pytest.mark.usefixtures("programs")
async def test_after_a_failover_from_a_frozen_primary_writes_go_to_the_new_one(pair: Pair) -> None:
    options = replace(QUICK, connect_timeout=1.0, statement_timeout=0.5)
    async with opened(pair.dsn(), options) as database:
        await make_table(database, pair)
        async with frozen(pair.primary):
            await anyio.to_thread.run_sync(pair.standby.promote)
            assert await until_writes(database) < 5.0
            assert await database.fetchval("select inet_server_port()") == pair.standby.port
        # The old primary is back, and takes writes that would be lost: nobody goes there.
        for _ in range(5):
            assert await two_ports(database) == {pair.standby.port}


@pytest.mark.usefixtures("programs")
async def test_idle_connections_to_a_host_that_was_left_are_not_lent_again(pair: Pair) -> None:
    async with opened(pair.dsn(), replace(QUICK, connect_timeout=1.0)) as database:
        await make_table(database, pair)
        async with watcher(pair.primary.dsn()) as other:
            with pytest.raises((DatabaseUnavailableError, OutcomeUnknownError)):
                async with database.acquire() as connection:
                    pid = await connection.fetchval("select pg_backend_pid()")
                    await other.execute("select pg_terminate_backend($1)", pid)
                    while True:
                        await connection.execute("select 1")
        assert await two_ports(database) == {pair.primary.port}  # younger than the reserved one
        async with frozen(pair.primary):
            await anyio.to_thread.run_sync(pair.standby.promote)
            with anyio.fail_after(10):
                while True:
                    with suppress(DatabaseUnavailableError):
                        await database.ping()
                        break
        assert await two_ports(database) == {pair.standby.port}


@pytest.mark.usefixtures("programs")
async def test_the_host_that_takes_no_writes_is_passed_by(pair: Pair) -> None:
    place = f"127.0.0.1:{pair.primary.port}"
    dsn = pair.primary.dsn().replace(place, f"127.0.0.1:{pair.standby.port},{place}")
    async with opened(f"{dsn}?target_session_attrs=read-write") as database:
        assert await database.fetchval("select inet_server_port()") == pair.primary.port


@pytest.mark.usefixtures("programs")
async def test_a_primary_that_became_a_standby_behind_one_name_is_left(pair: Pair) -> None:
    # As behind a proxy: sessions stay open on a server that takes no writes any more.
    seen = RecordingObserver()
    async with opened(pair.dsn(), replace(QUICK, max_size=4), seen) as database:
        await make_table(database, pair)
        async with database.acquire(), database.acquire(), database.acquire():
            pass
        async with watcher(pair.primary.dsn()) as other:
            await other.execute("alter system set default_transaction_read_only = on")
            await other.execute("select pg_reload_conf()")
        with anyio.fail_after(10), pytest.raises(ReadOnlyDatabaseError):
            while True:
                await write(database)
        await anyio.to_thread.run_sync(pair.standby.promote)
        assert await until_writes(database) < 1.0
        for _ in range(3):
            async with (
                database.acquire() as one,
                database.acquire() as two,
                database.acquire() as three,
            ):
                for connection in (one, two, three):
                    assert (
                        await connection.fetchval("select inet_server_port()") == pair.standby.port
                    )


@pytest.mark.usefixtures("programs")
async def test_only_the_first_of_many_that_break_together_evicts_the_others(pair: Pair) -> None:
    seen = RecordingObserver()
    options = replace(QUICK, max_size=8)
    async with (
        opened(pair.primary.dsn(), options, seen) as database,
        anyio.create_task_group() as group,
    ):
        released = anyio.Event()

        async def hold(started: anyio.Event) -> None:
            with pytest.raises(DatabaseUnavailableError):
                async with database.acquire() as connection:
                    started.set()
                    await released.wait()
                    await connection.fetchval("select 1")

        for _ in range(6):
            started = anyio.Event()
            group.start_soon(hold, started)
            await started.wait()
        async with watcher(pair.primary.dsn()) as other:
            await other.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'postfacta db'"
            )
        await until_answers(database)
        await until_answers(database)
        known = len(seen.of(ConnectionOpened))
        released.set()
        await anyio.wait_all_tasks_blocked()
        assert await database.fetchval("select 1") == 1
        assert len(seen.of(ConnectionOpened)) == known


@pytest.mark.usefixtures("programs")
async def test_the_reserved_connection_is_renewed_at_its_age_without_a_gap(pair: Pair) -> None:
    seen = RecordingObserver()
    async with opened(pair.primary.dsn(), replace(QUICK, max_lifetime=0.3), seen) as database:
        with anyio.fail_after(10):
            while len(seen.of(ConnectionOpened)) < 4:
                assert database.is_connected
                await database.ping()
                await anyio.sleep(0.005)


# Before anything is known


@contextmanager
def silent_server() -> Generator[str]:
    """Listen, and never say a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"postgresql://someone@127.0.0.1:{listener.getsockname()[1]}/db"


async def test_the_first_caller_waits_for_the_first_attempt_to_connect(database_dsn: str) -> None:
    seen = RecordingObserver()
    patient = replace(QUICK, acquire_timeout=10.0)
    async with Database(database_dsn, name="db", options=patient, observer=seen) as database:
        async with anyio.create_task_group() as group:
            group.start_soon(database.ping)
            assert await database.fetchval("select 1") == 1
        async with database.transaction() as connection:
            assert await connection.fetchval("select 1") == 1
    assert {event.error_type for event in seen.of(ConnectionAcquired)} == {""}


async def test_the_first_caller_is_refused_as_soon_as_the_first_attempt_failed() -> None:
    options = replace(QUICK, acquire_timeout=60.0)
    async with Database(
        "postgresql://nobody@127.0.0.1:1/nothing", name="db", options=options
    ) as database:
        with anyio.fail_after(30), pytest.raises(DatabaseUnavailableError):
            await database.fetchval("select 1")
        with anyio.fail_after(30), pytest.raises(DatabaseUnavailableError):
            await database.ping()
        assert database.breaker.statistics().failures == 0


async def test_the_first_caller_waits_no_longer_than_it_may() -> None:
    with silent_server() as dsn:
        async with Database(
            dsn, name="db", options=replace(SHORT_WAIT, connect_timeout=60.0)
        ) as database:
            with anyio.fail_after(30), pytest.raises(DatabaseUnavailableError):
                await database.fetchval("select 1")
            with (
                anyio.fail_after(30),
                request_within(0.1),
                pytest.raises(DeadlineExceededError) as late,
            ):
                await database.fetchval("select 1")
            assert not isinstance(late.value, OutcomeUnknownError)
            with anyio.fail_after(30), pytest.raises(DatabaseUnavailableError):
                await database.ping()


async def test_a_caller_that_waits_for_the_first_attempt_is_let_go_when_the_database_closes() -> (
    None
):
    async def ask(database: Database) -> None:
        with pytest.raises(DatabaseUnavailableError):
            await database.fetchval("select 1")

    options = replace(QUICK, connect_timeout=60.0, acquire_timeout=60.0)
    with silent_server() as dsn, anyio.fail_after(30):
        async with (
            anyio.create_task_group() as group,
            Database(dsn, name="db", options=options) as database,
        ):
            group.start_soon(ask, database)
            await anyio.wait_all_tasks_blocked()


async def test_a_circuit_that_was_opened_by_hand_refuses_the_first_caller_too(
    database_dsn: str,
) -> None:
    database = Database(database_dsn, name="db", options=QUICK)
    database.breaker.force_open()
    async with database:
        with pytest.raises(CircuitOpenError):
            await database.fetchval("select 1")


def test_a_database_may_be_entered_again_in_another_event_loop(
    database_dsn: str, anyio_backend: str
) -> None:
    database = Database(database_dsn, name="db", options=replace(QUICK, acquire_timeout=10.0))

    async def live() -> int:
        async with database:
            await database.wait_connected()
            await database.ping()
            assert not database.breaker.statistics().failures
            return int(await database.fetchval("select 1"))

    assert [asyncio.run(live()) for _ in range(3)] == [1, 1, 1]
    assert not database.is_connected
