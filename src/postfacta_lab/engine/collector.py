"""A collector of traces that keeps what it gets, and finds ids in it whatever the format."""

from __future__ import annotations

import gzip
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from .http import Reply, Request, serving

__all__ = ["Collector"]

_MOST = 16 * 2**20


class Collector:
    """Accept OTLP over HTTP, as protobuf or JSON."""

    def __init__(self) -> None:
        self._got = bytearray()
        self.port = 0

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[None]:
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        async with serving(self._take, listener):
            yield

    async def _take(self, request: Request) -> Reply:
        if len(self._got) < _MOST:
            packed = "gzip" in request.headers.get("content-encoding", "")
            self._got += gzip.decompress(request.body) if packed else request.body
        return Reply(content_type="application/x-protobuf")

    @property
    def bytes(self) -> int:
        return len(self._got)

    def has(self, trace: str) -> bool:
        """Whether a trace id, as 32 hexadecimal digits, came as bytes or as text."""
        return bytes.fromhex(trace) in self._got or trace.encode() in self._got.lower()
