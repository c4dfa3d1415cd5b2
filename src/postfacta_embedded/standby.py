"""Runs a streaming standby of another server: ``StandbyPostgres``.

A failover is to stop or kill the primary, then to ``promote`` the standby. A standby that was
promoted is a primary, so the next standby can follow it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .account import Account
from .binaries import Binaries
from .cluster import NEEDED_BYTES
from .diagnosis import explain, last_lines, own_files
from .errors import EmbeddedPostgresError
from .server import EmbeddedPostgres

_COPY = "the standby cannot be made"
_PROMOTE = "the standby cannot be promoted"
_COPY_TIMEOUT = 300.0  # a second for an empty cluster; a large one takes as long as its files


def _ignore(message: str) -> None:
    """Discard the message."""


class StandbyPostgres(EmbeddedPostgres):
    """A standby that follows a primary, takes reads, and can take its place.

    The first start copies the primary, which must run then, with its roles, passwords and
    databases. Later starts follow it again, or go on as a primary if it was promoted. The primary
    must keep its port.

    Args:
        primary: The server to follow; a promoted standby will do.
        data_dir: Where its own data is kept; as for ``EmbeddedPostgres``.
        name: As it calls itself to the primary, for ``synchronous_standby_names``: a plain word.
        port: Where to listen; 0 takes a free one, and keeps it for later starts if it can.
        binaries: The folder of ``postgres``, ``pg_basebackup`` and ``pg_ctl``; None searches.
        account: The account to run as; None chooses.
        settings: More server settings.
        log: Called with a readable message about anything that takes longer than a second.
    """

    def __init__(
        self,
        primary: EmbeddedPostgres,
        data_dir: Path,
        *,
        name: str = "standby",
        port: int = 0,
        binaries: Path | None = None,
        account: Account | None = None,
        settings: Mapping[str, str] | None = None,
        log: Callable[[str], None] = _ignore,
    ) -> None:
        super().__init__(
            data_dir, port=port, binaries=binaries, account=account, settings=settings, log=log
        )
        self._primary = primary
        self._name = name

    @property
    def is_standby(self) -> bool:
        """Whether it follows; false before the first start, and once it was promoted."""
        return (self.data_dir / "standby.signal").exists()

    def promote(self, timeout: float = 30.0) -> None:
        """Make it a primary, and return when it takes writes.

        Raises:
            EmbeddedPostgresError: It does not run as a standby, or does not get there in time.
        """
        code, output = self.run_program(
            "pg_ctl",
            "promote",
            "-D",
            self.data_dir,
            "-w",
            "-t",
            f"{timeout:.0f}",
            timeout=timeout + 5.0,
        )
        if code:
            raise EmbeddedPostgresError(_PROMOTE, last_lines(output), f"see {self.log_file}")

    def _prepare(self, binaries: Binaries, account: Account) -> None:
        if self._cluster.major is None:
            with own_files(_COPY, self.data_dir, needed_bytes=NEEDED_BYTES):
                self._copy(account)
        super()._prepare(binaries, account)

    def _copy(self, account: Account) -> None:
        cluster = self._cluster
        self._log(f"copying the primary to {cluster.data_dir}")
        # As for a new cluster: a process killed here leaves no partial copy that looks complete.
        shutil.rmtree(cluster.unfinished, ignore_errors=True)
        cluster.unfinished.mkdir(mode=0o700)
        os.chown(cluster.unfinished, account.uid, account.gid)
        try:
            self._run_copy()
            cluster.unfinished.rename(cluster.data_dir)
        except BaseException:
            shutil.rmtree(cluster.unfinished, ignore_errors=True)
            raise

    def _run_copy(self) -> None:
        cluster = self._cluster
        address = urlsplit(self._primary.dsn())
        password = unquote(address.password or "")
        _write_secret(cluster.password_file, password)
        conninfo = (
            f"host={address.hostname} port={address.port} user={address.username}"
            f" application_name={self._name}"
        )
        code, output = self.run_program(
            "pg_basebackup",
            *(
                "-D",
                cluster.unfinished,
                "-d",
                conninfo,
                "-R",
                "-X",
                "stream",
                "-c",
                "fast",
                "--no-sync",
            ),
            timeout=_COPY_TIMEOUT,
            env={"PGPASSWORD": password},
        )
        if code:
            raise explain(_COPY, output, folder=cluster.data_dir.parent, needed_bytes=NEEDED_BYTES)


def _write_secret(path: Path, secret: str) -> None:
    path.unlink(missing_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "w", encoding="ascii") as opened:
        opened.write(secret + "\n")
