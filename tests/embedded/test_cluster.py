"""A cluster is created whole or not at all, and what cannot be used is left untouched."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from postfacta_embedded import EmbeddedPostgresError
from postfacta_embedded.account import Account
from postfacta_embedded.binaries import Binaries, find_binaries
from postfacta_embedded.cluster import Cluster, prepare_cluster

from .conftest import small_disk

AS_ROOT = os.geteuid() == 0


@pytest.fixture(scope="module")
def binaries() -> Binaries:
    return find_binaries()


def quiet(message: str) -> None:
    """Take a message and drop it."""


def test_a_new_cluster_is_closed_to_other_users(
    folder: Path, account: Account, binaries: Binaries
) -> None:
    cluster = Cluster(folder / "data")
    prepare_cluster(cluster, binaries, account, log=quiet, fsync=False)
    assert cluster.data_dir.stat().st_mode & 0o777 == 0o700
    assert cluster.password_file.stat().st_mode & 0o777 == 0o600
    assert len(cluster.password()) >= 32
    rules = (cluster.data_dir / "pg_hba.conf").read_text().splitlines()
    assert {line.split()[-1] for line in rules if line and not line.startswith("#")} == {
        "scram-sha-256"
    }


def test_a_cluster_is_created_once(folder: Path, account: Account, binaries: Binaries) -> None:
    cluster, said = Cluster(folder / "data"), list[str]()
    prepare_cluster(cluster, binaries, account, log=said.append, fsync=False)
    password = cluster.password()
    prepare_cluster(cluster, binaries, account, log=said.append, fsync=False)
    assert len(said) == 1
    assert "creating the database cluster" in said[0]
    assert cluster.password() == password


def test_what_a_killed_creation_left_is_begun_again(
    folder: Path, account: Account, binaries: Binaries
) -> None:
    cluster = Cluster(folder / "data")
    cluster.unfinished.mkdir()
    (cluster.unfinished / "PG_VERSION").write_text("18\n")
    cluster.password_file.write_text("half")
    prepare_cluster(cluster, binaries, account, log=quiet, fsync=False)
    assert cluster.major == binaries.major
    assert not cluster.unfinished.exists()


@pytest.mark.parametrize("left", ["empty", "missing"])
def test_a_data_folder_that_was_emptied_is_not_made_anew(
    folder: Path, account: Account, binaries: Binaries, left: str
) -> None:
    cluster, said = Cluster(folder / "data"), list[str]()
    prepare_cluster(cluster, binaries, account, log=quiet, fsync=False)
    shutil.rmtree(cluster.data_dir)
    if left == "empty":
        cluster.data_dir.mkdir()
    with pytest.raises(EmbeddedPostgresError, match=f"is {left}, and its password file") as refused:
        prepare_cluster(cluster, binaries, account, log=said.append, fsync=False)
    assert "put the data back" in refused.value.do
    assert said == []
    assert cluster.major is None
    cluster.password_file.unlink()
    prepare_cluster(cluster, binaries, account, log=said.append, fsync=False)
    assert cluster.major == binaries.major


def test_a_failed_creation_leaves_no_data_folder(folder: Path, account: Account) -> None:
    for name in ("postgres", "initdb"):
        (folder / name).write_text("#!/bin/sh\necho it went wrong\nexit 1\n")
        (folder / name).chmod(0o755)
    broken = Binaries(folder=folder, version="18.1", major=18)
    cluster = Cluster(folder / "data")
    with pytest.raises(EmbeddedPostgresError, match="it went wrong"):
        prepare_cluster(cluster, broken, account, log=quiet, fsync=False)
    assert not cluster.data_dir.exists()
    assert not cluster.unfinished.exists()
    assert not cluster.password_file.exists()


def test_a_folder_with_other_files_is_left_alone(
    folder: Path, account: Account, binaries: Binaries
) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "letter.txt").write_text("dear reader")
    with pytest.raises(EmbeddedPostgresError, match="holds other files"):
        prepare_cluster(Cluster(folder / "data"), binaries, account, log=quiet, fsync=False)
    assert [found.name for found in (folder / "data").iterdir()] == ["letter.txt"]


def test_an_empty_folder_is_used(folder: Path, account: Account, binaries: Binaries) -> None:
    (folder / "data").mkdir()
    prepare_cluster(Cluster(folder / "data"), binaries, account, log=quiet, fsync=False)
    assert Cluster(folder / "data").major == binaries.major


def test_the_data_of_another_major_version_is_named_and_kept(
    folder: Path, account: Account, binaries: Binaries
) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedPostgresError) as caught:
        prepare_cluster(Cluster(folder / "data"), binaries, account, log=quiet, fsync=False)
    assert "was made by PostgreSQL 16" in caught.value.why
    assert f"are PostgreSQL {binaries.version}" in caught.value.why
    assert f"remove {folder}/data" in caught.value.do
    assert (folder / "data" / "PG_VERSION").read_text() == "16\n"


def test_a_lost_password_is_named(folder: Path, account: Account, binaries: Binaries) -> None:
    cluster = Cluster(folder / "data")
    prepare_cluster(cluster, binaries, account, log=quiet, fsync=False)
    cluster.password_file.unlink()
    with pytest.raises(EmbeddedPostgresError, match=r"password file .*/data\.password is missing"):
        prepare_cluster(cluster, binaries, account, log=quiet, fsync=False)


@pytest.mark.skipif(not AS_ROOT, reason="only root can mount a small disk")
def test_too_little_space_is_noticed_before_anything_is_written(
    folder: Path, account: Account, binaries: Binaries
) -> None:
    with small_disk(folder, "8m") as disk:
        with pytest.raises(
            EmbeddedPostgresError, match=rf"no disk space: {disk} has 8 MB free, about 100 MB"
        ):
            prepare_cluster(Cluster(disk / "data"), binaries, account, log=quiet, fsync=False)
        assert list(disk.iterdir()) == []


@pytest.mark.skipif(not AS_ROOT, reason="only root can mount a small disk")
def test_a_disk_that_fills_up_during_the_creation_is_named(
    folder: Path, account: Account, binaries: Binaries
) -> None:
    with small_disk(folder, "8m") as disk:
        with pytest.raises(EmbeddedPostgresError, match=f"no disk space: {disk} has"):
            prepare_cluster(
                Cluster(disk / "data"), binaries, account, log=quiet, fsync=False, needed_bytes=1024
            )
        assert not (disk / "data").exists()


@pytest.mark.skipif(
    AS_ROOT, reason="no folder is closed to root; tests/embedded/test_ordinary_user.py shows it"
)
def test_a_folder_that_may_not_be_written_is_named(
    folder: Path, account: Account, binaries: Binaries
) -> None:
    (folder / "closed").mkdir(mode=0o500)
    with pytest.raises(EmbeddedPostgresError, match="no permission to write"):
        prepare_cluster(
            Cluster(folder / "closed" / "data"), binaries, account, log=quiet, fsync=False
        )
