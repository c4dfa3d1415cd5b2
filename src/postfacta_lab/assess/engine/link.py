"""A link to what the service depends on: it can be cut, silenced or slowed, and counts connections."""

from __future__ import annotations

import asyncio
from contextlib import suppress

__all__ = ["Link"]


class Link:
    """A TCP proxy on a port of the loopback interface."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = host, port
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._gap = 0.0  # how far apart answers are
        self.port = 0
        self.opened = 0
        self.connections = 0
        self.most = 0

    async def start(self) -> None:
        """Listen, on the same port again after a cut."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=512)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        self.connections += 1
        self.most = max(self.most, self.connections)
        self._open.add(writer)
        try:
            above = await asyncio.open_connection(*self._upstream)
            self._open.add(above[1])
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._copy(reader, above[1], slow=False))
                    both.create_task(self._copy(above[0], writer, slow=True))
            finally:
                self._open.discard(above[1])
                above[1].transport.abort()
        except (OSError, ExceptionGroup):
            pass
        finally:
            self.connections -= 1
            self._open.discard(writer)
            writer.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slow: bool) -> None:
        while data := await reader.read(2**16):
            if slow and self._gap:
                await asyncio.sleep(self._gap)
            await self._flows.wait()
            writer.write(data)
            await writer.drain()
        raise ConnectionError  # either end closes both

    async def cut(self) -> None:
        """Reset all connections, and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            writer.transport.abort()
        await asyncio.sleep(0.05)

    def freeze(self) -> None:
        """Accept connections, and pass on nothing."""
        self._flows.clear()

    def delay(self, seconds: float) -> None:
        """Hold each answer back for this long."""
        self._gap = seconds

    async def heal(self) -> None:
        """Undo all of it."""
        self._gap = 0.0
        self._flows.set()
        await self.start()

    def count_anew(self) -> None:
        """Forget how many connections were opened, and the most at once."""
        self.opened, self.most = 0, self.connections

    async def close(self) -> None:
        """Stop for good."""
        with suppress(OSError):
            await self.cut()
