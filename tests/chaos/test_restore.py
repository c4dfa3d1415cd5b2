"""A lost database is restored from a base backup and the archive of its log, and a broken archive is seen."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from chaos.restore import WAL, Archive, Backup, drill, flip_a_byte, take_away
from postfacta_embedded import EmbeddedPostgres, EmbeddedPostgresError
from tests.kit.pg import execute, fetch_value, open_folder


def _wal(what: str, folder: Path, file: Path, name: str) -> int:
    return subprocess.run(["sh", WAL, what, folder, file, name], check=False).returncode  # noqa: S603, S607


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Put two segments, with one between them missing."""
    folder = tmp_path / "wal"
    folder.mkdir()
    for name in (
        "00000001000000000000000E",
        "000000010000000000000010",
        "000000020000000000000011",
    ):
        (tmp_path / name).write_bytes(name.encode() * 1000)
        assert _wal("put", folder, tmp_path / name, name) == 0
    return folder


def test_what_was_put_is_got(archive: Path, tmp_path: Path) -> None:
    name = "000000010000000000000010"
    assert _wal("get", archive, tmp_path / "got", name) == 0
    assert (tmp_path / "got").read_bytes() == (tmp_path / name).read_bytes()


def test_a_segment_is_put_twice_if_it_is_the_same_and_never_replaced(
    archive: Path, tmp_path: Path
) -> None:
    name = "000000010000000000000010"
    assert _wal("put", archive, tmp_path / name, name) == 0
    (tmp_path / name).write_bytes(b"another server's")
    assert _wal("put", archive, tmp_path / name, name) == 1
    assert _wal("get", archive, tmp_path / "got", name) == 0


@pytest.mark.parametrize(
    ("name", "code"),
    [
        pytest.param("000000010000000000000011", 1, id="the end of the archive"),
        pytest.param("00000001000000000000000F", 255, id="a gap"),
        pytest.param("000000020000000000000012", 1, id="the end of a later timeline"),
        pytest.param("00000001.history", 1, id="the first timeline has no history"),
        pytest.param("00000002.history", 255, id="a timeline without its history"),
        pytest.param("00000003.history", 1, id="no such timeline"),
    ],
)
def test_what_is_missing_is_the_end_or_a_gap(
    archive: Path, tmp_path: Path, name: str, code: int
) -> None:
    assert _wal("get", archive, tmp_path / "got", name) == code


def test_a_flipped_byte_is_seen(archive: Path, tmp_path: Path) -> None:
    name = "000000010000000000000010"
    content = bytearray((archive / name).read_bytes())
    content[4321] ^= 1
    (archive / name).write_bytes(content)
    assert _wal("get", archive, tmp_path / "got", name) == 255


def test_postgresql_serves_half_of_a_broken_archive_and_the_script_stops_it() -> None:
    with open_folder() as folder:
        archive = Archive(folder / "wal")
        archive.make()
        with EmbeddedPostgres(folder / "data", settings={**archive.put, "fsync": "off"}) as server:
            execute(server.dsn(), "create table facts (number integer)")
            backup = Backup.take(server, folder / "base")
            for _ in range(4):
                execute(server.dsn(), "insert into facts values (1)", "select pg_switch_wal()")
        for number, damage in enumerate((take_away, flip_a_byte)):
            broken = archive.copy(f"broken{number}")
            damage(broken)
            plain = {"restore_command": f"cp {broken.folder}/%f %p", "hot_standby": "off"}
            backup.lay(folder / f"plain{number}")
            with EmbeddedPostgres(folder / f"plain{number}", settings=plain) as half:
                assert fetch_value(half.dsn(), "select count(*) < 4 from facts")
            backup.lay(folder / f"stopped{number}")
            with pytest.raises(EmbeddedPostgresError, match=str(broken.folder)):
                EmbeddedPostgres(folder / f"stopped{number}", settings=broken.get).start()
        backup.lay(folder / "whole")
        with EmbeddedPostgres(folder / "whole", settings=archive.get) as whole:
            assert fetch_value(whole.dsn(), "select count(*) from facts") == 4


@pytest.mark.long
def test_a_lost_database_is_restored_to_each_point_and_what_is_broken_is_refused() -> None:
    with open_folder() as folder:
        rows, wreck = drill(folder, seconds=16.0)
    assert [row.flaws for row in rows] == [()] * 5
    assert len(wreck.journal.acknowledged_at) > 100
