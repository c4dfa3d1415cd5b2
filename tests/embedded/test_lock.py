"""A data folder has one owner, and a dead owner is no owner."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from postfacta_embedded import EmbeddedPostgresError
from postfacta_embedded.lock import OwnerLock

OWNER = """
import pathlib, sys
from postfacta_embedded.lock import OwnerLock
lock = OwnerLock(pathlib.Path(sys.argv[1]), pathlib.Path("data"))
lock.acquire()
print("owned", flush=True)
sys.stdin.read()
"""


def test_a_second_owner_gets_the_first_owners_pid(tmp_path: Path) -> None:
    first, second = (
        OwnerLock(tmp_path / "x.lock", tmp_path / "x"),
        OwnerLock(tmp_path / "x.lock", tmp_path / "x"),
    )
    first.acquire()
    with pytest.raises(
        EmbeddedPostgresError, match=rf"\(pid {os.getpid()}\) is using {tmp_path}/x"
    ):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_acquiring_twice_and_releasing_twice_changes_nothing(tmp_path: Path) -> None:
    lock = OwnerLock(tmp_path / "x.lock", tmp_path / "x")
    lock.acquire()
    lock.acquire()
    lock.release()
    lock.release()


def test_the_lock_dies_with_its_owner(tmp_path: Path) -> None:
    lock = OwnerLock(tmp_path / "x.lock", tmp_path / "x")
    command = [sys.executable, "-c", OWNER, str(tmp_path / "x.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:  # noqa: S603 -- our own script
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"owned\n"
        with pytest.raises(EmbeddedPostgresError, match=rf"pid {owner.pid}"):
            lock.acquire()
        owner.kill()
    lock.acquire()
    lock.release()


def test_a_child_does_not_keep_the_lock_of_its_parent(tmp_path: Path) -> None:
    lock = OwnerLock(tmp_path / "x.lock", tmp_path / "x")
    lock.acquire()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False) as child:  # noqa: S607 -- any cat
        lock.release()
        lock.acquire()
        assert child.poll() is None
        lock.release()
