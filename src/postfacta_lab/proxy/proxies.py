"""A proxy of the fault proxy.

It passes bytes from one socket to another, through toxics that may change meanwhile.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from .toxics import BURST, STREAMS, Chunk, Stage, Toxic, next_step

_BACKLOG = 1024  # connections that wait to be accepted
_CONNECT_TIMEOUT = 30.0
_READ_BYTES = 32_768
_QUEUE_BYTES = 65_536
# What is under way during a latency must fit: 16 MiB are 16 MiB/s at one second.
_LATENCY_BYTES = 16_777_216
_NO_LINGER = struct.pack("ii", 1, 0)  # on, 0 seconds: close() sends RST


class _ResetError(Exception):
    """A toxic resets the connection."""


class _Link:
    """One direction of a connection.

    What was read waits in one queue until the toxics let it go.
    """

    def __init__(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        self._source = source
        self._target = target
        self._now = asyncio.get_running_loop().time
        self._chunks: deque[Chunk] = deque()
        self._size = 0
        self._last = 0.0
        self._stages: list[Stage] = []
        self._lacks_bytes = False
        self._changed = asyncio.Event()
        target.transport.set_write_buffer_limits(0)  # drain() waits until the system has all of it

    def arrange(self, toxics: Sequence[Toxic]) -> None:
        """Apply these toxics from now on, in this order."""
        before = {stage.toxic.name: stage for stage in self._stages}
        now = self._now()
        self._stages = [Stage.of(toxic, now, before.get(toxic.name)) for toxic in toxics]
        swallowing = {stage.toxic.name for stage in self._stages if stage.swallows}
        swallowed = {name for name, stage in before.items() if stage.swallows}
        if swallowed - swallowing:
            self._lacks_bytes = True
        self._tell()

    async def run(self) -> None:
        """Move bytes until there are no more or the toxics end it.

        `_ResetError`, in a group, if they reset it.
        """
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(self._read())
            with suppress(OSError):  # the peer is gone: nothing more can be written
                await self._write()
            # As in the original there is no half-open connection. The other direction reads an end
            # here.
            connection = self._target.get_extra_info("socket")
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            reading.cancel()

    async def _read(self) -> None:
        with suppress(OSError):  # the peer is gone: that is an end too
            while data := await self._source.read(_READ_BYTES):
                self._put(data)
                while self._size >= self._room():
                    await self._changed.wait()
        self._put(b"")

    async def _write(self) -> None:
        while not self._lacks_bytes:
            chunk = self._chunks[0] if self._chunks else None
            step, stages = next_step(chunk, self._stages, self._last)
            if step.due > self._now():
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(step.due):
                        await self._changed.wait()
                continue
            if step.fate == "end":
                return
            if step.fate == "reset":
                raise _ResetError
            self._stages = stages
            data = self._take(step.size)
            if step.fate == "pass":
                await self._send(data, step.due)

    async def _send(self, data: bytes, due: float) -> None:
        self._target.write(data)
        await self._target.drain()
        await asyncio.sleep(0)  # the others' turn, between many small pieces
        self._last = self._now()
        # A stage may catch up what a late wake-up cost, up to a burst, and no more.
        lost = max(0.0, self._last - due - BURST)
        for stage in self._stages:
            stage.free += lost

    def _put(self, data: bytes) -> None:
        chunk = Chunk(data, came=self._now(), luck=_chance())
        self._chunks.append(chunk)
        self._size += len(data)
        self._tell()

    def _take(self, size: int) -> bytes:
        chunk = self._chunks.popleft()
        if size < len(chunk.data):
            remainder = chunk._replace(data=chunk.data[size:], luck=_chance())
            self._chunks.appendleft(remainder)
        self._size -= size
        self._tell()
        return chunk.data[:size]

    def _room(self) -> int:
        is_slow = any(stage.toxic.type == "latency" for stage in self._stages)
        return _LATENCY_BYTES if is_slow else _QUEUE_BYTES

    def _tell(self) -> None:
        """Wake up what waits for a change of toxics or of the queue."""
        self._changed.set()
        self._changed = asyncio.Event()


class Proxy:
    """One address that is listened on, one that is connected to, and the toxics between them.

    The port that 0 became stands in `listen` once it listens; `upstream` is looked up anew for each
    connection.
    """

    def __init__(self, name: str, listen: str, upstream: str) -> None:
        self.name = name
        self.listen: str = listen
        self.upstream = upstream
        self.toxics: dict[str, Toxic] = {}
        self._server: asyncio.Server | None = None
        self._serving: dict[asyncio.Task[Any], dict[str, _Link]] = {}

    @property
    def enabled(self) -> bool:
        return self._server is not None

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "listen": self.listen,
            "upstream": self.upstream,
            "enabled": self.enabled,
            "toxics": [asdict(toxic) for toxic in self.toxics.values()],
        }

    async def start(self) -> None:
        """Listen, or raise `OSError`; may be called twice."""
        if self._server is None:
            host, port = split(self.listen)
            self._server = await asyncio.start_server(
                self._serve, host, port, backlog=_BACKLOG, limit=_READ_BYTES
            )
            _, port, *_ = self._server.sockets[0].getsockname()
            written_host, _, _ = self.listen.rpartition(":")
            self.listen = f"{written_host}:{port}"

    async def stop(self) -> None:
        """Listen no more, and close all connections; may be called twice."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)

    def arrange(self, toxics: Iterable[Toxic]) -> None:
        """Apply these toxics from now on, on new connections and on those that live."""
        ordered = sorted(toxics, key=lambda toxic: STREAMS.index(toxic.stream))
        self.toxics = {toxic.name: toxic for toxic in ordered}
        for links in self._serving.values():
            self._place(links)

    def _place(self, links: dict[str, _Link]) -> None:
        for stream, link in links.items():
            toxics = [toxic for toxic in self.toxics.values() if toxic.stream == stream]
            link.arrange(toxics)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect to upstream, and move bytes both ways until one end closes or a toxic resets."""
        task = asyncio.current_task()
        writers = [writer]
        if task is None or not self.enabled:
            writer.transport.abort()
            return
        links: dict[str, _Link] = {}
        self._serving[task] = links
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                host, port = split(self.upstream)
                answers, upstream = await asyncio.open_connection(host, port, limit=_READ_BYTES)
            writers.append(upstream)
            links["upstream"] = _Link(reader, upstream)
            links["downstream"] = _Link(answers, writer)
            self._place(links)
            async with asyncio.TaskGroup() as tasks:
                for link in links.values():
                    tasks.create_task(link.run())
        except* (OSError, UnicodeError, asyncio.CancelledError):  # no such upstream, or stopped
            pass
        except* _ResetError:
            for stream in writers:
                connection = stream.get_extra_info("socket")
                with suppress(OSError):  # it is closed already
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        finally:
            del self._serving[task]
            for stream in writers:
                stream.transport.abort()


def split(address: str) -> tuple[str, int]:
    """Split an address into host and port, or raise `OSError`."""
    host, colon, port = address.rpartition(":")
    is_number = colon and port.isascii() and port.isdigit()
    if not is_number or int(port) > 65_535:
        raise OSError(f"address {address}: missing or invalid port in address")
    bare_host = host.removeprefix("[").removesuffix("]")
    return bare_host, int(port)


def _chance() -> float:
    return random.uniform(-1, 1)  # noqa: S311 - no secret
