"""Write single statements to a database, behind a network that loses answers, until SIGTERM.

Then read them back.

    DSN=postgresql://... python -m chaos.orders JOURNAL [--writers 4] [--seed 1]

It does what a service does that has no transactions around its writes: a statement alone, on a
borrowed connection, or in a transaction, half of them with a default `Retry` around. Nothing
forbids a row to be there twice. Each line of the journal is one write and its answer; the last line
is what is stored.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import IO
from urllib.parse import urlsplit

import anyio

from postfacta_core.errors import DeadlineExceededError, OutcomeUnknownError, RejectedError
from postfacta_core.guards.retry import Retry
from postfacta_postgres import Connection, Database, PoolOptions

__all__ = ["main"]

_TABLE = "create table if not exists chaos_orders (key text not null)"
_INSERT = "insert into chaos_orders values ($1)"
_STORED = "select key, count(*) from chaos_orders group by key"
_LOSS = 0.02  # of the answers to writes
_PATIENCE = 60.0  # seconds until the database must be there for the reading
# The last one is what a query that wants one row gets: the portal is suspended.
_ANSWERS = (b"INSERT", b"COMMIT", b"s\x00\x00\x00\x04")

_Way = Callable[[Database, str], Awaitable[object]]


class _LossyRelay:
    """Stands before the database, and now and then ends a connection in place of the answer to a write."""

    def __init__(self, dsn: str, luck: random.Random) -> None:
        parts = urlsplit(dsn)
        self._upstream = (parts.hostname or "", parts.port or 5432)
        self._parts = parts
        self._luck = luck
        self.lost = 0

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        credentials = self._parts.netloc.rpartition("@")[0]
        try:
            yield self._parts._replace(netloc=f"{credentials}@127.0.0.1:{port}").geturl()
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there: asyncio.StreamWriter | None = None
        try:
            answers, there = await asyncio.open_connection(*self._upstream)
            forth = asyncio.ensure_future(self._pump(reader, there, ()))
            await self._pump(answers, writer, _ANSWERS)
            forth.cancel()
        except OSError:
            pass
        finally:
            for end in (writer, there):
                if end is not None:
                    end.transport.abort()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, losing: tuple[bytes, ...]
    ) -> None:
        with suppress(OSError):
            while piece := await source.read(65536):
                if any(word in piece for word in losing) and self._luck.random() < _LOSS:
                    self.lost += 1
                    return
                sink.write(piece)
                await sink.drain()
        sink.transport.abort()


async def _statement(database: Database, key: str) -> object:
    return await database.execute(_INSERT, key)


async def _returning(database: Database, key: str) -> object:
    return await database.fetchval(f"{_INSERT} returning key", key)


async def _borrowed(database: Database, key: str) -> object:
    async with database.acquire() as connection:
        return await connection.execute(_INSERT, key)


async def _transaction(database: Database, key: str) -> object:
    async def write(connection: Connection) -> object:
        return await connection.execute(_INSERT, key)

    return await database.run_transaction(write)


_WAYS: dict[str, _Way] = {
    "statement": _statement,
    "returning": _returning,
    "borrowed": _borrowed,
    "transaction": _transaction,
}


class _Writer:
    """Writes one row after the other, and notes the answer to each."""

    def __init__(
        self, number: int, database: Database, journal: IO[str], luck: random.Random
    ) -> None:
        self._number = number
        self._database = database
        self._journal = journal
        self._luck = luck
        self._retry = Retry(f"orders_{number}", attempts=3)

    async def run(self, stop: anyio.Event) -> None:
        count = 0
        while not stop.is_set():
            count += 1
            name = self._luck.choice(list(_WAYS))
            retried = self._luck.random() < 0.5
            outcome, error = await self._write(
                _WAYS[name], f"{self._number}-{count}", retried=retried
            )
            way = f"{name}, retried" if retried else name
            line = {
                "key": f"{self._number}-{count}",
                "way": way,
                "outcome": outcome,
                "error": error,
            }
            self._journal.write(json.dumps(line) + "\n")
            await anyio.sleep(self._luck.uniform(0.0, 0.02) if outcome == "ok" else 0.05)

    async def _write(self, way: _Way, key: str, *, retried: bool) -> tuple[str, str]:
        try:
            await (
                self._retry.call(way, self._database, key) if retried else way(self._database, key)
            )
        except RejectedError as error:
            return "fail", type(error).__name__
        except (OutcomeUnknownError, DeadlineExceededError) as error:
            return "info", type(error).__name__
        return "ok", ""


async def _run(dsn: str, path: str, *, writers: int, seed: int) -> None:
    options = PoolOptions(max_size=writers, statement_timeout=1.0)
    relay, stop = (
        _LossyRelay(dsn, random.Random(f"{seed}/relay")),  # noqa: S311 - no secret
        anyio.Event(),
    )
    with open(path, "w", buffering=1, encoding="utf-8") as journal:  # noqa: PTH123, ASYNC230 - a line now and then
        async with Database(dsn, name="direct") as direct:
            await direct.wait_connected()
            await direct.execute(_TABLE)
            async with (
                relay.open() as relayed,
                Database(relayed, name="orders", options=options) as database,
                anyio.create_task_group() as group,
            ):
                for number in range(writers):
                    luck = random.Random(f"{seed}/{number}")  # noqa: S311 - no secret
                    group.start_soon(_Writer(number, database, journal, luck).run, stop)
                with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                    async for _ in signals:
                        stop.set()
                        break
            with anyio.fail_after(_PATIENCE):
                await direct.wait_connected()
                rows = await direct.fetch(_STORED, repeatable=True)
        journal.write(
            json.dumps({"stored": dict(map(tuple, rows)), "lost_answers": relay.lost}) + "\n"
        )


def main() -> int:
    """Run it; return the exit code."""
    parser = argparse.ArgumentParser("python -m chaos.orders", description=__doc__)
    parser.add_argument("journal", help="where to write what was done")
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    anyio.run(
        lambda: _run(os.environ["DSN"], options.journal, writers=options.writers, seed=options.seed)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
