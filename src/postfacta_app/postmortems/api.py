"""The API that reads and writes revisions of post-mortems.

Writes lock the incident first, so of two concurrent writers the second sees the first one's
revision. Their stamp orders the revision among the facts: the timeline as of it is what its author
could see.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Annotated, Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from postfacta_web.conditional import check_if_match, is_not_modified

from .. import actions, errors
from ..aside import LARGE, aside
from ..db import VISIBLE, Query, Reader, Unit, row, rows
from ..errors import NotFoundError, PreconditionFailedError, invalid
from ..incidents.access import Ref, Share, lock_active, read_incident, where_of
from ..incidents.model import Incident, IncidentFilters
from ..principal import Access
from ..signals.model import PRECISIONS
from ..timeline.kept import digest_in
from ..timeline.rules import RULES
from ..web.body import Paged
from ..web.routes import Call, RouteClass
from ..web.slices import Fill, Reply, Routes, Snapshot, as_json
from .model import (
    SCHEMA_VERSION,
    Content,
    Draft,
    FactorCount,
    FactorList,
    PostMortem,
    Restore,
    Revision,
    RevisionPage,
    RevisionSummary,
    Stage,
    TimelineChanges,
    Transition,
    lacks,
    move,
    next_stage,
    references,
)

READ = Access.READ
WRITE = Access.WRITE
routes: Final = Routes("post-mortem")
_POSTMORTEM: Final = "/api/v1/incidents/{ref}/postmortem"
NEWER: Final = (
    "Not saved: someone else wrote a new revision in the meantime. Compare with the current"
    " version, then save again."
)
_STARTS_FROM: Final = {"If-Match": False, "If-None-Match": False}
_OUTDATED: Final = ("precondition-failed", "precondition-required", "conflict")


_UNKNOWN: Final = """
select n.source, n.id
  from unnest($2::text[], $3::text[]) n (source, id)
 where not exists (
   select from timeline_entries t
    where t.incident_id = $1
      and t.present
      and t.source = n.source collate "C"
      and t.id = n.id collate "C")"""


def number(text: str) -> int:
    """Parse the number of a revision; 0 is before the first, or not a number."""
    return int(text) if re.fullmatch("[1-9][0-9]{0,8}", text) else 0


def _follows(call: Call, _: str) -> Callable[[str | None], None]:
    rev = number(call.fields.get("rev", ""))

    def check_form(etag: str | None) -> None:
        if etag != (f'"pm-{rev}"' if rev else None):
            raise PreconditionFailedError(NEWER)

    return check_form if call.fields else partial(_check_headers, call.request)


def _check_headers(request: Request, etag: str | None) -> None:
    """Check the revision a write starts from.

    `If-Match` names it, `If-None-Match: *` means none.
    """
    if_match = ", ".join(request.headers.getlist("if-match"))
    if_none_match = ", ".join(request.headers.getlist("if-none-match"))
    if if_match.strip() == "*" or (not if_match and if_none_match.strip() != "*"):
        detail = (
            "Send If-Match with the ETag of the revision you change; for the first revision, send"
            " If-None-Match: *"
        )
        raise errors.PreconditionRequiredError(detail)
    if if_match and etag is not None:
        check_if_match(request, etag)
    elif if_match:
        raise PreconditionFailedError("There is no post-mortem yet: send If-None-Match: *")
    elif etag is not None:
        detail = "There already is a post-mortem: read it, and send If-Match with its ETag"
        raise PreconditionFailedError(detail, headers={"ETag": etag})


Follows = Annotated[Callable[[str | None], None], Fill(_follows)]
"""Raises if the caller did not start from the revision with this ETag.

None is before the first one.
"""
Rev = Annotated[int, Fill(lambda call, name: number(call.request.path_params[name]))]
"""A revision in the path; 0, which never exists, if it is not a number."""


_SUMMARY: Final = ", ".join(f"r.{name}" for name in RevisionSummary.model_fields)
_WRITTEN: Final = [name for name in Revision.model_fields if name != "content"]
_COLUMNS: Final = "r.content::text, " + ", ".join(f"r.{name}" for name in _WRITTEN)
# Only writers see drafts and waivers.
_SELECT: Final = f"""
select {{columns}}
  from postmortem_revisions r
  join incidents i on i.id = r.incident_id
 where {VISIBLE}
   and ($3::boolean or r.status in ('in_review', 'published'))
   and r.incident_id = $4
   and ($5::bigint is null or r.rev {{which}} $5)
 order by r.rev desc
 limit $6"""  # noqa: S608 - only constants of this module and db.py
_READ = _SELECT.format(columns=_COLUMNS, which="=")
_PAGE = _SELECT.format(columns=_SUMMARY, which="<")
# The database checks the size: `jsonb` formats numbers and spaces in its own way.
_APPEND: Final = f"""
insert into postmortem_revisions as r (content, {", ".join(_WRITTEN)})
select c.content, {", ".join(f"${n}" for n, _ in enumerate(_WRITTEN, 2))}
  from (select $1::text::jsonb as content) c
 where octet_length(c.content::text) <= 524288
returning {_COLUMNS}"""  # noqa: S608 - only constants of this module
_FACTORS: Final = """
with published as (
  select distinct on (r.incident_id) i.number, r.content
    from postmortem_revisions r
    join incidents i on i.id = r.incident_id
   where {where}
     and r.status = 'published'
   order by r.incident_id, r.rev desc)
select f->>'slug' as slug, f->>'category' as category, count(*) as count,
       array_agg('INC-' || p.number order by p.number) as incidents
  from published p
 cross join lateral jsonb_array_elements(p.content->'factors') f
 group by 1, 2
 order by count(*) desc, (f->>'slug') collate "C", (f->>'category') collate "C"
 limit 500"""

_LISTS: Final = ", ".join(
    f"'{name}', coalesce(json_agg(entry order by place) filter (where is_{name}), '[]')"
    for name in TimelineChanges.model_fields
)
# Only what was written since can differ, and what stands on a clock that was moved since.
_CHANGES: Final = f"""
with was as materialized (
  select *
    from timeline_seen($1, $2) e
   where not e.hidden),
is_now as materialized (
  select e.*
    from timeline_entries e
   where e.incident_id = $1
     and e.present
     and not e.hidden
     and (e.since > $2
          or e.shift is not null
          and e.source = any ((
            select array(select m.source from timeline_moved($1, $2) m))::text[]))),
differing as (
  select n.source is null as is_removed,
         w.source is null as is_added,
         (w.t, w.p) <> (n.t, n.p) as is_moved,
         (w.title, w.sha) <> (n.title, n.sha) as is_retitled,
         w.pinned <> n.pinned as is_pinned,
         coalesce(n.source, w.source) as source,
         coalesce(n.id, w.id) as id,
         coalesce(n.kind, w.kind) as kind,
         coalesce(n.t, w.t) as t,
         coalesce(n.p, w.p) as p,
         coalesce(n.title, w.title) as title,
         coalesce(n.k, w.k) as k,
         coalesce(n.unnumbered, w.unnumbered) as unnumbered,
         coalesce(n.sequence, w.sequence) as sequence
    from was w
    full join is_now n
      on n.source = w.source collate "C"
     and n.id = w.id collate "C"),
entries as (
  select *,
         row_number() over (
           order by t, p, k, source collate "C", unnumbered, sequence collate "C", id collate "C")
           as place,
         json_build_object(
           'source', source, 'id', id, 'kind', kind, 't', t,
           'p', (array{[*map(str, PRECISIONS)]})[p + 1], 'title', title) as entry
    from differing
   where is_removed
      or is_added
      or is_moved
      or is_retitled
      or is_pinned)
select json_build_object({_LISTS})::text as changes,
       count(*) > 0
         or timeline_milestones($1, $2) <> timeline_milestones($1, 'infinity') as is_changed
  from entries"""  # noqa: S608 - only constants of our modules


@routes.api(
    f"GET {_POSTMORTEM}",
    READ,
    "Read the post-mortem, and how its timeline has changed since",
    conditional=True,
    stale=True,
)
async def read(
    q: Snapshot, ref: Ref, *, request: Request, share: Share
) -> Annotated[Response, PostMortem]:
    incident = await read_incident(q, ref)
    revision = await find(q, incident.id)
    if revision is None:
        raise NotFoundError("No post-mortem, or none that you may read")
    share(incident.visibility)
    answer = await compared(q, revision)
    headers = {"ETag": answer.etag}
    # The body also depends on the timeline, which the revision number does not reflect.
    if not answer.timeline_changed and is_not_modified(request, answer.etag):
        return Response(status_code=304, headers=headers)
    return await aside(LARGE, as_json, 200, answer, headers)


@routes.api(f"GET {_POSTMORTEM}/revisions", READ, "List the revisions", kind=RouteClass.READ)
async def revisions(q: Query, ref: Ref, query: Paged) -> RevisionPage:
    incident_id = (await read_incident(q, ref)).id
    (before,) = query.after(str(incident_id), int) or (None,)
    args = (q.principal.may(WRITE), incident_id, before, query.limit + 1)
    summaries = await rows(q, RevisionSummary, _PAGE, *args, operation="postmortem_revisions")
    return query.page(RevisionPage, summaries, str(incident_id), key=lambda summary: [summary.rev])


@routes.api(f"GET {_POSTMORTEM}/revisions/{{rev}}", READ, "Read a revision")
async def revision(q: Reader, ref: Ref, *, rev: Rev) -> Revision:
    return await read_revision(q, (await read_incident(q, ref)).id, rev)


@routes.api(
    "GET /api/v1/factors",
    READ,
    "Count the factors of published post-mortems",
    kind=RouteClass.SEARCH,
)
async def factors(q: Reader, filters: IncidentFilters) -> FactorList:
    conditions = where_of(q.principal, filters)
    records = await q.fetch(
        _FACTORS.format(where=conditions), *conditions.args, operation="factors"
    )
    return FactorList(items=[FactorCount.model_validate(dict(row.items())) for row in records])


async def find(q: Query, incident_id: UUID, rev: int | None = None) -> Revision | None:
    """Read the last revision that the caller may see, or that of this number."""
    args = (q.principal.may(WRITE), incident_id, rev, 1)
    return await row(q, Revision, _READ, *args, operation="postmortem_get")


async def read_revision(q: Query, incident_id: UUID, rev: int) -> Revision:
    stored = await find(q, incident_id, rev)
    if stored is None:
        raise NotFoundError("No such revision, or none that you may read")
    return stored


async def compared(q: Query, revision: Revision) -> PostMortem:
    args = (revision.incident_id, revision.timeline_at)
    record = (await q.fetch(_CHANGES, *args, operation="postmortem_changes"))[0]
    changes = (
        TimelineChanges.model_validate_json(record["changes"]) if record["is_changed"] else None
    )
    return PostMortem(
        **dict(revision), timeline_changed=changes is not None, timeline_changes=changes
    )


@routes.api(
    f"PUT {_POSTMORTEM}",
    WRITE,
    "Write the post-mortem's next revision",
    status=(200, 201),
    headers=_STARTS_FROM,
    problems=_OUTDATED,
)
async def write(unit: Unit, ref: Ref, draft: Draft, *, follows: Follows) -> Reply[Revision]:
    incident, old = await _locked(unit, ref, follows)
    if old is not None and old.content == draft.content:
        return Reply(old)
    stage = next_stage(old.status if old else None)
    new = await _append(unit, incident, old, new=draft, to=stage)
    # A PUT creates the post-mortem, and later changes it.
    return Reply(new, 201 if old is None else 200)


async def unknown(unit: Unit, incident_id: UUID, content: Content) -> set[tuple[str, str]]:
    """Return source and id of what the content refers to that is not on the timeline."""
    refs = references(content)
    names = ([ref.source for ref in refs], [ref.id for ref in refs])
    missing = await unit.fetch(_UNKNOWN, incident_id, *names, operation="references_unknown")
    return {(row["source"], row["id"]) for row in missing}


@routes.api(
    f"POST {_POSTMORTEM}/transitions",
    WRITE,
    "Change the status of the post-mortem",
    once=True,
    status=(200, 201),
    headers=_STARTS_FROM,
    problems=(*_OUTDATED, "illegal-transition", "not-publishable"),
    operation="move_postmortem",
)
async def transition(
    unit: Unit, ref: Ref, change: Transition, *, follows: Follows
) -> Reply[Revision]:
    """Change the status, unless it is that already; publishing requires complete content."""
    incident, old = await _locked(unit, ref, follows)
    if not move(old.status if old else None, change) and old is not None:
        return Reply(old)
    content: Content = Content() if old is None else old.content
    if change.to is Stage.PUBLISHED:
        action_items = await actions.of(unit, incident.id)
        unowned = [action for action in action_items if action.is_open and action.owner is None]
        is_known = not await unknown(unit, incident.id, content)
        missing = lacks(content, has_owners=not unowned, has_evidence=is_known)
        if missing:
            detail = f"Before it can be published, add: {', '.join(missing)}"
            extra = {
                "missing": missing,
                "actions_without_owner": [str(action.id) for action in unowned],
            }
            raise errors.NotPublishableError(detail, extra=extra)
    draft = Draft(content=content, message=change.message)
    return Reply(await _append(unit, incident, old, new=draft, to=change.to), 201)


@routes.api(
    f"POST {_POSTMORTEM}/restore",
    WRITE,
    "Restore the content of an older revision",
    once=True,
    status=(200, 201),
    headers=_STARTS_FROM,
    problems=_OUTDATED,
    operation="restore_postmortem",
)
async def restore(unit: Unit, ref: Ref, request: Restore, *, follows: Follows) -> Reply[Revision]:
    incident, old = await _locked(unit, ref, follows)
    source = await find(unit, incident.id, request.rev)
    if old is None or source is None:
        raise invalid("/rev", "unknown", "is not a revision")
    if old.content == source.content:
        return Reply(old)
    draft = Draft(content=source.content)
    to = next_stage(old.status)
    return Reply(await _append(unit, incident, old, new=draft, to=to, source=source.rev), 201)


async def _locked(unit: Unit, ref: Ref, follows: Follows) -> tuple[Incident, Revision | None]:
    incident = await lock_active(unit, ref)
    old = await find(unit, incident.id)
    follows(None if old is None else old.etag)
    return incident, old


async def _append(
    unit: Unit,
    incident: Incident,
    old: Revision | None,
    *,
    new: Draft,
    to: Stage,
    source: int | None = None,
) -> Revision:
    """Store the next revision, with the digest of the timeline at this instant."""
    at = await unit.stamp(incident.id)
    values = {
        "incident_id": incident.id,
        "rev": 1 if old is None else old.rev + 1,
        "status": to,
        "schema_version": SCHEMA_VERSION,
        "timeline_digest": await digest_in(unit, incident.id),
        "timeline_at": at,
        "rules": RULES,
        "author": unit.principal.actor,
        "at": at,
        "message": new.message,
        "restored_from": source,
    }
    args = (values.get(name) for name in _WRITTEN)
    records = await unit.fetch(
        _APPEND, new.content.model_dump_json(), *args, operation="postmortem_append"
    )
    if not records:
        raise invalid(
            "/content", "too_long", "must be at most 512 KiB in total: move parts of it elsewhere"
        )
    revision = Revision.model_validate(dict(records[0].items()))
    detail = {"rev": revision.rev, "from": old and old.status, "to": to}
    await unit.audit("postmortem.write", incident.ref, incident_id=incident.id, detail=detail)
    return revision
