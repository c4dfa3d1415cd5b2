"""A database that is away, stopped, frozen or full is used again once it is back."""

from __future__ import annotations

import os
import signal
from contextlib import AsyncExitStack, suppress
from dataclasses import replace

import anyio
import asyncpg
import pytest

from postfacta_core.errors import (
    DatabaseUnavailableError,
    DeadlineExceededError,
    OutcomeUnknownError,
    PoolTimeoutError,
)
from postfacta_core.events import ConnectionOpened
from postfacta_core.testing import RecordingObserver
from postfacta_embedded import EmbeddedPostgres
from postfacta_postgres import Database, PoolOptions
from tests.kit.pg import open_folder
from tests.postgres.databases import asked_all_the_while, is_alive

from .postgres import QUICK, Flapping, opened, request_within, until_answers, until_quiet, watcher

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])  # asyncpg knows no other


@pytest.mark.usefixtures("programs")
async def test_a_database_that_is_away_at_start_is_no_crash_and_comes_by_itself() -> None:
    seen = RecordingObserver()
    with open_folder() as folder:
        server = EmbeddedPostgres(folder / "data")
        await anyio.to_thread.run_sync(server.start)
        dsn = server.dsn()
        await anyio.to_thread.run_sync(server.stop)
        try:
            async with Database(dsn, name="db", options=QUICK, observer=seen) as database:
                with pytest.raises(DatabaseUnavailableError) as refusal:
                    await database.fetchval("select 1")
                assert refusal.value.retry_after is not None
                with pytest.raises(DatabaseUnavailableError):
                    await database.ping()
                await anyio.to_thread.run_sync(server.start)
                with anyio.fail_after(10):
                    await database.wait_connected()
                assert await database.fetchval("select 1") == 1
        finally:
            await anyio.to_thread.run_sync(server.stop)
    assert next(event.error_type for event in seen.of(ConnectionOpened)) == "ConnectionRefusedError"


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_database_that_is_stopped_or_killed_is_used_again_once_it_is_back(
    own_server: EmbeddedPostgres, how: str
) -> None:
    async with opened(own_server.dsn()) as database:
        await database.fetchval("select 1")
        if how == "kill":
            assert own_server.pid is not None
            os.kill(own_server.pid, signal.SIGKILL)
        await anyio.to_thread.run_sync(own_server.stop)
        with anyio.fail_after(10), pytest.raises(DatabaseUnavailableError):
            while True:
                await database.fetchval("select 1", repeatable=True)
        await anyio.to_thread.run_sync(own_server.start)
        await until_answers(database)
        await database.ping()


async def test_one_connection_that_breaks_fails_no_other_caller(database_dsn: str) -> None:
    options = PoolOptions(max_size=4, acquire_timeout=5)
    async with (
        opened(database_dsn, options) as database,
        watcher(database_dsn) as other,
        asked_all_the_while(database) as answers,
    ):
        for _ in range(5):
            with pytest.raises(DatabaseUnavailableError):
                async with database.transaction() as connection:
                    pid = await connection.fetchval("select pg_backend_pid()")
                    await other.execute("select pg_terminate_backend($1)", pid)
                    while True:
                        await connection.execute("select 1")
            before = len(answers)
            with anyio.fail_after(10):
                while len(answers) < before + 20:
                    await anyio.sleep(0.001)


async def test_the_loss_of_the_reserved_connection_fails_no_caller(database_dsn: str) -> None:
    ours = "select pid from pg_stat_activity where application_name = 'postfacta db' and datname = current_database()"
    seen = RecordingObserver()
    options = PoolOptions(max_size=2, acquire_timeout=5)
    async with opened(database_dsn, options, seen) as database, watcher(database_dsn) as other:
        for _ in range(5):
            async with (
                database.acquire() as lent,
                database.acquire() as also,
            ):  # all but the reserved one
                pids = [await one.fetchval("select pg_backend_pid()") for one in (lent, also)]
            reserved = next(row["pid"] for row in await other.fetch(ours) if row["pid"] not in pids)
            known = len(seen.of(ConnectionOpened))
            async with asked_all_the_while(database):
                await other.execute("select pg_terminate_backend($1)", reserved)
                with anyio.fail_after(10):
                    while len(seen.of(ConnectionOpened)) == known:
                        await anyio.sleep(0.001)
                    while not await is_alive(
                        database
                    ):  # it may be the first to see that its connection is gone
                        await anyio.sleep(0.001)


async def test_signs_of_life_may_be_asked_for_by_several_at_once(database_dsn: str) -> None:
    seen = RecordingObserver()
    async with opened(database_dsn, observer=seen) as database, anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(database.ping)
    assert len(seen.of(ConnectionOpened)) == 1


async def test_a_server_that_finds_no_place_for_one_more_keeps_those_it_has(
    own_server: EmbeddedPostgres,
) -> None:
    seen = RecordingObserver()
    options = PoolOptions(max_size=5)
    async with AsyncExitStack() as others, opened(own_server.dsn(), options, seen) as database:
        async with database.acquire() as lent, database.acquire():
            with pytest.raises(asyncpg.TooManyConnectionsError):
                while True:
                    await others.enter_async_context(watcher(own_server.dsn()))
            with pytest.raises(DatabaseUnavailableError):
                async with database.acquire(), database.acquire():
                    pass
            assert await lent.fetchval("select 1") == 1
        for _ in range(5):
            await database.ping()
            assert await database.fetchval("select 1") == 1
    assert [event.error_type for event in seen.of(ConnectionOpened)].count("") == 3


async def test_a_frozen_server_is_noticed_and_used_again_once_it_goes_on(
    own_server: EmbeddedPostgres,
) -> None:
    options = PoolOptions(
        acquire_timeout=0.2, connect_timeout=0.5, statement_timeout=0.5, close_timeout=0.5
    )
    async with opened(own_server.dsn(), options) as database:
        rows = await database.fetch("select pid from pg_stat_activity")
        frozen = [own_server.pid or 0, *(row["pid"] for row in rows)]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            with anyio.fail_after(5), pytest.raises(DeadlineExceededError):
                await database.fetchval("select 1")  # on the idle connection
            with anyio.fail_after(10):
                while database.is_connected:
                    # At first an opening has time left, so that it is the pool that has none to
                    # lend.
                    with pytest.raises((DatabaseUnavailableError, PoolTimeoutError)):
                        await database.fetchval("select 1")
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        await until_answers(database)


async def test_a_sign_of_life_that_is_not_waited_for_is_missed_all_the_same(
    own_server: EmbeddedPostgres,
) -> None:
    async with opened(own_server.dsn()) as database:
        rows = await database.fetch("select pid from pg_stat_activity")
        frozen = [own_server.pid or 0, *(row["pid"] for row in rows)]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            with anyio.move_on_after(0.1) as patience:
                await database.ping()
            assert patience.cancelled_caught
            with anyio.fail_after(10), pytest.raises(DatabaseUnavailableError):
                await database.ping()  # it joins the question that is under way
            with anyio.fail_after(10):
                while database.is_connected:
                    await anyio.sleep(0.01)
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        await until_answers(database)
        await database.ping()


async def test_a_connection_that_breaks_during_commit_leaves_the_outcome_unknown(
    database_dsn: str,
) -> None:
    sleeps = "create function slow() returns trigger language plpgsql as 'begin perform pg_sleep(30); return null; end'"
    later = "create constraint trigger slow after insert on t deferrable initially deferred for each row execute function slow()"
    options = PoolOptions(statement_timeout=20)
    async with opened(database_dsn, options) as database, watcher(database_dsn) as other:
        for statement in ("create table t (a int)", sleeps, later):
            await database.execute(statement)

        async def end_it(pid: int) -> None:
            with anyio.fail_after(10):
                while (
                    await other.fetchval(
                        "select wait_event from pg_stat_activity where pid = $1", pid
                    )
                    != "PgSleep"
                ):
                    await anyio.sleep(0.01)
            await other.execute("select pg_terminate_backend($1)", pid)

        async with anyio.create_task_group() as group:
            with pytest.raises(OutcomeUnknownError):
                async with database.transaction() as connection:
                    await connection.execute("insert into t values (1)")
                    group.start_soon(end_it, await connection.fetchval("select pg_backend_pid()"))


async def test_a_request_past_its_deadline_does_not_wait_for_a_server_that_is_frozen(
    own_server: EmbeddedPostgres,
) -> None:
    async with opened(own_server.dsn(), PoolOptions(close_timeout=0.5)) as database:
        rows = await database.fetch("select pid from pg_stat_activity")
        frozen = [own_server.pid or 0, *(row["pid"] for row in rows)]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            started = anyio.current_time()
            with request_within(0.5), pytest.raises(DeadlineExceededError):
                async with database.transaction() as connection:
                    await connection.execute("select 1")
            assert anyio.current_time() - started < 0.6
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        await until_answers(database)


async def test_a_database_that_closes_with_a_frozen_server_ends_in_time_and_leaves_nothing_on_it(
    own_server: EmbeddedPostgres,
) -> None:
    async def stuck(database: Database, started: anyio.Event) -> None:
        with suppress(OutcomeUnknownError, DeadlineExceededError):
            async with database.acquire() as connection:
                started.set()
                await connection.execute("select pg_sleep(60)")

    options = PoolOptions(statement_timeout=30, close_timeout=0.3)
    async with watcher(own_server.dsn()) as other:
        frozen: list[int] = []
        closing = anyio.current_time()
        try:
            async with (
                anyio.create_task_group() as group,
                opened(own_server.dsn(), options) as database,
            ):
                started = anyio.Event()
                group.start_soon(stuck, database, started)
                await started.wait()
                with anyio.fail_after(10):
                    while (
                        await other.fetchval(
                            "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
                        )
                        == 0
                    ):
                        await anyio.sleep(0.01)
                rows = await other.fetch(
                    "select pid from pg_stat_activity where application_name = 'postfacta db'"
                )
                frozen += [row["pid"] for row in rows]
                for pid in frozen:
                    os.kill(pid, signal.SIGSTOP)
                closing = anyio.current_time()
            assert anyio.current_time() - closing < 1
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        await until_quiet(other, most=0, seconds=5)  # pg_sleep goes on for a minute, but for nobody


async def test_a_raw_statement_ends_though_the_server_says_nothing(database_dsn: str) -> None:
    options = replace(QUICK, statement_timeout=0.2)
    async with (
        Flapping(database_dsn) as relay,
        opened(relay.dsn(), options) as database,
        database.acquire() as connection,
    ):
        relay.mutes = 1
        with anyio.fail_after(30), pytest.raises(TimeoutError):
            await connection.raw.fetchval("select 'victim'")
