"""Connections through the fault proxy: bytes from one socket to the other, through toxics that may change meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Sequence

from .toxics import Chunk, Effect, Flow, Noop, Pipe, Toxic

__all__ = ["STREAMS", "Connection"]

STREAMS = ("upstream", "downstream")
_READ_BYTES = 32_768
_NO_LINGER = struct.pack("ii", 1, 0)  # on, 0 seconds: close() sends RST


class _Stage:
    """One toxic on one direction of one connection."""

    def __init__(self, toxic: Toxic, flow: Flow) -> None:
        self.toxic, self.flow = toxic, flow
        self._effect = self._drawn()

    def change(self, toxic: Toxic) -> None:
        """Act by new attributes from now on; what was sent already still counts."""
        if toxic is not self.toxic:
            self.toxic = toxic
            self._effect = self._drawn()
            self.flow.since, self.flow.due = asyncio.get_running_loop().time(), 0.0

    def leave(self) -> None:
        """Return what is still here, or end what cannot go on, after being stopped for good."""
        if self._effect.closes_when_removed:
            self.flow.sink.end()
        self.flow.sink.absorb(self.flow.source)

    async def run(self) -> None:
        """Act, unless the dice said no."""
        if not self.flow.sink.ended:
            await self._effect.run(self.flow)

    def _drawn(self) -> Effect:
        return self.toxic.effect if self.toxic.strikes() else Noop()


class _Link:
    """One direction: a reader, the stages in their order, a writer.

    Args:
        source: Where bytes are read.
        target: Where they are written.
        tasks: Owns all tasks.
        reset: Resets the whole connection.
        done: Called once, when nothing more will be written.
    """

    def __init__(
        self,
        source: socket.socket,
        target: socket.socket,
        tasks: asyncio.TaskGroup,
        *,
        reset: Callable[[], None],
        done: Callable[[], None],
    ) -> None:
        self._source, self._target, self._tasks = source, target, tasks
        self._reset, self._done = reset, done
        self._entry, self._exit = Pipe(), Pipe()
        # It stands between reader and toxics: these two cannot be stopped without loss, it can.
        first = Toxic("", "noop", "", 1.0, Noop())
        self._stages = [_Stage(first, self._flow(self._entry))]
        self._running: list[asyncio.Task[None]] = []
        self._ends: list[asyncio.Task[None]] = []
        self._is_stopped = False

    def start(self, toxics: Sequence[Toxic]) -> None:
        """Begin to move bytes."""
        self._ends = [self._tasks.create_task(self._read()), self._tasks.create_task(self._write())]
        self._place(toxics)

    async def arrange(self, toxics: Sequence[Toxic]) -> None:
        """Apply these toxics from now on, in this order; nothing that is under way is lost."""
        await _cancel(self._running)
        if not self._is_stopped:  # while waiting
            self._place(toxics)

    async def stop(self) -> None:
        """End all tasks."""
        self._is_stopped = True
        await _cancel([*self._running, *self._ends])

    def _place(self, toxics: Sequence[Toxic]) -> None:
        wanted = {toxic.name: toxic for toxic in toxics}
        first, *before = self._stages
        kept: dict[str, _Stage] = {}
        sink = self._exit
        # From the last to the first: what one leaves behind goes to the next one that stays.
        for stage in reversed(before):
            stage.flow.sink = sink
            if stage.toxic.name in wanted:
                sink, kept[stage.toxic.name] = stage.flow.source, stage
            else:
                stage.leave()
        for stage in kept.values():
            stage.change(wanted[stage.toxic.name])
        self._stages = [first, *(kept.get(toxic.name) or self._stage(toxic) for toxic in toxics)]
        self._connect()

    def _stage(self, toxic: Toxic) -> _Stage:
        return _Stage(toxic, self._flow(Pipe(toxic.effect.buffer)))

    def _flow(self, source: Pipe) -> Flow:
        return Flow(source, self._exit, self._reset, asyncio.get_running_loop().time())

    def _connect(self) -> None:
        sink = self._exit
        for stage in reversed(self._stages):
            stage.flow.sink, sink = sink, stage.flow.source
        self._running = [self._tasks.create_task(stage.run()) for stage in self._stages]

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):  # the peer is gone: that is an end too
            while True:
                await self._entry.room()
                data = await loop.sock_recv(self._source, _READ_BYTES)
                if not data:
                    break
                self._entry.put(Chunk(data, loop.time()))
        self._entry.end()

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):  # the peer is gone: nothing more can be written
            while await self._exit.head() is not None:
                await loop.sock_sendall(self._target, self._exit.take().data)
        # As in the original there is no half-open connection. The other direction reads an end here.
        with contextlib.suppress(OSError):
            self._target.shutdown(socket.SHUT_RDWR)
        self._done()


class Connection:
    """A client's connection, and the one made to the upstream for it.

    Args:
        client: Connected; closed at the end.
        server: Connected to the upstream; closed at the end.
    """

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._client, self._server = client, server
        self._links: dict[str, _Link] = {}
        self._over = asyncio.Event()
        self._open = len(STREAMS)

    async def run(self, toxics: Sequence[Toxic]) -> None:
        """Move bytes both ways until both directions have ended, one is reset, or the task is cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                pairs = ((self._client, self._server), (self._server, self._client))
                for stream, (source, target) in zip(STREAMS, pairs, strict=True):
                    link = _Link(source, target, tasks, reset=self._reset, done=self._one_is_done)
                    link.start([toxic for toxic in toxics if toxic.stream == stream])
                    self._links[stream] = link
                await self._over.wait()
                links, self._links = self._links, {}
                for link in links.values():
                    await link.stop()
        finally:
            self._links = {}
            self._client.close()
            self._server.close()

    async def arrange(self, stream: str, toxics: Sequence[Toxic]) -> None:
        """Apply these toxics to one direction from now on."""
        if (link := self._links.get(stream)) is not None:
            await link.arrange(toxics)

    def _one_is_done(self) -> None:
        self._open -= 1
        if not self._open:
            self._over.set()

    def _reset(self) -> None:
        for one in (self._client, self._server):
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._over.set()


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
