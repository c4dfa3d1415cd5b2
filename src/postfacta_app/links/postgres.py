"""All SQL of the links slice."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from uuid import UUID

import asyncpg

from postfacta_postgres import Database

from ..db import VISIBLE, Fetch, Unit, sees
from ..principal import Principal
from .model import Direction, Far, IncidentLink, LinkType, NewLink

__all__ = ["PostgresLinks"]

# `i` is the other end; callers have already checked that this end is visible.
_OF = f"""
select i.id, i.number, i.title, i.severity, i.status, i.visibility, l.type, l.a = $3 as leads_away, l.note, l.created_by, l.created_at
  from incident_links l join incidents i on i.id = case when l.a = $3 then l.b else l.a end
 where {VISIBLE} and (l.a = $3 or l.b = $3) order by l.created_at, i.id, l.type, leads_away"""  # noqa: S608 - only constants of db.py
_COUNT = "select count(*) from incident_links where a = $1 or b = $1"
_IDS = f"""
select i.id from incidents i
 where {VISIBLE} and (i.id = any ($3::uuid[]) or i.number = any ($4::bigint[]))"""  # noqa: S608 - only constants of db.py
_INSERT = """
insert into incident_links (a, b, type, note, created_by, created_at) values ($1, $2, $3, $4, $5, clock_timestamp())
on conflict (a, b, type) do nothing returning a"""
_DELETE = "delete from incident_links where a = $1 and b = $2 and type = $3 returning a"


class PostgresLinks:
    """Reads links through the database or a unit's transaction; writes inside a unit."""

    def __init__(self, database: Database) -> None:
        self._fetch: Fetch = partial(database.fetch, repeatable=True)

    async def of(
        self, principal: Principal, incident_id: UUID, *, fetch: Fetch | None = None
    ) -> Sequence[IncidentLink]:
        """Read all of an incident whose other end the caller may see, oldest first."""
        rows = await (fetch or self._fetch)(_OF, *sees(principal), incident_id, operation="links_of")
        return [_link(row) for row in rows]

    async def count(self, unit: Unit, incident_id: UUID) -> int:
        """Count all links of an incident, visible to the caller or not."""
        rows = await unit.fetch(_COUNT, incident_id, operation="links_count")
        count: int = rows[0][0]
        return count

    async def ids(self, unit: Unit, refs: Sequence[UUID | int]) -> Sequence[UUID]:
        """Return the incidents that the caller may see among these, by id."""
        ids = [ref for ref in refs if isinstance(ref, UUID)]
        numbers = [ref for ref in refs if isinstance(ref, int)]
        rows = await unit.fetch(_IDS, *sees(unit.principal), ids, numbers, operation="link_ends")
        return [row["id"] for row in rows]

    async def insert(self, unit: Unit, a: UUID, b: UUID, *, new: NewLink) -> bool:
        """Write a new one; return False if it existed."""
        args = (a, b, new.type, new.note, unit.principal.actor)
        return await unit.fetchrow(_INSERT, *args, operation="link_insert") is not None

    async def delete(self, unit: Unit, a: UUID, b: UUID, *, of: LinkType) -> bool:
        """Remove one; return whether it existed."""
        return await unit.fetchrow(_DELETE, a, b, of, operation="link_delete") is not None


def _link(row: asyncpg.Record) -> IncidentLink:
    direction = Direction.OUT if row["leads_away"] else Direction.IN
    return IncidentLink(
        type=row["type"],
        direction=Direction.BOTH if row["type"] == LinkType.RELATED else direction,
        incident=Far.model_validate({name: row[name] for name in Far.model_fields}),
        note=row["note"],
        created_by=row["created_by"],
        created_at=row["created_at"],
    )
