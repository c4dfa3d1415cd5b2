"""A message is delivered if its transaction commits, at least once, also if a process dies."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from uuid import UUID

import anyio
import pytest

from postfacta_core.backoff import Backoff
from postfacta_core.events import TaskCrashed
from postfacta_core.testing import RecordingObserver
from postfacta_postgres import Connection, Database
from postfacta_postgres.outbox import OUTBOX_TABLE, Backlog, Message, Outbox

from .postgres import QUICK, Flapping, opened

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])
AT_ONCE = Backoff(base=0.000_001, cap=0.000_001)
SLOW = Backoff(base=300, cap=300)


class Receiver:
    """Takes messages, or raises what it is given."""

    def __init__(self) -> None:
        self.bodies: list[str] = []
        self.ids: list[UUID] = []
        self.attempts: list[int] = []
        self.broken: dict[str, Exception] = {}
        self.busy = anyio.Event()
        self.free = anyio.Event()
        self.free.set()

    async def deliver(self, message: Message) -> None:
        self.ids.append(message.id)
        self.attempts.append(message.attempts)
        self.busy.set()
        await self.free.wait()
        if message.body in self.broken:
            raise self.broken[message.body]
        self.bodies.append(message.body)


@asynccontextmanager
async def tabled(dsn: str) -> AsyncGenerator[Database]:
    async with opened(dsn, QUICK) as database:
        await database.execute(OUTBOX_TABLE)
        yield database


async def write(database: Database, outbox: Outbox, *bodies: str, fails: bool = False) -> None:
    async def run(connection: Connection) -> None:
        for body in bodies:
            await outbox.put(connection, body)
        if fails:
            raise LookupError

    await database.run_transaction(run)


async def all_due(outbox: Outbox) -> None:
    while await outbox.deliver_next():
        pass


async def test_what_is_committed_is_delivered_in_order_and_what_is_not_never(
    database_dsn: str,
) -> None:
    receiver = Receiver()
    async with tabled(database_dsn) as database:
        outbox = Outbox(database, "ops", receiver.deliver)
        await write(database, outbox, "1", "2", "3")
        with pytest.raises(LookupError):
            await write(database, outbox, "4", fails=True)
        await write(database, Outbox(database, "other", receiver.deliver), "5")
        assert (await outbox.backlog()).waiting == 3
        await all_due(outbox)
        assert receiver.bodies == ["1", "2", "3"]
        assert await outbox.backlog() == Backlog(0, 0, 0.0)


async def test_a_failure_comes_again_under_its_id_and_others_go_on(database_dsn: str) -> None:
    receiver = Receiver()
    receiver.broken["1"] = ValueError("its secret is s3cret")
    async with tabled(database_dsn) as database:
        outbox = Outbox(database, "ops", receiver.deliver, backoff=SLOW, luck=lambda: 0.0)
        await write(database, outbox, "1", "2")
        assert not await outbox.deliver_next()
        await all_due(outbox)
        assert receiver.bodies == ["2"]
        row = await database.fetchrow("select failure, due_at - written_at as late from outbox")
        assert row is not None
        assert row["failure"] == "ValueError"  # and nothing of its text
        assert 300 <= row["late"].total_seconds() < 400
        receiver.broken.clear()
        await database.execute("update outbox set due_at = now()")
        await all_due(outbox)
        assert receiver.bodies == ["2", "1"]
        assert receiver.ids[0] == receiver.ids[2]
        assert receiver.attempts == [1, 1, 2]


async def test_what_fails_for_too_long_is_dead_until_it_is_revived(database_dsn: str) -> None:
    receiver = Receiver()
    receiver.broken["1"] = ValueError()
    async with tabled(database_dsn) as database:
        outbox = Outbox(database, "ops", receiver.deliver, give_up=3600, backoff=AT_ONCE)
        await write(database, outbox, "1")
        await outbox.deliver_next()
        assert (await outbox.backlog()).waiting == 1
        await database.execute("update outbox set tried_since = now() - interval '61 minutes'")
        await outbox.deliver_next()
        assert await outbox.backlog() == Backlog(0, 1, 0.0)
        await all_due(outbox)
        assert receiver.attempts == [1, 2]
        receiver.broken.clear()
        assert await outbox.revive() == 1
        await all_due(outbox)
        assert receiver.bodies == ["1"]


async def test_two_processes_share_the_messages(database_dsn: str) -> None:
    receiver, colleague = Receiver(), Receiver()
    receiver.free = anyio.Event()
    async with tabled(database_dsn) as database, anyio.create_task_group() as group:
        outbox = Outbox(database, "ops", receiver.deliver)
        await write(database, outbox, "1", "2", "3")
        group.start_soon(outbox.deliver_next)
        await receiver.busy.wait()
        await all_due(Outbox(database, "ops", colleague.deliver))
        assert colleague.bodies == ["2", "3"]
        receiver.free.set()
    assert receiver.bodies == ["1"]


async def test_a_message_that_another_transaction_holds_is_passed_over(database_dsn: str) -> None:
    receiver = Receiver()
    async with tabled(database_dsn) as database:
        outbox = Outbox(database, "ops", receiver.deliver)
        await write(database, outbox, "1", "2")
        async with database.transaction() as connection:
            await connection.execute("select from outbox where body = '1' for update")
            await all_due(outbox)
            assert receiver.bodies == ["2"]
        await all_due(outbox)
        assert receiver.bodies == ["2", "1"]


async def test_what_a_process_held_when_it_died_comes_again(database_dsn: str) -> None:
    receiver, colleague = Receiver(), Receiver()
    async with tabled(database_dsn) as database:
        outbox = Outbox(database, "ops", receiver.deliver, lease=30)
        await write(database, outbox, "1")
        # It dies between the delivery and its mark.
        claimed = "update outbox set due_at = now() + interval '30 s', attempts = 1"
        await database.execute(claimed)
        await all_due(Outbox(database, "ops", colleague.deliver))
        assert colleague.bodies == []
        await database.execute("update outbox set due_at = now()")
        await all_due(Outbox(database, "ops", colleague.deliver))
        assert (colleague.bodies, colleague.attempts) == (["1"], [2])


async def test_a_delivery_that_is_cancelled_gives_its_message_back_at_once(
    database_dsn: str,
) -> None:
    receiver, colleague = Receiver(), Receiver()
    receiver.free = anyio.Event()
    async with tabled(database_dsn) as database:
        outbox = Outbox(database, "ops", receiver.deliver, lease=3600)
        await write(database, outbox, "1")
        async with outbox.running():
            await receiver.busy.wait()
        await all_due(Outbox(database, "ops", colleague.deliver))
        assert colleague.bodies == ["1"]


async def test_a_delivery_ends_with_half_of_its_lease(database_dsn: str) -> None:
    receiver = Receiver()
    receiver.free = anyio.Event()
    async with tabled(database_dsn) as database:
        outbox = Outbox(database, "ops", receiver.deliver, lease=0.2, backoff=SLOW)
        await write(database, outbox, "1")
        with anyio.fail_after(10):
            assert not await outbox.deliver_next()
        assert await database.fetchval("select failure from outbox") == "TimeoutError"


async def test_it_goes_on_after_the_database_was_away(database_dsn: str) -> None:
    receiver = Receiver()
    async with tabled(database_dsn) as database, Flapping(database_dsn) as relay:
        sender = Outbox(database, "ops", receiver.deliver)
        async with opened(relay.dsn(), QUICK) as unsteady:
            outbox = Outbox(unsteady, "ops", receiver.deliver, every=0.01)
            relay.refuses = True
            relay.cut()
            async with outbox.running():
                await write(database, sender, "1")
                relay.refuses = False
                with anyio.fail_after(20):
                    while (await sender.backlog()).waiting:
                        await anyio.sleep(0.01)
    assert receiver.bodies == ["1"]


async def test_a_table_that_is_not_there_is_reported_and_awaited(database_dsn: str) -> None:
    receiver, seen = Receiver(), RecordingObserver()
    async with opened(database_dsn, QUICK) as database:
        outbox = Outbox(database, "ops", receiver.deliver, every=0.01, observer=seen)
        async with outbox.running():
            with anyio.fail_after(10):
                while not seen.of(TaskCrashed):
                    await anyio.sleep(0.01)
                await database.execute(OUTBOX_TABLE)
                await write(database, outbox, "1")
                while not receiver.bodies:
                    await anyio.sleep(0.01)
    assert seen.of(TaskCrashed)[0].task == "outbox ops"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"lease": 0}, "Outbox.lease"),
        ({"give_up": -1}, "Outbox.give_up"),
        ({"every": 0}, "Outbox.every"),
        ({"topic": "a b"}, "Outbox.topic"),
        ({"deliver": 1}, "Outbox.deliver"),
    ],
)
async def test_a_wrong_argument_is_refused_where_it_is_given(
    arguments: dict[str, object], words: str
) -> None:
    database = Database("postgresql://127.0.0.1:1/none")
    given: dict[str, object] = {"topic": "ops", "deliver": Receiver().deliver, **arguments}
    with pytest.raises(ValueError, match=words):
        Outbox(database, **given)  # type: ignore[arg-type]
