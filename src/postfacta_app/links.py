"""Links between incidents: their model, SQL and API; pages show them on the incident's own."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final
from uuid import UUID

from pydantic import BaseModel, Field, StringConstraints

from .db import VISIBLE, Query, Reader, Unit, sees
from .errors import ConflictError, NotFoundError, invalid
from .incidents.access import Ref, lock_active, missing, read_ref, seen
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


class Far(BaseModel, frozen=True):
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
    incident: Far
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
    return LinkList(items=await of(q, (await seen(q, ref)).id))


@routes.api(
    "POST /api/v1/incidents/{ref}/links",
    Access.WRITE,
    "Link an incident to another",
    status=(200, 201),
    once=True,
)
async def link(unit: Unit, ref: Ref, new: NewLink) -> Reply[IncidentLink]:
    here, there = await _ends(unit, ref, read_ref(new.to))
    if here is None:
        raise missing()
    if there is None or there.id == here.id:
        code, message = (
            ("unknown", "no such incident") if there is None else ("same", "must be another one")
        )
        raise invalid("/to", code, message)
    row = (*_ordered(here.id, there.id, new.type), new.type, new.note, unit.principal.actor)
    is_new = bool(await unit.fetch(_INSERT, *row, operation="link_insert"))
    if is_new:
        for end in (here, there):
            if (await unit.fetch(_COUNT, end.id, operation="links_count"))[0][0] > MOST:
                raise ConflictError(f"{end.ref} has {MOST} links, which is the maximum")
        await _tell(unit, "link.create", (here, there), of=new.type)
    links = await of(unit, here.id)
    same = [
        it
        for it in links
        if (it.type, it.incident.id) == (new.type, there.id) and it.direction != "in"
    ]
    return Reply(same[0], 201 if is_new else 200)


@routes.api("DELETE /api/v1/incidents/{ref}/links/{other}/{type}", Access.WRITE, "Remove a link")
async def unlink(unit: Unit, ref: Ref, other: Ref, *, type: LinkType) -> None:
    here, there = await _ends(unit, ref, other)
    if here is None or there is None:
        raise missing()
    if not await unit.fetch(
        _DELETE, *_ordered(here.id, there.id, type), type, operation="link_delete"
    ):
        raise NotFoundError("No such link")
    await _tell(unit, "link.delete", (here, there), of=type)


async def _ends(unit: Unit, *refs: UUID | int | None) -> Sequence[Incident | None]:
    """Lock both in the order of their ids, so that concurrent links cannot deadlock."""
    ids = [ref for ref in refs if isinstance(ref, UUID)]
    numbers = [ref for ref in refs if isinstance(ref, int)]
    rows = await unit.fetch(_ENDS, *sees(unit.principal), ids, numbers, operation="link_ends")
    found = [await lock_active(unit, each) for each in sorted(row["id"] for row in rows)]
    return [next((it for it in found if ref in (it.id, it.number)), None) for ref in refs]


def _ordered(here: UUID, there: UUID, of: LinkType) -> tuple[UUID, UUID]:
    # `related` is symmetric, and stored once.
    return (min(here, there), max(here, there)) if of is LinkType.RELATED else (here, there)


async def _tell(unit: Unit, action: str, ends: tuple[Incident, Incident], *, of: LinkType) -> None:
    for one, other in (ends, ends[::-1]):
        await unit.stamp(one.id)  # So that an incremental pull sees both.
        await unit.audit(
            action, one.ref, incident_id=one.id, detail={"type": of, "with": other.ref}
        )
