"""Turns an error of the system or of a failed program into one that says how to fix it."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from .errors import EmbeddedPostgresError

_MIB = 1024 * 1024


class Symptom(StrEnum):
    """What the last words of a program point to."""

    DISK_FULL = "disk full"
    PORT_IN_USE = "port in use"
    SHARED_MEMORY_IN_USE = "shared memory in use"
    NO_PERMISSION = "no permission"
    OTHER = "other"


# The children run with LC_ALL=C and lc_messages=C, so the words are always these. The order is that
# of usefulness: a full disk also shows up as other failures.
_WORDS = (
    ("No space left on device", Symptom.DISK_FULL),
    ("Disk quota exceeded", Symptom.DISK_FULL),
    ("Address already in use", Symptom.PORT_IN_USE),
    ("pre-existing shared memory block", Symptom.SHARED_MEMORY_IN_USE),
    ("Permission denied", Symptom.NO_PERMISSION),
)


def symptom_of(words: str) -> Symptom:
    """Read what a program wrote before it failed."""
    return next((symptom for text, symptom in _WORDS if text in words), Symptom.OTHER)


def last_lines(words: str, count: int = 12) -> str:
    """Keep the last lines, as many as a terminal shows at a glance."""
    return (
        "\n".join(f"  | {line}" for line in words.strip().splitlines()[-count:])
        or "  | (it wrote nothing)"
    )


def disk_full(failure: str, folder: Path, needed_bytes: int) -> EmbeddedPostgresError:
    """Name the full file system's folder and how much is free there."""
    free = shutil.disk_usage(folder).free // _MIB
    return EmbeddedPostgresError(
        failure,
        f"no disk space: {folder} has {free} MB free, about {needed_bytes // _MIB} MB are needed",
        "free some space there, or choose a folder on another disk",
    )


def explain(failure: str, words: str, *, folder: Path, needed_bytes: int) -> EmbeddedPostgresError:
    """Make the error for a program that failed.

    Args:
        failure: What failed, as a clause.
        words: Everything the program wrote in this run.
        folder: An existing folder on the file system that the program writes to.
        needed_bytes: What it needs there, for the message about a full disk.
    """
    symptom = symptom_of(words)
    # On a full disk the log has no room for the reason either.
    speechless = symptom is Symptom.OTHER and shutil.disk_usage(folder).free < _MIB
    if symptom is Symptom.DISK_FULL or speechless:
        return disk_full(failure, folder, needed_bytes)
    advice = {
        Symptom.NO_PERMISSION: (
            f"make {folder} belong to the user who runs this, or choose another folder"
        ),
        Symptom.SHARED_MEMORY_IN_USE: (
            "processes of an earlier run are still ending: try again in a minute"
        ),
    }
    do = advice.get(
        symptom, f"the lines above are PostgreSQL's own; a log file in {folder} may hold more"
    )
    return EmbeddedPostgresError(failure, f"its last words were\n{last_lines(words)}", do)


@contextmanager
def own_files(failure: str, folder: Path, *, needed_bytes: int) -> Generator[None]:
    """Turn an ``OSError`` on our own files into an error that names the folder."""
    try:
        yield
    except OSError as error:
        existing = next(place for place in (folder, *folder.parents) if place.is_dir())
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise disk_full(failure, existing, needed_bytes) from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise EmbeddedPostgresError(
                failure,
                f"no permission to write: {error}",
                f"make {existing} writable for the user who runs this, or choose another folder",
            ) from error
        raise EmbeddedPostgresError(failure, str(error), "choose another folder") from error
