"""PostgreSQL never runs as root, and a folder it cannot enter is named."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

import pytest

from postfacta_embedded import EmbeddedPostgresError
from postfacta_embedded.account import Account, Means, choose_account, direct

AS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not AS_ROOT, reason="only root can become another user")


def test_a_child_does_not_feel_like_root(account: Account) -> None:
    code, output = account.run(["id", "-u"], timeout=10)
    assert code == 0
    assert int(output) != 0


def test_a_child_has_no_capability_left(account: Account) -> None:
    _, output = account.run(["grep", "CapEff", "/proc/self/status"], timeout=10)
    assert int(output.split()[1], 16) == 0


def test_a_child_is_a_direct_child_in_a_session_of_its_own(account: Account) -> None:
    with account.start(["sleep", "30"], output=subprocess.DEVNULL) as child:
        try:
            session = os.getsid(child.pid)
        finally:
            child.kill()
    assert session == child.pid


def test_a_child_does_not_inherit_the_environment(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGDATA", "/somewhere/else")
    assert "PGDATA" not in account.run(["env"], timeout=10)[1]


def test_a_command_that_takes_too_long_is_killed(account: Account) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        account.run(["sleep", "30"], timeout=0.1)


def test_root_uses_a_namespace_or_setuid_and_users_run_directly() -> None:
    assert (choose_account().means is Means.DIRECT) is not AS_ROOT


@needs_root
def test_a_folder_that_the_account_cannot_enter_is_named(folder: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    account = Account(means=Means.SETUID, uid=nobody.pw_uid, gid=nobody.pw_gid)
    closed = folder / "closed"
    (closed / "inner").mkdir(parents=True)
    closed.chmod(0o700)
    with pytest.raises(
        EmbeddedPostgresError, match=f"cannot enter {closed} on the way to {closed}/inner"
    ):
        account.require_entry(closed / "inner")
    assert closed.stat().st_mode & 0o777 == 0o700
    assert account.first_closed(folder) is None


@needs_root
def test_the_folder_of_a_stranger_is_not_taken_over(folder: Path, account: Account) -> None:
    (folder / "data").mkdir()
    os.chown(folder / "data", 12345, 12345)
    with pytest.raises(EmbeddedPostgresError, match="belongs to user 12345"):
        account.take_over(folder / "data")
    assert (folder / "data").stat().st_uid == 12345


@needs_root
def test_taking_over_a_folder_does_not_follow_links_out_of_it(folder: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    account = Account(means=Means.SETUID, uid=nobody.pw_uid, gid=nobody.pw_gid)
    (folder / "data").mkdir()
    (folder / "outside").write_text("root's")
    (folder / "data" / "link").symlink_to(folder / "outside")
    account.take_over(folder / "data")
    assert (folder / "data").stat().st_uid == nobody.pw_uid
    assert (folder / "outside").stat().st_uid == 0


def test_running_directly_keeps_the_user() -> None:
    assert direct().uid == os.geteuid()
