"""All SQL of the postmortems slice."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import asyncpg

from ..db import VISIBLE, Query, Unit, sees
from ..incidents.postgres import where_of
from ..incidents.query import IncidentFilters
from ..principal import Access, Principal
from .content import Content
from .model import FactorCount, Revision, RevisionSummary

__all__ = ["append", "factors", "page", "read"]

_SUMMARY = "r.rev, r.status, r.message, r.restored_from, r.author, r.at"
_COLUMNS = f"""{_SUMMARY}, r.incident_id, r.schema_version, r.content::text, r.timeline_digest, r.timeline_at, r.rules"""
# Only writers see drafts and waivers.
_READABLE = f"{VISIBLE} and ($3::boolean or r.status in ('in_review', 'published')) and r.incident_id = $4"
_READ = f"""
select {_COLUMNS} from postmortem_revisions r join incidents i on i.id = r.incident_id
 where {_READABLE} and ($5::int is null or r.rev = $5) order by r.rev desc limit 1"""  # noqa: S608 - only constants of this module and db.py
_PAGE = f"""
select {_SUMMARY} from postmortem_revisions r join incidents i on i.id = r.incident_id
 where {_READABLE} and ($5::int is null or r.rev < $5) order by r.rev desc limit $6"""  # noqa: S608 - only constants of this module and db.py
# The database checks the size: `jsonb` formats numbers and spaces in its own way.
_APPEND = f"""
insert into postmortem_revisions as r (incident_id, rev, status, schema_version, content, timeline_digest, timeline_at,
  rules, message, restored_from, author, at)
select $1, $2, $3, $4, c.content, $6, $7, $8, $9, $10, $11, $12
  from (select $5::text::jsonb as content) c where octet_length(c.content::text) <= 524288
returning {_COLUMNS}"""  # noqa: S608 - only constants of this module
_FACTORS = """
with published as (
  select distinct on (r.incident_id) i.number, r.content
    from postmortem_revisions r join incidents i on i.id = r.incident_id
   where {where} and r.status = 'published' order by r.incident_id, r.rev desc)
select f->>'slug' as slug, f->>'category' as category, count(*) as count,
       array_agg('INC-' || p.number order by p.number) as incidents
  from published p cross join lateral jsonb_array_elements(p.content->'factors') f
 group by 1, 2 order by count(*) desc, (f->>'slug') collate "C", (f->>'category') collate "C" limit 500"""


async def read(q: Query, incident_id: UUID, rev: int | None = None) -> Revision | None:
    """Read one that the caller may see, by default the last."""
    rows = await q.fetch(_READ, *_reads(q.principal), incident_id, rev, operation="postmortem_get")
    return _revision(rows[0]) if rows else None


async def page(q: Query, incident_id: UUID, *, before: int | None, limit: int) -> Sequence[RevisionSummary]:
    """List those that the caller may see, newest first."""
    args = (*_reads(q.principal), incident_id, before, limit)
    rows = await q.fetch(_PAGE, *args, operation="postmortem_revisions")
    return [RevisionSummary.model_validate(dict(row.items())) for row in rows]


async def append(unit: Unit, revision: Revision) -> Revision | None:
    """Write the next one; None if its content is too large."""
    row = await unit.fetchrow(
        _APPEND,
        *(revision.incident_id, revision.rev, revision.status, revision.schema_version),
        *(revision.content.model_dump_json(), revision.timeline_digest, revision.timeline_at),
        *(revision.rules, revision.message, revision.restored_from, revision.author, revision.at),
        operation="postmortem_append",
    )
    return None if row is None else _revision(row)


async def factors(q: Query, filters: IncidentFilters) -> Sequence[FactorCount]:
    """Count the factors of the last published revision of each incident that the caller may see."""
    where = where_of(q.principal, filters)
    rows = await q.fetch(_FACTORS.format(where=where), *where.args, operation="factors")
    return [FactorCount.model_validate(dict(row.items())) for row in rows]


def _reads(principal: Principal) -> tuple[bool, UUID | None, bool]:
    return (*sees(principal), principal.may(Access.WRITE))


def _revision(row: asyncpg.Record) -> Revision:
    return Revision.model_validate({**row, "content": Content.model_validate_json(row["content"])})
