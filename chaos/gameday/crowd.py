"""Asks a service for one thing as fast as it answers, over many connections: more than it can do.

    CROWD_TOKEN=... python -m chaos.gameday.crowd http://127.0.0.1:8080/service-info --connections
    200

It runs until it is ended. A process of its own, so that it does not slow down the measurement.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

__all__ = ["main", "request_of"]

_PATIENCE = 20.0
_AFTER_A_FAILURE = 0.2
_LONGEST = 900.0


def request_of(url: str, token: str) -> bytes:
    """Write the request; the connection is kept."""
    parts = urlsplit(url)
    credentials = f"Authorization: Bearer {token}\r\n" if token else ""
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{credentials}\r\n".encode()


async def _one(url: str, request: bytes, pause: float) -> None:
    parts = urlsplit(url)
    while True:
        with contextlib.suppress(OSError, TimeoutError, ValueError, EOFError):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                while True:
                    async with asyncio.timeout(_PATIENCE):
                        writer.write(request)
                        await _read(reader)
                    await asyncio.sleep(pause)
            finally:
                writer.close()
        await asyncio.sleep(_AFTER_A_FAILURE)


async def _read(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    found = head.partition(b"content-length:")[2].split(b"\r\n", 1)[0]
    await reader.readexactly(int(found))
    if b"connection: close" in head:
        raise EOFError


async def _all(url: str, count: int, pause: float) -> None:
    request = request_of(url, os.environ.get("CROWD_TOKEN", ""))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LONGEST), asyncio.TaskGroup() as tasks:
            for _ in range(count):
                tasks.create_task(_one(url, request, pause))


def main(argv: Sequence[str] | None = None) -> int:
    """Run all connections."""
    parser = argparse.ArgumentParser(
        "python -m chaos.gameday.crowd", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument(
        "--pause", type=float, default=0.0, help="seconds after each answer (%(default)g)"
    )
    options = parser.parse_args(argv)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_all(options.url, options.connections, options.pause))
    return 0


if __name__ == "__main__":
    sys.exit(main())
