"""The original's API, as a view of the incidents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, cast
from uuid import UUID, uuid4

from pydantic import BaseModel, PlainSerializer, RootModel, StringConstraints, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from postfacta_adapters.stale import allow_stale
from postfacta_postgres import Database

from ..aside import aside
from ..db import Answer, Reader, Transactions, Unit
from ..errors import MalformedError, NotFoundError
from ..principal import Access, Principal
from ..problems import encode
from ..web.body import Time, format_time, idempotency_key, read_json, read_moment
from ..web.paging import decode_cursor, encode_cursor, next_link
from ..web.routes import RouteClass
from ..web.slices import Now, Routes, part
from .api import declare
from .model import Description, Reporter, Severity, Status, Title

routes: Final = Routes("incident")

_NEVER: Final = datetime.min.replace(tzinfo=UTC)
"""The end of an open incident, and the time of a note without one."""


# Of a request, for the OpenAPI document and the rules of texts: keys may have any case, and unknown fields are ignored.


class Remark(BaseModel):
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
    notes: list[Remark | None] | None = None


class Started(BaseModel):
    """The new incident's id."""

    id: UUID
    message: str


def _shown(at: datetime) -> str:
    return read_moment(format_time(at)).text


Shown = Annotated[Time, PlainSerializer(_shown, when_used="json")]  # a time in UTC without trailing zeros


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
    owner: str = ""
    end_time: Shown


class ShownIncidents(RootModel[list[ShownIncident]]):
    """The newest thousand, oldest first."""


class V0Query(BaseModel):
    """Which page of the list, as the `Link` of the previous one names it."""

    cursor: str | None = None


# v0 shows no private, archived or exercise incidents, to any caller.
_COLUMNS = """
select id, title, description, severity, status, reporter, coalesce(owner, '') as owner, declared_at as start_time,
  coalesce(ended_at, '0001-01-01 00:00Z') as end_time, v0_notes_null
  from incidents where visibility = 'internal' and archived_at is null and kind <> 'exercise'"""
_LIST = f"""{_COLUMNS} and (declared_at, id) <
   (coalesce($1::timestamptz, 'infinity'), coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
 order by declared_at desc, id desc limit $3"""
_GET = f"{_COLUMNS} and id = $1"
# Initial notes are as sent. An additional one has its last version at the position of its first.
_NOTES = """
select a.incident_id, a.v0_position, a.v0_time, a.body, coalesce(a.occurred_at, a.at) as shown
  from annotations a join annotations first on first.id = a.root
 where a.incident_id = any ($1::uuid[]) and (a.v0_position is not null or (
   a.kind = 'note' and a.entry_id is null and not a.retracted and first.v0_position is null
   and not exists (select from annotations later where later.supersedes = a.id)))
 order by a.v0_position, first.at, first.id"""
_INSERT_NOTES = """
insert into annotations (id, root, incident_id, kind, body, occurred_at, v0_position, v0_time, author, at)
select n.id, n.id, $1, 'note', n.body, n.occurred_at, n.position - 1, n.time, $2, $3
  from unnest($4::uuid[], $5::text[], $6::timestamptz[], $7::text[])
    with ordinality as n (id, body, occurred_at, time, position)"""


class PostgresV0:
    """Stores the incidents of v0 in the tables of v1, and lists at most `limit`."""

    def __init__(self, database: Database, transactions: Transactions, *, limit: int = 1000) -> None:
        self._database = database
        self._transactions = transactions
        self._limit = limit

    async def list(self, before: tuple[datetime, UUID] | None) -> tuple[Sequence[ShownIncident], bool]:
        """Read the newest ones before this start time and id, oldest first; also return whether there are older ones."""
        at, last = before or (None, None)
        rows = await self._database.fetch(
            _LIST, at, last, self._limit + 1, operation="v0_list", repeatable=True
        )
        shown = [dict(row.items()) for row in reversed(rows[: self._limit])]
        return await self._with_notes(shown), len(rows) > self._limit

    async def get(self, incident_id: UUID) -> ShownIncident | None:
        rows = await self._database.fetch(_GET, incident_id, operation="v0_get", repeatable=True)
        return next(iter(await self._with_notes([dict(row.items()) for row in rows])), None)

    async def _with_notes(self, rows: Sequence[Mapping[str, object]]) -> Sequence[ShownIncident]:
        ids = [row["id"] for row in rows]
        notes = await self._database.fetch(_NOTES, ids, operation="v0_notes", repeatable=True) if ids else []
        return await aside(300 * (len(rows) + len(notes)), _noted, rows, notes)

    async def start(
        self,
        request: Request,
        principal: Principal,
        incident: ShownIncident,
        *,
        answer: Answer,
        key: str | None,
    ) -> Response:
        """Write it with its first status change, its notes, and an audit row; raise if the id is taken."""

        async def work(unit: Unit) -> Answer:
            await _insert(unit, incident)
            return answer

        return await self._transactions.write(request, principal, work, key=key)


def _noted(rows: Sequence[Mapping[str, Any]], notes: Sequence[Any]) -> Sequence[ShownIncident]:
    initial: dict[object, list[ShownNote]] = defaultdict(list)
    additional: dict[object, list[ShownNote]] = defaultdict(list)
    for row in notes:
        is_initial = row["v0_position"] is not None
        note = ShownNote(
            timestamp=row["v0_time"] if is_initial else _shown(row["shown"]), message=row["body"]
        )
        (initial if is_initial else additional)[row["incident_id"]].append(note)
    return [
        ShownIncident.model_validate(
            {
                **row,
                "initial_notes": None if row["v0_notes_null"] else initial[row["id"]],
                "additional_notes": additional[row["id"]] or None,
            }
        )
        for row in rows
    ]


async def _insert(unit: Unit, new: ShownIncident) -> None:
    told = new.model_dump(include={"id", "title", "description", "severity", "reporter"})
    notes, ends = new.initial_notes, {"owner": new.owner or None, "declared_at": new.start_time}
    _, at = await declare(unit, **told, **ends, v0_notes_null=notes is None)
    if notes:
        await unit.execute(
            _INSERT_NOTES,
            *(new.id, unit.principal.actor, at, [uuid4() for _ in notes], [note.message for note in notes]),
            *([_instant(note.timestamp) for note in notes], [note.timestamp for note in notes]),
            operation="v0_notes_insert",
        )


Here = Annotated[PostgresV0, part(PostgresV0)]


@routes.api(
    "GET /api/v0/incidents", Access.READ, "List the newest incidents",
    kind=RouteClass.SEARCH, reads=V0Query, problems=("invalid-cursor",), stale=True,
)  # fmt: skip
async def page(here: Here, *, request: Request) -> Annotated[Response, ShownIncidents]:
    """Return the newest incidents as a bare array; a `Link` header leads to older ones."""
    cursor = request.query_params.get("cursor")
    shown, more = await here.list(None if cursor is None else decode_cursor(cursor, "v0", ""))
    older = encode_cursor("v0", (shown[0].start_time, shown[0].id), "") if more else None
    headers = next_link(request, older)
    allow_stale(request)  # v0 never shows private incidents.
    return await aside(
        _size(shown), lambda: _answer(200, [render_incident(it) for it in shown], headers).response()
    )


@routes.api("GET /api/v0/incidents/{id:uuid}", Access.READ, "Read an incident", stale=True)
async def read(here: Here, id: UUID, *, request: Request) -> Annotated[Response, ShownIncident]:
    incident = await here.get(id)
    if incident is None:
        raise NotFoundError("Incident not found")
    allow_stale(request)
    return await aside(_size([incident]), lambda: _answer(200, render_incident(incident)).response())


@routes.api("POST /api/v0/incidents/start", Access.WRITE, "Start an incident", reads=Start, once=True)
async def start(q: Reader, here: Here, *, request: Request, now: Now) -> Annotated[Response, Started]:
    key = idempotency_key(request)
    try:
        value = await read_json(request)
    except MalformedError as error:
        raise _invalid(error.detail) from None
    incident = parse_start(value, uuid4(), now)
    answer = _answer(201, {"id": str(incident.id), "message": "Incident started successfully"})
    return await here.start(request, q.principal, incident, answer=answer, key=key)


def _size(incidents: Iterable[ShownIncident]) -> int:
    return sum(300 + 500 * (len(it.initial_notes or ()) + len(it.additional_notes or ())) for it in incidents)


def _answer(status: int, value: object, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(
        status, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}, encode(value)
    )


def _invalid(detail: str) -> MalformedError:
    return MalformedError(f"Invalid request body: {detail}")


def parse_start(value: object, incident_id: UUID, start_time: datetime) -> ShownIncident:
    """Build an incident from a request's JSON value; raise `MalformedError` with the original's message.

    Keys match in any case, and the last of equal ones wins. Absent, null and "" are the same.
    """
    members = {} if value is None else _members(value, "the body")
    text = {
        name: _string(members, name) for name in ("title", "description", "reporter", "severity", "owner")
    }
    notes = members.get("notes")
    if not isinstance(notes, list | None):
        raise _invalid("notes must be an array")
    initial = None if notes is None else [_note(note) for note in cast("list[object]", notes)]
    try:
        Start.model_validate({name: given for name, given in text.items() if given})
    except ValidationError as error:
        broken = (
            f"{it['loc'][0]} {_BROKEN[it['type']].format(**it.get('ctx', {}))}" for it in error.errors()
        )
        raise MalformedError("Validation failed: " + ", ".join(broken)) from None
    times = {"start_time": start_time, "end_time": _NEVER}
    told = {"id": incident_id, "status": Status.OPEN, "initial_notes": initial, "additional_notes": None}
    return ShownIncident.model_validate({**text, **times, **told})


_BROKEN: Final = {
    "missing": "is required",
    "string_too_short": "must be at least {min_length} characters",
    "string_too_long": "must be at most {max_length} characters",
    "enum": f"must be one of [{' '.join(Severity)}]",
}


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
    written = members.get("timestamp")
    if written is None:
        return ShownNote(timestamp=_shown(_NEVER), message=message)
    try:
        moment = read_moment(written if isinstance(written, str) else "")
    except ValueError as error:
        raise _invalid(f"timestamp {error}") from None
    return ShownNote(timestamp=moment.text, message=message)


def _instant(timestamp: str) -> datetime | None:
    """Return when it happened; the first instant means none, and asyncpg reads the last one as infinity."""
    at = read_moment(timestamp).instant
    return None if at in {_NEVER, datetime.max.replace(tzinfo=UTC)} else at


def render_incident(incident: ShownIncident) -> Mapping[str, object]:
    shown = incident.model_dump(mode="json")
    return shown if incident.owner else {name: value for name, value in shown.items() if name != "owner"}
