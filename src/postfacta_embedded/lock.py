"""Allows a data folder one owner at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from .errors import EmbeddedPostgresError


class OwnerLock:
    """An exclusive ``flock`` on a file, which the kernel releases when its owner dies.

    The file stays behind: removing it would let two owners lock two different files of one name.
    Children that are exec'ed do not inherit the lock, because Python opens files close-on-exec.

    Args:
        path: The lock file; it is made if it is missing, and holds the owner's pid for the message.
        guarded: The folder that the lock stands for, for the message.
    """

    def __init__(self, path: Path, guarded: Path) -> None:
        self._path = path
        self._guarded = guarded
        self._file: int | None = None

    def acquire(self) -> None:
        """Become the owner; calling it again changes nothing.

        Raises:
            EmbeddedPostgresError: Another owner is alive.
            OSError: The file cannot be opened or written.
        """
        if self._file is not None:
            return
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._claim(file)
        except BaseException:
            os.close(file)
            raise
        self._file = file

    def release(self) -> None:
        """Stop being the owner; calling it again changes nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _claim(self, file: int) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(file, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise EmbeddedPostgresError(
                "the database folder is taken",
                f"another postfacta demo (pid {owner}) is using {self._guarded}",
                "stop that one first, or choose another folder",
            ) from None
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
