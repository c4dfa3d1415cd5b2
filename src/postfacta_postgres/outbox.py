"""Report what was committed: messages written in a transaction, delivered after it.

    await outbox.put(connection, "invoice.paid", json.dumps(invoice))  # where the invoice is paid
    resources=[database, outbox.running()]                             # in each process

1. A message is a row of the transaction that it is about: it is there if that commits, and only
   then.
2. Delivery takes a lease of one message at a time, with `skip locked`, so any number of processes
   share the work. What a process held when it died is delivered again once the lease is over: at
   least once, under the same `id`, by which a receiver recognizes what it has had.
3. A delivery that fails is tried again later and later. Others go on meanwhile, so the order is
   that of the writes only as long as all is well.
4. After `give_up` a message is dead: it stays in the table until `revive`, or until you delete it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import anyio

from postfacta_core.backoff import Backoff
from postfacta_core.clock import LUCK, Luck
from postfacta_core.errors import ResilienceError
from postfacta_core.events import Observer, TaskCrashed, observing, process_observer
from postfacta_core.functions import is_async
from postfacta_core.validation import validation

from .database import Connection, Database

OUTBOX_TABLE: Final = """
create table outbox (
  id uuid primary key default gen_random_uuid(),
  topic text not null,
  body text not null,
  written_at timestamptz not null default clock_timestamp(),
  due_at timestamptz not null default clock_timestamp(),
  attempts int not null default 0,
  tried_since timestamptz not null default clock_timestamp(),
  failure text,
  is_dead boolean not null default false
);
create index outbox_due on outbox (topic, due_at) where not is_dead"""
"""The table of the messages, for a migration of yours."""

_PUT: Final = "insert into outbox (topic, body) values ($1, $2)"
_CLAIM: Final = """
update outbox
   set due_at = clock_timestamp() + make_interval(secs => $2), attempts = attempts + 1
 where id = (select id
               from outbox
              where topic = $1
                and due_at <= clock_timestamp()
                and not is_dead
              order by due_at
              limit 1
                for update skip locked)
returning id, topic, body, written_at, attempts"""
_DONE: Final = "delete from outbox where id = $1"
_LATER: Final = """
update outbox
   set due_at = clock_timestamp() + make_interval(secs => $2),
       failure = $3,
       is_dead = tried_since < clock_timestamp() - make_interval(secs => $4)
 where id = $1"""
_REVIVE: Final = """
update outbox
   set is_dead = false, tried_since = clock_timestamp(), due_at = clock_timestamp()
 where topic = $1
   and is_dead"""
_BACKLOG: Final = """
select count(*) filter (where not is_dead) as waiting,
       count(*) filter (where is_dead) as dead,
       extract(epoch from clock_timestamp() - min(written_at) filter (where not is_dead)) as age
  from outbox
 where topic = $1"""
_LATENESS: Final = Backoff(base=1.0, cap=300.0)
_EXAMPLE: Final = "async def deliver(message): ..."
_GIVE_BACK: Final = 1.0  # Seconds in which a delivery that is cancelled may say so.


@dataclass(frozen=True, slots=True)
class Message:
    """A message to deliver.

    Attributes:
        id: The same at each attempt.
        body: As it was put.
        written_at: The instant of that.
        attempts: How many there were, with this one.
    """

    id: UUID
    body: str
    written_at: datetime
    attempts: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is not delivered: messages that wait, the age in seconds of the oldest, dead ones."""

    waiting: int
    dead: int
    age: float


class Outbox:
    """Delivers the messages of one topic.

    Args:
        database: Where the table is: `OUTBOX_TABLE`.
        topic: The name of the messages' receiver.
        deliver: Delivers a message. Whatever it raises means that the message must come again; it
            is cancelled after half of the lease, so bound its own waits below that.
        lease: Seconds for which no other process takes a message that one delivers.
        give_up: Seconds from the writing, or from `revive`, after which a message that fails is
            dead; 3 days by default.
        backoff: The waits between two attempts at a message.
        every: Seconds between two looks for messages while there are none.
        observer: Receives what fails besides deliveries and the database; it may raise. By default
            the process's, see `asgi.Telemetry`; None for none.
        luck: Returns a number from 0 up to 1, which spreads the waits.

    Raises:
        ValueError: If an argument is wrong.
    """

    def __init__(
        self,
        database: Database,
        topic: str,
        deliver: Callable[[Message], Awaitable[object]],
        *,
        lease: float = 60.0,
        give_up: float = 3 * 86_400.0,
        backoff: Backoff = _LATENESS,
        every: float = 1.0,
        observer: Observer | None = process_observer,
        luck: Luck = LUCK,
    ) -> None:
        self.topic: str = validation.name("Outbox.topic", topic, example='"invoices"')
        validation.instance("Outbox.database", database, Database, example="the service's own")
        validation.function("Outbox.deliver", deliver, example=_EXAMPLE)
        if not is_async(deliver):
            rule = "an async function: a plain one would block the event loop"
            validation.refuse("Outbox.deliver", deliver, rule, example=_EXAMPLE)
        validation.instance("Outbox.backoff", backoff, Backoff, example="Backoff(base=1, cap=300)")
        validation.functions("Outbox", luck=luck)
        validation.seconds("Outbox.lease", lease, example="lease=60")
        validation.seconds("Outbox.give_up", give_up, example="give_up=86400")
        validation.seconds("Outbox.every", every, example="every=1.0")
        self._database = database
        self._deliver = deliver
        self._lease = lease
        self._give_up = give_up
        self._backoff = backoff
        self._every = every
        self._observe = observing("Outbox", topic, observer)
        self._luck = luck

    async def put(self, connection: Connection, body: str) -> None:
        """Write a message in the caller's transaction; see `Database.transaction`."""
        await connection.execute(_PUT, self.topic, body, operation="outbox_put")

    async def deliver_next(self) -> bool:
        """Deliver the message that is due first; return False if none is, or if that failed."""
        rows = await self._database.fetch(_CLAIM, self.topic, self._lease, operation="outbox_claim")
        if not rows:
            return False
        row = rows[0]
        message = Message(row["id"], row["body"], row["written_at"], row["attempts"])
        try:
            with anyio.fail_after(self._lease / 2):
                await self._deliver(message)
        except Exception as error:  # noqa: BLE001 - the message comes again, whatever it was
            wait = self._backoff.delay(message.attempts, self._luck())
            await self._postpone(message, wait, type(error).__name__)
            return False
        except BaseException:
            # Whether it arrived is not known. The next process need not wait for the lease.
            with anyio.move_on_after(_GIVE_BACK, shield=True):
                await self._postpone(message, 0.0, "cancelled")
            raise
        await self._database.execute(_DONE, message.id, operation="outbox_done")
        return True

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Deliver what is due while the block runs."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._keep_delivering)
            yield
            group.cancel_scope.cancel()

    async def backlog(self) -> Backlog:
        """Count what is not delivered."""
        rows = await self._database.fetch(
            _BACKLOG, self.topic, operation="outbox_backlog", repeatable=True
        )
        return Backlog(rows[0]["waiting"], rows[0]["dead"], float(rows[0]["age"] or 0.0))

    async def revive(self) -> int:
        """Let the dead messages be delivered again, from now on; return how many."""
        status = await self._database.execute(_REVIVE, self.topic, operation="outbox_revive")
        return int(status.rpartition(" ")[2])

    async def _keep_delivering(self) -> None:
        while True:
            await self._database.wait_connected()
            try:
                while await self.deliver_next():
                    pass
            except ResilienceError:
                pass  # The database's own metrics and checks say so.
            except Exception as error:  # noqa: BLE001 - such as a table that is not there yet
                self._observe(TaskCrashed(f"outbox {self.topic}", error))
            await anyio.sleep(self._every)

    async def _postpone(self, message: Message, wait: float, failure: str) -> None:
        later = (message.id, wait, failure, self._give_up)
        await self._database.execute(_LATER, *later, operation="outbox_later")
