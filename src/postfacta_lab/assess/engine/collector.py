"""A collector of traces that keeps what it gets, and finds ids in it whatever the format."""

from __future__ import annotations

import asyncio
import gzip
import zlib

from .http import Connection

__all__ = ["Collector"]

_MOST = 16 * 2**20


class Collector:
    """Accept OTLP over HTTP, as protobuf or JSON."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._got = bytearray()
        self.port = 0

    async def start(self) -> None:
        """Listen on a port of the loopback interface."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head, body = await Connection(reader, writer).request()
                if "gzip" in head.get("content-encoding", ""):
                    body = gzip.decompress(body)
                if len(self._got) < _MOST:
                    self._got += body
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"
                )
                await writer.drain()
        except (OSError, EOFError, ValueError, zlib.error, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    @property
    def bytes(self) -> int:
        """How much came."""
        return len(self._got)

    def has(self, trace: str) -> bool:
        """Whether a trace id, as 32 hexadecimal digits, came as bytes or as text."""
        return bytes.fromhex(trace) in self._got or trace.encode() in self._got.lower()

    def close(self) -> None:
        """Stop."""
        if self._server is not None:
            self._server.close()
