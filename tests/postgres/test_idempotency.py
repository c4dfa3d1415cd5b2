"""One key has one effect, whatever becomes of the first request that has it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest

from postfacta_core.asgi._problem import problem_of
from postfacta_postgres import (
    KEYS_TABLE,
    Connection,
    Database,
    KeyInUseError,
    KeyReusedError,
    StoredAnswer,
    prune_keys,
    write_once,
)

from .postgres import QUICK, opened

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])


class Orders:
    """A service that takes orders."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.runs = 0
        self.hold = anyio.Event()
        self.hold.set()

    async def place(
        self, key: str = "k", *, caller: str = "ada", body: bytes = b"{}"
    ) -> StoredAnswer:
        async def run(connection: Connection) -> StoredAnswer:
            async def work() -> StoredAnswer:
                self.runs += 1
                await connection.execute("insert into orders values ($1)", key)
                await self.hold.wait()
                if body == b"bad":
                    raise LookupError
                return StoredAnswer(201, {"location": f"/{self.runs}"}, b"\x00\xff")

            return await write_once(connection, work, caller=caller, key=key, fingerprint=body)

        return await self.database.run_transaction(run)

    async def count(self) -> int:
        return int(await self.database.fetchval("select count(*) from orders"))


@asynccontextmanager
async def taking(dsn: str) -> AsyncGenerator[Orders]:
    async with opened(dsn, QUICK) as database:
        await database.execute(f"create table orders (key text); {KEYS_TABLE}")
        yield Orders(database)


async def test_a_repetition_gets_the_stored_answer_and_has_no_effect(database_dsn: str) -> None:
    async with taking(database_dsn) as orders:
        first, second = await orders.place(), await orders.place()
        assert first == StoredAnswer(201, {"location": "/1"}, b"\x00\xff")
        assert second == StoredAnswer(201, {"location": "/1"}, b"\x00\xff", is_replay=True)
        assert not (await orders.place(caller="bob")).is_replay
        assert await orders.count() == 2


async def test_a_key_of_another_request_is_the_clients_mistake(database_dsn: str) -> None:
    async with taking(database_dsn) as orders:
        await orders.place()
        with pytest.raises(KeyReusedError) as reused:
            await orders.place(body=b"other")
        assert problem_of(reused.value).status == 422
        assert await orders.count() == 1


async def test_what_fails_leaves_the_key_free(database_dsn: str) -> None:
    async with taking(database_dsn) as orders:
        with pytest.raises(LookupError):
            await orders.place(body=b"bad")
        assert not (await orders.place()).is_replay
        assert await orders.count() == 1


async def test_the_second_waits_for_the_first_but_not_for_ever(database_dsn: str) -> None:
    async with taking(database_dsn) as orders, anyio.create_task_group() as group:
        orders.hold = anyio.Event()
        group.start_soon(orders.place)
        with anyio.fail_after(10):
            while not orders.runs:
                await anyio.sleep(0.01)
        with pytest.raises(KeyInUseError) as refused:
            await orders.place()
        assert (problem_of(refused.value).status, refused.value.retry_after) == (503, 1.0)
        orders.hold.set()
    assert orders.runs == 1


async def test_old_keys_are_deleted_in_batches(database_dsn: str) -> None:
    async with taking(database_dsn) as orders:
        for number in range(5):
            await orders.place(str(number))
        await orders.database.execute(
            "update idempotency_keys set created_at = now() - interval '25 hours' where key < '3'"
        )
        assert await prune_keys(orders.database, batch=2) == 3
        assert (await orders.place("4")).is_replay
        assert not (await orders.place("1")).is_replay
