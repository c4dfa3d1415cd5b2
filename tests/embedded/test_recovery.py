"""Whatever is killed, the next start has every committed row."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from postfacta_embedded import EmbeddedPostgres, EmbeddedPostgresError
from postfacta_embedded.account import Account
from postfacta_embedded.postmaster import is_alive
from tests.kit.pg import execute, fetch_value

from .conftest import NO_FSYNC

OWNER = """
import pathlib, sys
from postfacta_embedded import EmbeddedPostgres
from postfacta_embedded.account import direct, namespace, setuid
account = {"direct": direct, "namespace": namespace, "setuid": setuid}[sys.argv[2]]()
server = EmbeddedPostgres(pathlib.Path(sys.argv[1]), account=account, settings={"fsync": "off"}).start()
print(server.pid, server.dsn(), flush=True)
sys.stdin.read()
"""


@contextmanager
def owner_elsewhere(
    data_dir: Path, account: Account
) -> Generator[tuple[subprocess.Popen[str], int, str]]:
    """Let another process own the server; gives that process, the server's pid and its address."""
    command = [sys.executable, "-c", OWNER, str(data_dir), account.means.value]
    with subprocess.Popen(  # noqa: S603 -- our own script
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        try:
            assert owner.stdout is not None
            pid, dsn = owner.stdout.readline().split()
            yield owner, int(pid), dsn
        finally:
            owner.kill()


def test_a_killed_server_is_noticed_and_loses_no_committed_row(
    made: Path, account: Account
) -> None:
    said = list[str]()
    with EmbeddedPostgres(
        made / "data", account=account, log=said.append, settings=NO_FSYNC
    ) as server:
        assert server.poll() is None
        execute(
            server.dsn(),
            "CREATE TABLE note (n int)",
            "INSERT INTO note SELECT generate_series(1, 1000)",
        )
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
        assert server.poll() == -signal.SIGKILL
        server.start()
        assert fetch_value(server.dsn(), "SELECT sum(n) FROM note") == 500_500
    assert "recovering after an unclean stop" in said
    assert "redo starts" in server.log_file.read_text()


def test_a_server_that_outlived_its_killed_owner_is_stopped_cleanly(
    made: Path, account: Account
) -> None:
    said = list[str]()
    with owner_elsewhere(made / "data", account) as (owner, orphan, dsn):
        execute(dsn, "CREATE TABLE note AS SELECT 42 AS n")
        owner.kill()
        owner.wait()
        assert is_alive(orphan)
        with EmbeddedPostgres(
            made / "data", account=account, log=said.append, settings=NO_FSYNC
        ) as server:
            assert server.pid != orphan
            assert fetch_value(server.dsn(), "SELECT n FROM note") == 42
    assert said[0] == f"stopping PostgreSQL (pid {orphan}), which an earlier run left behind"
    assert "recovering after an unclean stop" not in said
    assert "not properly shut down" not in server.log_file.read_text()


def test_an_owner_and_a_server_killed_together_lose_no_committed_row(
    made: Path, account: Account
) -> None:
    with owner_elsewhere(made / "data", account) as (owner, orphan, dsn):
        execute(dsn, "CREATE TABLE note AS SELECT 42 AS n")
        owner.kill()
        os.kill(orphan, signal.SIGKILL)
        owner.wait()
        with EmbeddedPostgres(made / "data", account=account, settings=NO_FSYNC) as server:
            assert fetch_value(server.dsn(), "SELECT n FROM note") == 42


def test_a_living_owner_in_another_process_keeps_its_server(made: Path, account: Account) -> None:
    with owner_elsewhere(made / "data", account) as (owner, _, dsn):
        with pytest.raises(
            EmbeddedPostgresError, match=rf"another postfacta demo \(pid {owner.pid}\)"
        ):
            EmbeddedPostgres(made / "data", account=account, settings=NO_FSYNC).start()
        assert fetch_value(dsn, "SELECT 1") == 1
        owner.kill()
        owner.wait()
        EmbeddedPostgres(made / "data", account=account, settings=NO_FSYNC).start().stop()


@pytest.mark.parametrize("holder", ["stranger", "zombie"])
def test_the_pid_of_a_dead_server_in_other_hands_does_not_stop_the_next_start(
    made: Path, account: Account, holder: str
) -> None:
    server = EmbeddedPostgres(made / "data", account=account, settings=NO_FSYNC).start()
    execute(server.dsn(), "CREATE TABLE note AS SELECT 42 AS n")
    dead = server.pid
    assert dead is not None
    os.kill(dead, signal.SIGKILL)
    server.stop()
    pid_file = made / "data" / "postmaster.pid"
    # After a boot, or in a new container, small pids come back: to this child, as PostgreSQL's own
    # user.
    with account.start(
        ["true" if holder == "zombie" else "sleep", "60"], output=subprocess.DEVNULL
    ) as other:
        try:
            if holder == "zombie":
                os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
            pid_file.write_text(pid_file.read_text().replace(str(dead), str(other.pid), 1))
            with server:
                assert fetch_value(server.dsn(), "SELECT n FROM note") == 42
            assert holder == "zombie" or other.poll() is None
        finally:
            other.kill()


def test_a_second_server_on_a_folder_in_use_is_refused_by_the_lock_even_if_the_first_has_died(
    made: Path,
) -> None:
    with EmbeddedPostgres(made / "data", settings=NO_FSYNC) as server:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(EmbeddedPostgresError, match="is using"):
            EmbeddedPostgres(made / "data", settings=NO_FSYNC).start()
        server.restart()
        assert fetch_value(server.dsn(), "SELECT 1") == 1
