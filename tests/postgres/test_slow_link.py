"""A healthy database behind a slow link is not declared lost, however busy the pool and late the loop."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from postfacta_core import Backoff
from postfacta_core.context import RequestContext, bind_request, release_request
from postfacta_core.errors import DatabaseUnavailableError, PoolTimeoutError, ResilienceError
from postfacta_core.testing import ManualClock, run_in_virtual_time
from postfacta_postgres import Database, PoolOptions, connecting

from .fake_postgres import DSN, FakeServer

MOST = 11  # ten that are lent, and the reserved one
SECONDS = 6.0
RATE = 40.0


class Run:
    """Callers ask more often than can be answered, over a link that delays each answer by 0.4 s and more.

    Attributes:
        losses: How often the database was lost.
        outcomes: What callers got.
        probes: What pings got.
    """

    def __init__(self, seed: int) -> None:
        self.losses = 0
        self.outcomes: Counter[str] = Counter()
        self.probes: Counter[str] = Counter()
        self.server = FakeServer()
        self._chance = random.Random(seed)  # noqa: S311 - a fixed series, no secret
        self._clock = ManualClock(0.0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(connecting, "_connect", self.server.connect)
            run_in_virtual_time(self._main, clock=self._clock)

    async def _main(self) -> None:
        async with (
            Database(
                DSN, observer=None, clock=anyio.current_time, luck=self._chance.random
            ) as database,
            anyio.create_task_group() as group,
        ):
            await database.wait_connected()
            group.start_soon(self._probe, database)
            group.start_soon(self._watch, database)
            group.start_soon(self._disturb)
            async with anyio.create_task_group() as callers:
                while anyio.current_time() < SECONDS:
                    callers.start_soon(self._ask, database)
                    await anyio.sleep(self._chance.expovariate(RATE))
            group.cancel_scope.cancel()

    async def _ask(self, database: Database) -> None:
        request = RequestContext("r", anyio.current_time(), anyio.current_time)
        request.deadline = request.started + self._chance.uniform(0.5, 5.0)
        token = bind_request(request)
        try:
            await database.fetchrow("select 1", repeatable=True)
            self.outcomes["answered"] += 1
        except ResilienceError as error:
            self.outcomes[type(error).__name__] += 1
        finally:
            release_request(token)

    async def _probe(self, database: Database) -> None:
        while True:
            await anyio.sleep(0.7)
            try:
                await database.ping()
                self.probes["answered"] += 1
            except ResilienceError as error:
                self.probes[type(error).__name__] += 1

    async def _watch(self, database: Database) -> None:
        was_there = True
        while True:
            await anyio.sleep(0.01)
            self.losses += was_there and not database.is_connected
            was_there = database.is_connected

    async def _disturb(self) -> None:
        """Vary the link, and let the loop stand still for up to 0.7 s."""
        while True:
            self.server.round_trip = self._chance.uniform(0.4, 0.6)
            self.server.handshake = 4 * self.server.round_trip
            await anyio.sleep(self._chance.uniform(0.1, 1.5))
            self._clock.advance(self._chance.uniform(0.0, 0.7))


@pytest.mark.parametrize("first", range(0, 50, 10))
def test_a_healthy_database_behind_a_slow_link_is_never_lost(first: int) -> None:
    runs = {seed: Run(seed) for seed in range(first, first + 10)}
    outcomes = {name for run in runs.values() for name in run.outcomes}
    assert {seed: run.losses for seed, run in runs.items() if run.losses} == {}
    assert outcomes == {"answered", "DeadlineExceededError", "PoolTimeoutError"}
    assert {name for run in runs.values() for name in run.probes} == {"answered"}
    assert {seed: run.server.opened for seed, run in runs.items() if run.server.opened > MOST} == {}


def play(scene: Callable[[FakeServer, Database], Awaitable[None]], **options: Any) -> None:
    """Run a scene with a database on a server in memory, in virtual time."""

    async def main() -> None:
        database = Database(
            DSN,
            options=PoolOptions(max_size=3, reconnect=Backoff(base=0.1, cap=0.1), **options),
            observer=None,
            clock=anyio.current_time,
            luck=lambda: 0.0,
        )
        async with database:
            await database.wait_connected()
            await anyio.sleep(1.0)
            await scene(server, database)

    server = FakeServer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connecting, "_connect", server.connect)
        run_in_virtual_time(main, clock=ManualClock(0.0))


async def hold(database: Database, seconds: float) -> None:
    async with database.acquire():
        await anyio.sleep(seconds)


def test_a_caller_that_outwaits_a_young_opening_raises_no_doubt() -> None:
    async def scene(server: FakeServer, database: Database) -> None:
        server.handshake = 1.6
        with pytest.raises(PoolTimeoutError):
            await hold(database, 0.0)
        await anyio.sleep(0.1)
        assert server.statements == []
        assert database.breaker.statistics().failures == 0

    play(scene)


def test_an_opening_that_fails_raises_a_doubt_and_counts_from_then_on() -> None:
    async def scene(server: FakeServer, database: Database) -> None:
        server.handshake = 100.0
        with pytest.raises(PoolTimeoutError):
            await hold(database, 0.0)
        await anyio.sleep(2.1)
        assert server.statements == ["select 1"]
        assert database.is_connected
        with pytest.raises(DatabaseUnavailableError):
            await hold(database, 0.0)
        assert database.breaker.statistics().failures == 1

    play(scene)


def test_pings_wait_longer_once_an_opening_took_long() -> None:
    async def scene(server: FakeServer, database: Database) -> None:
        server.round_trip = 1.2
        with pytest.raises(DatabaseUnavailableError):
            await database.ping()
        await anyio.sleep(0.1)
        server.handshake = 1.3
        with anyio.move_on_after(2.0):
            await hold(database, 10.0)
        await database.ping()
        assert database.is_connected

    play(scene, acquire_timeout=10.0)


def test_pings_that_are_left_or_asked_together_are_one_question() -> None:
    async def scene(server: FakeServer, database: Database) -> None:
        server.round_trip = 0.8
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(database.ping)
            await anyio.sleep(0.2)
            with anyio.move_on_after(0.1):
                await database.ping()
            await database.ping()
        await anyio.sleep(2.0)
        assert server.statements == ["select 1"]
        assert server.opened == 1

    play(scene)


def test_an_answer_on_any_connection_resolves_a_doubt() -> None:
    async def scene(server: FakeServer, database: Database) -> None:
        reserved = set(server.open)
        async with database.acquire() as connection:
            await hold(database, 0.0)
            server.mute.update(reserved)
            server.is_there = False
            async with anyio.create_task_group() as group:
                group.start_soon(database.ping)
                for _ in range(100):
                    await connection.fetchval("select 1")
                    await anyio.sleep(0.05)
                    assert database.is_connected
            # The reserved connection was dropped, and is replaced as soon as that is possible. No
            # other was.
            assert (len(server.open), server.opened) == (2, 3)
            server.is_there = True
            await anyio.sleep(0.2)
            assert (len(server.open), server.opened) == (3, 4)
            await database.ping()

    play(scene)


def test_a_silent_loss_keeps_young_openings_for_later_callers() -> None:
    async def scene(server: FakeServer, database: Database) -> None:
        server.mute.update(server.open)
        server.handshake = 1.6
        with pytest.raises(DatabaseUnavailableError):
            await database.ping()  # for a second; a new one is tried for another
        assert database.is_connected
        await anyio.sleep(0.5)
        with pytest.raises(DatabaseUnavailableError):
            await hold(database, 0.0)
        assert server.opened == 3
        await database.wait_connected()
        opened = server.opened
        await hold(database, 0.0)
        assert server.opened == opened

    play(scene)
