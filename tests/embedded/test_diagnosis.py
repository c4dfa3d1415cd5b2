"""What a program said before it failed becomes an error that tells what to do."""

from __future__ import annotations

import copy
import errno
import os
from pathlib import Path

import pytest

from postfacta_embedded import EmbeddedPostgresError
from postfacta_embedded.diagnosis import Symptom, explain, last_lines, own_files, symptom_of

from .conftest import fill, small_disk


@pytest.mark.parametrize(
    ("words", "symptom"),
    [
        (
            'FATAL:  could not write lock file "postmaster.pid": No space left on device',
            Symptom.DISK_FULL,
        ),
        ("PANIC:  could not write to file: Disk quota exceeded", Symptom.DISK_FULL),
        (
            'LOG:  could not bind IPv4 address "127.0.0.1": Address already in use',
            Symptom.PORT_IN_USE,
        ),
        (
            "FATAL:  pre-existing shared memory block (key 1, ID 2) is still in use",
            Symptom.SHARED_MEMORY_IN_USE,
        ),
        ('could not open file "x": Permission denied', Symptom.NO_PERMISSION),
        ("something new", Symptom.OTHER),
        ("", Symptom.OTHER),
    ],
)
def test_the_words_of_postgres_are_understood(words: str, symptom: Symptom) -> None:
    assert symptom_of(words) is symptom


def test_a_full_disk_comes_before_what_follows_from_it() -> None:
    assert symptom_of("Permission denied\nNo space left on device") is Symptom.DISK_FULL


def test_an_error_ends_with_the_last_words_and_not_the_first(tmp_path: Path) -> None:
    words = "\n".join(f"line {number}" for number in range(100))
    error = explain("it failed", words, folder=tmp_path, needed_bytes=1)
    assert "line 99" in error.why
    assert "line 50" not in error.why


def test_a_program_that_said_nothing_is_said_to_have_said_nothing() -> None:
    assert "it wrote nothing" in last_lines(" \n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_silence_on_a_full_disk_is_explained_by_the_full_disk(folder: Path) -> None:
    with small_disk(folder, "1m") as disk:
        fill(disk / "filler")
        assert f"no disk space: {disk}" in explain("it failed", "", folder=disk, needed_bytes=1).why


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (errno.ENOSPC, "no disk space"),
        (errno.EACCES, "no permission to write"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_failure_on_our_own_files_names_an_existing_folder(
    tmp_path: Path, number: int, why: str
) -> None:
    missing = tmp_path / "not" / "yet"
    with (
        pytest.raises(EmbeddedPostgresError, match=why),
        own_files("it failed", missing, needed_bytes=1),
    ):
        raise OSError(number, os.strerror(number))


def test_an_error_survives_a_copy_and_reads_as_what_why_and_what_to_do() -> None:
    error = copy.copy(EmbeddedPostgresError("it failed", "of old age", "buy a new one"))
    assert str(error) == "it failed: of old age\nWhat to do: buy a new one"
