"""A read sees one moment, metrics are counted after the commit, and each statement has its name in the metrics."""

from __future__ import annotations

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from postfacta_app.db import Transactions, Unit
from postfacta_app.errors import IdempotencyInProgressError
from postfacta_app.principal import Principal, Role
from postfacta_core.context import RequestContext, bind_request, release_request
from postfacta_core.errors import LockTimeoutError
from postfacta_core.events import QueryFinished
from postfacta_core.testing import RecordingObserver
from postfacta_postgres import Database, PoolOptions, prune_keys

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])

ADA = Principal(actor="user:ada", name="Ada", role=Role.RESPONDER)
AUDITED = "select count(*) from audit_log"


def a_request(client: str = "192.0.2.7") -> Request:
    async def receive() -> Message:
        return {"type": "http.request", "body": b"{}"}

    scope: dict[str, object] = {
        "type": "http",
        "method": "POST",
        "path": "/x",
        "headers": [],
        "query_string": b"",
    }
    return Request(scope | {"client": (client, 1)}, receive)


async def audit(unit: Unit) -> Response:
    await unit.audit("test", "X-1")
    unit.counts.append(("changed", "x"))
    return Response(status_code=204)


async def test_what_a_read_sees_was_true_together(app_database: Database) -> None:
    async def look(unit: Unit) -> list[int]:
        before = await unit.fetch(AUDITED, operation="test")
        await Transactions(app_database).write(a_request(), ADA, audit)
        after = await unit.fetch(AUDITED, operation="test")
        return [rows[0]["count"] for rows in (before, after)]

    assert await Transactions(app_database).read(ADA, look) == [0, 0]
    assert await app_database.fetchval(AUDITED) == 1


async def test_metrics_are_counted_once_committed(app_database: Database) -> None:
    told: list[tuple[object, ...]] = []

    async def refuse(unit: Unit) -> Response:
        await audit(unit)
        raise LookupError

    def count(*labels: object) -> None:
        told.append(labels)

    transactions = Transactions(app_database, count=count)
    await transactions.write(a_request(), ADA, audit)
    assert told == [("changed", "x")]
    with pytest.raises(LookupError):
        await transactions.write(a_request(), ADA, refuse)
    assert len(told) == 1


@pytest.mark.parametrize(
    ("peer", "known", "host"),
    [
        ("10.0.0.1", "198.51.100.9", "198.51.100.9"),
        ("10.0.0.1", "2001:db8:1:2::/64", "2001:db8:1:2::"),
        ("192.0.2.7", "192.0.2.7", "192.0.2.7"),
        # Of a client without a proxy, the address is written down and not its network.
        ("2001:db8::1", "2001:db8::/64", "2001:db8::1"),
    ],
)
async def test_behind_a_proxy_the_audit_names_the_client(
    app_database: Database, peer: str, known: str, host: str
) -> None:
    context = RequestContext("request-0001", 0.0)
    context.client = known
    token = bind_request(context)
    try:
        await Transactions(app_database).write(a_request(peer), ADA, audit)
    finally:
        release_request(token)
    assert await app_database.fetchval("select host(client) from audit_log") == host


async def test_each_statement_has_its_name(app_database_dsn: str) -> None:
    seen = RecordingObserver()
    async with Database(app_database_dsn, observer=seen) as database:
        transactions = Transactions(database)
        for _ in range(2):
            await transactions.write(a_request(), ADA, audit, key="k")
        await prune_keys(database)
    named = [event.operation for event in seen.of(QueryFinished)]
    assert named == [
        *("BEGIN", "idempotency_claim", "audit", "idempotency_store", "COMMIT"),
        *("BEGIN", "idempotency_claim", "idempotency_replay", "idempotency_visible", "COMMIT"),
        "idempotency_prune",
    ]


async def test_one_that_is_at_work_says_when_to_come_back(app_database_dsn: str) -> None:
    options = PoolOptions(lock_timeout=0.05)
    async with Database(app_database_dsn, options=options) as database:
        transactions = Transactions(database)

        async def again(unit: Unit) -> Response:
            with pytest.raises(
                IdempotencyInProgressError, match="is in progress; repeat it to get its response"
            ) as raised:
                await transactions.write(a_request(), ADA, audit, key="k")
            assert raised.value.headers == {"Retry-After": "1"}
            assert isinstance(raised.value.__cause__, LockTimeoutError)
            return Response(status_code=204)

        await transactions.write(a_request(), ADA, again, key="k")
