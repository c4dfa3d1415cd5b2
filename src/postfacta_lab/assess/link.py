"""A link to what the service depends on: it can be cut, silenced or slowed, and counts connections."""

from __future__ import annotations

import asyncio

from ..proxy.proxies import Proxy
from ..proxy.toxics import STREAMS, Toxic

__all__ = ["Link"]

_FOR_EVER = 10**9  # milliseconds


class Link(Proxy):
    """A proxy on a port of the loopback interface, the same after a cut.

    Attributes:
        opened: Connections, since they were last counted anew.
        most: Of them, the most at once.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__("dependency", "127.0.0.1:0", f"{host}:{port}")
        self.opened = self.most = self._at_once = 0

    @property
    def port(self) -> int:
        return int(self.listen.rpartition(":")[2])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        self._at_once += 1
        self.most = max(self.most, self._at_once)
        try:
            await super()._serve(reader, writer)
        finally:
            self._at_once -= 1

    async def freeze(self) -> None:
        """Accept connections, and pass on nothing."""
        self._slow_down(_FOR_EVER, *STREAMS)

    async def delay(self, seconds: float) -> None:
        """Hold each answer back for this long."""
        self._slow_down(round(1000 * seconds), "downstream")

    def _slow_down(self, milliseconds: int, *streams: str) -> None:
        held = {"latency": milliseconds, "jitter": 0}
        self.arrange([Toxic(stream, "latency", stream, 1.0, held) for stream in streams])

    async def heal(self) -> None:
        """Undo all of it."""
        await self.start()
        self.arrange([])

    def count_anew(self) -> None:
        """Forget how many connections were opened, and the most at once."""
        self.opened, self.most = 0, self._at_once
