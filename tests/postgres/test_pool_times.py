"""When a pool opens, clears, renews and closes its connections, to the millisecond of a virtual time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import anyio
import asyncpg
import pytest

from postfacta_core.backoff import Backoff
from postfacta_core.context import RequestContext, bind_request, release_request
from postfacta_core.errors import DatabaseUnavailableError, DeadlineExceededError, PoolTimeoutError
from postfacta_core.events import ConnectionAcquired, QueryFinished
from postfacta_core.testing import ManualClock, RecordingObserver, run_in_virtual_time
from postfacta_postgres import Connection, Database, PoolOptions, connecting

from .fake_postgres import DSN, FakeServer
from .postgres import Size, request_with_slot, size_of

OPTIONS = PoolOptions(
    max_size=2,
    acquire_timeout=5.0,
    connect_timeout=2.0,
    statement_timeout=30.0,
    close_timeout=4.0,
    max_idle=1000.0,
    max_lifetime=2000.0,
    reconnect=Backoff(base=1.0, cap=1.0),
)


class Scene:
    """A server, a database on it, and its events."""

    def __init__(self, options: PoolOptions) -> None:
        self.server = FakeServer()
        self.seen = RecordingObserver()
        self.database = Database(
            DSN, options=options, observer=self.seen, clock=anyio.current_time, luck=lambda: 0.0
        )

    @property
    def used(self) -> float:
        return size_of(self.seen).used

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Database]:
        async with self.database as database:
            await database.wait_connected()
            yield database

    async def hold(self, seconds: float) -> None:
        async with self.database.acquire():
            await anyio.sleep(seconds)


def play(scene: Callable[[Scene], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        with pytest.MonkeyPatch.context() as patch:
            stage = Scene(replace(OPTIONS, **options))
            patch.setattr(connecting, "_connect", stage.server.connect)
            with anyio.fail_after(10_000):
                await scene(stage)
            assert stage.server.open == set()

    run_in_virtual_time(main, clock=ManualClock(0.0))


def test_closing_waits_until_the_last_lent_connection_comes_back() -> None:
    async def scene(stage: Scene) -> None:
        async with anyio.create_task_group() as group:
            async with stage.opened():
                group.start_soon(stage.hold, 1.0)
                group.start_soon(stage.hold, 2.0)
                await anyio.sleep(0.5)
                began = anyio.current_time()
            assert anyio.current_time() - began == pytest.approx(1.5, abs=0.02)

    play(scene)


def test_closing_waits_no_longer_than_it_may_and_ends_what_is_lent() -> None:
    async def scene(stage: Scene) -> None:
        async with anyio.create_task_group() as group:
            async with stage.opened():
                group.start_soon(stage.hold, 100.0)
                await anyio.sleep(0.5)
                began = anyio.current_time()
            assert anyio.current_time() - began == pytest.approx(4.0, abs=0.02)
            assert stage.server.open == set()

    play(scene)


def test_a_closed_pool_lends_nothing_and_opens_again() -> None:
    async def scene(stage: Scene) -> None:
        async with stage.opened():
            await stage.hold(0.1)
        with pytest.raises(DatabaseUnavailableError):
            await stage.hold(0.1)
        async with stage.opened():
            await stage.hold(0.1)
            assert stage.used == 0

    play(scene)


def test_an_idle_connection_is_closed_after_its_time_and_the_reserved_one_stays() -> None:
    async def scene(stage: Scene) -> None:
        async with stage.opened():
            await stage.hold(0.1)
            assert len(stage.server.open) == 2
            await anyio.sleep(30)
            assert len(stage.server.open) == 2
            await anyio.sleep(20)
            assert len(stage.server.open) == 1

    play(scene, max_idle=40.0)


def test_a_connection_at_the_end_of_its_life_is_renewed_and_so_is_the_reserved_one() -> None:
    async def scene(stage: Scene) -> None:
        async with stage.opened():
            await stage.hold(0.1)
            first = set(stage.server.open)
            await anyio.sleep(30)
            assert stage.server.open == first
            await anyio.sleep(20)
            assert len(stage.server.open) == 1
            assert not stage.server.open & first
            await stage.database.ping()

    play(scene, max_lifetime=40.0)


def test_the_idle_ones_are_looked_at_each_ten_seconds_at_least() -> None:
    async def scene(stage: Scene) -> None:
        async with stage.opened():
            await stage.hold(0.1)
            await anyio.sleep(1011.0)
            assert len(stage.server.open) == 1

    play(scene)


def test_a_cancelled_caller_leaves_at_once_and_its_connection_is_cleared_and_kept() -> None:
    async def scene(stage: Scene) -> None:
        async with stage.opened() as database:
            with anyio.move_on_after(0.3):
                async with database.transaction() as connection:
                    await connection.execute("set work_mem = '5MB'")
                    await anyio.sleep(10)
            left = anyio.current_time()
            assert stage.used == 1  # until it is clear
            await anyio.sleep(0.1)
            assert stage.used == 0
            assert stage.server.statements[-3:] == ["select", "rollback", "reset"]
            opened = stage.server.opened
            async with database.acquire() as connection:
                assert not connection.raw.is_in_transaction()
            assert stage.server.opened == opened
            assert left < 1

    play(scene)


def test_a_cancelled_statement_whose_connection_takes_longer_to_clear_than_to_open_is_thrown_away() -> (
    None
):
    async def scene(stage: Scene) -> None:
        async with stage.opened() as database:
            await stage.hold(0.1)
            before = set(stage.server.open)
            stage.server.round_trip = 3.0
            with anyio.move_on_after(0.5):
                await database.fetchval("select 1")
            left = anyio.current_time()
            await anyio.sleep(1.9)
            assert stage.used == 1
            await anyio.sleep(0.2)
            assert stage.used == 0
            assert len(before - stage.server.open) >= 1
            assert left < 2

    play(scene)


def test_a_connection_that_broke_while_it_was_lent_or_idle_is_not_lent_again() -> None:
    async def scene(stage: Scene) -> None:
        async with stage.opened() as database:
            async with database.acquire() as connection:
                raw = connection.raw
                raw.terminate()
            assert stage.used == 0
            async with database.acquire() as connection:
                again = connection.raw
                assert again is not raw
            again.terminate()
            async with database.acquire() as connection:
                assert not connection.raw.is_closed()
                assert connection.raw is not again

    play(scene)


def test_callers_get_the_slot_in_order_and_not_after_their_time() -> None:
    order: list[str] = []

    async def ask(stage: Scene, name: str) -> None:
        try:
            async with stage.database.acquire():
                order.append(name)
                await anyio.sleep(2.0)
        except PoolTimeoutError:
            order.append(f"{name} in vain after {anyio.current_time():.0f}")

    async def scene(stage: Scene) -> None:
        async with stage.opened(), anyio.create_task_group() as group:
            for name in "abcde":
                group.start_soon(ask, stage, name)
                await anyio.sleep(0.01)

    play(scene, max_size=1)
    assert order == ["a", "b", "c", "d in vain after 5", "e in vain after 5"]


def test_a_request_waits_as_long_as_it_can_and_no_longer() -> None:
    async def scene(stage: Scene) -> None:
        async with stage.opened(), anyio.create_task_group() as group:
            group.start_soon(stage.hold, 10.0)
            await anyio.sleep(1)
            now = anyio.current_time()
            request = RequestContext("r", now, anyio.current_time)
            request.deadline = now + 2.0
            token = bind_request(request)
            try:
                with pytest.raises(DeadlineExceededError):
                    await stage.hold(0.1)
            finally:
                release_request(token)
            assert 1.5 < anyio.current_time() - now <= 2.0
            assert request.waited == pytest.approx(anyio.current_time() - now)
            group.cancel_scope.cancel()
        acquired = [event.error_type for event in stage.seen.of(ConnectionAcquired)]
        assert acquired == ["", "DeadlineExceededError"]

    play(scene, max_size=1)


def test_a_caller_that_cannot_wait_leaves_the_connection_it_began_to_open() -> None:
    async def scene(stage: Scene) -> None:
        async with stage.opened():
            stage.server.handshake = 1.0
            opened = stage.server.opened
            with anyio.move_on_after(0.5):
                await stage.hold(0.1)
            assert stage.used == 1
            await anyio.sleep(0.6)
            assert stage.used == 0
            await stage.hold(0.1)
            assert stage.server.opened == opened + 1
        acquired = [event.error_type for event in stage.seen.of(ConnectionAcquired)]
        assert acquired == ["cancelled", ""]

    play(scene)


def test_a_connection_that_comes_back_goes_to_the_caller_that_waits_longest_for_a_new_one() -> None:
    served: list[tuple[str, float]] = []

    async def ask(stage: Scene, name: str) -> None:
        request = RequestContext(name, began := anyio.current_time())
        token = bind_request(request)
        try:
            async with stage.database.acquire():
                served.append((name, took := anyio.current_time() - began))
                assert request.waited == pytest.approx(took, abs=0.01)
                await anyio.sleep(0.5)
        finally:
            release_request(token)

    async def scene(stage: Scene) -> None:
        async with stage.opened():
            await stage.hold(0.1)
            stage.server.handshake = 1.7
            async with anyio.create_task_group() as group:
                for name in "abcd":
                    group.start_soon(ask, stage, name)
                    await anyio.sleep(0.01)
                await anyio.sleep(1.4)
                assert (
                    stage.used == 3
                )  # one lent, two that are opened for which no caller waits any more
            with anyio.move_on_after(1.0):
                await anyio.sleep_forever()
            assert size_of(stage.seen)[1:3] == (3, 0)
            assert stage.server.opened == 1 + 3

    play(scene, max_size=3)
    assert [(name, round(took, 1)) for name, took in served] == [
        ("a", 0.0),
        ("b", 0.5),
        ("c", 1.0),
        ("d", 1.5),
    ]


def test_a_caller_that_waits_for_a_new_connection_teaches_the_limiter_nothing() -> None:
    async def scene(stage: Scene) -> None:
        async def teaches() -> bool:
            with request_with_slot() as slot:
                await stage.hold(0.1)
            return not slot.is_ignored

        async with stage.opened():
            assert not await teaches()  # it opened one
            assert await teaches()
            stage.server.handshake = 1.0
            async with anyio.create_task_group() as group:
                group.start_soon(stage.hold, 0.5)
                await anyio.sleep(0.01)
                assert not await teaches()  # it waited for a new one, though it has an old one
            await anyio.sleep(1.0)
            assert await teaches()

    play(scene)


def test_a_caller_that_waits_for_a_new_connection_and_leaves_takes_none_that_comes_back() -> None:
    async def scene(stage: Scene) -> None:
        async with stage.opened():
            await stage.hold(0.1)
            stage.server.handshake = 1.0
            async with anyio.create_task_group() as group:
                group.start_soon(stage.hold, 0.5)
                await anyio.sleep(0.01)
                with anyio.move_on_after(0.3):
                    await stage.hold(0.1)
            assert stage.used == 1
            await anyio.sleep(1.0)
            assert size_of(stage.seen)[1:3] == (2, 0)

    play(scene)


def test_a_connection_that_cannot_be_opened_in_time_is_an_absence_with_its_cause() -> None:
    async def scene(stage: Scene) -> None:
        async with stage.opened() as database:
            stage.server.is_there = False
            with pytest.raises(DatabaseUnavailableError) as raised:
                await stage.hold(0.1)
            assert isinstance(raised.value.__cause__, ConnectionRefusedError)
            # The pool checks whether the database is still there, and it is.
            await anyio.sleep(0.1)
            assert stage.server.statements[-1] == "select 1"
            assert database.is_connected
            stage.server.is_there, stage.server.handshake = True, 100.0
            began = anyio.current_time()
            with pytest.raises(DatabaseUnavailableError):
                await stage.hold(0.1)
            assert anyio.current_time() - began == pytest.approx(2.0, abs=0.02)

    play(scene)


def test_a_lost_database_frees_its_slots_without_waiting() -> None:
    async def scene(stage: Scene) -> None:
        failed: list[float] = []

        async def ask() -> None:
            try:
                await stage.hold(0.1)
            except DatabaseUnavailableError:
                failed.append(anyio.current_time())

        async with stage.opened() as database, anyio.create_task_group() as group:
            stage.server.handshake = 100.0
            for _ in range(3):  # Two open, one waits for a slot.
                group.start_soon(ask)
            await anyio.sleep(0.5)
            assert stage.used == 2
            stage.server.cut()
            await anyio.sleep(0.1)
            assert len(failed) == 3
            assert stage.used == 0
            assert not database.is_connected
            with suppress(DatabaseUnavailableError):
                await stage.hold(0.1)
            assert anyio.current_time() - failed[0] < 0.2
            stage.server.is_there, stage.server.handshake = True, 0.002
            await database.wait_connected()
            await stage.hold(0.1)
            assert anyio.current_time() < 3

    play(scene)


def test_before_the_first_attempt_has_ended_a_caller_waits_for_it() -> None:
    async def scene(stage: Scene) -> None:
        stage.server.handshake = 2.0
        async with stage.database:
            began = anyio.current_time()
            await stage.hold(0.0)
            # One for the reserved connection, one of its own.
            assert anyio.current_time() - began == pytest.approx(4.0, abs=0.05)

    play(scene, connect_timeout=20.0)


def test_the_size_of_the_pool_counts_those_who_wait() -> None:
    async def scene(stage: Scene) -> None:
        async with stage.opened(), anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(stage.hold, 1.0)
            await anyio.sleep(0.5)
            assert size_of(stage.seen) == Size("postgres", idle=0, used=2, most=2, waiting=2)
            await anyio.sleep(3)
            assert size_of(stage.seen) == Size("postgres", idle=2, used=0, most=2, waiting=0)
        assert stage.seen.of(ConnectionAcquired)[0].seconds < math.inf

    play(scene)


def test_a_connection_that_was_given_back_is_nobodys() -> None:
    async def scene(stage: Scene) -> None:
        kept: list[Connection] = []
        async with stage.opened() as database:
            async with database.acquire() as connection:
                kept.append(connection)
            with pytest.raises(asyncpg.InterfaceError, match="given back to the pool"):
                _ = kept[0].raw

    play(scene)


def within(seconds: float) -> tuple[RequestContext, object]:
    """Work for a request that has this long."""
    request = RequestContext("r", anyio.current_time(), anyio.current_time)
    request.deadline = request.started + seconds
    return request, bind_request(request)


def test_a_caller_cancelled_natively_or_out_of_time_does_not_wait_for_its_connection_to_be_cleared() -> (
    None
):
    async def scene(stage: Scene) -> None:
        async with stage.opened() as database:
            await stage.hold(0.0)
            stage.server.round_trip = 0.4
            task = asyncio.ensure_future(stage.hold(10.0))
            await anyio.sleep(0.1)
            task.cancel()
            began = anyio.current_time()
            await asyncio.wait([task])
            assert task.cancelled()
            assert anyio.current_time() == began
            await anyio.sleep(2.0)

            async with database.acquire():
                pass
            with pytest.raises(DeadlineExceededError):
                async with database.acquire():
                    began = anyio.current_time()
                    raise DeadlineExceededError("a statement")
            assert anyio.current_time() == began

    play(scene)


def test_closing_in_a_cancelled_scope_waits_for_the_lent_connections_all_the_same() -> None:
    async def scene(stage: Scene) -> None:
        async with anyio.create_task_group() as group:
            with anyio.move_on_after(1.0):
                async with stage.opened():
                    group.start_soon(stage.hold, 3.0)
                    await anyio.sleep_forever()
            assert anyio.current_time() == pytest.approx(3.0, abs=0.02)

    play(scene)


def test_short_lives_are_looked_at_four_times_each() -> None:
    async def scene(stage: Scene) -> None:
        async with stage.opened():
            await stage.hold(0.1)
            await anyio.sleep(5.2)
            assert len(stage.server.open) == 1

    play(scene, max_lifetime=4.0)


def test_a_request_with_half_a_second_left_gets_a_free_connection() -> None:
    async def scene(stage: Scene) -> None:
        async with stage.opened():
            await stage.hold(0.0)
            request, token = within(0.5)
            await stage.hold(0.0)
            release_request(token)  # type: ignore[arg-type] # what bind_request gave
            assert request.waited == 0

    play(scene)


def test_a_request_waits_for_the_first_attempt_as_long_as_it_can() -> None:
    async def scene(stage: Scene) -> None:
        stage.server.handshake = 1.0
        async with stage.database:
            _, token = within(3.0)
            await stage.hold(0.0)
            release_request(token)  # type: ignore[arg-type] # as above
        stage.server.handshake = 4.0
        async with stage.database:
            _, token = within(1.0)
            began = anyio.current_time()
            with pytest.raises(DeadlineExceededError):
                await stage.hold(0.0)
            release_request(token)  # type: ignore[arg-type] # as above
            assert anyio.current_time() - began <= 1.0

    play(scene, connect_timeout=20.0)


def test_a_request_whose_time_is_up_while_a_connection_opens_is_late_and_the_database_there() -> (
    None
):
    async def scene(stage: Scene) -> None:
        async with stage.opened() as database:
            stage.server.handshake = 1.5
            _, token = within(1.0)
            with pytest.raises(DeadlineExceededError):
                await stage.hold(0.0)
            release_request(token)  # type: ignore[arg-type] # as above
            assert database.is_connected
            assert stage.server.statements == []

    play(scene)


def test_a_connection_that_does_not_clear_makes_the_pool_look_at_the_database() -> None:
    async def scene(stage: Scene) -> None:
        async with stage.opened() as database:
            stage.server.round_trip = 3.0
            with anyio.move_on_after(0.5):
                await database.fetchval("select 2")
            await anyio.sleep(1.9)
            assert "select 1" not in stage.server.statements
            await anyio.sleep(0.2)
            assert "select 1" in stage.server.statements

    play(scene)


@pytest.mark.parametrize("method", ["fetch", "fetchrow", "fetchval", "execute"])
def test_a_statement_has_its_operation_and_collection_in_its_event(method: str) -> None:
    labels = {"operation": "look", "collection": "things"}

    async def scene(stage: Scene) -> None:
        async with stage.opened() as database:
            await getattr(database, method)("select 1", **labels)
            await getattr(database, method)("select 1", repeatable=True, **labels)
            async with database.acquire() as connection:
                await getattr(connection, method)("select 1", **labels)
                await getattr(connection, method)("select 1")
        found = [(event.operation, event.collection) for event in stage.seen.of(QueryFinished)]
        assert found == [("look", "things")] * 3 + [("SELECT", "")]

    play(scene)
