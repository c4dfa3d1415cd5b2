"""The proxies of the fault proxy: their addresses, upstreams and toxics."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Self

from .links import STREAMS, Connection
from .toxics import Toxic

__all__ = ["ApiError", "Proxies", "Proxy"]

_BACKLOG = 1024
_CONNECT_TIMEOUT = 30.0
_PAUSE = 0.1  # after accept() failed, which most often means that no file descriptor is free

_log = logging.getLogger("postfacta_lab.proxy")


class ApiError(Exception):
    """A request that cannot be granted.

    Attributes:
        message: The message for the caller.
        status: The HTTP status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.message, self.status = message, status


class Proxy:
    """One address that is listened on, one that is connected to, and the toxics between them.

    Args:
        name: Unique.
        listen: Host and port; the port that 0 became stands here once it listens.
        upstream: Host and port; looked up anew for each connection.
        tasks: Owns the connections.
        everywhere: Whether it may listen on an address that other machines reach.
    """

    def __init__(
        self, name: str, listen: str, upstream: str, *, tasks: asyncio.TaskGroup, everywhere: bool = False
    ) -> None:
        self.name, self.listen, self.upstream = name, listen, upstream
        self.toxics: list[Toxic] = []
        self._tasks, self._everywhere = tasks, everywhere
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._connections: set[Connection] = set()

    @property
    def enabled(self) -> bool:
        return self._listener is not None

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "listen": self.listen,
            "upstream": self.upstream,
            "enabled": self.enabled,
            "toxics": [toxic.as_json() for toxic in self.sorted_toxics()],
        }

    def sorted_toxics(self) -> list[Toxic]:
        """Return those of the upstream direction first, each direction in the order of effect."""
        return [toxic for stream in STREAMS for toxic in self.toxics if toxic.stream == stream]

    def toxic(self, name: str) -> Toxic:
        for toxic in self.toxics:
            if toxic.name == name:
                return toxic
        raise ApiError("toxic not found", 404)

    async def differs(self, listen: str, upstream: str) -> bool:
        """Return whether these are other addresses than its own."""
        return self.upstream != upstream or self.listen not in {listen, _text(await _resolve(listen))}

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: If the address is none, or taken.
            ApiError: If it is open to other machines, and must not be.
        """
        if self.enabled:
            return
        address = await _resolve(self.listen)
        if not (self._everywhere or ipaddress.ip_address(address[0]).is_loopback):
            raise ApiError(f"{self.listen} is no loopback address: start the proxy with --host", 400)
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._listener = listener = socket.create_server(address, family=family, backlog=_BACKLOG)
        listener.settimeout(0)
        self.listen = _text(listener.getsockname())
        self._accepting = self._tasks.create_task(self._accept(listener))

    async def stop(self) -> None:
        """Listen no more, and close all connections; may be called twice."""
        if self._listener is None or self._accepting is None:
            return
        self._accepting.cancel()
        await asyncio.wait([self._accepting])
        self._listener.close()
        self._listener = self._accepting = None
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)

    async def arrange(self, toxics: Sequence[Toxic]) -> None:
        """Apply these toxics from now on, on new connections and on those that live."""
        changed = set(toxics) ^ set(self.toxics)
        self.toxics = list(toxics)
        for stream in {toxic.stream for toxic in changed}:
            acting = [toxic for toxic in self.toxics if toxic.stream == stream]
            for connection in list(self._connections):
                await connection.arrange(stream, acting)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError:
                await asyncio.sleep(_PAUSE)
                continue
            task = self._tasks.create_task(self._serve(client))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
            # A task that is cancelled before it began closes nothing.
            task.add_done_callback(partial(_close, client))

    async def _serve(self, client: socket.socket) -> None:
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                server = await _connect(self.upstream)
        except OSError:
            return
        for one in (client, server):
            with contextlib.suppress(OSError):  # it may be gone already
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(client, server)
        self._connections.add(connection)
        try:
            await connection.run(self.toxics)
        except Exception:  # noqa: BLE001 - a fault of ours in one connection must not end the others
            _log.exception("a connection of %s broke", self.name)
        finally:
            self._connections.discard(connection)


class Proxies:
    """All proxies by name; an async context manager that stops them at the end.

    Changes happen one at a time.

    Args:
        everywhere: Whether proxies may listen on addresses that other machines reach.
    """

    def __init__(self, *, everywhere: bool = False) -> None:
        self.by_name: dict[str, Proxy] = {}
        self.changing = asyncio.Lock()
        self._everywhere = everywhere
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async with self.changing:
            for proxy in self.by_name.values():
                await proxy.stop()
        await self._tasks.__aexit__(kind, error, trace)

    def find(self, name: str) -> Proxy:
        if (proxy := self.by_name.get(name)) is None:
            raise ApiError("proxy not found", 404)
        return proxy

    def new(self, name: str, listen: str, upstream: str) -> Proxy:
        """Make a proxy that is not among them yet, and does not listen yet."""
        return Proxy(name, listen or "127.0.0.1:0", upstream, tasks=self._tasks, everywhere=self._everywhere)

    async def add(self, proxy: Proxy, *, enabled: bool) -> None:
        if proxy.name in self.by_name:
            raise ApiError("proxy already exists", 409)
        if enabled:
            await proxy.start()
        self.by_name[proxy.name] = proxy

    async def put(self, proxy: Proxy, *, enabled: bool) -> Proxy:
        """Add a proxy, unless there is one with its name and addresses; replace one with others."""
        before = self.by_name.get(proxy.name)
        if before is not None:
            if not await before.differs(proxy.listen, proxy.upstream):
                return before
            await before.stop()
        if enabled:
            await proxy.start()
        self.by_name[proxy.name] = proxy
        return proxy

    async def update(self, proxy: Proxy, listen: str, upstream: str, *, enabled: bool) -> None:
        """Change a proxy; new addresses drop its connections."""
        if await proxy.differs(listen, upstream):
            await proxy.stop()
            proxy.listen, proxy.upstream = listen, upstream
        if enabled:
            await proxy.start()
        else:
            await proxy.stop()

    async def remove(self, name: str) -> None:
        await self.find(name).stop()
        del self.by_name[name]

    async def reset(self) -> None:
        """Enable all proxies, without toxics."""
        for proxy in self.by_name.values():
            await proxy.start()
            await proxy.arrange([])


def _close(client: socket.socket, _: asyncio.Task[None]) -> None:
    client.close()


def _text(address: tuple[str, int]) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _look_up(
    address: str, *, passive: bool = False
) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    host, colon, port = address.rpartition(":")
    if not (colon and port.isascii() and port.isdigit() and int(port) <= 65_535):
        raise OSError(f"address {address}: missing or invalid port in address")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host.removeprefix("[").removesuffix("]") or None,
            int(port),
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE if passive else 0,
        )
    except UnicodeError as error:
        raise OSError(f"address {address}: no such host") from error
    return [(family, (str(where[0]), int(where[1]))) for family, _, _, _, where in found]


async def _resolve(listen: str) -> tuple[str, int]:
    """Resolve an address to listen on; one of IPv4 is preferred."""
    found = await _look_up(listen, passive=True)
    return min(found, key=lambda one: one[0] != socket.AF_INET)[1]


async def _connect(upstream: str) -> socket.socket:
    """Connect to the first address that lets us.

    Raises:
        OSError: If none does.
    """
    error = OSError(f"no address for {upstream}")
    for family, where in await _look_up(upstream):
        with contextlib.ExitStack() as undo:
            one = socket.socket(family, socket.SOCK_STREAM)
            undo.callback(one.close)
            one.settimeout(0)
            try:
                await asyncio.get_running_loop().sock_connect(one, where)
            except OSError as failure:
                error = failure
                continue
            undo.pop_all()
            return one
    raise error
