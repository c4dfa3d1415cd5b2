"""Writes to each server of a cluster directly, all the time, and finds out whether two of them ever took writes at once.

PostgreSQL counts up its timeline with each promotion. So of any two servers that take writes on
different timelines, the one on the former must have taken its last before the other took its first;
and a timeline has one server.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Self

import asyncpg

__all__ = ["Accepted", "Prober", "conflicts", "losses"]

_TABLE = "create table if not exists chaos_primaries (number bigint not null)"
_WRITE = (
    "insert into chaos_primaries values ($1) returning"
    " substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"
)
_STORED = "select number, count(*) from chaos_primaries group by number"
_PATIENCE = 2.0
# The driver's own confusion, when a statement meets the parting words of a server, is one of them.
_AWAY = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    TimeoutError,
)
_PACE = 0.1


@dataclass(frozen=True, slots=True)
class Accepted:
    """One write that a server acknowledged.

    On which timeline, and when it was sent and answered.
    """

    number: int
    server: str
    timeline: int
    sent: float
    answered: float


def conflicts(accepted: Iterable[Accepted]) -> list[str]:
    """Return each sign that two servers took writes at once."""
    first: dict[int, Accepted] = {}
    last: dict[int, Accepted] = {}
    found: list[str] = []
    for write in sorted(accepted, key=lambda write: write.answered):
        begun = first.setdefault(write.timeline, write)
        if begun.server != write.server:
            found.append(
                f"{begun.server} and {write.server} took writes on timeline {write.timeline}"
            )
        if write.timeline not in last or write.sent > last[write.timeline].sent:
            last[write.timeline] = write
    for timeline, write in last.items():
        for later, begun in first.items():
            if later > timeline and write.sent > begun.answered:
                found.append(
                    f"{write.server} took a write on timeline {timeline}, sent"
                    f" {write.sent - begun.answered:.3f} s after {begun.server} had taken one on"
                    f" timeline {later}"
                )
    return list(dict.fromkeys(found))


def losses(accepted: Sequence[Accepted], stored: Mapping[int, int]) -> list[str]:
    """Return each acknowledged write that is not stored, or more than once."""
    counts = ((write, stored.get(write.number, 0)) for write in accepted)
    return [
        f"write {it.number} of {it.server} is stored {times} times"
        for it, times in counts
        if times != 1
    ]


class Prober:
    """Writes to each server until the block ends.

    Args:
        servers: The address of each, by its name.
        cluster: The address of the one that takes writes.
    """

    def __init__(self, servers: Mapping[str, str], cluster: str) -> None:
        self.accepted: list[Accepted] = []
        self._servers = servers
        self._cluster = cluster
        self._numbers = count(1)
        self._stop = threading.Event()
        self.problems: list[str] = []
        self._thread = threading.Thread(target=self.work, daemon=True)

    def __enter__(self) -> Self:
        asyncio.run(self._make_table())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60.0)

    def stored(self) -> Mapping[int, int]:
        """Read back how often each write is there."""
        return asyncio.run(self._read_back())

    def servers(self) -> Counter[str]:
        """Count what each server took."""
        return Counter(write.server for write in self.accepted)

    async def _make_table(self) -> None:
        connection = await asyncpg.connect(self._cluster, timeout=_PATIENCE)
        try:
            await connection.execute(_TABLE)
        finally:
            await connection.close()

    async def _read_back(self) -> Mapping[int, int]:
        connection = await asyncpg.connect(self._cluster, timeout=_PATIENCE)
        try:
            return {row[0]: row[1] for row in await connection.fetch(_STORED)}
        finally:
            await connection.close()

    def work(self) -> None:
        """Write until the block ends, in its thread."""
        try:
            asyncio.run(self._run())
        except Exception as error:  # noqa: BLE001 - a prober that broke must be reported, not lost with its thread
            self.problems.append(f"the prober broke: {error!r}")

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for name, dsn in self._servers.items():
                group.create_task(self._probe(name, dsn))

    async def _probe(self, name: str, dsn: str) -> None:
        while not self._stop.is_set():
            with suppress(*_AWAY):
                connection = await asyncpg.connect(dsn, timeout=_PATIENCE)
                try:
                    await self._write_on(name, connection)
                finally:
                    connection.terminate()
            await asyncio.sleep(_PACE)

    async def _write_on(self, name: str, connection: asyncpg.Connection) -> None:
        while not self._stop.is_set():
            number = next(self._numbers)
            sent = time.monotonic()
            timeline = await connection.fetchval(_WRITE, number, timeout=_PATIENCE)
            self.accepted.append(Accepted(number, name, int(timeline, 16), sent, time.monotonic()))
            await asyncio.sleep(_PACE)
