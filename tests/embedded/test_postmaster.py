"""A process is stopped only if it is proven to be the PostgreSQL of this very folder."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from postfacta_embedded import EmbeddedPostgres
from postfacta_embedded.postmaster import end_orphan, is_alive, read_pid_file, runs_postgres_on

PROC = Path("/proc")
NO_PROC = Path("/no/such/proc")
COMPLETE = "4711\n/data\n1764000000\n5432\n\n127.0.0.1\n  1234  5\nready   \n"


def test_the_status_is_read_from_a_complete_file(tmp_path: Path) -> None:
    (tmp_path / "postmaster.pid").write_text(COMPLETE)
    found = read_pid_file(tmp_path)
    assert found is not None
    assert (found.pid, found.status) == (4711, "ready")


@pytest.mark.parametrize("length", range(len(COMPLETE)))
def test_a_file_that_is_being_written_is_never_ready(tmp_path: Path, length: int) -> None:
    text = COMPLETE[:length]
    (tmp_path / "postmaster.pid").write_text(text)
    found = read_pid_file(tmp_path)
    assert found is None or found.status != "ready" or text.rstrip().endswith("ready")


def test_a_missing_file_is_no_postmaster(tmp_path: Path) -> None:
    assert read_pid_file(tmp_path) is None


@pytest.mark.parametrize("proc", [PROC, NO_PROC], ids=["proc", "ps"])
def test_a_postgres_is_recognised_by_program_and_folder(
    postgres_server: EmbeddedPostgres, proc: Path
) -> None:
    pid = postgres_server.pid
    assert pid is not None
    assert runs_postgres_on(pid, postgres_server.data_dir, proc=proc)
    assert not runs_postgres_on(pid, postgres_server.data_dir.parent, proc=proc)
    assert not runs_postgres_on(os.getpid(), postgres_server.data_dir, proc=proc)


@pytest.mark.parametrize("proc", [PROC, NO_PROC], ids=["proc", "ps"])
def test_a_process_that_only_mentions_the_folder_is_not_a_postgres(
    tmp_path: Path, proc: Path
) -> None:
    command = ["tail", "-f", "/dev/null", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as other:  # noqa: S603 -- an argument list
        try:
            assert not runs_postgres_on(other.pid, tmp_path, proc=proc)
        finally:
            other.kill()


@pytest.mark.parametrize("proc", [PROC, NO_PROC], ids=["proc", "ps"])
def test_an_unused_pid_is_not_a_postgres(tmp_path: Path, proc: Path) -> None:
    with subprocess.Popen(["true"]) as gone:  # noqa: S607 -- any true
        gone.wait()
    assert not is_alive(gone.pid)
    assert not runs_postgres_on(gone.pid, tmp_path, proc=proc)


def test_a_stranger_with_the_pid_of_a_dead_postmaster_gets_no_signal(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:  # noqa: S607 -- any sleep
        (tmp_path / "postmaster.pid").write_text(COMPLETE.replace("4711", str(stranger.pid)))
        said = list[str]()
        try:
            end_orphan(tmp_path, timeout=1.0, log=said.append)
            assert stranger.poll() is None
        finally:
            stranger.kill()
        assert said == []
