"""Wherever `task.cancel()` meets a caller of the database, no connection is lost or lent twice, and nothing hangs.

A scenario runs once for each step of the event loop: the caller is cancelled after that step, by
asyncio's own cancellation, which no scope shields from; then again after the next ones, while it
cleans up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any

import anyio
import pytest

from postfacta_core.errors import DatabaseUnavailableError
from postfacta_core.events import ConnectionAcquired, ConnectionReleased
from postfacta_core.testing import RecordingObserver
from postfacta_core.testing.virtual import VirtualTimeLoop
from postfacta_postgres import Connection, Database, PoolOptions, connecting

from .fake_postgres import DSN, FakeServer
from .postgres import QUICK, size_of, watcher

OPTIONS = PoolOptions(max_size=1, acquire_timeout=5.0, connect_timeout=2.0, close_timeout=0.5)
# More steps than any scenario takes; one that takes as many hangs.
MOST = 400


class SteppingLoop(VirtualTimeLoop):
    """Calls back after each step."""

    after_step: Callable[[], None] = staticmethod(lambda: None)

    def _run_once(self) -> None:
        super()._run_once()  # type: ignore[misc] # asyncio's own step, which the types do not name
        self.after_step()


class Canceller:
    """Cancels a task natively after a step, and after some of the next ones.

    Attributes:
        has_struck: Whether the task was still there to be cancelled.
    """

    def __init__(self, at: int, more: int) -> None:
        self.has_struck = False
        self._steps = range(at, at + more + 1)
        self._victim: asyncio.Task[Any] | None = None
        self._step = 0

    def aim(self, victim: asyncio.Task[Any]) -> None:
        """Count the steps of the loop from now on; step 0 is before the first one."""
        self._victim, self._step = victim, 0
        self._strike()

    def after_step(self) -> None:
        self._step += 1
        self._strike()

    def _strike(self) -> None:
        if self._victim is not None and self._step in self._steps and not self._victim.done():
            self.has_struck = True
            self._victim.cancel()


Scenario = Callable[[Database, FakeServer], Coroutine[Any, Any, object]]
Course = Callable[[Canceller, FakeServer], Awaitable[object]]


async def hold(server: FakeServer, connection: Connection) -> None:
    """Use a lent connection, and check that no other task has it."""
    raw = connection.raw
    assert raw not in server.held, "one connection is lent twice"
    server.held.add(raw)
    try:
        await connection.fetchval("select 1")
    finally:
        server.held.discard(raw)


async def statement(database: Database, server: FakeServer) -> None:
    await database.fetchval("select 1", repeatable=True)


async def block(database: Database, server: FakeServer) -> None:
    async with database.acquire() as connection:
        await hold(server, connection)


async def transaction(database: Database, server: FakeServer) -> None:
    async with database.transaction() as connection:
        await hold(server, connection)


async def repeated_transaction(database: Database, server: FakeServer) -> None:
    async def work(connection: Connection) -> None:
        await hold(server, connection)

    await database.run_transaction(work)


async def ping(database: Database, server: FakeServer) -> None:
    await database.ping()


async def wait_connected(database: Database, server: FakeServer) -> None:
    await database.wait_connected()
    await block(database, server)


async def left_open(database: Database, server: FakeServer) -> None:
    """Come back in a transaction that has to be rolled back."""
    async with database.acquire() as connection:
        await connection.execute("begin")
        await hold(server, connection)


SCENARIOS = (statement, block, transaction, repeated_transaction, ping, wait_connected, left_open)


def strikes(course: Course, at: int, more: int) -> bool:
    """Run it in virtual time and cancel at a step; return whether the caller still ran then."""
    server, canceller = FakeServer(), Canceller(at, more)

    def loop_factory() -> SteppingLoop:
        loop = SteppingLoop()
        loop.after_step = canceller.after_step
        return loop

    async def main() -> None:
        with anyio.fail_after(60):
            await course(canceller, server)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connecting, "_connect", server.connect)
        anyio.run(main, backend="asyncio", backend_options={"loop_factory": loop_factory})
    assert server.held == set()
    assert server.open == set(), "a connection was left open"
    return canceller.has_struck


def at_each_step(course: Course, more: int) -> int:
    """Run it for each step at which its caller still runs; return how many those are."""
    for at in range(MOST):
        try:
            if not strikes(course, at, more):
                return at
        except BaseException as error:
            raise AssertionError(f"cancelled after step {at}") from error
    raise AssertionError(f"the caller takes more than {MOST} steps")


async def sacrifice(work: Coroutine[Any, Any, object], canceller: Canceller) -> None:
    """Run it in a task that is cancelled, and see that it lets itself be cancelled."""
    task = asyncio.ensure_future(work)
    canceller.aim(task)
    await asyncio.wait([task])
    assert task.cancelled() == canceller.has_struck
    if not task.cancelled():
        await task


async def lends_all(database: Database, server: FakeServer, seen: RecordingObserver) -> None:
    """Check that each slot can be lent, no more than that, and that no caller waits."""
    for _ in range(2):
        with anyio.fail_after(10):
            async with database.acquire() as connection:
                await hold(server, connection)
    await anyio.sleep(3)  # what is cleared in the background has ended
    last = size_of(seen)
    assert (last.used, last.waiting) == (0, 0)
    taken = [event for event in seen.of(ConnectionAcquired) if not event.error_type]
    assert len(taken) == len(seen.of(ConnectionReleased))


@pytest.mark.parametrize("state", ["cold", "warm"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_caller_cancelled_at_any_step_loses_no_connection(scenario: Scenario, state: str) -> None:
    async def alone(canceller: Canceller, server: FakeServer) -> None:
        seen = RecordingObserver()
        async with Database(DSN, options=OPTIONS, observer=seen) as database:
            if state == "warm":
                await database.wait_connected()
                await block(database, server)
            await sacrifice(scenario(database, server), canceller)
            await lends_all(database, server, seen)

    assert min(at_each_step(alone, more) for more in range(3)) >= 3


@pytest.mark.parametrize("scenario", [statement, block, transaction])
def test_a_caller_cancelled_in_the_queue_at_any_step_passes_its_slot_on(scenario: Scenario) -> None:
    async def between_rivals(canceller: Canceller, server: FakeServer) -> None:
        seen = RecordingObserver()
        async with Database(DSN, options=OPTIONS, observer=seen) as database:
            await database.wait_connected()
            async with asyncio.TaskGroup() as rivals:
                rivals.create_task(block(database, server))
                await asyncio.sleep(0)
                rivals.create_task(later(block, database, server))
                await sacrifice(scenario(database, server), canceller)
            await lends_all(database, server, seen)

    assert min(at_each_step(between_rivals, more) for more in range(2)) >= 10


async def later(scenario: Scenario, database: Database, server: FakeServer) -> None:
    await asyncio.sleep(0.0001)
    await scenario(database, server)


def test_an_owner_cancelled_at_any_step_leaves_no_connection_open() -> None:
    async def owned(canceller: Canceller, server: FakeServer) -> None:
        async def keep(database: Database) -> None:
            with suppress(asyncio.CancelledError, DatabaseUnavailableError):
                async with database.acquire():
                    await asyncio.sleep(30)

        async def own() -> None:
            async with Database(DSN, options=replace(OPTIONS, max_size=2)) as database:
                await block(database, server)
                others.create_task(keep(database))
                await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as others:
            await sacrifice(own(), canceller)
            # One connection is still lent, to a task that does not know.
            assert server.open == set(), "closing left a connection open"

    assert min(at_each_step(owned, more) for more in range(3)) >= 10


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_statement_cancelled_at_any_step_on_a_real_server_loses_no_connection(
    database_dsn: str,
) -> None:
    options = replace(QUICK, max_size=1, acquire_timeout=10)
    seen = RecordingObserver()
    cancelled = 0
    async with (
        watcher(database_dsn) as other,
        Database(database_dsn, options=options, observer=seen) as database,
    ):
        await database.wait_connected()
        for steps in range(30):

            async def work() -> None:
                async with database.transaction() as connection:
                    await connection.execute("set local work_mem = '5MB'")

            task = asyncio.ensure_future(work())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            cancelled += task.cancelled()
            with anyio.fail_after(10):
                assert await database.fetchval("show work_mem") != "5MB"
                async with database.acquire() as connection:
                    assert not connection.raw.is_in_transaction()
        assert (
            await other.fetchval(
                "select count(*) from pg_stat_activity where state like 'idle in%'"
            )
            == 0
        )
    assert cancelled >= 4  # the first steps, however quick the server is
    assert size_of(seen).used == 0
