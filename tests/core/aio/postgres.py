"""What the tests of the pool share: a database that is open, one who watches the server, a request in a hurry."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

import anyio
import asyncpg

from postfacta_core.aio.database import Database, PoolOptions
from postfacta_core.clock import MONOTONIC
from postfacta_core.context import RequestContext, bind_request, release_request
from postfacta_core.errors import DatabaseUnavailableError, DeadlineExceededError
from postfacta_core.policy.retry import Backoff
from postfacta_core.testing import RecordingObserver

__all__ = ["QUICK", "opened", "request_within", "until", "until_answers", "until_quiet", "watcher"]

QUICK = PoolOptions(
    max_size=2,
    acquire_timeout=0.2,
    connect_timeout=2.0,
    statement_timeout=2.0,
    close_timeout=0.5,
    reconnect=Backoff(base=0.02, cap=0.1),
)
_OURS = (
    "select count(*) {what} from pg_stat_activity where application_name = 'postfacta db'"
    " and datname = current_database() and pid <> pg_backend_pid()"
)


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
                await database.fetchval("select 1")
            except (DatabaseUnavailableError, DeadlineExceededError):
                await anyio.sleep(0.02)
            else:
                return


async def until_quiet(
    other: asyncpg.Connection[asyncpg.Record], *, most: float = math.inf, seconds: float = 10
) -> int:
    """Wait until no backend of ours is at work, and there are at most so many; return how many."""
    with anyio.fail_after(seconds):
        while True:
            row = await other.fetchrow(_OURS.format(what=", count(*) filter (where state <> 'idle')"))
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


@contextmanager
def request_within(seconds: float) -> Generator[RequestContext]:
    """Work for a request that has so many seconds left."""
    request = RequestContext("a-test-request", MONOTONIC())
    request.deadline = request.started + seconds
    token = bind_request(request)
    try:
        yield request
    finally:
        release_request(token)
