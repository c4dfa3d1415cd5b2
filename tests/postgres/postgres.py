"""What the tests of the pool share.

A database that is open, one who watches the server, a request in a hurry.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import NamedTuple, Self
from urllib.parse import urlsplit

import anyio
import asyncpg

from postfacta_core.backoff import Backoff
from postfacta_core.clock import MONOTONIC
from postfacta_core.context import RequestContext, bind_request, release_request
from postfacta_core.errors import DatabaseUnavailableError, DeadlineExceededError
from postfacta_core.events import PolicyCreated
from postfacta_core.testing import RecordingObserver
from postfacta_postgres import Database, PoolOptions

__all__ = [
    "QUICK",
    "SHORT_WAIT",
    "Flapping",
    "Size",
    "opened",
    "request_with_slot",
    "request_within",
    "size_of",
    "until",
    "until_answers",
    "until_pinged",
    "until_quiet",
    "watcher",
]

# Seconds that no caller waits unless something is broken: a busy machine takes its time to open a
# connection.
QUICK = PoolOptions(
    max_size=2,
    acquire_timeout=5.0,
    connect_timeout=5.0,
    statement_timeout=5.0,
    close_timeout=0.5,
    reconnect=Backoff(base=0.02, cap=0.1),
)
# For those who wait in vain.
SHORT_WAIT = replace(QUICK, acquire_timeout=1.0)
_OURS = (
    "select count(*) {what} from pg_stat_activity where application_name = 'postfacta db'"
    " and datname = current_database() and pid <> pg_backend_pid()"
)


class Size(NamedTuple):
    """The state of a pool, as its metrics show it."""

    pool: str
    idle: float
    used: float
    most: float
    waiting: float


def size_of(seen: RecordingObserver) -> Size:
    """Return the present state of the pool that announced itself to an observer."""
    for event in seen.of(PolicyCreated):
        found = [it for it in event.tally() if it.metric.startswith("db_client_connection_")]
        if found:
            return Size(event.policy, *(it.value for it in found))
    raise LookupError("no pool announced itself")


@dataclass(slots=True)
class _Fate:
    """What becomes of the answers on one connection of a relay."""

    loses_answer: bool = False
    is_mute: bool = False


class Flapping:
    """A relay to a server that breaks connections.

    Attributes:
        victim: What marks the statements that are hit.
        resets: The number of next statements that send the word victim and get their connection
            reset.
        swallows: The number of next ones that reach the server, and whose answer is lost with the
            connection.
        mutes: The same, but the connection stays, and says nothing any more.
        refuses: Whether new connections are reset at once.
    """

    def __init__(self, dsn: str) -> None:
        parts = urlsplit(dsn)
        self._upstream = (parts.hostname or "", parts.port or 0)
        self._parts = parts
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.victim = b"victim"
        self.resets = 0
        self.swallows = 0
        self.mutes = 0
        self.refuses = False

    def dsn(self) -> str:
        """Give the address that leads through it."""
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        credentials = self._parts.netloc.rpartition("@")[0]
        return self._parts._replace(netloc=f"{credentials}@127.0.0.1:{port}").geturl()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        # One that is just being accepted is seen some turns of the loop later, and closed a turn
        # after it is cut.
        for _turn in range(10):
            self.cut()
            await asyncio.sleep(0)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def accepted(self) -> int:
        """How many connections there were."""
        return len(self._writers)

    def cut(self, most: int | None = None) -> None:
        """Break the connections that there are, or a number of the oldest."""
        for writer in self._writers[:most]:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.append(writer)
        if self.refuses:
            writer.transport.abort()
            return
        there_reader, there_writer = await asyncio.open_connection(*self._upstream)
        fate = _Fate()
        back = asyncio.ensure_future(self._pump(there_reader, writer, fate))
        try:
            while piece := await reader.read(65536):
                if self.victim in piece and self._is_hit(fate):
                    break
                there_writer.write(piece)
                await there_writer.drain()
        except OSError:
            pass
        finally:
            back.cancel()
            writer.transport.abort()
            there_writer.transport.abort()

    def _is_hit(self, fate: _Fate) -> bool:
        """Decide what becomes of a statement; whether it is that it never arrives."""
        if self.resets > 0:
            self.resets -= 1
            return True
        if self.swallows > 0:
            self.swallows -= 1
            fate.loses_answer = True
        elif self.mutes > 0:
            self.mutes -= 1
            fate.is_mute = True
        return False

    @staticmethod
    async def _pump(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fate: _Fate
    ) -> None:
        with suppress(OSError):
            while piece := await reader.read(65536):
                if fate.loses_answer:
                    break
                if not fate.is_mute:
                    writer.write(piece)
                    await writer.drain()
        writer.transport.abort()


@asynccontextmanager
async def opened(
    dsn: str, options: PoolOptions = QUICK, observer: RecordingObserver | None = None
) -> AsyncGenerator[Database]:
    """Open a database, and wait until it is connected."""
    async with Database(
        dsn, name="db", options=options, observer=observer or RecordingObserver()
    ) as database:
        with anyio.fail_after(10):
            await database.wait_connected()
        yield database


@asynccontextmanager
async def watcher(dsn: str) -> AsyncGenerator[asyncpg.Connection[asyncpg.Record]]:
    """Open a connection that is not the pool's."""
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def until_answers(database: Database) -> None:
    """Ask until there is an answer, for at most ten seconds."""
    with anyio.fail_after(10):
        while True:
            try:
                await database.fetchval("select 1", repeatable=True)
            except (DatabaseUnavailableError, DeadlineExceededError):
                await anyio.sleep(0.02)
            else:
                return


async def until_pinged(database: Database) -> None:
    """Ping until there is an answer within the second that it may take.

    A busy machine may stand still for longer.
    """
    with anyio.fail_after(10):
        while True:
            try:
                return await database.ping()
            except DatabaseUnavailableError:
                await anyio.sleep(0.02)


async def until_quiet(
    other: asyncpg.Connection[asyncpg.Record], *, most: float = math.inf, seconds: float = 10
) -> int:
    """Wait until no backend of ours is at work, and there are at most this many.

    Return the number.
    """
    with anyio.fail_after(seconds):
        while True:
            row = await other.fetchrow(
                _OURS.format(what=", count(*) filter (where state <> 'idle')")
            )
            assert row is not None
            count, busy = row
            if not busy and count <= most:
                return int(count)
            await anyio.sleep(0.01)


async def until(dsn: str, query: str, value: object, seconds: float = 30) -> None:
    """Ask on a connection of its own until this is the answer."""
    with anyio.fail_after(seconds):
        async with watcher(dsn) as other:
            while await other.fetchval(query) != value:
                await anyio.sleep(0.02)


@dataclass(slots=True)
class NotedSlot:
    """A request's slot in a limiter, which notes whether it is to learn nothing."""

    is_ignored: bool = False

    def step_aside(self) -> None:
        raise NotImplementedError

    def come_back(self, *, is_evidence: bool = False) -> None:
        raise NotImplementedError

    def lend(self) -> bool:
        raise NotImplementedError

    def ignore_duration(self) -> None:
        self.is_ignored = True


@contextmanager
def request_with_slot() -> Generator[NotedSlot]:
    """Work for a request that the limiter admitted."""
    request, slot = RequestContext("a-test-request", 0.0), NotedSlot()
    request.slot = slot
    token = bind_request(request)
    try:
        yield slot
    finally:
        release_request(token)


@contextmanager
def request_within(seconds: float) -> Generator[RequestContext]:
    """Work for a request that has this many seconds left."""
    request = RequestContext("a-test-request", MONOTONIC())
    request.deadline = request.started + seconds
    token = bind_request(request)
    try:
        yield request
    finally:
        release_request(token)
