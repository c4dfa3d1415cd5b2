"""A PostgreSQL in memory, of asyncpg's shape as far as the pool knows it.

For virtual time, where no socket can be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["DSN", "FakeConnection", "FakeServer"]

_FOREVER: Final = 1e6
DSN: Final = "postgresql://nobody@nowhere/none"


class FakeConnection:
    """A connection of asyncpg's shape.

    Each round trip takes a few steps of the loop, and some time.
    """

    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self._is_open = True
        self._in_transaction = False
        self._listeners: list[Callable[[Any], None]] = []
        self.is_busy = False
        self._cancelled_until = 0.0

    async def execute(self, sql: str, *args: object, timeout: float | None = None) -> str:  # noqa: ASYNC109 - as asyncpg has it
        assert not self.is_busy, f"{sql!r} is sent while another statement runs"
        assert self._is_open, f"{sql!r} is sent on a closed connection"
        self.is_busy = True
        now = asyncio.get_running_loop().time
        try:
            await asyncio.sleep(0)
            async with asyncio.timeout(timeout):
                # As with asyncpg, nothing is sent before the server has answered the last
                # cancellation.
                await asyncio.sleep(max(0.0, self._cancelled_until - now()))
                self._server.statements.append(sql)
                is_mute = self in self._server.mute
                await asyncio.sleep(_FOREVER if is_mute else self._server.round_trip)
        except BaseException:
            self._cancelled_until = now() + self._server.round_trip
            raise
        finally:
            self.is_busy = False
        if not self._is_open:
            raise ConnectionResetError("the connection was lost")
        self._in_transaction = {"begin": True, "commit": False, "rollback": False}.get(
            sql, self._in_transaction
        )
        return sql.split(maxsplit=1)[0].upper()

    async def fetchval(self, sql: str, *args: object, timeout: float | None = None) -> object:  # noqa: ASYNC109
        await self.execute(sql, timeout=timeout)
        return 1

    async def fetch(self, sql: str, *args: object, timeout: float | None = None) -> list[object]:  # noqa: ASYNC109
        await self.execute(sql, timeout=timeout)
        return [1]

    async def fetchrow(self, sql: str, *args: object, timeout: float | None = None) -> object:  # noqa: ASYNC109
        await self.execute(sql, timeout=timeout)
        return 1

    async def reset(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self.execute("reset", timeout=timeout)

    def is_closed(self) -> bool:
        return not self._is_open

    def is_in_transaction(self) -> bool:
        return self._in_transaction

    def add_termination_listener(self, listener: Callable[[Any], None]) -> None:
        self._listeners.append(listener)

    def terminate(self) -> None:
        if self._is_open:
            self._is_open = False
            self._server.open.discard(self)
            for listener in self._listeners:
                listener(self)


@dataclass
class FakeServer:
    """A server in memory: it hands out connections, and notes what happens to them.

    Attributes:
        open: The connections that are open.
        held: Those that a test holds.
        mute: Those that answer nothing any more.
        statements: All that was sent, in order.
        opened: How many connections there were.
        is_there: Whether it takes new ones.
        round_trip: Seconds that a statement takes.
        handshake: Seconds that a new connection takes.
    """

    open: set[FakeConnection] = field(default_factory=set[FakeConnection])
    held: set[object] = field(default_factory=set[object])
    mute: set[FakeConnection] = field(default_factory=set["FakeConnection"])
    statements: list[str] = field(default_factory=list[str])
    opened: int = 0
    is_there: bool = True
    round_trip: float = 0.001
    handshake: float = 0.002

    async def connect(self, dsn: str, *, timeout: float, **options: object) -> FakeConnection:  # noqa: ASYNC109
        await asyncio.sleep(0)
        if not self.is_there:
            raise ConnectionRefusedError
        connection = FakeConnection(self)
        self.open.add(connection)
        self.opened += 1
        try:
            async with asyncio.timeout(timeout):
                await asyncio.sleep(self.handshake)
        except BaseException:
            connection.terminate()
            raise
        return connection

    def cut(self) -> None:
        """Break all connections, and take no new ones."""
        self.is_there = False
        for connection in tuple(self.open):
            connection.terminate()
