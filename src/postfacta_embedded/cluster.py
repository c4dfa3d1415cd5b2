"""Creates the files of a database cluster once, or says why those that are there cannot be used."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .account import Account
from .binaries import Binaries
from .diagnosis import disk_full, explain, own_files
from .errors import EmbeddedPostgresError

NEEDED_BYTES = 100 * 1024 * 1024
"""A new cluster of version 18 takes 40 MB, and its first segments of the log double that."""

SUPERUSER = "postgres"
"""The role that owns the cluster."""

_BUILTIN_LOCALES_FROM = 17  # the first major version that brings C.UTF-8 itself
_INITDB_TIMEOUT = 300.0  # half a second on a good disk, minutes on a network disk
_CREATE = "the database cluster cannot be created"
_USE = "the database folder cannot be used"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A data folder and the files beside it.

    Args:
        data_dir: Absolute and resolved. What stands beside it has its name and a suffix.
    """

    data_dir: Path

    @property
    def lock_file(self) -> Path:
        """Held by the owner."""
        return self._beside(".lock")

    @property
    def log_file(self) -> Path:
        """What PostgreSQL writes."""
        return self._beside(".log")

    @property
    def password_file(self) -> Path:
        """The superuser's password, for the owner's eyes."""
        return self._beside(".password")

    @property
    def binaries_copy(self) -> Path:
        """Where the binaries go if the account cannot enter their folder."""
        return self._beside(".binaries")

    @property
    def unfinished(self) -> Path:
        """Where a cluster grows until it is complete."""
        return self._beside(".new")

    @property
    def major(self) -> int | None:
        """The major version that made it; None if there is no cluster yet."""
        try:
            return int((self.data_dir / "PG_VERSION").read_text("ascii").split(".")[0])
        except FileNotFoundError:
            return None

    def password(self) -> str:
        """Read the superuser's password.

        Raises:
            EmbeddedPostgresError: It is lost.
        """
        try:
            return self.password_file.read_text("ascii").strip()
        except FileNotFoundError:
            raise EmbeddedPostgresError(
                _USE,
                f"its password file {self.password_file} is missing",
                f"put it back, or remove {self.data_dir} to start with an empty database",
            ) from None

    def _beside(self, suffix: str) -> Path:
        return self.data_dir.with_name(self.data_dir.name + suffix)


def prepare_cluster(
    cluster: Cluster,
    binaries: Binaries,
    account: Account,
    *,
    log: Callable[[str], None],
    needed_bytes: int = NEEDED_BYTES,
    fsync: bool = True,
) -> None:
    """Make a cluster ready to be started; the caller must own its lock.

    Args:
        cluster: Where it is, or shall be.
        binaries: What shall run it.
        account: The account it runs as.
        log: Called with a message about each long step.
        needed_bytes: What must be free on the disk before a new one is begun.
        fsync: Whether a new one must survive a crash of the machine; without, its creation is
            faster.

    Raises:
        EmbeddedPostgresError: It cannot be created or used.
    """
    data_dir = cluster.data_dir
    with own_files(_USE, data_dir, needed_bytes=needed_bytes):
        major = cluster.major
        if major is None:
            if data_dir.exists() and any(data_dir.iterdir()):
                raise EmbeddedPostgresError(
                    _USE, f"{data_dir} holds other files", "choose a folder that is new or empty"
                )
            if cluster.password_file.exists() and not cluster.unfinished.exists():
                raise EmbeddedPostgresError(
                    _USE,
                    f"{data_dir} is {'empty' if data_dir.exists() else 'missing'}, and its password"
                    f" file {cluster.password_file} shows that there was a database",
                    "put the data back, as by mounting its disk, or remove the password file to"
                    " start with an empty database",
                )
            _create(cluster, binaries, account, log=log, needed_bytes=needed_bytes, fsync=fsync)
        elif major != binaries.major:
            raise EmbeddedPostgresError(
                _USE,
                f"{data_dir} was made by PostgreSQL {major}, and the binaries in {binaries.folder} "
                f"are PostgreSQL {binaries.version}",
                f"use the binaries of version {major}, or remove {data_dir} and"
                f" {cluster.password_file} to start with an empty database",
            )
        cluster.password()
        account.take_over(data_dir)


def _create(
    cluster: Cluster,
    binaries: Binaries,
    account: Account,
    *,
    log: Callable[[str], None],
    needed_bytes: int,
    fsync: bool,
) -> None:
    parent = cluster.data_dir.parent
    if shutil.disk_usage(parent).free < needed_bytes:
        raise disk_full(_CREATE, parent, needed_bytes)
    log(f"creating the database cluster in {cluster.data_dir} with PostgreSQL {binaries.version}")
    # It grows under another name: a process killed here leaves no partial cluster that looks
    # complete.
    if cluster.unfinished.exists():
        shutil.rmtree(cluster.unfinished)
    cluster.unfinished.mkdir(mode=0o700)
    os.chown(cluster.unfinished, account.uid, account.gid)
    try:
        _write_password(cluster.password_file, account)
        _run_initdb(cluster, binaries, account, needed_bytes=needed_bytes, fsync=fsync)
        cluster.unfinished.rename(cluster.data_dir)
    except BaseException:
        shutil.rmtree(cluster.unfinished, ignore_errors=True)
        cluster.password_file.unlink(missing_ok=True)
        raise


def _write_password(path: Path, account: Account) -> None:
    path.unlink(missing_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "w", encoding="ascii") as opened:
        os.fchown(file, account.uid, account.gid)  # initdb reads it
        opened.write(secrets.token_urlsafe(24) + "\n")
        opened.flush()
        os.fsync(file)


def _run_initdb(
    cluster: Cluster, binaries: Binaries, account: Account, *, needed_bytes: int, fsync: bool
) -> None:
    command: tuple[str | Path, ...] = (
        binaries.initdb,
        f"--pgdata={cluster.unfinished}",
        f"--username={SUPERUSER}",
        f"--pwfile={cluster.password_file}",
        # Any user of this machine can reach a port on the loopback address: no one gets in without
        # the password.
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        *_locale_options(binaries.major),
        "--data-checksums",
        "--no-instructions",
        *(() if fsync else ("--no-sync",)),
    )
    try:
        code, output = account.run(command, timeout=_INITDB_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise EmbeddedPostgresError(
            _CREATE,
            f"initdb did not end within {_INITDB_TIMEOUT:g} s",
            "choose a folder on a faster disk",
        ) from error
    if code:
        raise explain(_CREATE, output, folder=cluster.data_dir.parent, needed_bytes=needed_bytes)


def _locale_options(major: int) -> tuple[str, ...]:
    # Sorting by code point does not change with the system's libraries, so no index ever breaks.
    if major >= _BUILTIN_LOCALES_FROM:
        return ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
    # Other systems may lack the name, so they get the plain one.
    return ("--locale=C.UTF-8",) if sys.platform == "linux" else ("--locale=C",)
