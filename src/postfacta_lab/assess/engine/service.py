"""A service as a child of its own session, so that all of its processes can be found, signalled and ended."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["HAS_PROC", "Service", "free_port"]

HAS_PROC = Path("/proc/self/stat").exists()
_PAGE = os.sysconf("SC_PAGE_SIZE")


def free_port() -> int:
    """Return a port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Service:
    """One instance: started by `start`, ended with all of its session by `end`."""

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path) -> None:
        self.port = free_port()
        self._argv = [word.replace("{port}", str(self.port)) for word in argv]
        self._env = {name: text.replace("{port}", str(self.port)) for name, text in env.items()}
        self._env["PORT"] = str(self.port)
        self._cwd, self._log = cwd, log
        self._child: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, or raise `OSError`; whether it serves is for others to see."""
        with self._log.open("ab") as log:
            self._child = await asyncio.create_subprocess_exec(
                *self._argv,
                env=self._env,
                cwd=self._cwd,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        """Whether the process that was started is still there."""
        return self._child is not None and self._child.returncode is None

    @property
    def code(self) -> int | None:
        """How it ended: a code, or a signal as a negative number."""
        return None if self._child is None else self._child.returncode

    def processes(self) -> list[int]:
        """Return all processes of its session that live."""
        if self._child is None:
            return []
        if not HAS_PROC:
            return [self._child.pid] if self.alive else []
        found = [(int(entry.name), _stat(entry)) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [
            pid for pid, stat in found if stat and stat[3] == str(self._child.pid) and stat[0] not in "ZX"
        ]

    def memory(self) -> int:
        """Return the resident memory of all of its processes, in bytes."""
        return sum(int(stat[21]) * _PAGE for pid in self.processes() if (stat := _stat(Path(f"/proc/{pid}"))))

    def signal(self, number: int) -> None:
        """Send a signal to the process that was started, as a platform does."""
        if self._child is not None and self.alive:
            self._child.send_signal(number)

    def signal_all(self, number: int) -> None:
        """Send a signal to each process of the session."""
        for pid in self.processes():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    async def wait(self, patience: float) -> bool:
        """Wait for its end; False if it is still there."""
        if self._child is None:
            return True
        try:
            async with asyncio.timeout(patience):
                await self._child.wait()
        except TimeoutError:
            return False
        return True

    async def end(self) -> None:
        """Kill all of its session; forks that run away are followed until none is left."""
        for _ in range(50):
            self.signal_all(signal.SIGKILL)
            if await self.wait(1) and not self.processes():
                return
            await asyncio.sleep(0.02)

    def output(self) -> str:
        """Return the last 4 MiB that it and its predecessors wrote."""
        try:
            with self._log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 4 * 2**20))
                return log.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def written(self) -> int:
        """Return how many bytes its log has."""
        return self._log.stat().st_size if self._log.exists() else 0


def _stat(process: Path) -> list[str]:
    """Return the fields after the name: state, parent, group, session, …; nothing if it is gone."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
