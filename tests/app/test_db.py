"""One write is one transaction, and one key has one effect."""

from __future__ import annotations

import itertools
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from uuid import UUID, uuid4

import anyio
import anyio.lowlevel
import asyncpg
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from postfacta_app.db import Transactions, Unit, repeating
from postfacta_app.errors import (
    ConflictError,
    IdempotencyInProgressError,
    IdempotencyMismatchError,
)
from postfacta_app.principal import Principal, Role
from postfacta_core.context import RequestContext, bind_request, release_request
from postfacta_core.errors import DatabaseUnavailableError, LockTimeoutError
from postfacta_core.events import TaskCrashed
from postfacta_core.testing import RecordingObserver
from postfacta_postgres import Database, prune_keys

ADA = Principal(actor="user:ada", name="Ada", role=Role.RESPONDER)
BOB = Principal(actor="user:bob", name="Bob", role=Role.RESPONDER)
Work = Callable[[Unit], Awaitable[Response]]


def a_request(
    body: bytes = b"{}", *, method: str = "POST", path: str = "/x", client: str | None = None
) -> Request:
    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    scope: dict[str, object] = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [],
        "query_string": b"",
    }
    return Request(scope | {"client": (client, 1) if client else None}, receive)


class Counter:
    """Work that leaves a row each time it is done, and answers what no other time answers."""

    def __init__(self) -> None:
        self.runs = 0

    async def __call__(self, unit: Unit) -> Response:
        self.runs += 1
        await unit.audit("count", f"run {self.runs}")
        return Response(b"\x00\xff" + str(self.runs).encode(), 201, {"Location": f"/x/{self.runs}"})


async def rows(database: Database, table: str) -> int:
    found = await database.fetch(f"select from {table}", operation="test")
    return len(found)


async def until_somebody_waits(database: Database) -> None:
    waiting = "select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    with anyio.fail_after(10):
        while not await database.fetch(waiting, operation="test"):
            await anyio.lowlevel.checkpoint()


async def test_a_repeat_gets_the_same_bytes_and_has_no_effect(app_database: Database) -> None:
    work, transactions = Counter(), Transactions(app_database)
    first = await transactions.write(a_request(), ADA, work, key="k")
    again = await transactions.write(a_request(), ADA, work, key="k")
    assert (again.status_code, again.body, again.headers["location"]) == (201, first.body, "/x/1")
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert (work.runs, await rows(app_database, "audit_log")) == (1, 1)


async def test_a_key_belongs_to_one_request(app_database: Database) -> None:
    work, transactions = Counter(), Transactions(app_database)
    await transactions.write(a_request(b"1\n2"), ADA, work, key="k")
    for other in (
        a_request(b"1\n3"),
        a_request(b"1\n2", path="/y"),
        a_request(b"1\n2", method="PUT"),
        a_request(b"2", path="/x\n1"),
    ):
        with pytest.raises(IdempotencyMismatchError):
            await transactions.write(other, ADA, work, key="k")
    assert await rows(app_database, "audit_log") == 1


async def test_a_key_belongs_to_one_caller(app_database: Database) -> None:
    work, transactions = Counter(), Transactions(app_database)
    for who in (ADA, BOB):
        assert (await transactions.write(a_request(), who, work, key="k")).status_code == 201
    assert work.runs == 2


async def test_without_a_key_each_request_has_an_effect(app_database: Database) -> None:
    work, transactions = Counter(), Transactions(app_database)
    for _ in range(2):
        await transactions.write(a_request(), ADA, work)
    assert (work.runs, await rows(app_database, "idempotency_keys")) == (2, 0)


async def test_a_refusal_writes_nothing_and_leaves_the_key_free(app_database: Database) -> None:
    work, transactions = Counter(), Transactions(app_database)

    async def refuse(unit: Unit) -> Response:
        await work(unit)
        raise ConflictError("No")

    with pytest.raises(ConflictError):
        await transactions.write(a_request(), ADA, refuse, key="k")
    assert await rows(app_database, "audit_log") == 0
    assert await rows(app_database, "idempotency_keys") == 0
    answer = await transactions.write(a_request(b"[]"), ADA, work, key="k")
    assert "idempotency-replayed" not in answer.headers


class Pair:
    """Two requests with one key, the second one sent while the first is at work."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._transactions = Transactions(database)
        self._working, self._go_on = anyio.Event(), anyio.Event()
        self.outcomes: dict[str, Response | Exception] = {}

    async def run(self, end_of_first: Work, second: Work) -> None:
        async def first(unit: Unit) -> Response:
            self._working.set()
            await self._go_on.wait()
            return await end_of_first(unit)

        async with anyio.create_task_group() as group:
            group.start_soon(self._send, "first", first)
            await self._working.wait()
            group.start_soon(self._send, "second", second)
            await until_somebody_waits(self._database)
            self._go_on.set()

    async def _send(self, name: str, work: Work) -> None:
        try:
            self.outcomes[name] = await self._transactions.write(a_request(), ADA, work, key="k")
        except Exception as error:  # noqa: BLE001 - each test looks at it
            self.outcomes[name] = error


async def test_the_second_waits_for_the_first_and_gets_its_answer(app_database: Database) -> None:
    work, pair = Counter(), Pair(app_database)
    await pair.run(work, work)
    first, second = pair.outcomes["first"], pair.outcomes["second"]
    assert isinstance(first, Response)
    assert isinstance(second, Response)
    assert (first.body, second.headers["idempotency-replayed"]) == (second.body, "true")
    assert work.runs == 1


async def test_the_second_becomes_the_first_if_that_is_refused(app_database: Database) -> None:
    async def refuse(unit: Unit) -> Response:
        raise ConflictError("No")

    work, pair = Counter(), Pair(app_database)
    await pair.run(refuse, work)
    second = pair.outcomes["second"]
    assert isinstance(pair.outcomes["first"], ConflictError)
    assert isinstance(second, Response)
    assert (second.status_code, "idempotency-replayed" in second.headers) == (201, False)


async def test_the_second_becomes_the_first_if_its_connection_dies(
    app_database: Database, app_database_dsn: str
) -> None:
    async def die(unit: Unit) -> Response:
        await unit.audit("count", "never seen")
        await unit.fetch("select pg_terminate_backend(pg_backend_pid())", operation="test")
        raise AssertionError

    work, pair = Counter(), Pair(app_database)
    await pair.run(die, work)
    second = pair.outcomes["second"]
    assert isinstance(pair.outcomes["first"], DatabaseUnavailableError)
    assert isinstance(second, Response)
    # Asked elsewhere: the pool still looks whether there is a database at all.
    elsewhere = await asyncpg.connect(app_database_dsn)
    try:
        assert await elsewhere.fetchval("select array_agg(object) from audit_log") == ["run 1"]
    finally:
        await elsewhere.close()


async def test_the_second_does_not_wait_for_ever(app_database: Database) -> None:
    transactions, work = Transactions(app_database), Counter()
    working, done = anyio.Event(), anyio.Event()

    async def slow(unit: Unit) -> Response:
        working.set()
        await done.wait()
        return await work(unit)

    async with anyio.create_task_group() as group:
        group.start_soon(lambda: transactions.write(a_request(), ADA, slow, key="k"))
        await working.wait()
        with pytest.raises(IdempotencyInProgressError) as refused:
            await transactions.write(a_request(), ADA, work, key="k")
        assert refused.value.headers["Retry-After"] == "1"
        done.set()
    assert work.runs == 1


async def test_of_many_at_once_one_has_an_effect(app_database: Database) -> None:
    transactions, work = Transactions(app_database), Counter()
    bodies: list[bytes] = []

    async def send() -> None:
        bodies.append(bytes((await transactions.write(a_request(), ADA, work, key="k")).body))

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(send)
    assert len(bodies) == 20
    assert len(set(bodies)) == 1
    assert await rows(app_database, "audit_log") == 1


async def an_incident(database: Database) -> UUID:
    row = await database.fetchrow(
        """insert into incidents (id, title, description, severity, reporter, declared_at, timeline_at,
             created_by) values ($1, 'Down', 'All is down.', 'HIGH', 'Ada', now(), now(), 'user:ada')
           returning id""",
        uuid4(),
        operation="test",
    )
    assert row is not None
    found: UUID = row["id"]
    return found


async def test_the_victim_of_a_deadlock_tries_again(app_database: Database) -> None:
    transactions = Transactions(app_database)
    one, two = await an_incident(app_database), await an_incident(app_database)
    both = anyio.Event()
    arrived = itertools.count(1)
    answers: list[int] = []

    async def cross(first: UUID, second: UUID, *, patience: str) -> None:
        async def work(unit: Unit) -> Response:
            # Whoever looks first is the victim: were both to look at once, both would be. Both look
            # before the lock timeout of one second ends the wait in another way.
            await unit.execute(f"set local deadlock_timeout = '{patience}'", operation="test")
            await unit.stamp(first)
            if next(arrived) == 2:
                both.set()
            await both.wait()
            await unit.stamp(second)
            return Response(status_code=200)

        answers.append((await transactions.write(a_request(), ADA, work)).status_code)

    async with anyio.create_task_group() as group:
        group.start_soon(partial(cross, one, two, patience="10ms"))
        group.start_soon(partial(cross, two, one, patience="600ms"))
    assert answers == [200, 200]
    assert next(arrived) == 4


async def test_a_write_that_always_loses_gets_retry_after(app_database: Database) -> None:
    runs = itertools.count(1)

    async def lose(unit: Unit) -> Response:
        next(runs)
        await unit.execute("do $$ begin raise sqlstate '40001'; end $$", operation="test")
        raise AssertionError

    with pytest.raises(DatabaseUnavailableError) as refused:
        await Transactions(app_database).write(a_request(), ADA, lose)
    assert refused.value.retry_after
    assert next(runs) == 4


async def test_a_row_that_others_hold_is_no_fault_of_ours(app_database: Database) -> None:
    async def wait(unit: Unit) -> Response:
        await unit.execute("do $$ begin raise sqlstate '55P03'; end $$", operation="test")
        raise AssertionError

    with pytest.raises(LockTimeoutError):
        await Transactions(app_database).write(a_request(), ADA, wait, key="k")


async def test_stamps_of_one_incident_grow_within_a_transaction_and_over_a_clock_that_steps_back(
    app_database: Database,
) -> None:
    incident = await an_incident(app_database)
    await app_database.execute(
        "update incidents set timeline_at = now() + interval '1 hour'", operation="test"
    )

    async def work(unit: Unit) -> Response:
        first, second = await unit.stamp(incident), await unit.stamp(incident)
        assert second - first == timedelta(microseconds=1)
        return Response(status_code=204)

    await Transactions(app_database).write(a_request(), ADA, work)


async def test_there_is_no_stamp_without_an_incident(app_database: Database) -> None:
    async def work(unit: Unit) -> Response:
        await unit.stamp(uuid4())
        raise AssertionError

    with pytest.raises(LookupError):
        await Transactions(app_database).write(a_request(), ADA, work)


CLIENTS = {
    "192.0.2.7": "192.0.2.7",
    "2001:db8::1": "2001:db8::1",
    "fe80::1%eth0": "fe80::1",
    "testclient": None,
    None: None,
}


@pytest.mark.parametrize("client", CLIENTS)
async def test_the_audit_says_who_did_what_from_where(
    app_database: Database, client: str | None
) -> None:
    incident = await an_incident(app_database)

    async def work(unit: Unit) -> Response:
        detail = {"title": ["old", "new"], "id": incident}
        await unit.audit("incident.change", "INC-1", incident_id=incident, detail=detail)
        return Response(status_code=204)

    token = bind_request(RequestContext("request-0001", 0.0))
    try:
        await Transactions(app_database).write(a_request(client=client), ADA, work)
    finally:
        release_request(token)
    row = await app_database.fetchrow(
        "select *, detail::text as text, host(client) as host from audit_log", operation="test"
    )
    assert row is not None
    assert (row["actor"], row["action"], row["object"]) == ("user:ada", "incident.change", "INC-1")
    assert (row["incident_id"], row["request_id"], row["host"]) == (
        incident,
        "request-0001",
        CLIENTS[client],
    )
    assert json.loads(row["text"]) == {"title": ["old", "new"], "id": str(incident)}


async def test_keys_are_forgotten_after_a_day_in_batches(app_database: Database) -> None:
    await app_database.execute(
        """insert into idempotency_keys (principal, key, request_sha256, created_at)
           select 'user:ada', n::text, '', now() - interval '1 hour' * (n * 12) + interval '1 minute'
           from generate_series(0, 6) n""",
        operation="test",
    )
    assert await prune_keys(app_database, batch=2) == 4
    left = await app_database.fetch(
        "select key from idempotency_keys order by key", operation="test"
    )
    assert [row["key"] for row in left] == ["0", "1", "2"]
    assert await prune_keys(app_database, batch=2) == 0


async def test_old_keys_are_pruned_in_the_background_and_a_failure_ends_nothing(
    app_database: Database,
) -> None:
    keys = "select count(*) from idempotency_keys"
    old = "insert into idempotency_keys (principal, key, request_sha256, created_at) values ('x', $1, '', now() - interval '25 hours')"
    seen = RecordingObserver()
    await app_database.wait_connected()
    # A table that is missing is reported by the health checks; this is another failure.
    await app_database.execute(
        "alter table idempotency_keys rename to moved;"
        "create view idempotency_keys as select * from moved where 1 / (select 0) = 1"
    )
    work, connected = partial(prune_keys, app_database), app_database.wait_connected
    async with repeating("prune_keys", work, connected, observer=seen, interval=0.01):
        with anyio.fail_after(10):
            while not seen.of(TaskCrashed):
                await anyio.sleep(0.01)
            await app_database.execute(
                "drop view idempotency_keys; alter table moved rename to idempotency_keys"
            )
            await app_database.execute(old, "a")
            while await app_database.fetchval(keys):
                await anyio.sleep(0.01)
    assert {event.task for event in seen.of(TaskCrashed)} == {"prune_keys"}


async def test_what_health_checks_report_is_no_crash_of_the_pruning() -> None:
    errors = [asyncpg.UndefinedTableError(), DatabaseUnavailableError("main"), LookupError()]
    done, seen = anyio.Event(), RecordingObserver()

    async def prune() -> None:
        if errors:
            raise errors.pop(0)
        done.set()

    async with repeating(
        "prune_keys", prune, anyio.lowlevel.checkpoint, observer=seen, interval=0.001
    ):
        with anyio.fail_after(10):
            await done.wait()
    assert [type(event.error) for event in seen.of(TaskCrashed)] == [LookupError]
