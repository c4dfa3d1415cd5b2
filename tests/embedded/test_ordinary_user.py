"""An ordinary user runs it directly, shown by a process that has given up root for good."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest

from postfacta_embedded import EmbeddedPostgres, EmbeddedPostgresError
from postfacta_embedded.account import Means, choose_account
from postfacta_embedded.binaries import copy_binaries, find_binaries

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0,
    reason="all the other tests run as an ordinary user already, and only root can change",
)


def as_user(uid: int, work: Callable[[], str]) -> str:
    """Do work in a child that has become this user, and give what it returns.

    The child is a fork and not a new interpreter, since the user may be unable to reach an
    interpreter that lives in root's home.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            answer = work()
        except BaseException as error:  # noqa: BLE001 -- the fork must never return into pytest
            answer = repr(error)
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answers:
        said = answers.read().decode()
    os.waitpid(child, 0)
    return said


@pytest.fixture
def binaries(folder: Path) -> Path:
    """Give binaries that each user can reach."""
    return copy_binaries(find_binaries(), folder / "pg").folder


def test_an_ordinary_user_runs_it_directly(folder: Path, binaries: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    home = folder / "home"
    home.mkdir()
    os.chown(home, nobody.pw_uid, nobody.pw_gid)

    def work() -> str:
        with EmbeddedPostgres(home / "data", binaries=binaries) as server:
            server.restart()
            status = Path(f"/proc/{server.pid}/status").read_text()
            uid = next(line for line in status.splitlines() if line.startswith("Uid")).split()[1]
            return f"{choose_account().means} {uid} {(home / 'data').stat().st_uid} {server.poll()}"

    assert as_user(nobody.pw_uid, work) == f"{Means.DIRECT} {nobody.pw_uid} {nobody.pw_uid} None"


def test_a_folder_that_the_user_may_not_write_is_named(folder: Path, binaries: Path) -> None:
    (folder / "closed").mkdir(mode=0o755)

    def work() -> str:
        try:
            EmbeddedPostgres(folder / "closed" / "data", binaries=binaries).start()
        except EmbeddedPostgresError as error:
            return str(error)
        return "it started"

    said = as_user(pwd.getpwnam("nobody").pw_uid, work)
    assert "no permission to write" in said
    assert f"make {folder}/closed writable" in said


def test_a_user_without_a_name_runs_namespaced_or_gets_help(folder: Path, binaries: Path) -> None:
    home = folder / "home"
    home.mkdir()
    os.chown(home, 54321, 54321)

    def work() -> str:
        try:
            with EmbeddedPostgres(home / "data", binaries=binaries) as server:
                return str(server.poll())
        except EmbeddedPostgresError as error:
            return str(error)

    said = as_user(54321, work)
    assert said == "None" or "uid 54321 has no name on this system" in said
