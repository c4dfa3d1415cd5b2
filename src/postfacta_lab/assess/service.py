"""A service as a child of its own session, so that all of its processes can be found, signalled and ended."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from ..engine.processes import Child, fields_of, free_port, until

__all__ = ["HAS_PROC", "Service"]

HAS_PROC = Path("/proc/self/stat").exists()
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PERIOD = 0.05


class Service(Child):
    """One instance: started by `start`, ended with all of its session by `kill`."""

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path) -> None:
        self.port = free_port()
        port = str(self.port)
        super().__init__(
            "service",
            [word.replace("{port}", port) for word in argv],
            log=log,
            environment={**{name: text.replace("{port}", port) for name, text in env.items()}, "PORT": port},
            folder=cwd,
        )

    def memory(self) -> int:
        """Return the resident memory of all of its processes, in bytes."""
        return sum(int(stat[21]) * _PAGE for pid in self.leaves() if (stat := fields_of(pid)))

    async def wait(self, patience: float) -> bool:
        """Wait for its end; False if it is still there."""
        return await until(lambda: not self.is_running, patience)

    def output(self) -> str:
        """Return the last 4 MiB that it and its predecessors wrote."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 4 * 2**20))
                return log.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def written(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    @asynccontextmanager
    async def rationed(self, share: float) -> AsyncGenerator[None]:
        """Let it run for a share of each 50 ms, as a container's limit does: it is stopped and continued."""

        async def stop_and_go() -> None:
            while self.is_running:
                self.signal_all(signal.SIGSTOP)
                await asyncio.sleep(_PERIOD * (1 - share))
                self.signal_all(signal.SIGCONT)
                await asyncio.sleep(_PERIOD * share)

        async with asyncio.TaskGroup() as group:
            task = group.create_task(stop_and_go())
            try:
                yield
            finally:
                task.cancel()
                self.signal_all(signal.SIGCONT)
