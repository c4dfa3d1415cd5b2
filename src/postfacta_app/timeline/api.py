"""The API of timelines: their slices, edits and annotations."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID, uuid4

from starlette.requests import Request
from starlette.responses import Response

from postfacta_web.conditional import is_not_modified

from ..aside import aside
from ..db import VISIBLE, Query, Reader, Unit, insert, sees
from ..errors import ForbiddenError, NotFoundError, invalid
from ..incidents.access import Ref, Share, lock_active, read_incident
from ..incidents.model import Incident, check_time
from ..principal import Access, Principal
from ..web.body import Paged, next_link, parse, read_body, read_json
from ..web.routes import Call, RouteClass
from ..web.slices import Fill, Matches, Now, Routes, as_json, part
from . import model
from .kept import KeptTimelines, TimelinePage, TimelineQuery, digest_in
from .model import (
    AnnotationChange,
    AnnotationKind,
    AnyEdit,
    Entry,
    NewAnnotation,
    ShownAnnotation,
    ShownEdit,
)

READ = Access.READ
WRITE = Access.WRITE
ANNOTATE = Access.ANNOTATE
_OF_INCIDENT: Final = "/api/v1/incidents/{ref}"
_OF_ROOT: Final = "/api/v1/annotations/{root}"
_ENTRY: Final = 500  # Bytes of an entry's JSON, about.
routes: Final = Routes("annotation")

Timelines = Annotated[KeptTimelines, part(KeptTimelines)]  # the timelines that the database keeps


@routes.api(
    f"GET {_OF_INCIDENT}/timeline",
    READ,
    "Read the timeline of an incident",
    kind=RouteClass.READ,
    conditional=True,
    stale=True,
)
async def timeline(
    q: Reader,
    ref: Ref,
    query: TimelineQuery,
    *,
    timelines: Timelines,
    request: Request,
    share: Share,
) -> Annotated[Response, TimelinePage]:
    read = await timelines.slice(q, ref, query)
    share(read.incident.visibility)
    headers = {"ETag": read.etag}
    if is_not_modified(request, read.etag):
        return Response(status_code=304, headers=headers)
    headers |= next_link(request, read.page.next_cursor)
    return await aside(_ENTRY * len(read.page.items), as_json, 200, read.page, headers)


# Edits

# The value of an attachment records visibility, for the signals slice only.
_EDIT: Final = """
json_build_object(
  'id', e.id,
  'at', e.at,
  'op', e.op,
  'signal_id', e.signal_id,
  'reason', e.reason,
  'actor', e.actor,
  'entry', case
    when e.external_id is not null
    then json_build_object('source', e.source, 'id', e.external_id)
  end,
  'source', case when e.external_id is null then e.source end,
  'value', case when e.signal_id is null then e.value end)::text"""
_EDITS: Final = f"""
select {_EDIT}
  from edits e
 where e.incident_id = $1
   and ($2::timestamptz is null or (e.at, e.id) > ($2, $3::uuid))
 order by e.at, e.id
 limit $4"""  # noqa: S608 - only constants of this module
# The last edit of each kind and entry, or clock.
_DECIDED: Final = f"""
select distinct on (s.sort, e.source, e.external_id) {_EDIT}
  from edits e
 cross join lateral (
   select case e.op when 'unhide' then 'hide' else e.op end as sort) s
 where e.incident_id = $1
   and (e.op = 'clock_offset' and e.source = any ($2::text[])
     or e.op in ('set_time', 'set_title', 'hide', 'unhide')
       and (e.source, e.external_id) in (select * from unnest($2::text[], $3::text[])))
 order by s.sort, e.source, e.external_id, e.at desc, e.id desc"""  # noqa: S608 - only constants
_ADD_EDIT: Final = f"""
insert into edits as e (id, incident_id, at, op, source, external_id, value, reason, actor)
values ($1, $2, $3, $4, $5, $6, $7::text::jsonb, $8, $9)
returning {_EDIT}"""  # noqa: S608 - only constants of this module


async def _sent_edit(call: Call, _: str) -> model.NewEdit:
    first = await read_body(call.request, model.OpOnly)
    return parse(model.MODELS[first.op], await read_json(call.request))


SentEdit = Annotated[model.NewEdit, Fill(_sent_edit)]


@routes.api(f"GET {_OF_INCIDENT}/edits", READ, "List the edits of a timeline", kind=RouteClass.READ)
async def edit_page(q: Reader, ref: Ref, query: Paged) -> model.EditPage:
    incident_id = (await read_incident(q, ref)).id
    args = (*(query.after(str(incident_id)) or (None, None)), query.limit + 1)
    rows = await q.fetch(_EDITS, incident_id, *args, operation="edit_list")
    edits = [ShownEdit.model_validate_json(row[0]) for row in rows]
    return query.page(model.EditPage, edits, str(incident_id), key=_place)


@routes.api(
    f"POST {_OF_INCIDENT}/edits",
    WRITE,
    "Edit a timeline; originals are kept",
    once=True,
    reads=AnyEdit,
)
async def add_edit(unit: Unit, ref: Ref, new: SentEdit, *, now: Now) -> model.AddedEdit:
    entry = getattr(new, "entry", None)
    value = getattr(new, "value", None)
    at = getattr(value, "at", None)
    if at is not None:
        check_time("/value/at", at, now)
    incident = await lock_active(unit, ref)
    source = entry.source if entry else getattr(new, "source", None)
    external_id = entry.id if entry else None
    rows = await unit.fetch(
        _ADD_EDIT,
        *(uuid4(), incident.id, await unit.stamp(incident.id), new.op, source, external_id),
        *(None if value is None else value.model_dump_json(), new.reason, unit.principal.actor),
        operation="edit_insert",
    )
    edit = ShownEdit.model_validate_json(rows[0][0])
    detail = {"edit": edit.id, "op": edit.op}
    await unit.audit("timeline.edit", incident.ref, incident_id=incident.id, detail=detail)
    return model.AddedEdit(edit=edit, digest=await digest_in(unit, incident.id))


async def decided(q: Query, incident_id: UUID, entries: Sequence[Entry]) -> Sequence[ShownEdit]:
    """Read the last edit of each kind of these entries, and of their clocks."""
    rows = await q.fetch(_DECIDED, incident_id, *_keys(entries), operation="edit_decided")
    return [ShownEdit.model_validate_json(row[0]) for row in rows]


def _place(fact: ShownEdit | ShownAnnotation) -> tuple[datetime, UUID]:
    """Return the place of an edit or annotation in a list, oldest first."""
    return fact.at, fact.id


def _keys(entries: Sequence[Entry]) -> tuple[list[str], list[str]]:
    return [entry.source for entry in entries], [entry.id for entry in entries]


# Annotations

# The last version of an annotation with the author and time of the first; `version` counts them.
_REMARKS: Final = """
select json_build_object(
         'id', first.id,
         'kind', a.kind,
         'state', a.state,
         'body', a.body,
         'author', first.author,
         'at', first.at,
         'entry', case
           when a.entry_id is not null
           then json_build_object('source', a.entry_source, 'id', a.entry_id)
         end,
         'occurred_at', a.occurred_at,
         'precision', case
           when a.occurred_at is not null
           then coalesce(first.precision, 'exact')
         end,
         'changed_at', case when a.id <> first.id then a.at end,
         'version', (
           select count(*)
             from annotations v
            where v.root = first.id
              and v.incident_id = first.incident_id))::text,
       first.incident_id
  from annotations first
  join annotations a on a.root = first.id and a.incident_id = first.incident_id
 where not a.retracted
   and not exists (select from annotations later where later.supersedes = a.id)"""
_ANNOTATIONS: Final = f"""{_REMARKS}
   and first.root = first.id
   and first.incident_id = $1
   and ($2::timestamptz is null or (first.at, first.id) > ($2, $3::uuid))
 order by first.at, first.id
 limit $4"""
# Annotations that are entries come first, since the list may be truncated.
_REMARKS_ON: Final = f"""{_REMARKS}
   and first.root = first.id
   and first.incident_id = $1
   and (first.id = any ($2::uuid[])
     or (a.entry_source, a.entry_id) in (select * from unnest($3::text[], $4::text[]))
     or a.entry_source is null and a.occurred_at is null)
 order by first.id = any ($2::uuid[]) desc, first.at, first.id
 limit $5"""  # noqa: S608 - only constants of this module
_ANNOTATION: Final = f"""{_REMARKS}
   and first.id = $3
   and first.root = $3
   and exists (select from incidents i where i.id = first.incident_id and {VISIBLE})"""
_RETRACTED: Final = f"""{_REMARKS.replace("where not a.retracted", "where a.retracted")}
   and first.root = first.id
   and first.incident_id = $1
   and first.id = $2"""
# The versions of notes that have several, the newest first.
_VERSIONS: Final = """
select v.root,
       v.at,
       v.author,
       v.kind,
       v.retracted,
       v.reason,
       left(v.body, $2) as body,
       first.author as first_author
  from annotations v
  join annotations first on first.id = v.root
 where v.incident_id = $1
   and exists (
     select
       from annotations x
      where x.incident_id = $1
        and x.root = v.root
        and x.supersedes is not null)
 order by v.at desc, v.id desc
 limit $3"""
_SUPERSEDE: Final = """
insert into annotations (
  id, root, supersedes, incident_id, kind, entry_source, entry_id, occurred_at, at, author,
  state, body, retracted, reason)
select $1, a.root, a.id, a.incident_id, a.kind, a.entry_source, a.entry_id, a.occurred_at, $3, $4,
       $5, $6, $7, $8
  from annotations a
 where a.root = $2
   and not exists (select from annotations l where l.supersedes = a.id)"""


@routes.api(
    f"GET {_OF_INCIDENT}/annotations",
    READ,
    "List notes, decisions, hypotheses and questions",
    kind=RouteClass.READ,
)
async def annotation_page(q: Reader, ref: Ref, query: Paged) -> model.AnnotationPage:
    incident_id = (await read_incident(q, ref)).id
    rows = await remarks(q, incident_id, query)
    return query.page(model.AnnotationPage, rows, str(incident_id), key=_place)


@routes.api(
    f"POST {_OF_INCIDENT}/annotations",
    ANNOTATE,
    "Add a note, decision, hypothesis or question",
    once=True,
)
async def add_annotation(unit: Unit, ref: Ref, new: NewAnnotation, *, now: Now) -> ShownAnnotation:
    if new.occurred_at is not None:
        check_time("/occurred_at", new.occurred_at, now)
        if new.entry is not None:
            raise invalid(
                "/occurred_at", "forbidden", "an annotation on an entry has no time of its own"
            )
    elif new.precision is not None:
        raise invalid("/precision", "forbidden", "only the time of an annotation has a precision")
    if new.state is None and new.kind in model.STATES:
        new = new.model_copy(update={"state": model.AnnotationState.OPEN})
    _check_state(new.kind, new.state)
    incident = await lock_active(unit, ref)
    _check_decision(unit.principal, new.kind)
    root = uuid4()
    at = await unit.stamp(incident.id)
    entry = new.entry
    columns = {
        "id": root,
        "root": root,
        "incident_id": incident.id,
        "at": at,
        "author": unit.principal.actor,
        "entry_source": entry and entry.source,
        "entry_id": entry and entry.id,
    }
    await insert(unit, "annotations", **columns, **new.model_dump(exclude={"entry"}))
    await unit.audit(
        "annotation.add", incident.ref, incident_id=incident.id, detail={"annotation": root}
    )
    return await annotation(unit, root)


@routes.api(f"GET {_OF_ROOT}", READ, "Read an annotation", kind=RouteClass.READ)
async def annotation(q: Query, root: UUID) -> ShownAnnotation:
    return (await find(q, root))[1]


@routes.api(f"PUT {_OF_ROOT}", ANNOTATE, "Change the text or state of an annotation")
async def change(
    unit: Unit, root: UUID, wish: AnnotationChange, *, matches: Matches
) -> ShownAnnotation:
    incident, old = await _locked(unit, root, matches)
    new = old.model_copy(update={name: getattr(wish, name) for name in wish.model_fields_set})
    _check_state(new.kind, new.state)
    if new == old:
        return old
    await _replace(unit, incident, new)
    return await annotation(unit, root)


@routes.api(f"DELETE {_OF_ROOT}", ANNOTATE, "Retract an annotation")
async def retract(unit: Unit, root: UUID, *, matches: Matches) -> None:
    await withdraw(unit, root, None, matches=matches)


async def withdraw(unit: Unit, root: UUID, reason: str | None, *, matches: Matches) -> None:
    """Retract an annotation; all its versions stay on record."""
    incident, old = await _locked(unit, root, matches)
    await _replace(unit, incident, old, deed="retract", reason=reason)


async def restore(unit: Unit, incident: Incident, root: UUID) -> None:
    """Undo a retraction: the last text is there again."""
    rows = await unit.fetch(_RETRACTED, incident.id, root, operation="annotation_retracted")
    if not rows:
        raise NotFoundError("No such retracted annotation")
    last = ShownAnnotation.model_validate_json(rows[0][0])
    _check_author(unit.principal, last)
    await _replace(unit, incident, last, deed="restore")


async def find(q: Query, root: UUID) -> tuple[UUID, ShownAnnotation]:
    """Read an annotation and the id of its incident.

    The error is the same for what does not exist and for what is not visible.
    """
    for row in await q.fetch(_ANNOTATION, *sees(q.principal), root, operation="annotation_get"):
        return row["incident_id"], ShownAnnotation.model_validate_json(row[0])
    raise NotFoundError("No such annotation")


async def remarks(
    q: Query, incident_id: UUID, query: Paged | None = None
) -> Sequence[ShownAnnotation]:
    """List annotations, oldest first: one more than a page holds, or all."""
    last = query.after(str(incident_id)) if query else None
    args = (incident_id, *(last or (None, None)), query.limit + 1 if query else None)
    rows = await q.fetch(_ANNOTATIONS, *args, operation="annotation_list")
    return [ShownAnnotation.model_validate_json(row[0]) for row in rows]


async def versions(
    q: Query, incident_id: UUID, *, letters: int, limit: int
) -> Mapping[UUID, Sequence[Mapping[str, Any]]]:
    """Read the versions of each note that was changed or retracted, the newest first."""
    rows = await q.fetch(_VERSIONS, incident_id, letters, limit, operation="annotation_versions")
    of_note: dict[UUID, list[Mapping[str, Any]]] = {}
    for row in rows:
        of_note.setdefault(row["root"], []).append(dict(row.items()))
    return of_note


async def remarks_on(
    q: Query, incident_id: UUID, entries: Sequence[Entry], *, also: UUID | None, limit: int
) -> Sequence[ShownAnnotation]:
    """List annotations on entries or on the incident as a whole, and one more, oldest first."""
    notes = [entry for entry in entries if entry.source == "human"]
    roots = [also, *(UUID(note.id.partition(":")[2]) for note in notes)]
    rows = await q.fetch(
        _REMARKS_ON, incident_id, roots, *_keys(entries), limit, operation="annotation_said"
    )
    annotations = [ShownAnnotation.model_validate_json(row[0]) for row in rows]
    return sorted(annotations, key=_place)


async def _locked(unit: Unit, root: UUID, matches: Matches) -> tuple[Incident, ShownAnnotation]:
    incident = await lock_active(unit, (await find(unit, root))[0])
    current = await annotation(unit, root)
    _check_author(unit.principal, current)
    matches(current.etag)
    return incident, current


async def _replace(
    unit: Unit,
    incident: Incident,
    new: ShownAnnotation,
    *,
    deed: str = "change",
    reason: str | None = None,
) -> None:
    at = await unit.stamp(incident.id)
    actor = unit.principal.actor
    args = (uuid4(), new.id, at, actor, new.state, new.body, deed == "retract", reason)
    await unit.execute(_SUPERSEDE, *args, operation="annotation_supersede")
    detail = {"annotation": new.id}
    await unit.audit(f"annotation.{deed}", incident.ref, incident_id=incident.id, detail=detail)


def _check_author(principal: Principal, current: ShownAnnotation) -> None:
    if not (current.author == principal.actor or principal.is_admin):
        raise ForbiddenError("Only its author or an administrator may change an annotation")
    _check_decision(principal, current.kind)


def _check_decision(principal: Principal, kind: AnnotationKind) -> None:
    if kind is AnnotationKind.DECISION and not principal.may(WRITE):
        raise ForbiddenError("Only responders may record decisions")


def _check_state(kind: AnnotationKind, state: model.AnnotationState | None) -> None:
    if kind not in model.STATES:
        if state is not None:
            raise invalid("/state", "forbidden", "only a hypothesis or a question may have a state")
    elif state not in model.STATES[kind]:
        raise invalid("/state", "state", f"of a {kind} is one of: {', '.join(model.STATES[kind])}")


# What pages show besides

_CONTENTS: Final = """
select s.id,
       left(s.body, $2) as body,
       case
         when s.payload <> '{}'::jsonb
         then left(jsonb_pretty(s.payload), $2)
       end as payload
  from signals s
 where s.id = any ($1::uuid[])"""
_NAMES: Final = """
select id, display_name as name
  from users
 where id = any ($1::uuid[])
union all
select id, name
  from tokens
 where id = any ($1::uuid[])
   and name is not null"""


async def contents(
    q: Query, signals: Sequence[UUID], letters: int
) -> Mapping[UUID, Mapping[str, Any]]:
    rows = await q.fetch(_CONTENTS, signals, letters, operation="signal_contents")
    return {row["id"]: dict(row.items()) for row in rows}


async def names(q: Query, actors: Collection[str]) -> Mapping[str, str]:
    """Return the display names of actors; those without one are omitted."""
    ids = {UUID(actor.partition(":")[2]): actor for actor in actors if ":" in actor}
    rows = await q.fetch(_NAMES, list(ids), operation="actor_names")
    return {ids[row["id"]]: row["name"] for row in rows}
