"""Programs that the lab starts: each in a session of its own, ended with all that it started.

How busy the machine is.

Only processes that were started here are touched, and their descendants, which Linux lists in
``/proc``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from pathlib import Path

from .variables import Environment

_PORTS = range(12_000, 20_000)  # below those that clients and the embedded PostgreSQL are given
_MOST_ROUNDS = 50  # of killing what forks while it is killed
_SCHEDSTAT = Path("/proc/self/schedstat")
_STAT = Path("/proc/stat")
_MOST_OUTPUT = 4 * 2**20  # bytes
_LEAST_GRACE = 45.0  # more than the service's own longest drain


def wait_until(
    is_true: Callable[[], bool],
    condition: str,
    *,
    within: float,
    every: float = 0.02,
) -> float:
    """Ask until something is true, and return the seconds that took, or raise `TimeoutError`."""
    began = time.monotonic()
    while not is_true():
        if time.monotonic() - began > within:
            raise TimeoutError(f"{condition}: not within {within:g} s")
        time.sleep(every)  # noqa: TID251 - a thread of its own, not a loop
    return time.monotonic() - began


async def until(is_true: Callable[[], bool], within: float, *, every: float = 0.01) -> bool:
    """Wait, in an event loop, for something to become true; return whether it did in time."""
    deadline = time.monotonic() + within
    while not is_true():
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(every)
    return True


def free_port() -> int:
    """Find a port that is free, and that the system assigns to no client."""
    for _ in range(200):
        port = _PORTS[secrets.randbelow(len(_PORTS))]
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise OSError("no port is free")


def fields_of(pid: int) -> list[str]:
    """Return what the system says of a process after its name.

    State, parent, group, session, … (proc(5)).
    """
    try:
        # The name stands in brackets and may hold spaces.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _living() -> Iterator[tuple[int, list[str]]]:
    for stat in Path("/proc").glob("[0-9]*"):
        if (fields := fields_of(int(stat.name))) and fields[0] not in "ZX":
            yield int(stat.name), fields


def descendants(pid: int) -> list[int]:
    """List the living processes below one, parents first."""
    children: dict[int, list[int]] = {}
    for process, (_, parent, *_) in _living():
        children.setdefault(int(parent), []).append(process)
    family = [pid]
    for process in family:
        family.extend(children.get(process, []))
    return family[1:]


def session(leader: int) -> list[int]:
    """List the living processes of a session.

    A launcher may have put some in groups of their own.
    """
    return [pid for pid, fields in _living() if int(fields[3]) == leader]


def freeze(pid: int) -> list[int]:
    """Stop a process and all below it in their tracks.

    The parent first, so that it makes no more.
    """
    stopped: list[int] = []
    while fresh := [process for process in (pid, *descendants(pid)) if process not in stopped]:
        for process in fresh:
            _signal(process, signal.SIGSTOP)
        stopped += fresh
    return stopped


def thaw(pid: int) -> None:
    """Resume a process and all its descendants.

    The children first, so that their parents do not miss them.
    """
    for process in (*reversed(descendants(pid)), pid):
        _signal(process, signal.SIGCONT)


def kill(pid: int) -> None:
    """End a process and all below it at once, as a power cut would."""
    for process in freeze(pid):
        _signal(process, signal.SIGKILL)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@dataclass(eq=False)
class Child:
    """One program that we start, with this environment alone, in a folder or where we are.

    Its output is added to `log`. A second start after its end is the normal way to recover.
    """

    name: str
    command: Sequence[str]
    _: KW_ONLY
    log: Path
    environment: Environment
    folder: Path | None = None
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id; it is a `RuntimeError` if it does not run."""
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"{self.name} does not run")
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code; None while it lives, or before it was started."""
        return None if self._process is None else self._process.poll()

    @property
    def words(self) -> str:
        """The last 4 MiB that it and its predecessors wrote."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _MOST_OUTPUT))
            return log.read().decode("utf-8", "replace")

    def deliver(self, number: int) -> float:
        """Send a signal to it alone; return the moment, on the monotonic clock."""
        at = time.monotonic()
        os.kill(self.pid, number)
        return at

    def leaves(self) -> list[int]:
        """List what lives in its session, which has its number; without ``/proc``, itself alone."""
        living = [] if self._process is None else session(self._process.pid)
        if not living and self.is_running:
            return [self.pid]
        return living

    def signal_all(self, number: int) -> None:
        for pid in self.leaves():
            _signal(pid, number)

    def start(self) -> None:
        """Start it, without waiting for it to be of use; if it runs already, nothing happens."""
        if self.is_running:
            return
        # A service may write secrets, and a log that is kept outlives it.
        with open(self.log, "ab", opener=partial(os.open, mode=0o600)) as output:
            os.fchmod(output.fileno(), 0o600)
            self._process = subprocess.Popen(  # noqa: S603 - an argument list, no shell
                self.command,
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C reaches us alone, and we end it in order
            )

    def terminate(self, grace: float = _LEAST_GRACE) -> int:
        """Ask it to end, as a deployment does, and return its exit code.

        Kill it and raise `TimeoutError` if it does not.
        """
        if self._process is None:
            return 0
        self._process.terminate()
        try:
            return self._process.wait(grace)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(f"{self.name} did not end within {grace:g} s of SIGTERM") from None

    def kill(self) -> None:
        """End it at once, and all of its session."""
        if self.is_running:
            kill(self.pid)
        if self._process is not None:
            # Before the wait: until then no other session can have this number. Forks that run away
            # are followed.
            for _ in range(_MOST_ROUNDS):
                if not session(self._process.pid):
                    break
                self.signal_all(signal.SIGKILL)
            self._process.wait()

    def freeze(self) -> None:
        """Stop it in its tracks: its sockets stay open and answer nothing."""
        freeze(self.pid)

    def thaw(self) -> None:
        if self.is_running:
            thaw(self.pid)

    def stop(self) -> None:
        """End it, whatever state it is in; calling it again changes nothing."""
        self.thaw()
        with contextlib.suppress(TimeoutError):
            self.terminate()
        self._process = None


class Waited:
    """The share of time that this process wanted to run and could not, since it was made."""

    def __init__(self) -> None:
        self._began = _times()
        self._ticks = _ticks()

    @property
    def share(self) -> float:
        """From 0 to 1; 0 where it cannot be known."""
        ran_before, waited_before = self._began
        ran_now, waited_now = _times()
        waited = waited_now - waited_before
        demand = (ran_now - ran_before) + waited
        return waited / demand if demand else 0.0

    @property
    def others_share(self) -> float:
        """The share of the machine that neither this process had nor what it started, from 0 to 1.

        0 if not known.
        """
        ticks = zip(_ticks(), self._ticks, strict=True)
        total, idle, ours = (now - before for now, before in ticks)
        if total <= 0:
            return 0.0
        return max(0, total - idle - max(ours, 0)) / total

    def state(self) -> dict[str, float]:
        return {
            "waited": round(self.share, 3),
            "others": round(self.others_share, 3),
            "load": round(os.getloadavg()[0], 2),
            "processors": float(os.cpu_count() or 1),
        }


def _ticks() -> tuple[int, int, int]:
    """Return the seconds of all processors since their start, idle ones, and ours and below."""
    if not _STAT.exists():
        return 0, 0, 0
    first_line, _, _ = _STAT.read_text().partition("\n")
    # Of all processors: user, nice, system, idle, iowait, irq, softirq, steal (proc(5)).
    every = [int(word) for word in first_line.split()[1:9]]
    our_pid = os.getpid()
    stats = [fields_of(pid) for pid in (our_pid, *descendants(our_pid))]
    # Of itself and of the children that it waited for, in user and system mode: proc(5).
    ours = sum(int(word) for stat in stats for word in stat[11:15])
    idle = every[3] + every[4]
    return sum(every), idle, ours


def _times() -> tuple[int, int]:
    if not _SCHEDSTAT.exists():
        return 0, 0
    ran, waited, *_ = _SCHEDSTAT.read_text().split()
    return int(ran), int(waited)
