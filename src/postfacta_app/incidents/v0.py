"""The original's API, as a view of the incidents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, cast
from uuid import UUID, uuid4

from pydantic import BaseModel, RootModel, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from postfacta_postgres import Database

from ..aside import aside
from ..db import Answer, Reader, Transactions, Unit, insert
from ..errors import ConflictError, MalformedError, NotFoundError
from ..principal import Access, Principal
from ..problems import encode
from ..web.body import Time, format_time, idempotency_key, read_json, read_moment
from ..web.calls import Now, part
from ..web.paging import decode_cursor, encode_cursor, next_link
from ..web.routes import RouteClass
from ..web.slices import Routes
from ..web.stale import allow_stale
from .model import Description, Reporter, Severity, Status, Title

routes: Final = Routes("incident")

_NEVER: Final = "0001-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Note:
    """A note: its time as echoed, its text, and the instant if the time is valid."""

    timestamp: str
    message: str
    instant: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class V0Incident:
    """An incident as v0 shows it."""

    id: UUID
    title: str
    description: str
    severity: str
    reporter: str
    owner: str | None
    start_time: datetime
    initial_notes: Sequence[Note] | None  # of the start request; None if it had none, not even an empty array
    status: str = "OPEN"
    additional_notes: Sequence[Note] = ()  # added later
    end_time: datetime | None = None


# For the OpenAPI document only. The code below also accepts keys in any case, and ignores unknown fields.


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
    start_time: Time
    initial_notes: list[ShownNote] | None
    additional_notes: list[ShownNote] | None
    owner: str = ""
    end_time: Time


class ShownIncidents(RootModel[list[ShownIncident]]):
    """The newest thousand, oldest first."""


class V0Query(BaseModel):
    """Which page of the list, as the `Link` of the previous one names it."""

    cursor: str | None = None


# SQL

# v0 shows no private, archived or exercise incidents, to any caller.
_COLUMNS = """
select id, title, description, severity, status, reporter, owner, declared_at as start_time, ended_at as end_time,
  v0_notes_null from incidents where visibility = 'internal' and archived_at is null and kind <> 'exercise'"""
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
_INSERT = """
insert into incidents (id, title, description, severity, reporter, owner, declared_at, v0_notes_null,
  created_by, timeline_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, clock_timestamp())
on conflict (id) do nothing returning number, timeline_at"""
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

    async def list(self, before: tuple[datetime, UUID] | None) -> tuple[Sequence[V0Incident], bool]:
        """Read the newest ones before this start time and id, oldest first; also return whether there are older ones."""
        at, last = before or (None, None)
        rows = await self._database.fetch(
            _LIST, at, last, self._limit + 1, operation="v0_list", repeatable=True
        )
        shown = [dict(row.items()) for row in reversed(rows[: self._limit])]
        return await self._with_notes(shown), len(rows) > self._limit

    async def get(self, incident_id: UUID) -> V0Incident | None:
        """Read one."""
        rows = await self._database.fetch(_GET, incident_id, operation="v0_get", repeatable=True)
        return next(iter(await self._with_notes([dict(row.items()) for row in rows])), None)

    async def _with_notes(self, rows: Sequence[Mapping[str, object]]) -> Sequence[V0Incident]:
        ids = [row["id"] for row in rows]
        notes = await self._database.fetch(_NOTES, ids, operation="v0_notes", repeatable=True) if ids else []
        return await aside(300 * (len(rows) + len(notes)), _noted, rows, notes)

    async def start(
        self, request: Request, principal: Principal, incident: V0Incident, *, answer: Answer, key: str | None
    ) -> Response:
        """Write it with its first status change, its notes, and an audit row; raise if the id is taken."""

        async def work(unit: Unit) -> Answer:
            await _insert(unit, incident)
            return answer

        return await self._transactions.write(request, principal, work, key=key)


def _noted(rows: Sequence[Mapping[str, Any]], notes: Sequence[Any]) -> Sequence[V0Incident]:
    initial: dict[object, list[Note]] = defaultdict(list)
    additional: dict[object, list[Note]] = defaultdict(list)
    for row in notes:
        if row["v0_position"] is None:
            shown = read_moment(format_time(row["shown"])).text
            additional[row["incident_id"]].append(Note(shown, row["body"]))
        else:
            initial[row["incident_id"]].append(Note(row["v0_time"], row["body"]))
    return [_incident(row, initial[row["id"]], additional[row["id"]]) for row in rows]


def _incident(row: Mapping[str, Any], initial: Sequence[Note], additional: Sequence[Note]) -> V0Incident:
    fields = dict(row)
    notes = None if fields.pop("v0_notes_null") else initial
    return V0Incident(initial_notes=notes, additional_notes=additional, **fields)


async def _insert(unit: Unit, new: V0Incident) -> None:
    row = await unit.fetchrow(
        _INSERT,
        *(new.id, new.title, new.description, new.severity, new.reporter, new.owner, new.start_time),
        *(new.initial_notes is None, unit.principal.actor),
        operation="v0_start",
    )
    if row is None:
        raise ConflictError("Incident with the same ID already exists: incident conflict")
    at, actor = row["timeline_at"], unit.principal.actor
    facts = {"to_status": "OPEN", "occurred_at": new.start_time, "at": at, "actor": actor}
    await insert(unit, "status_changes", id=uuid4(), incident_id=new.id, **facts)
    if notes := new.initial_notes:
        await unit.execute(
            _INSERT_NOTES,
            *(new.id, actor, at, [uuid4() for _ in notes], [note.message for note in notes]),
            *([note.instant for note in notes], [note.timestamp for note in notes]),
            operation="v0_notes_insert",
        )
    await unit.audit("incident.create", f"INC-{row['number']}", incident_id=new.id)
    unit.counts.append(("postfacta_incidents_opened_total", new.severity))


# API

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


def _size(incidents: Iterable[V0Incident]) -> int:
    return sum(300 + 500 * (len(it.initial_notes or ()) + len(it.additional_notes)) for it in incidents)


def _answer(status: int, value: object, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(
        status, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}, encode(value)
    )


# The request


def _invalid(detail: str) -> MalformedError:
    return MalformedError(f"Invalid request body: {detail}")


def parse_start(value: object, incident_id: UUID, start_time: datetime) -> V0Incident:
    """Build an incident from a request's JSON value.

    Keys match in any case, and the last of equal ones wins. Absent, null and "" are the same.

    Raises:
        MalformedError: With the original's message.
    """
    members = {} if value is None else _members(value, "the body")
    text = {
        name: _string(members, name) for name in ("title", "description", "reporter", "severity", "owner")
    }
    notes = members.get("notes")
    if not isinstance(notes, list | None):
        raise _invalid("notes must be an array")
    initial = None if notes is None else [_note(note) for note in cast("list[object]", notes)]
    if broken := _broken_rules(text):
        raise MalformedError("Validation failed: " + ", ".join(broken))
    owner = text.pop("owner") or None
    return V0Incident(
        id=incident_id,
        owner=owner,
        start_time=start_time,
        initial_notes=initial,
        **cast("dict[str, Any]", text),
    )


def _members(value: object, name: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _invalid(f"{name} must be an object")
    return {key.lower(): member for key, member in cast("dict[str, object]", value).items()}


def _string(members: Mapping[str, object], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str | None):
        raise _invalid(f"{name} must be a string")
    return value or ""


def _note(value: object) -> Note:
    members = {} if value is None else _members(value, "a note")
    message = _string(members, "message")
    written = members.get("timestamp")
    if written is None:
        return Note(_NEVER, message)
    try:
        moment = read_moment(written if isinstance(written, str) else "")
    except ValueError as error:
        raise _invalid(f"timestamp {error}") from None
    return Note(moment.text, message, moment.instant if _is_real(moment.instant) else None)


def _is_real(instant: datetime | None) -> bool:
    # The first instant, with any offset, means none; asyncpg reads the last one as infinity.
    ends = {datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)}
    return instant is not None and instant not in ends


_LENGTHS: Final = {"title": (3, 200), "description": (10, 2000), "reporter": (2, 100)}


def _broken_rules(text: Mapping[str, str]) -> Sequence[str]:
    """Return the first error of each field."""
    broken: list[str] = []
    for name, (shortest, longest) in _LENGTHS.items():
        length = len(text[name])
        if not length:
            broken.append(f"{name} is required")
        elif length < shortest:
            broken.append(f"{name} must be at least {shortest} characters")
        elif length > longest:
            broken.append(f"{name} must be at most {longest} characters")
    if not text["severity"]:
        broken.append("severity is required")
    elif text["severity"] not in list(Severity):
        broken.append(f"severity must be one of [{' '.join(Severity)}]")
    if len(text["owner"]) > 100:  # noqa: PLR2004 - as the message says
        broken.append("owner must be at most 100 characters")
    return broken


# The response


def render_incident(incident: V0Incident) -> Mapping[str, object]:
    """Return the members of an incident in the original's order."""
    same = ("title", "description", "severity", "status", "reporter")
    return {
        "id": str(incident.id),
        **{name: getattr(incident, name) for name in same},
        "start_time": _time(incident.start_time),
        "initial_notes": _notes(incident.initial_notes),
        "additional_notes": _notes(incident.additional_notes or None),
        **({"owner": incident.owner} if incident.owner else {}),
        "end_time": _NEVER if incident.end_time is None else _time(incident.end_time),
    }


def _time(at: datetime) -> str:
    return read_moment(format_time(at)).text


def _notes(notes: Sequence[Note] | None) -> object:
    return None if notes is None else [{"timestamp": it.timestamp, "message": it.message} for it in notes]
