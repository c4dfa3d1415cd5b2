"""A link to what the service depends on: it can be cut, silenced or slowed, and counts connections."""

from __future__ import annotations

import asyncio
import socket

from ..proxy.links import STREAMS
from ..proxy.proxies import Proxy
from ..proxy.toxics import Latency, Toxic

__all__ = ["Link"]

_FOR_EVER = 10**9  # milliseconds


class Link(Proxy):
    """A proxy on a port of the loopback interface, the same after a cut.

    Attributes:
        opened: Connections, since they were last counted anew.
        most: Of them, the most at once.
    """

    def __init__(self, host: str, port: int, tasks: asyncio.TaskGroup) -> None:
        super().__init__("dependency", "127.0.0.1:0", f"{host}:{port}", tasks=tasks)
        self.opened = self.most = self._at_once = 0

    @property
    def port(self) -> int:
        return int(self.listen.rpartition(":")[2])

    async def _serve(self, client: socket.socket) -> None:
        self.opened += 1
        self._at_once += 1
        self.most = max(self.most, self._at_once)
        try:
            await super()._serve(client)
        finally:
            self._at_once -= 1

    async def freeze(self) -> None:
        """Accept connections, and pass on nothing."""
        held = Latency(latency=_FOR_EVER)
        await self.arrange([Toxic(f"held_{stream}", "latency", stream, 1.0, held) for stream in STREAMS])

    async def delay(self, seconds: float) -> None:
        """Hold each answer back for this long."""
        slow = Latency(latency=round(1000 * seconds))
        await self.arrange([Toxic("slow", "latency", "downstream", 1.0, slow)])

    async def heal(self) -> None:
        """Undo all of it."""
        await self.start()
        await self.arrange([])

    def count_anew(self) -> None:
        """Forget how many connections were opened, and the most at once."""
        self.opened, self.most = 0, self._at_once
