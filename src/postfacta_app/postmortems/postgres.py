"""All SQL of the postmortems slice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import asyncpg

from ..db import VISIBLE, Query, Unit, sees
from ..incidents.access import where_of
from ..incidents.model import IncidentFilters
from ..principal import Access, Principal
from ..signals.model import PRECISIONS
from .content import Content
from .model import ChangedEntry, FactorCount, PostMortem, Revision, RevisionSummary, TimelineChanges

_SUMMARY = ", ".join(f"r.{name}" for name in RevisionSummary.model_fields)
_COLUMNS = ", ".join(f"r.{name}" for name in Revision.model_fields).replace("content", "content::text")
_WRITTEN = [name for name in Revision.model_fields if name != "content"]
# Only writers see drafts and waivers.
_READABLE = f"{VISIBLE} and ($3::boolean or r.status in ('in_review', 'published')) and r.incident_id = $4"
_READ = f"""
select {_COLUMNS} from postmortem_revisions r join incidents i on i.id = r.incident_id
 where {_READABLE} and ($5::int is null or r.rev = $5) order by r.rev desc limit 1"""  # noqa: S608 - only constants of this module and db.py
_PAGE = f"""
select {_SUMMARY} from postmortem_revisions r join incidents i on i.id = r.incident_id
 where {_READABLE} and ($5::bigint is null or r.rev < $5) order by r.rev desc limit $6"""  # noqa: S608 - only constants of this module and db.py
# The database checks the size: `jsonb` formats numbers and spaces in its own way.
_APPEND = f"""
insert into postmortem_revisions as r (content, {", ".join(_WRITTEN)})
select c.content, {", ".join(f"${n}" for n, _ in enumerate(_WRITTEN, 2))}
  from (select $1::text::jsonb as content) c where octet_length(c.content::text) <= 524288
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

# Only what was written since can differ, and what stands on a clock that was moved since.
_CHANGES = """
with was as materialized (select * from timeline_seen($1, $2) e where not e.hidden),
is_now as materialized (
  select e.* from timeline_entries e where e.incident_id = $1 and e.present and not e.hidden
     and (e.since > $2 or e.shift is not null and e.source = any ((select array(select m.source from timeline_moved($1, $2) m))::text[]))),
differing as (
  select n.source is null as is_gone, w.source is null as is_new, (w.t, w.p) is distinct from (n.t, n.p) as is_moved,
    (w.title, w.sha) is distinct from (n.title, n.sha) as is_retitled, (w.pinned is distinct from n.pinned) as is_pinned,
    coalesce(n.source, w.source) as source, coalesce(n.id, w.id) as id, coalesce(n.kind, w.kind) as kind, coalesce(n.t, w.t) as t,
    coalesce(n.p, w.p) as p, coalesce(n.title, w.title) as title, coalesce(n.k, w.k) as k,
    coalesce(n.unnumbered, w.unnumbered) as unnumbered, coalesce(n.sequence, w.sequence) as sequence
    from was w full join is_now n on n.source = w.source collate "C" and n.id = w.id collate "C")
select coalesce((select json_agg(json_build_array(is_gone, is_new, is_moved, is_retitled, source, id, kind, t, p, title)
    order by t, p, k, source collate "C", unnumbered, sequence collate "C", id collate "C")
    from differing where is_gone or is_new or is_moved or is_retitled or is_pinned), '[]')::text as entries,
  timeline_milestones($1, $2) <> timeline_milestones($1, 'infinity') as milestones"""


async def compared(q: Query, revision: Revision) -> PostMortem:
    args = (revision.incident_id, revision.timeline_at)
    row = (await q.fetch(_CHANGES, *args, operation="postmortem_changes"))[0]
    found: list[tuple[Any, ...]] = json.loads(row["entries"])
    changes = _changes(found) if found or row["milestones"] else None
    return PostMortem(**dict(revision), timeline_changed=changes is not None, timeline_changes=changes)


def _changes(found: Sequence[tuple[Any, ...]]) -> TimelineChanges:
    lists: dict[str, list[ChangedEntry]] = {name: [] for name in TimelineChanges.model_fields}
    for is_gone, is_new, is_moved, is_retitled, source, identity, kind, t, p, title in found:
        entry = ChangedEntry(source=source, id=identity, kind=kind, t=t, p=PRECISIONS[int(p)], title=title)
        is_there = not (is_gone or is_new)
        which = (is_new, is_gone, is_there and is_moved, is_there and is_retitled)
        for name, applies in zip(lists, which, strict=True):
            if applies:
                lists[name].append(entry)
    return TimelineChanges(**lists)


async def read(q: Query, incident_id: UUID, rev: int | None = None) -> Revision | None:
    rows = await q.fetch(_READ, *_reads(q.principal), incident_id, rev, operation="postmortem_get")
    return _revision(rows[0]) if rows else None


async def page(q: Query, incident_id: UUID, *, before: int | None, limit: int) -> Sequence[RevisionSummary]:
    args = (*_reads(q.principal), incident_id, before, limit)
    rows = await q.fetch(_PAGE, *args, operation="postmortem_revisions")
    return [RevisionSummary.model_validate(dict(row.items())) for row in rows]


async def append(unit: Unit, revision: Revision) -> Revision | None:
    values = (getattr(revision, name) for name in _WRITTEN)
    text = revision.content.model_dump_json()
    row = await unit.fetchrow(_APPEND, text, *values, operation="postmortem_append")
    return None if row is None else _revision(row)


async def factors(q: Query, filters: IncidentFilters) -> Sequence[FactorCount]:
    where = where_of(q.principal, filters)
    rows = await q.fetch(_FACTORS.format(where=where), *where.args, operation="factors")
    return [FactorCount.model_validate(dict(row.items())) for row in rows]


def _reads(principal: Principal) -> tuple[bool, UUID | None, bool]:
    return (*sees(principal), principal.may(Access.WRITE))


def _revision(row: asyncpg.Record) -> Revision:
    return Revision.model_validate({**row, "content": Content.model_validate_json(row["content"])})
