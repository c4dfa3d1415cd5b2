"""Reads PostgreSQL's own postmaster.pid, and ends a postmaster whose owner was killed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .errors import EmbeddedPostgresError

_PROC = Path("/proc")
_PS_TIMEOUT = 10.0  # ps answers in milliseconds
_FIELDS = 8  # the lines of a complete postmaster.pid, see miscadmin.h


@dataclass(frozen=True, slots=True, kw_only=True)
class PidFile:
    """What postmaster.pid says.

    Args:
        pid: The postmaster, dead or alive.
        status: ``starting``, ``ready`` or ``stopping``; empty while the file is incomplete.
        text: The whole of it; a new run never writes the same, since it holds the time of the
            start.
    """

    pid: int
    status: str
    text: str


def read_pid_file(data_dir: Path) -> PidFile | None:
    """Read postmaster.pid; None if there is none, or none that can be read yet."""
    try:
        text = (data_dir / "postmaster.pid").read_text("ascii", "replace")
    except FileNotFoundError:
        return None
    lines = [line.strip() for line in text.splitlines()]
    # A stand-alone backend (initdb, --single) writes its pid negated.
    if not lines or not lines[0].lstrip("-").isdigit():
        return None
    status = lines[_FIELDS - 1] if len(lines) >= _FIELDS else ""
    return PidFile(pid=abs(int(lines[0])), status=status, text=text)


def is_alive(pid: int) -> bool:
    """Whether a process has this pid; a zombie counts, since PostgreSQL counts it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def runs_postgres_on(pid: int, data_dir: Path, *, proc: Path = _PROC) -> bool:
    """Whether a process is really a postgres on this very folder, and not a later owner of the pid.

    Args:
        pid: The process.
        data_dir: The folder, resolved.
        proc: Where the system shows its processes; ``ps`` is asked if that is missing.
    """
    if (proc / "self").exists():
        try:
            words = (
                (proc / str(pid) / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            )
        except (FileNotFoundError, ProcessLookupError):
            return False
        return Path(words[0]).name == "postgres" and str(data_dir) in words
    command = _command_from_ps(pid)
    return "postgres" in command.partition(" -D ")[0] and f" -D {data_dir} " in f"{command} "


def _command_from_ps(pid: int) -> str:
    done = subprocess.run(  # noqa: S603 -- an argument list, no shell
        [  # noqa: S607 -- ps is in another place on each system
            "ps",
            "-ww",
            "-o",
            "command=",
            "-p",
            str(pid),
        ],
        capture_output=True,
        timeout=_PS_TIMEOUT,
        check=False,
    )
    return done.stdout.decode("utf-8", "replace").strip()


def pause(seconds: float) -> None:
    """Wait where there is neither an event loop nor a child to wait for."""
    select.select([], [], [], seconds)


def end_orphan(data_dir: Path, *, timeout: float, log: Callable[[str], None]) -> None:
    """Stop the PostgreSQL that a killed owner left on this folder, if there is one.

    Only a process that is proven to be that PostgreSQL gets a signal, and only SIGINT: a fast,
    clean shutdown. The caller must own the folder's lock.

    Args:
        data_dir: The folder, resolved.
        timeout: Seconds to wait for its end.
        log: Called with a message about each step.

    Raises:
        EmbeddedPostgresError: It belongs to another user, or does not end in time.
    """
    left = read_pid_file(data_dir)
    if left is None or not runs_postgres_on(left.pid, data_dir):
        return
    log(f"stopping PostgreSQL (pid {left.pid}), which an earlier run left behind")
    failure = "the PostgreSQL of an earlier run is in the way"
    try:
        os.kill(left.pid, signal.SIGINT)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise EmbeddedPostgresError(
            failure, f"pid {left.pid} on {data_dir} belongs to another user", "stop it as that user"
        ) from error
    until = time.monotonic() + timeout
    while runs_postgres_on(left.pid, data_dir):
        if time.monotonic() >= until:
            raise EmbeddedPostgresError(
                failure,
                f"pid {left.pid} on {data_dir} did not stop within {timeout:g} s",
                f"see what it does, or end it with `kill -QUIT {left.pid}`, then start again",
            )
        pause(0.05)
