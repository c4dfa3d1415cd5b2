"""Links between incidents: their model, SQL and API; pages show them on the incident's own."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final
from uuid import UUID

from pydantic import BaseModel, Field, StringConstraints

from .db import VISIBLE, Query, Reader, Unit, sees
from .errors import ConflictError, NotFoundError, invalid
from .incidents.access import Ref, lock_active, missing, read_incident, read_ref
from .incidents.model import Incident, Severity, Status, Visibility
from .principal import Access
from .web.body import Time
from .web.slices import Reply, Routes

MOST: Final = 200  # the most links of an incident; they are shown on one page
routes: Final = Routes("link")


class LinkType(StrEnum):
    """The relation of one incident to another."""

    RELATED = "related"
    DUPLICATE_OF = "duplicate_of"
    FOLLOWS = "follows"


class Direction(StrEnum):
    """The direction of a link: from this incident, to it, or both."""

    OUT = "out"
    IN = "in"
    BOTH = "both"


class NewLink(BaseModel, extra="forbid"):
    """The relation of the incident in the path to another."""

    to: str = Field(
        min_length=1, max_length=40, description="The other incident: `INC-12` or a UUID."
    )
    type: LinkType
    note: Annotated[str, StringConstraints(min_length=1, max_length=500)] | None = None


class LinkedIncident(BaseModel, frozen=True):
    """The incident at the other end."""

    id: UUID
    number: int
    title: str
    severity: Severity
    status: Status
    visibility: Visibility


class IncidentLink(BaseModel, frozen=True):
    """A link, seen from one of its incidents."""

    type: LinkType
    direction: Direction
    incident: LinkedIncident
    note: str | None
    created_by: str
    created_at: Time


class LinkList(BaseModel):
    """All links of one incident whose other end the caller may see, oldest first."""

    items: Sequence[IncidentLink]


# `i` is the other end; callers have already checked that this end is visible.
_OF: Final = f"""
select i.id,
       i.number,
       i.title,
       i.severity,
       i.status,
       i.visibility,
       l.type,
       l.note,
       l.created_by,
       l.created_at,
       case when l.type = 'related' then 'both' when l.a = $3 then 'out' else 'in' end as direction
  from incident_links l
  join incidents i on i.id = case when l.a = $3 then l.b else l.a end
 where {VISIBLE}
   and (l.a = $3 or l.b = $3)
 order by l.created_at, i.id, l.type, l.a = $3"""  # noqa: S608 - only constants of db.py
_COUNT: Final = "select count(*) from incident_links where a = $1 or b = $1"
_ENDS: Final = f"""
select i.id
  from incidents i
 where {VISIBLE}
   and (i.id = any ($3::uuid[]) or i.number = any ($4::bigint[]))"""  # noqa: S608 - only a constant
_INSERT: Final = """
insert into incident_links (a, b, type, note, created_by, created_at)
values ($1, $2, $3, $4, $5, clock_timestamp())
on conflict (a, b, type) do nothing
returning a"""
_DELETE: Final = "delete from incident_links where a = $1 and b = $2 and type = $3 returning a"


async def of(q: Query, incident_id: UUID) -> list[IncidentLink]:
    rows = await q.fetch(_OF, *sees(q.principal), incident_id, operation="links_of")
    return [IncidentLink.model_validate({**row, "incident": dict(row.items())}) for row in rows]


@routes.api("GET /api/v1/incidents/{ref}/links", Access.READ, "List the links of an incident")
async def list_of(q: Reader, ref: Ref) -> LinkList:
    return LinkList(items=await of(q, (await read_incident(q, ref)).id))


@routes.api(
    "POST /api/v1/incidents/{ref}/links",
    Access.WRITE,
    "Link an incident to another",
    status=(200, 201),
    once=True,
)
async def link(unit: Unit, ref: Ref, new: NewLink) -> Reply[IncidentLink]:
    source, target = await _ends(unit, ref, read_ref(new.to))
    if source is None:
        raise missing()
    if target is None:
        raise invalid("/to", "unknown", "no such incident")
    if target.id == source.id:
        raise invalid("/to", "same", "must be another one")
    row = (*_ordered(source.id, target.id, new.type), new.type, new.note, unit.principal.actor)
    is_new = bool(await unit.fetch(_INSERT, *row, operation="link_insert"))
    if is_new:
        for end in (source, target):
            rows = await unit.fetch(_COUNT, end.id, operation="links_count")
            if rows[0][0] > MOST:
                raise ConflictError(f"{end.ref} has {MOST} links, which is the maximum")
        await _record(unit, "link.create", (source, target), of=new.type)
    (stored,) = [
        link
        for link in await of(unit, source.id)
        if (link.type, link.incident.id) == (new.type, target.id) and link.direction != "in"
    ]
    return Reply(stored, 201 if is_new else 200)


@routes.api("DELETE /api/v1/incidents/{ref}/links/{target}/{type}", Access.WRITE, "Remove a link")
async def unlink(unit: Unit, ref: Ref, target: Ref, *, type: LinkType) -> None:
    this_end, other_end = await _ends(unit, ref, target)
    if this_end is None or other_end is None:
        raise missing()
    row = (*_ordered(this_end.id, other_end.id, type), type)
    if not await unit.fetch(_DELETE, *row, operation="link_delete"):
        raise NotFoundError("No such link")
    await _record(unit, "link.delete", (this_end, other_end), of=type)


async def _ends(unit: Unit, *refs: UUID | int | None) -> Sequence[Incident | None]:
    """Lock both incidents in the order of their ids, so that concurrent links cannot deadlock."""
    ids = [ref for ref in refs if isinstance(ref, UUID)]
    numbers = [ref for ref in refs if isinstance(ref, int)]
    rows = await unit.fetch(_ENDS, *sees(unit.principal), ids, numbers, operation="link_ends")
    incidents = [await lock_active(unit, end) for end in sorted(row["id"] for row in rows)]
    by_ref: dict[UUID | int | None, Incident] = {}
    for incident in incidents:
        by_ref |= {incident.id: incident, incident.number: incident}
    return [by_ref.get(ref) for ref in refs]


def _ordered(source: UUID, target: UUID, of: LinkType) -> tuple[UUID, UUID]:
    # `related` is symmetric, and stored once.
    is_symmetric = of is LinkType.RELATED
    return (min(source, target), max(source, target)) if is_symmetric else (source, target)


async def _record(
    unit: Unit, action: str, ends: tuple[Incident, Incident], *, of: LinkType
) -> None:
    """Stamp and audit both ends, so that an incremental pull sees both."""
    for end, opposite in (ends, ends[::-1]):
        await unit.stamp(end.id)
        detail = {"type": of, "with": opposite.ref}
        await unit.audit(action, end.ref, incident_id=end.id, detail=detail)
