"""The server starts, answers, keeps what was committed, and says what is wrong if it cannot."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import pytest

from postfacta_embedded import EmbeddedPostgres, EmbeddedPostgresError
from postfacta_embedded.account import Account, namespace, setuid
from postfacta_embedded.binaries import copy_binaries, find_binaries
from tests.kit.pg import execute, fetch_value, open_folder

from .conftest import NO_FSYNC, WAYS, fill, small_disk

AS_ROOT = os.geteuid() == 0
SPARE = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: str(way.__name__))
def running(request: pytest.FixtureRequest) -> Generator[EmbeddedPostgres]:
    """Run one server in each way, for the tests that only look.

    The settings given must not all win.
    """
    settings = {"work_mem": "5MB", "listen_addresses": "*", "unix_socket_directories": "/tmp"}  # noqa: S108 -- must lose
    try:
        account = request.param()
    except EmbeddedPostgresError as error:
        pytest.skip(f"this system forbids it: {error.why}")
    with (
        open_folder() as place,
        EmbeddedPostgres(place / "data", account=account, settings=settings) as server,
    ):
        yield server


def test_committed_rows_are_there_after_a_stop_and_a_start(folder: Path, account: Account) -> None:
    with EmbeddedPostgres(folder / "new" / "data", account=account, settings=NO_FSYNC) as server:
        execute(server.dsn(), "CREATE TABLE note AS SELECT generate_series(1, 100) AS n")
    with EmbeddedPostgres(folder / "new" / "data", account=account, settings=NO_FSYNC) as server:
        assert fetch_value(server.dsn(), "SELECT sum(n) FROM note") == 5050


def test_the_safe_settings_hold_and_more_can_be_given(running: EmbeddedPostgres) -> None:
    names = (
        "fsync",
        "full_page_writes",
        "synchronous_commit",
        "data_checksums",
        "server_encoding",
        "work_mem",
    )
    found = [fetch_value(running.dsn(), f"SHOW {name}") for name in names]
    assert found == ["on", "on", "on", "on", "UTF8", "5MB"]


def test_it_listens_on_the_loopback_address_alone(running: EmbeddedPostgres) -> None:
    assert fetch_value(running.dsn(), "SHOW listen_addresses") == "127.0.0.1"
    assert fetch_value(running.dsn(), "SHOW unix_socket_directories") == ""
    assert 0 < running.port < 32768


def test_no_one_gets_in_without_the_password(running: EmbeddedPostgres) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        fetch_value(f"postgresql://postgres:guess@127.0.0.1:{running.port}/postgres", "SELECT 1")


def test_upper_case_knows_more_than_ascii(postgres_server: EmbeddedPostgres) -> None:
    assert fetch_value(postgres_server.dsn(), "SELECT upper('é')") == "É"


def test_it_does_not_run_as_root(running: EmbeddedPostgres) -> None:
    status = Path(f"/proc/{running.pid}/status").read_text()
    capabilities = next(line for line in status.splitlines() if line.startswith("CapEff"))
    assert int(capabilities.split()[1], 16) == 0


def test_the_server_is_a_direct_child(running: EmbeddedPostgres) -> None:
    status = Path(f"/proc/{running.pid}/status").read_text().splitlines()
    assert f"PPid:\t{os.getpid()}" in status
    assert (running.data_dir / "postmaster.pid").read_text().splitlines()[0] == str(running.pid)


def test_starting_twice_and_stopping_twice_changes_nothing(made: Path) -> None:
    server = EmbeddedPostgres(made / "data", settings=NO_FSYNC)
    first = server.start().pid
    assert server.start().pid == first
    server.stop()
    server.stop()
    assert server.pid is None
    assert server.poll() is None


def test_a_clean_stop_needs_no_recovery(made: Path) -> None:
    said = list[str]()
    server = EmbeddedPostgres(made / "data", log=said.append, settings=NO_FSYNC).start()
    execute(server.dsn(), "SELECT 1")
    server.restart()
    server.stop()
    assert not any("recovering" in message for message in said)
    assert "not properly shut down" not in server.log_file.read_text()


def test_a_stop_ends_open_sessions_and_returns_soon(made: Path) -> None:
    with EmbeddedPostgres(made / "data", stop_timeout=20.0, settings=NO_FSYNC) as server:
        client: list[str | Path] = [
            find_binaries().folder / "psql",
            server.dsn(),
            "-c",
            "SELECT pg_sleep(60)",
        ]
        session = subprocess.Popen(  # noqa: S603 -- an argument list
            client, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while not fetch_value(
            server.dsn(), "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%sleep(60)'"
        ):
            assert session.poll() is None
    assert session.wait(10) != 0
    assert "database system is shut down" in server.log_file.read_text()


def test_a_frozen_server_is_killed_and_reaped(made: Path) -> None:
    server = EmbeddedPostgres(made / "data", stop_timeout=0.2, settings=NO_FSYNC).start()
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_restart_keeps_the_port(made: Path) -> None:
    with EmbeddedPostgres(made / "data", settings=NO_FSYNC) as server:
        dsn, pid = server.dsn(), server.pid
        server.restart()
        assert server.dsn() == dsn
        assert server.pid != pid
        assert fetch_value(dsn, "SELECT 1") == 1


def test_a_chosen_port_is_given_up_if_it_is_taken(made: Path) -> None:
    with EmbeddedPostgres(made / "data", settings=NO_FSYNC) as server:
        old = server.port
        server.stop()
        with socket.create_server(("127.0.0.1", old)):
            server.start()
            assert server.port != old
            assert fetch_value(server.dsn(), "SELECT 1") == 1


def test_a_port_that_is_taken_between_the_look_and_the_start_is_changed(made: Path) -> None:
    with ExitStack() as taken:

        def take_the_first(message: str) -> None:
            if message.startswith("starting") and not ports:
                ports.append(server.port)
                taken.enter_context(socket.create_server(("127.0.0.1", server.port)))

        ports = list[int]()
        server = EmbeddedPostgres(made / "data", log=take_the_first, settings=NO_FSYNC)
        with server:
            assert [server.port] != ports
            assert fetch_value(server.dsn(), "SELECT 1") == 1


def test_a_named_port_that_is_in_use_is_an_error_that_names_it(
    made: Path, account: Account
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = EmbeddedPostgres(made / "data", account=account, port=port, settings=NO_FSYNC)
        with pytest.raises(EmbeddedPostgresError, match=f"port {port} on 127.0.0.1 is in use"):
            server.start()
    assert server.pid is None


def test_a_second_owner_of_one_folder_is_refused_and_harms_nothing(made: Path) -> None:
    with EmbeddedPostgres(made / "data", settings=NO_FSYNC) as server:
        with pytest.raises(
            EmbeddedPostgresError, match=rf"\(pid {os.getpid()}\) is using {made}/data"
        ):
            EmbeddedPostgres(made / "data", settings=NO_FSYNC).start()
        assert fetch_value(server.dsn(), "SELECT 1") == 1


def test_a_bad_setting_fails_at_once_with_the_last_words_of_postgres(made: Path) -> None:
    with pytest.raises(
        EmbeddedPostgresError, match=r"unrecognized configuration parameter \"no_such\""
    ):
        EmbeddedPostgres(made / "data", settings={**NO_FSYNC, "no_such": "1"}).start()
    EmbeddedPostgres(made / "data", settings=NO_FSYNC).start().stop()


def test_a_server_that_does_not_get_ready_in_time_is_stopped(made: Path) -> None:
    server = EmbeddedPostgres(made / "data", start_timeout=0.0, settings=NO_FSYNC)
    with pytest.raises(EmbeddedPostgresError, match="did not answer within 0 s"):
        server.start()
    assert server.pid is None
    assert not (made / "data" / "postmaster.pid").exists()


def test_progress_is_reported_in_order(folder: Path) -> None:
    said = list[str]()
    with EmbeddedPostgres(folder / "data", log=said.append, settings=NO_FSYNC) as server:
        version = find_binaries().version
        assert said == [
            f"creating the database cluster in {folder}/data with PostgreSQL {version}",
            f"starting PostgreSQL {version} on port {server.port}",
        ]


def test_a_large_log_is_set_aside_at_the_start(folder: Path) -> None:
    log = folder / "data.log"
    log.write_bytes(b"x" * (10 * 1024 * 1024 + 1))
    with EmbeddedPostgres(folder / "data", settings=NO_FSYNC):
        assert log.stat().st_size < 100_000
        assert (folder / "data.log.1").stat().st_size > 10 * 1024 * 1024


def test_an_unusable_folder_of_binaries_is_an_error(folder: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match="there is no postgres"):
        EmbeddedPostgres(folder / "data", binaries=folder, settings=NO_FSYNC).start()


@pytest.mark.skipif(not SPARE.is_dir(), reason="no PostgreSQL of another version is installed here")
def test_another_major_version_runs_and_its_data_is_not_given_to_a_newer_one(
    folder: Path, account: Account
) -> None:
    with EmbeddedPostgres(
        folder / "data", account=account, binaries=SPARE, settings=NO_FSYNC
    ) as server:
        assert fetch_value(server.dsn(), "SELECT upper('é')") == "É"
    with pytest.raises(EmbeddedPostgresError, match="was made by PostgreSQL 15"):
        EmbeddedPostgres(folder / "data", account=account, settings=NO_FSYNC).start()


@pytest.mark.skipif(not AS_ROOT, reason="only root can mount a small disk")
def test_a_full_disk_is_named_at_the_start(folder: Path, account: Account) -> None:
    with small_disk(folder, "160m") as disk:
        EmbeddedPostgres(disk / "data", account=account, settings=NO_FSYNC).start().stop()
        fill(disk / "filler")
        with pytest.raises(EmbeddedPostgresError, match=f"no disk space: {disk} has 0 MB free"):
            EmbeddedPostgres(disk / "data", account=account, settings=NO_FSYNC).start()
        (disk / "filler").unlink()
        EmbeddedPostgres(disk / "data", account=account, settings=NO_FSYNC).start().stop()


@pytest.mark.skipif(not AS_ROOT, reason="only root can run it in two ways")
def test_root_can_change_the_way_it_runs_and_keeps_the_data(folder: Path) -> None:
    for number, way in enumerate((namespace, setuid, namespace)):
        with EmbeddedPostgres(folder / "data", account=way(), settings=NO_FSYNC) as server:
            execute(
                server.dsn(),
                "CREATE TABLE IF NOT EXISTS note ()",
                "INSERT INTO note DEFAULT VALUES",
            )
            assert fetch_value(server.dsn(), "SELECT count(*) FROM note") == number + 1


@pytest.mark.skipif(not AS_ROOT, reason="only root can become another user")
def test_binaries_that_the_user_cannot_reach_are_copied(folder: Path) -> None:
    (folder / "closed").mkdir(mode=0o700)
    closed = copy_binaries(find_binaries(), folder / "closed" / "pg")
    said = list[str]()
    with EmbeddedPostgres(
        folder / "data", account=setuid(), binaries=closed.folder, log=said.append
    ) as server:
        assert fetch_value(server.dsn(), "SELECT 1") == 1
    assert f"cannot enter {folder}/closed" in said[0]


@pytest.mark.skipif(not AS_ROOT, reason="only root can become another user")
def test_a_data_folder_that_the_user_cannot_reach_is_an_error(folder: Path) -> None:
    (folder / "closed").mkdir(mode=0o700)
    with pytest.raises(EmbeddedPostgresError, match=f"as nobody it cannot enter {folder}/closed"):
        EmbeddedPostgres(folder / "closed" / "data", account=setuid(), settings=NO_FSYNC).start()


def test_another_program_of_postgresql_runs_as_its_account(folder: Path, account: Account) -> None:
    server = EmbeddedPostgres(folder / "data", account=account, settings=NO_FSYNC)
    with pytest.raises(EmbeddedPostgresError, match="it was not started"):
        server.run_program("pg_controldata", timeout=5.0)
    with server:
        code, words = server.run_program("pg_controldata", server.data_dir, timeout=30.0)
        assert (code, "in production" in words) == (0, True)
        with pytest.raises(EmbeddedPostgresError, match="there is no"):
            server.run_program("pg_nothing", timeout=5.0)
        with pytest.raises(EmbeddedPostgresError, match="no end within"):
            server.run_program("pg_test_timing", "-d", "9", timeout=0.2)
