"""One write, one transaction: stamps, audit rows, idempotency keys, and who may see an incident."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import cache, lru_cache, partial
from ipaddress import ip_address
from secrets import randbits
from time import time_ns
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import anyio
import asyncpg
from anyio.lowlevel import checkpoint
from pydantic import BaseModel, SecretStr
from starlette.requests import Request
from starlette.responses import Response

from postfacta_core.context import current_request
from postfacta_core.errors import ResilienceError
from postfacta_core.events import ConnectionOpened, Event, Observer, TaskCrashed
from postfacta_core.limits.address import client_address
from postfacta_postgres import Connection, Database, PoolOptions
from postfacta_postgres.idempotency import KeyInUseError, KeyReusedError, StoredAnswer, write_once

from .errors import (
    CommandFailedError,
    IdempotencyInProgressError,
    IdempotencyMismatchError,
    NotFoundError,
)
from .principal import Principal

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
Detail = Mapping[str, object] | None  # Of an audit row.
Job = Callable[[], Awaitable[object]]

# Internal incidents are visible to all, private ones to admins and members; a token is neither.
VISIBLE = (
    "(i.visibility = 'internal' or $1::boolean or coalesce($2::uuid = any (i.members), false))"
)
"""Whether the caller may see the incident `i`.

A query that holds it takes `*sees(principal)` as its first two.
"""

SCHEMA_ERRORS = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.InsufficientPrivilegeError,
)
"""The errors of a statement in a database that was never migrated, was emptied, or lacks grants."""

CHANNEL: Final = "incidents"
"""Notified in the transaction of each write of an incident."""

_NOTIFY = f"pg_notify('{CHANNEL}', '')"
_STAMP = f"""
update incidents
   set timeline_at = greatest(clock_timestamp(), timeline_at + interval '1 microsecond')
 where id = $1
returning timeline_at, {_NOTIFY}"""  # noqa: S608 - only constants of this module
AUDIT_COLUMNS = "actor, action, object, incident_id, detail, request_id, client"
_AUDIT = f"""
insert into audit_log ({AUDIT_COLUMNS})
values ($1, $2, $3, $4, $5::text::jsonb, $6, $7::text::inet)"""  # noqa: S608 - only constants of this module
_HIDDEN = f"select from incidents i where i.id = any ($3::uuid[]) and not {VISIBLE} limit 1"
_DETAIL = json.JSONEncoder(default=str)
_WAIT = 5.0  # Seconds of a command.
_LOW = (1 << 62) - 1  # The bits of a UUID after its variant.
_ABOUT = "Postfacta-About"  # Stored with the headers of a response.


def new_id() -> UUID:
    """Return a UUID of version 7, for rows in batches.

    It grows with time, so a batch touches few pages.

    Random ones touch a page each, logged whole after a checkpoint: that cost half of ingest's
    throughput.
    """
    random = randbits(74)
    high = time_ns() // 1_000_000 << 16 | 7 << 12 | random >> 62
    return UUID(int=high << 64 | 2 << 62 | random & _LOW)


def sees(principal: Principal) -> tuple[bool, UUID | None]:
    return principal.is_admin, principal.user_id


class Unit:
    """The work of one request, inside one transaction."""

    def __init__(self, connection: Connection, principal: Principal, client: str | None) -> None:
        self.connection = connection
        self._client = client
        self.principal = principal
        self.counts: list[tuple[str, ...]] = []  # metrics to count after the commit
        self.about: set[UUID] = set()  # incidents that it locked or wrote to
        self.fetch = connection.fetch
        self.execute = connection.execute

    async def stamp(self, incident_id: UUID) -> datetime:
        """Return the next instant of an incident's timeline; its row stays locked until the end."""
        at: datetime = (await self.fetch(_STAMP, incident_id, operation="stamp"))[0]["timeline_at"]
        return at

    async def audit(
        self, action: str, obj: str, *, incident_id: UUID | None = None, detail: Detail = None
    ) -> None:
        """Write an audit row: who did which action, such as `incident.create`, to which object."""
        row = self.audit_row(action, obj, incident_id=incident_id, detail=detail)
        await self.execute(_AUDIT, *row, operation="audit")

    def audit_row(
        self, action: str, obj: str, *, incident_id: UUID | None = None, detail: Detail = None
    ) -> Sequence[object]:
        """Return the values of an audit row, for a statement that writes it beside its own."""
        if incident_id is not None:
            self.about.add(incident_id)
        context = current_request()
        request_id = context.request_id if context else None
        text = None if detail is None else _DETAIL.encode(detail)
        return self.principal.actor, action, obj, incident_id, text, request_id, self._client


class Reader:
    """Reads for one caller, without a transaction; the database may repeat each query."""

    def __init__(self, database: Database, principal: Principal) -> None:
        self.principal = principal
        self.fetch: Callable[..., Awaitable[Sequence[Any]]] = partial(
            database.fetch, repeatable=True
        )


Query = Reader | Unit  # What a query runs through; a unit sees its own writes and locks.


async def rows(q: Query, model: type[M], sql: str, *args: object, operation: str) -> list[M]:
    """Run a query; in one that holds `VISIBLE`, `$1` and `$2` are the caller."""
    caller = sees(q.principal) if VISIBLE in sql else ()
    records = await q.fetch(sql, *caller, *args, operation=operation)
    return [model.model_validate(dict(record.items())) for record in records]


async def row(q: Query, model: type[M], sql: str, *args: object, operation: str) -> M | None:
    return next(iter(await rows(q, model, sql, *args, operation=operation)), None)


async def insert(unit: Unit, table: str, **values: object) -> None:
    await unit.execute(_insert(table, tuple(values)), *values.values(), operation=f"{table}_insert")


async def update(
    unit: Unit, table: str, row_id: UUID, *, columns: str = "i.id", **values: object
) -> Any:
    """Change the row `i`, which must be there, and return these columns of it."""
    sql = _update(table, tuple(values), columns)
    return (await unit.fetch(sql, row_id, *values.values(), operation=f"{table}_update"))[0]


@cache
def _insert(table: str, names: tuple[str, ...]) -> str:
    columns = ", ".join(names)
    places = ", ".join(f"${n}" for n in range(1, len(names) + 1))
    return f"insert into {table} ({columns}) values ({places})"  # noqa: S608 - names of our code


@cache
def _update(table: str, names: tuple[str, ...], columns: str) -> str:
    assignments = "".join(f"{name} = ${n}, " for n, name in enumerate(names, 2))
    announced = f" from (select {_NOTIFY}) announced" if table == "incidents" else ""
    tail = (
        f"version = i.version + 1, updated_at = clock_timestamp(){announced}"
        f" where i.id = $1 returning {columns}"
    )
    return f"update {table} i set {assignments}{tail}"  # noqa: S608 - names of our code


class Where:
    """Joins conditions with "and".

    Values become arguments, after `args`, and never part of the text.
    """

    def __init__(self, *args: object) -> None:
        self.args: list[object] = [*args]
        self._conditions: list[str] = []

    def bind(self, value: object, kind: str = "") -> str:
        self.args.append(value)
        return f"${len(self.args)}" + (f"::{kind}" if kind else "")

    def add(self, condition: str, *values: object) -> None:
        """Add a condition with a `{}` for each value; skip it if the values are empty."""
        if all(value is not None and value != [] for value in values):
            self._conditions.append(condition.format(*map(self.bind, values)))

    def __str__(self) -> str:
        return " and ".join(self._conditions) or "true"


Work = Callable[[Unit], Awaitable[Response | None]]  # Returns the response; None for 204.


class Transactions:
    """Runs the writes of requests.

    `count` is called with each of a unit's `counts` once it is committed.
    """

    def __init__(
        self, database: Database, *, count: Callable[..., object] = lambda *_: None
    ) -> None:
        self._database = database
        self._count = count

    def reader(self, principal: Principal) -> Reader:
        return Reader(self._database, principal)

    async def write(
        self,
        request: Request,
        principal: Principal,
        work: Work,
        *,
        key: str | None = None,
        content: bytes | None = None,
    ) -> Response:
        """Run the work in one transaction, perhaps again after a deadlock.

        Respond only after the commit.

        With an Idempotency-Key, the response to the same method, path and content is replayed.
        Raise if the key had another request, the first is under way, or it is about an incident
        hidden since.
        """
        fingerprint = b""
        if key is not None:
            # The path as a Python literal: a decoded line break must not end it.
            sent = await request.body() if content is None else content
            head = f"{request.method} {request.scope['path']!r}\n".encode()
            fingerprint = hashlib.sha256(head + sent).digest()

        async def run(connection: Connection) -> tuple[Unit, Response | None]:
            unit = Unit(connection, principal, _client(request))
            if key is None:
                response = await work(unit)
            else:
                response = await _once(unit, work, key=key, fingerprint=fingerprint)
            return unit, response

        unit, response = await self._database.run_transaction(run)
        for count in unit.counts:
            self._count(*count)
        return response or Response(status_code=204)

    async def read(self, principal: Principal, look: Callable[[Unit], Awaitable[T]]) -> T:
        return await self._database.run_transaction(
            lambda connection: look(Unit(connection, principal, None)), isolation="repeatable read"
        )


async def _once(unit: Unit, work: Work, *, key: str, fingerprint: bytes) -> Response:
    """Run the work, or replay its stored response if the key was used with the same request."""

    async def done() -> StoredAnswer:
        answer = await work(unit) or Response(status_code=204)
        about = {_ABOUT: ",".join(map(str, unit.about))} if unit.about else {}
        return StoredAnswer(answer.status_code, {**answer.headers, **about}, bytes(answer.body))

    caller = unit.principal.actor
    try:
        stored = await write_once(
            unit.connection, done, caller=caller, key=key, fingerprint=fingerprint
        )
    except KeyInUseError as error:
        detail = "A request with this Idempotency-Key is in progress; repeat it to get its response"
        raise IdempotencyInProgressError(detail, headers={"Retry-After": "1"}) from error
    except KeyReusedError as error:
        msg = "This Idempotency-Key was used with another request; use a new one"
        raise IdempotencyMismatchError(msg) from error
    headers = dict(stored.headers)
    about = [UUID(incident) for incident in headers.pop(_ABOUT, "").split(",") if incident]
    if stored.is_replay:
        # Visibility can change between the two requests.
        if await unit.fetch(_HIDDEN, *sees(unit.principal), about, operation="idempotency_visible"):
            raise NotFoundError("No such incident")
        headers["Idempotency-Replayed"] = "true"
    return Response(stored.body, stored.status, headers)


def _client(request: Request) -> str | None:
    # PostgreSQL's inet has no zone.
    peer = request.client.host.partition("%")[0] if request.client else ""
    context = current_request()
    if context is not None and context.client and context.client != client_address(peer, ()):
        peer = context.client.removesuffix("/64")  # From our proxy; for IPv6, the network.
    return _address(peer)


@lru_cache(maxsize=1024)  # The same few senders write again and again.
def _address(peer: str) -> str | None:
    try:  # A server on a Unix socket knows no address.
        return str(ip_address(peer))
    except ValueError:
        return None


@asynccontextmanager
async def repeating(
    name: str, work: Job, connected: Job = checkpoint, *, observer: Observer, interval: float
) -> AsyncGenerator[None]:
    """Do some work every `interval` seconds once `connected`, while the block runs, failed or not.

    The observer gets failures by `name`, but for those that health checks report.
    """

    async def keep_working() -> None:
        while True:
            await connected()
            try:
                await work()
            except (ResilienceError, *SCHEMA_ERRORS):
                pass
            except Exception as error:  # noqa: BLE001 - it must not end the task or the service
                observer(TaskCrashed(name, error))
            await anyio.sleep(interval)

    async with anyio.create_task_group() as group:
        group.start_soon(keep_working)
        yield
        group.cancel_scope.cancel()


@asynccontextmanager
async def reach(dsn: SecretStr) -> AsyncGenerator[Database]:
    """Connect for a command; `CommandFailedError` says where and why not."""
    address = dsn.get_secret_value()
    reason = "no response"

    def note_failure(event: Event, /) -> None:
        nonlocal reason
        if isinstance(event, ConnectionOpened) and event.error_type:
            reason = event.error_type

    async with Database(
        address, options=PoolOptions(max_size=2), observer=note_failure
    ) as database:
        with anyio.move_on_after(_WAIT):
            await database.wait_connected()
        if not database.is_connected:
            host = urlsplit(address).netloc.rpartition("@")[2]
            raise CommandFailedError(
                f"no database at {host} ({reason}); check that it is running, and"
                " POSTFACTA_DATABASE_DSN"
            )
        try:
            yield database
        except SCHEMA_ERRORS as error:
            raise CommandFailedError(f"{error}: run `postfacta doctor` for advice") from error
