"""The original's API, as a view of the incidents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Protocol, cast
from uuid import UUID, uuid4

from pydantic import BaseModel, RootModel, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from postfacta_core.clock import WALL, Clock

from ..aside import aside
from ..db import Answer, Reader
from ..errors import ConflictError, MalformedError, NotFoundError
from ..principal import Access, Principal
from ..problems import encode
from ..web.body import Time, format_time, idempotency_key, read_json, read_moment
from ..web.paging import decode_cursor, encode_cursor, next_link
from ..web.routes import RouteClass
from ..web.slices import Routes, part
from ..web.stale import allow_stale
from .model import Description, Reporter, Severity, Status, Title

__all__ = ["V0", "Listing", "Note", "V0Incident", "V0Store", "parse_start", "render_incident", "routes"]

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
    """An incident as v0 shows it.

    Attributes:
        initial_notes: The notes of the start request; None if it had none, not even an empty array.
        additional_notes: The notes added later.
    """

    id: UUID
    title: str
    description: str
    severity: str
    reporter: str
    owner: str | None
    start_time: datetime
    initial_notes: Sequence[Note] | None
    status: str = "OPEN"
    additional_notes: Sequence[Note] = ()
    end_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """The newest incidents in ascending order, and whether there are older ones."""

    incidents: Sequence[V0Incident]
    more: bool = False


class V0Store(Protocol):
    """Stores the incidents."""

    async def list(self, before: tuple[datetime, UUID] | None) -> Listing:
        """Read the newest ones visible in v0 before this start time and id."""
        ...

    async def get(self, incident_id: UUID) -> V0Incident | None:
        """Read one if it is visible in v0."""
        ...

    async def start(
        self, request: Request, principal: Principal, incident: V0Incident, *, answer: Answer, key: str | None
    ) -> Response:
        """Store a new one, once per Idempotency-Key, and return the response.

        Raises:
            ConflictError: If the id is taken.
        """
        ...


@dataclass(frozen=True, slots=True)
class V0:
    """The part that these routes need.

    Attributes:
        store: Stores the incidents.
        now: Returns the wall time of a new incident.
        new_id: Returns the id of a new incident.
    """

    store: V0Store
    now: Clock = field(default=WALL, kw_only=True)
    new_id: Callable[[], UUID] = field(default=uuid4, kw_only=True)


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


# API

Here = Annotated[V0, part(V0)]


@routes.api(
    "GET /api/v0/incidents", Access.READ, "List the newest incidents",
    kind=RouteClass.SEARCH, reads=V0Query, problems=("invalid-cursor",), stale=True,
)  # fmt: skip
async def page(here: Here, *, request: Request) -> Annotated[Response, ShownIncidents]:
    """Return the newest incidents as a bare array; a `Link` header leads to older ones."""
    cursor = request.query_params.get("cursor")
    listing = await here.store.list(None if cursor is None else decode_cursor(cursor, "v0", ""))
    older = None
    if listing.more:
        oldest = listing.incidents[0]
        older = encode_cursor("v0", (oldest.start_time, oldest.id), "")
    shown, headers = listing.incidents, next_link(request, older)
    allow_stale(request)  # v0 never shows private incidents.
    return await aside(
        _size(shown), lambda: _answer(200, [render_incident(it) for it in shown], headers).response()
    )


@routes.api("GET /api/v0/incidents/{id:uuid}", Access.READ, "Read an incident", stale=True)
async def read(here: Here, id: UUID, *, request: Request) -> Annotated[Response, ShownIncident]:
    incident = await here.store.get(id)
    if incident is None:
        raise NotFoundError("Incident not found")
    allow_stale(request)
    return await aside(_size([incident]), lambda: _answer(200, render_incident(incident)).response())


@routes.api("POST /api/v0/incidents/start", Access.WRITE, "Start an incident", reads=Start, once=True)
async def start(q: Reader, here: Here, *, request: Request) -> Annotated[Response, Started]:
    key = idempotency_key(request)
    try:
        value = await read_json(request)
    except MalformedError as error:
        raise _invalid(error.detail) from None
    incident = parse_start(value, here.new_id(), datetime.fromtimestamp(here.now(), UTC))
    answer = _answer(201, {"id": str(incident.id), "message": "Incident started successfully"})
    try:
        return await here.store.start(request, q.principal, incident, answer=answer, key=key)
    except ConflictError as error:
        raise ConflictError("Incident with the same ID already exists: incident conflict") from error


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
