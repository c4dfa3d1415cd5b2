"""Notifications rouse a feed; what they lose with their connection, it finds all the same."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest

from postfacta_core.feed import STALE, Feed, FeedEvent
from postfacta_embedded import EmbeddedPostgres
from postfacta_postgres import Database, PoolOptions
from postfacta_postgres.listening import Listener
from tests.kit.pg import execute
from tests.kit.waiting import until

from .postgres import opened

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])  # asyncpg knows no other

# So long that only a notification explains what comes.
NEVER = 600.0
LISTENING = (
    "select pid from pg_stat_activity where datname = current_database() and query like 'LISTEN %'"
)


class Orders:
    """A table, as each process reads it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.reads = 0

    async def read(self, last_id: str) -> Sequence[FeedEvent]:
        self.reads += 1
        rows = await self.database.fetch(
            "select id from orders where id > $1 order by id", int(last_id or 0), repeatable=True
        )
        return [FeedEvent("", str(row["id"])) for row in rows]

    async def add(self, number: int, *, notify: bool = True) -> None:
        async with self.database.transaction() as connection:
            await connection.execute("insert into orders values ($1)", number)
            if notify:
                await connection.execute("select pg_notify('orders', '')")


@asynccontextmanager
async def followed(orders: Orders, listener: Listener, poll: float = NEVER) -> AsyncGenerator[Feed]:
    feed = Feed("orders", observer=None)
    async with feed.follow(orders.read, wake=listener, poll=poll):
        yield feed


@pytest.fixture
def dsn(database_dsn: str) -> str:
    execute(database_dsn, "create table orders (id int primary key)")
    return database_dsn


async def test_a_commit_reaches_each_process(dsn: str) -> None:
    async with opened(dsn) as here, opened(dsn) as there:
        one, other = Orders(here), Orders(there)
        first, second = here.listen("orders"), there.listen("orders")
        async with followed(one, first) as near, followed(other, second) as far:
            await until(lambda: first.is_listening and second.is_listening)
            watchers = near.subscribe(), far.subscribe()
            with anyio.fail_after(20):
                for number in range(1, 6):
                    await one.add(number)
                    for watcher in watchers:
                        assert (await anext(watcher)).id == str(number)


async def test_what_is_rolled_back_reaches_none(dsn: str) -> None:
    async with opened(dsn) as database:
        orders, listener = Orders(database), database.listen("orders")
        async with followed(orders, listener) as feed:
            await until(lambda: listener.is_listening)
            watcher = feed.subscribe()
            with pytest.raises(LookupError):
                async with database.transaction() as connection:
                    await connection.execute("insert into orders values (1)")
                    await connection.execute("select pg_notify('orders', '')")
                    raise LookupError
            await orders.add(2)
            assert (await anext(watcher)).id == "2"


async def test_what_came_while_none_listened_is_read_at_once(dsn: str) -> None:
    async with opened(dsn) as database:
        orders, listener = Orders(database), database.listen("orders")
        async with followed(orders, listener) as feed:
            watcher = feed.subscribe()
            with anyio.fail_after(20):
                for number in range(1, 21):
                    await until(lambda: listener.is_listening)
                    for row in await database.fetch(LISTENING):
                        await database.execute("select pg_terminate_backend($1)", row["pid"])
                    # No notification of it reaches the connection that was killed.
                    await orders.add(number)
                    assert (await anext(watcher)).id == str(number)


async def test_a_lost_notification_is_found_by_the_poll(dsn: str) -> None:
    async with opened(dsn) as database:
        orders, listener = Orders(database), database.listen("orders")
        async with followed(orders, listener, poll=0.5) as feed:
            await until(lambda: listener.is_listening)
            watcher = feed.subscribe()
            await orders.add(1, notify=False)
            with anyio.fail_after(20):
                assert (await anext(watcher)).id == "1"


async def test_one_process_listens_by_one_connection(dsn: str) -> None:
    async with opened(dsn) as database:
        orders, listener = Orders(database), database.listen("orders")
        async with followed(orders, listener) as feed:
            await until(lambda: listener.is_listening)
            watchers = [feed.subscribe() for _ in range(100)]
            await orders.add(1)
            assert {(await anext(watcher)).id for watcher in watchers} == {"1"}
            assert len(await database.fetch(LISTENING)) == 1
            # Once as it began, once as the listener did, once for the notification.
            assert orders.reads <= 3
        with anyio.fail_after(20):
            while await database.fetch(LISTENING):
                await anyio.sleep(0.01)


async def test_a_database_that_was_away_is_listened_to_again(
    own_server: EmbeddedPostgres,
) -> None:
    async with opened(own_server.dsn()) as database:
        await database.execute("create table orders (id int primary key)")
        orders, listener = Orders(database), database.listen("orders")
        async with followed(orders, listener, poll=0.5) as feed:
            await until(lambda: listener.is_listening)
            watcher = feed.subscribe()
            await anyio.to_thread.run_sync(own_server.stop)
            with anyio.fail_after(30):
                assert await anext(watcher) is STALE
                await anyio.to_thread.run_sync(own_server.start)
                await database.wait_connected()
                await until(lambda: listener.is_listening and not feed.is_stale)
                await orders.add(1)
                assert "1" in {(await anext(watcher)).id, (await anext(watcher)).id}


@pytest.mark.parametrize("channel", ["", "x" * 64, "a\0b", 7])
async def test_a_channel_without_a_name_is_refused(channel: str) -> None:
    database = Database("postgresql://orders@db/orders", observer=None)
    with pytest.raises(ValueError, match=r"Database\.listen\.channel must be"):
        database.listen(channel)


async def test_behind_a_pooler_nothing_listens() -> None:
    options = PoolOptions(transaction_pooling=True)
    database = Database("postgresql://orders@db/orders", options=options, observer=None)
    with pytest.raises(ValueError, match=r"PoolOptions\.transaction_pooling must be False"):
        database.listen("orders")
