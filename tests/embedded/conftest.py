"""A folder that PostgreSQL may enter, and each way to run it that this machine offers."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from postfacta_embedded import EmbeddedPostgresError
from postfacta_embedded.account import Account, choose_account, direct, namespace, setuid
from postfacta_embedded.binaries import find_binaries
from postfacta_embedded.cluster import Cluster, prepare_cluster
from tests.kit.pg import open_folder

NO_FSYNC = {"fsync": "off"}
"""For tests that kill processes, not the machine.

What a process wrote outlives it without fsync.
"""

WAYS = (namespace, setuid) if os.geteuid() == 0 else (direct,)


@pytest.fixture
def folder() -> Generator[Path]:
    """Give a temporary folder that each user may enter."""
    with open_folder() as path:
        yield path


def _quiet(message: str) -> None:
    """Take a message and drop it."""


@pytest.fixture(scope="session")
def template() -> Generator[Cluster]:
    """Create one cluster, of which tests take copies: that is five times as fast as creating."""
    with open_folder() as path:
        cluster = Cluster(path / "data")
        prepare_cluster(cluster, find_binaries(), choose_account(), log=_quiet, fsync=False)
        yield cluster


@pytest.fixture
def made(folder: Path, template: Cluster) -> Path:
    """Give a folder as ``folder`` does, with a cluster in it that has never been started."""
    shutil.copytree(template.data_dir, folder / "data")
    shutil.copy2(template.password_file, folder / "data.password")
    return folder


@pytest.fixture(params=WAYS, ids=lambda way: str(way.__name__))
def account(request: pytest.FixtureRequest) -> Account:
    """Run the test once in each way that fits the user who runs it."""
    try:
        made: Account = request.param()
    except EmbeddedPostgresError as error:
        pytest.skip(f"this system forbids it: {error.why}")
    return made


@contextmanager
def small_disk(folder: Path, size: str) -> Generator[Path]:
    """Mount a file system of this size, which only root can."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)  # noqa: S603 -- an argument list
    if done.returncode:
        pytest.skip(f"this system mounts nothing here: {done.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)  # noqa: S603, S607 -- an argument list, any umount


def fill(file: Path) -> None:
    """Write until the disk is full."""
    with file.open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))


@pytest.fixture(autouse=True)
def _programs(programs: None) -> None:
    """Put the folder into the tier `process`."""
