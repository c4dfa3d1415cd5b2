"""The original's API, as a view of the incidents."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Final, cast
from uuid import UUID, uuid4

from pydantic import (
    BaseModel,
    Field,
    PlainSerializer,
    RootModel,
    StringConstraints,
    ValidationError,
)
from pydantic_core import ErrorDetails
from starlette.requests import Request
from starlette.responses import Response

from postfacta_postgres import Database
from postfacta_web.conditional import idempotency_key
from postfacta_web.stale import allow_stale

from ..aside import aside
from ..db import Transactions, Unit
from ..errors import AppError, MalformedError, NotFoundError
from ..principal import Access
from ..web import body
from ..web.body import Time, format_time, read_json, read_moment
from ..web.render import encoded
from ..web.routes import Call, RouteClass
from ..web.slices import Fill, Now, Routes, part
from .api import declare
from .model import Description, Reporter, Severity, Status, Title

routes: Final = Routes("incident")

_NEVER: Final = datetime.min.replace(tzinfo=UTC)
"""The end of an open incident, and the time of a note without one."""


# Of a request, for the OpenAPI document and the rules of texts: keys may have any case, and unknown
# fields are ignored.


class StartNote(BaseModel):
    """A note of a request."""

    timestamp: Time | None = None
    message: str | None = None


class Start(BaseModel):
    """The request that starts an incident."""

    title: Title
    description: Description
    reporter: Reporter
    severity: Severity
    owner: Annotated[str, StringConstraints(max_length=100)] | None = None
    notes: list[StartNote | None] | None = None


class Started(BaseModel):
    """The new incident's id."""

    id: UUID
    message: str


Shown = Annotated[
    Time, PlainSerializer(lambda at: read_moment(format_time(at))[0], str, when_used="json")
]
"""A time in UTC without trailing zeros."""


class ShownNote(BaseModel):
    """A note of a response; its time is as its author sent it."""

    timestamp: str
    message: str


class ShownIncident(BaseModel):
    """An incident; an open one ends in the year 1."""

    id: UUID
    title: str
    description: str
    severity: Severity
    status: Status
    reporter: str
    start_time: Shown
    initial_notes: list[ShownNote] | None
    additional_notes: list[ShownNote] | None
    owner: str = Field("", exclude_if=lambda owner: not owner)
    end_time: Shown


class ShownIncidents(RootModel[list[ShownIncident]]):
    """The newest thousand, oldest first."""


class V0Query(BaseModel):
    """Which page of the list, as the `Link` of the previous one names it."""

    cursor: str | None = None


# v0 shows no private, archived or exercise incidents, to any caller. Initial notes are as sent. An
# additional one has its last version at the position of its first.
_SHOWN = """
select i.id,
       i.title,
       i.description,
       i.severity,
       i.status,
       i.reporter,
       coalesce(i.owner, '') as owner,
       i.declared_at as start_time,
       coalesce(i.ended_at, '0001-01-01 00:00Z') as end_time,
       json_build_object(
         'initial_notes', case when not i.v0_notes_null then coalesce(n.initial, '[]') end,
         'additional_notes', n.additional)::text as notes
  from (
    select *
      from incidents
     where visibility = 'internal'
       and archived_at is null
       and kind <> 'exercise'
       and {which}) i
 cross join lateral (
    select json_agg(s.note order by a.v0_position)
             filter (where a.v0_position is not null) as initial,
           json_agg(s.note order by first.at, first.id)
             filter (where a.v0_position is null) as additional
      from annotations a
      join annotations first on first.id = a.root
     cross join lateral (
       select json_build_object(
                'timestamp', coalesce(
                  a.v0_time,
                  rtrim(
                    rtrim(
                      to_char(
                        coalesce(a.occurred_at, a.at) at time zone 'UTC',
                        'YYYY-MM-DD"T"HH24:MI:SS.US'),
                      '0'),
                    '.') || 'Z'),
                'message', a.body) as note) s
     where a.incident_id = i.id
       and (a.v0_position is not null
         or (a.kind = 'note'
           and a.entry_id is null
           and not a.retracted
           and first.v0_position is null
           and not exists (select from annotations later where later.supersedes = a.id)))) n
 order by i.declared_at, i.id"""
_LIST = _SHOWN.format(
    which="""(declared_at, id) < (
         coalesce($1::timestamptz, 'infinity'),
         coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
     order by declared_at desc, id desc
     limit $3"""
)
_GET = _SHOWN.format(which="id = $1")
_INSERT_NOTES = """
insert into annotations (
  id, root, incident_id, kind, body, occurred_at, v0_position, v0_time, author, at)
select n.id,
       n.id,
       i.id,
       'note',
       n.body,
       n.occurred_at,
       n.position - 1,
       n.time,
       i.created_by,
       i.timeline_at
  from incidents i
 cross join (
   select gen_random_uuid() as id, *
     from unnest($2::text[], $3::timestamptz[], $4::text[])
          with ordinality as n (body, occurred_at, time, position)) n
 where i.id = $1"""


class PostgresV0:
    """Stores the incidents of v0 in the tables of v1, and lists at most `limit`."""

    def __init__(
        self, database: Database, transactions: Transactions, *, limit: int = 1000
    ) -> None:
        self._fetch = partial(database.fetch, repeatable=True)
        self._transactions = transactions
        self._limit = limit

    async def list(
        self, before: tuple[datetime, UUID] | None
    ) -> tuple[Sequence[ShownIncident], bool]:
        """Read the newest incidents before this start time and id, oldest first.

        Also return whether there are older ones.
        """
        rows = await self._fetch(
            _LIST, *before or (None, None), self._limit + 1, operation="v0_list"
        )
        return await _read(rows[-self._limit :]), len(rows) > self._limit

    async def get(self, incident_id: UUID) -> ShownIncident | None:
        rows = await self._fetch(_GET, incident_id, operation="v0_get")
        return next(iter(await _read(rows)), None)

    async def start(
        self, call: Call, new: ShownIncident, *, answer: Response, key: str | None
    ) -> Response:
        """Write an incident with its first status change, its notes, and an audit row.

        Raise if the id is taken.
        """

        async def work(unit: Unit) -> Response:
            fields = new.model_dump(include={"id", "title", "description", "severity", "reporter"})
            await declare(
                unit,
                **fields,
                owner=new.owner or None,
                declared_at=new.start_time,
                v0_notes_null=new.initial_notes is None,
            )
            if notes := new.initial_notes:
                texts = [note.message for note in notes]
                times = [note.timestamp for note in notes]
                args = (new.id, texts, [_instant(time) for time in times], times)
                await unit.execute(_INSERT_NOTES, *args, operation="v0_notes_insert")
            return answer

        return await self._transactions.write(call.request, call.principal, work, key=key)


async def _read(rows: Sequence[Any]) -> Sequence[ShownIncident]:
    def read() -> Sequence[ShownIncident]:
        return [ShownIncident.model_validate({**row, **json.loads(row["notes"])}) for row in rows]

    return await aside(sum(300 + len(row["notes"]) for row in rows), read)


Store = Annotated[PostgresV0, part(PostgresV0)]
CallPart = Annotated[Call, Fill(lambda call, _: call)]


@routes.api(
    "GET /api/v0/incidents",
    Access.READ,
    "List the newest incidents",
    kind=RouteClass.SEARCH,
    reads=V0Query,
    problems=("invalid-cursor",),
    stale=True,
)
async def page(store: Store, *, request: Request) -> Annotated[Response, ShownIncidents]:
    """Return the newest incidents as a bare array; a `Link` header leads to older ones."""
    cursor = request.query_params.get("cursor")
    before = None if cursor is None else body.decode_cursor(cursor, "v0", "")
    incidents, has_older = await store.list(before)
    older = None
    if has_older:
        oldest = incidents[0]
        older = body.encode_cursor("v0", (oldest.start_time, oldest.id), "")
    headers = body.next_link(request, older)
    allow_stale(request)  # v0 never shows private incidents.

    def encode() -> Response:
        documents = [incident.model_dump(mode="json") for incident in incidents]
        return encoded(documents, headers=headers)

    return await aside(_size(incidents), encode)


@routes.api("GET /api/v0/incidents/{id:uuid}", Access.READ, "Read an incident", stale=True)
async def read(store: Store, id: UUID, *, request: Request) -> Annotated[Response, ShownIncident]:
    incident = await store.get(id)
    if incident is None:
        raise NotFoundError("Incident not found")
    allow_stale(request)
    return await aside(_size([incident]), lambda: encoded(incident.model_dump(mode="json")))


@routes.api(
    "POST /api/v0/incidents/start",
    Access.WRITE,
    "Start an incident",
    reads=Start,
    once=True,
    operation="start_v0_incident",
)
async def start(store: Store, call: CallPart, *, now: Now) -> Annotated[Response, Started]:
    key = idempotency_key(call.request)
    try:
        value = await read_json(call.request)
    except MalformedError as error:
        raise _invalid(error.detail) from None
    incident = parse_start(value, uuid4(), now)
    answer = encoded({"id": str(incident.id), "message": "Incident started successfully"}, 201)
    return await store.start(call, incident, answer=answer, key=key)


def _size(incidents: Sequence[ShownIncident]) -> int:
    """Return about how many bytes the JSON of incidents has."""
    notes = sum(
        len(incident.initial_notes or ()) + len(incident.additional_notes or ())
        for incident in incidents
    )
    return 300 * len(incidents) + 500 * notes


def _invalid(detail: str) -> AppError:
    return MalformedError(f"Invalid request body: {detail}")


def parse_start(value: object, incident_id: UUID, start_time: datetime) -> ShownIncident:
    """Build an incident from a request's JSON value.

    Raise `MalformedError` with the original's message.

    Keys match in any case, and the last of equal ones wins. Absent, null and "" are the same.
    """
    members = {} if value is None else _members(value, "the body")
    names = ("title", "description", "reporter", "severity", "owner")
    texts = {name: _string(members, name) for name in names}
    notes = members.get("notes")
    if not isinstance(notes, list | None):
        raise _invalid("notes must be an array")
    initial = None if notes is None else [_note(note) for note in cast("list[object]", notes)]
    try:
        Start.model_validate({name: text for name, text in texts.items() if text})
    except ValidationError as error:
        reasons = ", ".join(_reason(fault) for fault in error.errors())
        raise MalformedError(f"Validation failed: {reasons}") from None
    fields: dict[str, object] = {
        "id": incident_id,
        "status": Status.OPEN,
        "start_time": start_time,
        "end_time": _NEVER,
        "initial_notes": initial,
        "additional_notes": None,
    }
    return ShownIncident.model_validate({**texts, **fields})


_BROKEN: Final = {
    "missing": "is required",
    "string_too_short": "must be at least {min_length} characters",
    "string_too_long": "must be at most {max_length} characters",
    "enum": f"must be one of [{' '.join(Severity)}]",
}


def _reason(fault: ErrorDetails) -> str:
    text = _BROKEN[fault["type"]].format(**fault.get("ctx", {}))
    return f"{fault['loc'][0]} {text}"


def _members(value: object, name: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _invalid(f"{name} must be an object")
    return {key.lower(): member for key, member in cast("dict[str, object]", value).items()}


def _string(members: Mapping[str, object], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str | None):
        raise _invalid(f"{name} must be a string")
    return value or ""


def _note(value: object) -> ShownNote:
    members = {} if value is None else _members(value, "a note")
    message = _string(members, "message")
    timestamp = members.get("timestamp")
    if timestamp is None:
        timestamp = "0001-01-01T00:00:00Z"  # `_NEVER`
    try:
        shown, _ = read_moment(timestamp if isinstance(timestamp, str) else "")
    except ValueError as error:
        raise _invalid(f"timestamp {error}") from None
    return ShownNote(timestamp=shown, message=message)


def _instant(timestamp: str) -> datetime | None:
    """Return when it happened.

    The first instant means none, and asyncpg reads the last one as infinity.
    """
    _, at = read_moment(timestamp)
    return None if at in {_NEVER, datetime.max.replace(tzinfo=UTC)} else at
