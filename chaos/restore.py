"""Lose a database while it is written to, and restore it into an empty server from a base backup and the archive of its log.

    python -m chaos.restore [--seconds 40] [--markdown FILE]

The base backup is made under load. Then the server is killed, and its data are given up. From what
is left, five restores:

* to the newest: what is missing is counted from the acknowledgements of all clients (RPO);
* to a point in time: all that was acknowledged until then is there, and nothing that began
  afterwards;
* from archives that are broken: a segment is missing, or has a flipped byte. Each must be seen, as
  PostgreSQL itself takes both for the end of the archive, and serves what it has got so far;
* from a base backup with a flipped byte.

After the first two, the service starts on the restored server, everything is read back through it
and compared with the history of the writers, and `postfacta verify` builds what a post-mortem saw.
Exit codes: 0 all held, 1 something did not.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from chaos.history import Stored, judge
from chaos.processes import Instance, command
from chaos.reading import Reading, read_all
from chaos.stack import Stack, prepare, write_post_mortem
from chaos.together import drill_folder, drill_parser, publish
from chaos.writers import Journal, Writing
from postfacta_embedded import EmbeddedPostgres, EmbeddedPostgresError
from postfacta_embedded.account import choose_account
from postfacta_lab.durability import Findings, Outcome
from postfacta_lab.engine.page import machine

__all__ = [
    "ARCHIVE_TIMEOUT",
    "Archive",
    "Backup",
    "Row",
    "Wreck",
    "drill",
    "flip_a_byte",
    "main",
    "take_away",
]

WAL = Path(__file__).parent.parent / "deploy" / "postgres" / "wal.sh"
ARCHIVE_TIMEOUT = 5
"""Seconds: the longest that a write waits for its segment to be archived."""
_MARGIN = 5.0  # to archive a segment, on a busy machine
_PATIENCE = 300.0
_ENOUGH = 100
_UNCHANGED = "1 revisions are equal, 0 differ"


@dataclass(frozen=True, slots=True)
class Row:
    """What was seen of one restore.

    Attributes:
        what: To what, from what.
        missing: Acknowledged writes that should be there, and are not.
        rpo: Seconds between the first of them and the loss; None for a restore that must not
            succeed.
        rto: Seconds until the service was ready, from an empty folder.
        flaws: What should not be.
    """

    what: str
    missing: int
    rpo: float | None
    rto: float
    flaws: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Archive:
    """A folder of the server's account that keeps the write-ahead log, by `deploy/postgres/wal.sh`."""

    folder: Path

    def make(self) -> None:
        """Make the folder, and a copy of the script that the account can read."""
        account = choose_account()
        self.folder.mkdir(mode=0o700)
        os.chown(self.folder, account.uid, account.gid)
        self._script.write_text(WAL.read_text())

    @property
    def _script(self) -> Path:
        return self.folder.with_name(self.folder.name + ".sh")

    @property
    def put(self) -> dict[str, str]:
        """Settings of a server that archives."""
        return {
            "archive_mode": "on",
            "archive_command": f"sh {self._script} put {self.folder} %p %f",
            "archive_timeout": str(ARCHIVE_TIMEOUT),
        }

    @property
    def get(self) -> dict[str, str]:
        """Settings of a server that restores; it takes no connection before all is restored."""
        return {
            "restore_command": f"sh {self._script} get {self.folder} %p %f",
            "hot_standby": "off",
        }

    @property
    def segments(self) -> list[Path]:
        """All segments, oldest first."""
        return sorted(it for it in self.folder.iterdir() if len(it.name) == 24)

    def copy(self, name: str) -> Archive:
        """Copy it, to be broken."""
        target = Archive(self.folder.with_name(name))
        target.make()
        shutil.copytree(self.folder, target.folder, dirs_exist_ok=True)
        account = choose_account()
        for file in target.folder.iterdir():
            os.chown(file, account.uid, account.gid)
        return target


@dataclass(frozen=True, slots=True)
class Backup:
    """A base backup, and the server that it is of, whose password belongs to it."""

    folder: Path
    server: EmbeddedPostgres

    @classmethod
    def take(cls, server: EmbeddedPostgres, folder: Path) -> Backup:
        """Copy a running server.

        Raises:
            RuntimeError: It could not be copied.
        """
        address = urlsplit(server.dsn())
        account = choose_account()
        folder.mkdir(mode=0o700)
        os.chown(folder, account.uid, account.gid)
        backup = cls(folder, server)
        where = f"host={address.hostname} port={address.port} user={address.username}"
        code, words = server.run_program(
            "pg_basebackup",
            *("-D", folder, "-d", where, "-X", "none", "-c", "fast", "--manifest-checksums=SHA256"),
            timeout=_PATIENCE,
            env={"PGPASSWORD": _password_of(server.data_dir).read_text().strip()},
        )
        if code:
            raise RuntimeError(f"no base backup: {words}")
        return backup

    def lay(self, target: Path) -> None:
        """Check it, and copy it to where a server shall recover from it.

        Raises:
            RuntimeError: A file of it is not what was copied.
        """
        # Without its log, which is in the archive.
        code, words = self.server.run_program(
            "pg_verifybackup", "-n", self.folder, timeout=_PATIENCE
        )
        if code:
            raise RuntimeError(f"the base backup is broken: {words}")
        shutil.copytree(self.folder, target)
        shutil.copy(_password_of(self.server.data_dir), _password_of(target))
        (target / "recovery.signal").touch()
        choose_account().take_over(target)

    def copy(self, folder: Path) -> Backup:
        """Copy it, to be broken."""
        shutil.copytree(self.folder, folder)
        choose_account().take_over(folder)
        return replace(self, folder=folder)


def _password_of(data_dir: Path) -> Path:
    return data_dir.with_name(data_dir.name + ".password")


@dataclass(frozen=True, slots=True)
class Wreck:
    """What is left of a database that was lost, and what was known of it.

    Attributes:
        folder: Where restored servers go.
        backup: The base backup.
        archive: The archive of its log.
        journal: What all clients were answered.
        token: Lets them read.
        point: A moment under load, as the clients and as PostgreSQL tell the time.
        lost: When it was killed.
    """

    folder: Path
    backup: Backup
    archive: Archive
    journal: Journal
    token: str
    point: tuple[float, datetime]
    lost: float

    def to_the_newest(self) -> Row:
        """Restore all that there is; return how much of it is missing."""
        reading, rto, flaws = self._restored("newest", {})
        missing = sorted(self._missing(reading.stored))
        moment = math.nextafter(missing[0], 0.0) if missing else self.lost
        flaws += self._judged(reading, moment, later=Outcome.INFO)
        rpo = self.lost - missing[0] if missing else 0.0
        if rpo > ARCHIVE_TIMEOUT + _MARGIN:
            flaws.append(f"{rpo:.1f} s are lost, with an archive_timeout of {ARCHIVE_TIMEOUT} s")
        return Row(
            "to the newest, after the server and its disk were lost",
            len(missing),
            rpo,
            rto,
            tuple(flaws),
        )

    def to_the_point(self) -> Row:
        """Restore to the point in time; nothing that was acknowledged before may be missing."""
        moment, when = self.point
        settings = {"recovery_target_time": when.isoformat(), "recovery_target_action": "promote"}
        reading, rto, flaws = self._restored("point", settings)
        missing = [ended for ended in self._missing(reading.stored) if ended <= moment]
        flaws += self._judged(reading, moment, later=Outcome.FAIL)
        return Row("to a point in time under load", len(missing), 0.0, rto, tuple(flaws))

    def from_broken(self, what: str, damage: Callable[[Archive], None]) -> Row:
        """Restore from a copy of the archive that was damaged: the server must refuse to start."""
        name = f"broken-{time.monotonic_ns()}"
        archive = self.archive.copy(name + "-wal")
        damage(archive)
        self.backup.lay(self.folder / name)
        began = time.monotonic()
        flaws = list[str]()
        try:
            with EmbeddedPostgres(self.folder / name, settings=archive.get):
                flaws.append("it was not seen: the server serves what it has got so far")
        except EmbeddedPostgresError as refusal:
            if str(archive.folder) not in str(refusal):
                flaws.append(f"it does not say what is broken: {refusal}")
        return Row(what, 0, None, time.monotonic() - began, tuple(flaws))

    def _restored(self, name: str, settings: Mapping[str, str]) -> tuple[Reading, float, list[str]]:
        """Restore, start the service, and read everything back."""
        began = time.monotonic()
        target = self.folder / name
        flaws = list[str]()
        self.backup.lay(target)
        with EmbeddedPostgres(target, settings={**self.archive.get, **settings}) as server:
            instance = Instance(name, server.dsn(), log=self.folder / f"{name}-service.log")
            try:
                instance.start()
                instance.wait_ready()
                rto = time.monotonic() - began
                if _UNCHANGED not in (said := command("verify", dsn=server.dsn())):
                    flaws.append(f"postfacta verify: {said.strip()}")
                reading = read_all(instance.url, self.token)
            finally:
                instance.kill()
        return reading, rto, flaws

    def _missing(self, stored: Sequence[Stored]) -> list[float]:
        """Return when each write was acknowledged that is not there."""
        there = {row.subject: len(row.facts) for row in stored}
        pairs = zip(self.journal.writes, self.journal.times, strict=True)
        return [
            ended
            for write, (_, ended) in pairs
            if write.outcome is Outcome.OK and write.version > there.get(write.subject, 0)
        ]

    def _judged(self, reading: Reading, moment: float, *, later: Outcome) -> list[str]:
        ours = {write.subject for write in self.journal.writes}
        stored = [row for row in reading.stored if row.subject in ours]
        history = self.journal.as_of(moment, later=later)
        return flaws_of(judge(history, stored, minimum=_ENOUGH, orphans=reading.orphans))


def flaws_of(findings: Findings) -> list[str]:
    """Return what is wrong, one line for each kind, and whether there was enough to tell."""
    flaws = [
        f"{len(found)} {kind}, such as {found[0]}"
        for kind, found in findings.wrong.items()
        if found
    ]
    if findings.acknowledged < findings.minimum:
        flaws.append(f"only {findings.acknowledged} writes were acknowledged")
    return flaws


def take_away(archive: Archive) -> None:
    """Remove a segment from the middle."""
    _middle_of(archive).unlink()


def flip_a_byte(archive: Archive) -> None:
    """Change a byte in a segment from the middle."""
    _flip(_middle_of(archive))


def _middle_of(archive: Archive) -> Path:
    return archive.segments[len(archive.segments) // 2]


def _flip(file: Path) -> None:
    whole = bytearray(file.read_bytes())
    whole[64] ^= 0x10  # in its first record
    file.write_bytes(whole)


def drill(folder: Path, *, seconds: float = 40.0) -> tuple[list[Row], Wreck]:
    """Lose a database, and restore it in each way; return what was seen, and what is left of it."""
    wreck = _lose(folder, seconds=seconds)
    rows = [
        wreck.to_the_newest(),
        wreck.to_the_point(),
        wreck.from_broken("from an archive without one of its segments", take_away),
        wreck.from_broken("from an archive with a flipped byte", flip_a_byte),
        _of_a_broken_backup(wreck),
    ]
    return rows, wreck


def _lose(folder: Path, *, seconds: float) -> Wreck:
    template = prepare(folder / "template")
    archive = Archive(folder / "wal")
    journal = Journal()
    archive.make()
    with Stack(folder / "site", template, database=archive.put) as stack:
        write_post_mortem(stack.url, stack.token)
        with Writing(stack.urls, stack.token, journal=journal, count=4, patience=2.0) as writing:
            time.sleep(seconds / 8)  # noqa: TID251 - written before the backup
            backup = Backup.take(stack.postgres.server, folder / "base")
            time.sleep(seconds / 2)  # noqa: TID251 - written between the backup and the point
            point = (
                time.monotonic(),
                datetime.now(UTC),  # noqa: TID251 - as PostgreSQL tells the time
            )
            time.sleep(seconds * 3 / 8)  # noqa: TID251 - and after it
            stack.postgres.kill()
            lost = time.monotonic()
        if writing.problems:
            raise RuntimeError("; ".join(writing.problems))
        shutil.rmtree(stack.postgres.server.data_dir)
        return Wreck(folder, backup, archive, journal, stack.token, point, lost)


def _of_a_broken_backup(wreck: Wreck) -> Row:
    """Flip a byte of a table in a copy of the base backup."""
    copy = wreck.backup.copy(wreck.folder / "broken-base")
    table = max((copy.folder / "base").glob("*/*"), key=lambda file: file.stat().st_size)
    _flip(table)
    began = time.monotonic()
    flaws = list[str]()
    try:
        copy.lay(wreck.folder / "of-broken-base")
        flaws.append("it was not seen")
    except RuntimeError as refusal:
        if table.name not in str(refusal):
            flaws.append(f"it does not say what is broken: {refusal}")
    return Row(
        "from a base backup with a flipped byte", 0, None, time.monotonic() - began, tuple(flaws)
    )


def main(words: Sequence[str]) -> int:
    """Run the drill; return the exit code."""
    parser = drill_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=40.0, help="how long is written")
    given = parser.parse_args(words)
    with drill_folder("restore") as folder:
        rows, wreck = drill(folder, seconds=given.seconds)
        report = _report(rows, wreck)
    publish(report, given.markdown)
    return int(any(row.flaws for row in rows))


def _report(rows: Sequence[Row], wreck: Wreck) -> str:
    size = sum(file.stat().st_size for file in wreck.backup.folder.rglob("*") if file.is_file())
    lines = [
        f"| {row.what} | {row.missing if row.rpo is not None else ''} | {_seconds(row.rpo)} |"
        f" {row.rto:.1f} s | {_met(row)} |"
        for row in rows
    ]
    return "\n".join(
        (
            "# Restore",
            "",
            (
                "Written by `make drill ONLY=restore`. Clients write, a base backup is made, the server"
                " is killed and its data are removed. Each"
            ),
            (
                "row is a restore into an empty server, from the base backup and the archive of the"
                " log; everything is then read back through"
            ),
            (
                "the service, compared with the answers to its clients, and `postfacta verify`"
                " builds what a post-mortem saw."
            ),
            "",
            (
                f"**{len(wreck.journal.acknowledged_at)} writes were acknowledged** until the loss;"
                f" the base backup has {size / 1e6:.0f} MB,"
            ),
            f"the archive {len(wreck.archive.segments)} segments of 16 MB.",
            "",
            "| restore | missing | RPO | RTO | met |",
            "|---|---:|---:|---:|---|",
            *lines,
            "",
            (
                "* Missing: acknowledged writes that should be there, and are not. RPO: the time"
                " from the first of them to the loss."
            ),
            (
                f"  `archive_timeout` is {ARCHIVE_TIMEOUT} s here, and bounds it; with 60 s, as"
                " [recommended](../how-to/restore.md), it is up to a minute."
            ),
            (
                "* RTO: from an empty folder to a service that is ready, the check of the base"
                " backup included; it grows with the size of the data,"
            ),
            (
                "  and with the log since the base backup. Of what is broken: the time until it was"
                " refused, with the name of the broken file."
            ),
            "",
            (
                f"Measured on {datetime.now(UTC):%Y-%m-%d}:"  # noqa: TID251 - of a report
                f" {', '.join(f'{name} {text}' for name, text in machine().items())}."
            ),
            "",
        )
    )


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"


def _met(row: Row) -> str:
    if row.flaws:
        return "**no**: " + "; ".join(row.flaws)
    return "yes" if row.rpo is not None else "yes: refused"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
