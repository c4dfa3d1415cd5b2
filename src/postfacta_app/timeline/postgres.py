"""All SQL of timelines, edits and annotations."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar
from uuid import UUID, uuid4

import asyncpg

from postfacta_postgres import Database

from ..aside import aside, aside_locked
from ..db import VISIBLE, Query, Unit, insert, sees
from ..errors import NotFoundError
from ..web.paging import Paged
from .annotations import NewAnnotation, ShownAnnotation
from .edits import EntryRef, NewEdit, ShownEdit
from .model import Annotation, Content, Edit, Entry, Facts, Op, Precision, Signal, StatusChange
from .verify import Revision

F = TypeVar("F", Signal, StatusChange, Annotation, Edit)


def _us(column: str) -> str:
    """Return SQL for a time as whole microseconds since 1970; `extract` is exact here."""
    return f"(extract(epoch from {column}) * 1000000)::bigint"


def _rows(columns: str, of: str) -> str:
    """Return SQL that selects rows as JSON texts of a few hundred rows, which is fast on both sides.

    Parsing a text blocks the event loop, so no text is long.
    """
    return f"""
  array(select json_agg(f.fact)::text from (
    select json_build_array({columns}) as fact, row_number() over () / 250 as part from {of}) f group by f.part)"""  # noqa: S608 - only constants of this module


def _facts_of() -> str:
    """Return SQL that selects the facts of the incident `i` in one statement, so from one snapshot."""
    of_signals = f"""s.id, s.source, s.external_id, s.kind, {_us("s.occurred_at")}, s.precision, s.title,
      encode(s.content_sha256, 'hex'), s.sequence, {_us("s.known_at")}, {_us("s.received_at")}, s.time_basis,
      s.services, s.environment, s.links, (select count(*) from signal_conflicts c where c.signal_id = s.id)"""  # noqa: S608 - only constants of this module
    of_changes = (
        f"c.id, {_us('c.at')}, c.from_status, c.to_status, c.outcome, c.reason, {_us('c.occurred_at')}"
    )
    of_notes = f"a.id, a.root, {_us('a.at')}, a.kind, a.state, a.body, {_us('a.occurred_at')}, a.retracted,"
    of_notes += " (select r.precision from annotations r where r.id = a.root)"
    of_edits = f"e.id, {_us('e.at')}, e.op, e.signal_id, e.source, e.external_id, e.value"
    attached = "(select e.signal_id from edits e where e.incident_id = i.id and e.op = 'attach')"
    return f"""
{_rows(of_signals, f"signals s where s.id in {attached}")} as signals,
{_rows(of_changes, "status_changes c where c.incident_id = i.id")} as changes,
{_rows(of_notes, "annotations a where a.incident_id = i.id and a.occurred_at is not null")} as annotations,
{_rows(of_edits, "edits e where e.incident_id = i.id")} as edits"""


_FACT_COLUMNS = ("signals", "changes", "annotations", "edits")
_FACTS = _facts_of()
_IN_UNIT = f"select {_FACTS} from incidents i where i.id = $1"  # noqa: S608 - only constants of this module
_REVISED = f"""
select i.id, i.number, {_FACTS},
  (select json_agg(json_build_array(r.rev, r.timeline_digest, {_us("r.timeline_at")}, r.rules) order by r.rev)
    from postmortem_revisions r where r.incident_id = i.id) as revisions
  from incidents i where exists (select from postmortem_revisions r where r.incident_id = i.id)
   and ($1::uuid is null or i.id > $1) order by i.id limit $2"""  # noqa: S608 - only constants of this module
_BATCH = 100  # Incidents per batch.
# The value of an attachment records visibility, for the signals slice only.
_EDIT = """e.id, e.at, e.op, e.signal_id, e.source, e.external_id,
  case when e.signal_id is null then e.value::text end as value, e.reason, e.actor"""
_EDITS = f"""
select {_EDIT} from edits e where e.incident_id = $1 and ($2::timestamptz is null or (e.at, e.id) > ($2, $3::uuid))
 order by e.at, e.id limit $4"""  # noqa: S608 - only constants of this module
# The last edit of each kind and entry, or clock.
_DECIDED = f"""
select distinct on (s.sort, e.source, e.external_id) {_EDIT}
  from edits e cross join lateral (select case e.op when 'unhide' then 'hide' else e.op end as sort) s
 where e.incident_id = $1 and (e.op = 'clock_offset' and e.source = any ($2::text[])
    or e.op in ('set_time', 'set_title', 'hide', 'unhide')
       and (e.source, e.external_id) in (select * from unnest($2::text[], $3::text[])))
 order by s.sort, e.source, e.external_id, e.at desc, e.id desc"""  # noqa: S608 - only constants of this module
_ADD_EDIT = f"""
insert into edits as e (id, incident_id, at, op, source, external_id, value, reason, actor)
values ($1, $2, $3, $4, $5, $6, $7::text::jsonb, $8, $9) returning {_EDIT}"""  # noqa: S608 - only constants of this module
# The last version of an annotation with the author and time of the first; `version` counts them.
_REMARKS = """
select first.id, first.incident_id, a.kind, a.state, a.body, a.entry_source, a.entry_id, a.occurred_at, first.author, first.at,
  case when a.occurred_at is not null then coalesce(first.precision, 'exact') end as precision,
  a.at as changed_at,
  (select count(*) from annotations v where v.root = first.id and v.incident_id = first.incident_id) as version
  from annotations first join annotations a on a.root = first.id and a.incident_id = first.incident_id
 where not a.retracted and not exists (select from annotations later where later.supersedes = a.id)"""
_ANNOTATIONS = f"""{_REMARKS} and first.root = first.id and first.incident_id = $1
   and ($2::timestamptz is null or (first.at, first.id) > ($2, $3::uuid))
 order by first.at, first.id limit $4"""
# Annotations that are entries come first, since the list may be truncated.
_SAID = f"""{_REMARKS} and first.root = first.id and first.incident_id = $1
   and (first.id = any ($2::uuid[]) or (a.entry_source, a.entry_id) in (select * from unnest($3::text[], $4::text[]))
        or a.entry_source is null and a.occurred_at is null)
 order by first.id = any ($2::uuid[]) desc, first.at, first.id limit $5"""  # noqa: S608 - only constants of this module
_ANNOTATION = f"""{_REMARKS} and first.id = $3 and first.root = $3
   and exists (select from incidents i where i.id = first.incident_id and {VISIBLE})"""
_SUPERSEDE = """
insert into annotations (id, root, supersedes, incident_id, kind, entry_source, entry_id, occurred_at, at, author,
  state, body, retracted)
select $1, a.root, a.id, a.incident_id, a.kind, a.entry_source, a.entry_id, a.occurred_at, $3, $4, $5, $6, $7
  from annotations a where a.root = $2 and not exists (select from annotations l where l.supersedes = a.id)"""

_CONTENTS = """
select s.id, left(s.body, $2) as body,
  case when s.payload <> '{}'::jsonb then left(jsonb_pretty(s.payload), $2) end as payload
  from signals s where s.id = any ($1::uuid[])"""
_NAMES = """
select id, display_name as name from users where id = any ($1::uuid[])
 union all select id, name from tokens where id = any ($1::uuid[]) and name is not null"""


async def facts_in(unit: Unit, incident_id: UUID) -> Facts:
    row = await unit.fetchrow(_IN_UNIT, incident_id, operation="timeline_facts")
    if row is None:
        raise LookupError(incident_id)
    return await aside_locked(_size(row), _facts, row)


async def revised(database: Database) -> AsyncIterator[tuple[Facts, Sequence[Revision]]]:
    """Read every incident that has a post-mortem, with its facts and revisions from one snapshot."""
    last: UUID | None = None
    while True:
        rows = await database.fetch(_REVISED, last, _BATCH, operation="revised_facts", repeatable=True)
        for row in rows:
            facts = await aside(_size(row), _facts, row)
            yield facts, [Revision(f"INC-{row['number']}", *it) for it in json.loads(row["revisions"])]
        if len(rows) < _BATCH:
            return
        last = rows[-1]["id"]


async def edit_page(q: Query, incident_id: UUID, query: Paged) -> Sequence[ShownEdit]:
    args = (incident_id, *(query.after(str(incident_id)) or (None, None)), query.limit + 1)
    rows = await q.fetch(_EDITS, *args, operation="edit_list")
    return [_edit(row) for row in rows]


async def add_edit(unit: Unit, incident_id: UUID, new: NewEdit) -> ShownEdit:
    entry = getattr(new, "entry", None)
    source, external_id = (entry.source, entry.id) if entry else (getattr(new, "source", None), None)
    value = getattr(new, "value", None)
    row = await unit.fetchrow(
        _ADD_EDIT,
        *(uuid4(), incident_id, await unit.stamp(incident_id), new.op, source, external_id),
        *(None if value is None else value.model_dump_json(), new.reason, unit.principal.actor),
        operation="edit_insert",
    )
    assert row is not None  # noqa: S101 - an insert returns its row or raises
    return _edit(row)


async def remarks(q: Query, incident_id: UUID, query: Paged | None = None) -> Sequence[ShownAnnotation]:
    """List them, oldest first: one more than a page holds, or all."""
    last = query.after(str(incident_id)) if query else None
    args = (incident_id, *(last or (None, None)), query.limit + 1 if query else None)
    return [_annotation(row) for row in await q.fetch(_ANNOTATIONS, *args, operation="annotation_list")]


async def decided(q: Query, incident_id: UUID, entries: Sequence[Entry]) -> Sequence[ShownEdit]:
    rows = await q.fetch(_DECIDED, incident_id, *_keys(entries), operation="edit_decided")
    return [_edit(row) for row in rows]


async def said(
    q: Query, incident_id: UUID, entries: Sequence[Entry], *, limit: int
) -> Sequence[ShownAnnotation]:
    """List annotations on entries or on the incident as a whole, oldest first."""
    roots = [UUID(it.id.partition(":")[2]) for it in entries if it.source == "human"]
    rows = await q.fetch(_SAID, incident_id, roots, *_keys(entries), limit, operation="annotation_said")
    return sorted([_annotation(row) for row in rows], key=lambda it: (it.at, it.id))


async def contents(q: Query, signals: Sequence[UUID], letters: int) -> Mapping[UUID, Content]:
    rows = await q.fetch(_CONTENTS, signals, letters, operation="signal_contents")
    return {row["id"]: Content(row["body"], row["payload"]) for row in rows}


async def names(q: Query, actors: Collection[str]) -> Mapping[str, str]:
    """Return the display names of actors; those without one are omitted."""
    ids = {UUID(actor.partition(":")[2]): actor for actor in actors if ":" in actor}
    rows = await q.fetch(_NAMES, list(ids), operation="actor_names")
    return {ids[row["id"]]: row["name"] for row in rows}


async def annotation(q: Query, root: UUID) -> tuple[UUID, ShownAnnotation]:
    """Read one and the id of its incident; the error is the same for what does not exist and for what is not visible."""
    for row in await q.fetch(_ANNOTATION, *sees(q.principal), root, operation="annotation_get"):
        return row["incident_id"], _annotation(row)
    raise NotFoundError("No such annotation")


async def add_annotation(unit: Unit, incident_id: UUID, new: NewAnnotation) -> UUID:
    root, at, entry = uuid4(), await unit.stamp(incident_id), new.entry
    about = {
        "entry_source": entry and entry.source,
        "entry_id": entry and entry.id,
        "incident_id": incident_id,
    }
    said = {name: value for name, value in new if name != "entry"}
    await insert(unit, "annotations", id=root, root=root, at=at, author=unit.principal.actor, **about, **said)
    return root


async def supersede(unit: Unit, incident_id: UUID, new: ShownAnnotation, *, retracted: bool) -> None:
    at = await unit.stamp(incident_id)
    await unit.execute(
        _SUPERSEDE,
        *(uuid4(), new.id, at, unit.principal.actor, new.state, new.body, retracted),
        operation="annotation_supersede",
    )


def _keys(entries: Sequence[Entry]) -> tuple[list[str], list[str]]:
    return [it.source for it in entries], [it.id for it in entries]


def _entry_ref(source: str | None, identity: str | None) -> EntryRef | None:
    return None if source is None or identity is None else EntryRef(source=source, id=identity)


def _edit(row: asyncpg.Record) -> ShownEdit:
    source = row["source"] if row["external_id"] is None else None
    value = None if row["value"] is None else json.loads(row["value"])
    entry = _entry_ref(row["source"], row["external_id"])
    return ShownEdit.model_validate({**row, "entry": entry, "source": source, "value": value})


def _annotation(row: asyncpg.Record) -> ShownAnnotation:
    entry = _entry_ref(row["entry_source"], row["entry_id"])
    changed_at = row["changed_at"] if row["version"] > 1 else None
    return ShownAnnotation.model_validate({**row, "entry": entry, "changed_at": changed_at})


def _size(row: asyncpg.Record) -> int:
    return sum(len(text) for name in _FACT_COLUMNS for text in row[name])


def _facts(row: asyncpg.Record) -> Facts:
    signals, changes, annotations, edits = (
        [fact for text in row[name] for fact in json.loads(text)] for name in _FACT_COLUMNS
    )
    return Facts(
        _made(Signal, signals, signal_id=UUID, precision=Precision, services=tuple, links=tuple),
        _made(StatusChange, changes, id=UUID),
        _made(Annotation, annotations, id=UUID, root=UUID, precision=lambda text: Precision(text or "exact")),
        _made(Edit, edits, id=UUID, op=Op, signal_id=lambda text: UUID(text) if text else None),
    )


def _made(of: type[F], rows: Sequence[Sequence[Any]], **read: Callable[[Any], Any]) -> list[F]:
    names = [(it.name, read.get(it.name, _as_it_is)) for it in fields(of)]
    return [of(**{name: make(it) for (name, make), it in zip(names, row, strict=True)}) for row in rows]


def _as_it_is(value: Any) -> Any:
    return value
