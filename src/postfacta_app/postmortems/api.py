"""The API of post-mortems: read, write, change of status, revisions, factors.

Writes lock the incident first, so of two concurrent writers the second sees the first one's revision. Their stamp
orders the revision among the facts: the timeline as of it is what its author could see.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from .. import actions, errors
from ..aside import LARGE, aside
from ..db import Answer, Query, Reader, Unit
from ..errors import NotFoundError, PreconditionFailedError
from ..incidents.access import Ref, Share, lock_active, seen
from ..incidents.model import Incident, IncidentFilters
from ..principal import Access
from ..timeline.kept import digest_in
from ..timeline.rules import RULES
from ..web.body import if_match, if_none_match
from ..web.calls import Call, Fill, Snapshot
from ..web.paging import Paged
from ..web.routes import RouteClass
from ..web.slices import Reply, Routes, made
from . import model, postgres
from .content import SCHEMA_VERSION, Content, differences
from .model import Revision, RevisionPage, Stage

READ, WRITE = Access.READ, Access.WRITE
routes: Final = Routes("post-mortem")
_ONE: Final = "/api/v1/incidents/{ref}/postmortem"
_NUMBER: Final = re.compile("[1-9][0-9]{0,8}", re.ASCII)
_OTHERS: Final = "Not saved: someone else wrote a new revision in the meantime. Compare with the current version, then save again."
_STARTS_FROM: Final = {"If-Match": False, "If-None-Match": False}
_OUTDATED: Final = ("precondition-failed", "precondition-required", "conflict")


def number(text: str) -> int:
    """Parse the number of a revision; 0 is before the first, or not a number."""
    return int(text) if _NUMBER.fullmatch(text) else 0


def _follows(call: Call, _: str) -> Callable[[str | None], None]:
    if call.fields:
        return lambda etag: _check_form(number(call.fields.get("rev", "")), etag)
    return lambda etag: _check_headers(call.request, etag)


def _check_form(rev: int, etag: str | None) -> None:
    if etag != (f'"pm-{rev}"' if rev else None):
        raise PreconditionFailedError(_OTHERS)


def _check_headers(request: Request, etag: str | None) -> None:
    """Check the revision a write starts from: `If-Match` names it, `If-None-Match: *` means none."""
    named, none = (", ".join(request.headers.getlist(name)) for name in ("if-match", "if-none-match"))
    if named.strip() == "*" or (not named and none.strip() != "*"):
        detail = "Send If-Match with the ETag of the revision you change; for the first revision, send If-None-Match: *"
        raise errors.PreconditionRequiredError(detail)
    if named and etag is not None:
        if_match(request, etag)
    elif named:
        raise PreconditionFailedError("There is no post-mortem yet: send If-None-Match: *")
    elif etag is not None:
        detail = "There already is a post-mortem: read it, and send If-Match with its ETag"
        raise PreconditionFailedError(detail, headers={"ETag": etag})


Follows = Annotated[Callable[[str | None], None], Fill(_follows)]
"""Raises if the caller did not start from the revision with this ETag; None is before the first one."""
Rev = Annotated[int, Fill(lambda call, name: number(call.request.path_params[name]))]
"""A revision in the path; 0, which never exists, if it is not a number."""


# What is read


@routes.api(f"GET {_ONE}", READ, "Read the post-mortem, and how its timeline has changed since", conditional=True, stale=True)  # fmt: skip
async def read(
    q: Snapshot, ref: Ref, *, request: Request, share: Share
) -> Annotated[Response, model.PostMortem]:
    incident = await seen(q, ref)
    revision = await postgres.read(q, incident.id)
    if revision is None:
        raise NotFoundError("No post-mortem, or none that you may read")
    share(incident.visibility)
    shown = await postgres.compared(q, revision)
    headers = {"ETag": shown.etag}
    # The body also depends on the timeline, which the revision number does not reflect.
    if not shown.timeline_changed and if_none_match(request, shown.etag):
        return Response(status_code=304, headers=headers)
    return (await aside(LARGE, Answer.of, 200, shown, headers)).response()


@routes.api(f"GET {_ONE}/revisions", READ, "List the revisions", kind=RouteClass.READ)
async def revisions(q: Reader, ref: Ref, query: Paged) -> RevisionPage:
    return await read_page(q, (await seen(q, ref)).id, query)


@routes.api(f"GET {_ONE}/revisions/{{rev}}", READ, "Read a revision, or compare it with another")
async def revision(
    q: Reader, ref: Ref, query: model.RevisionQuery, *, rev: Rev
) -> model.RevisionWithDifferences:
    incident_id = (await seen(q, ref)).id
    shown, against = await read_revision(q, incident_id, rev), None
    if query.against is not None:
        other = await read_revision(q, incident_id, query.against)
        against = model.Against(rev=other.rev, sections=differences(other.content, shown.content))
    return model.RevisionWithDifferences(**dict(shown), against=against)


@routes.api("GET /api/v1/factors", READ, "Count the factors of published post-mortems", kind=RouteClass.SEARCH)  # fmt: skip
async def factors(q: Reader, filters: IncidentFilters) -> model.FactorList:
    return model.FactorList(items=await postgres.factors(q, filters))


async def read_page(q: Query, incident_id: UUID, query: Paged) -> RevisionPage:
    (before,) = query.after(str(incident_id), int) or (None,)
    rows = await postgres.page(q, incident_id, before=before, limit=query.limit + 1)
    return query.page(RevisionPage, rows, str(incident_id), key=lambda it: [it.rev])


async def read_revision(q: Query, incident_id: UUID, rev: int) -> Revision:
    found = await postgres.read(q, incident_id, rev)
    if found is None:
        raise NotFoundError("No such revision, or none that you may read")
    return found


# What is written


@routes.api(
    f"PUT {_ONE}", WRITE, "Write the post-mortem's next revision",
    status=(200, 201), headers=_STARTS_FROM, problems=_OUTDATED,
)  # fmt: skip
async def write(unit: Unit, ref: Ref, wish: model.Draft, *, follows: Follows) -> Reply[Revision]:
    incident, last = await _locked(unit, ref, follows)
    if last is not None and last.content == wish.content:
        return made(last, is_new=False)
    new = await _append(unit, incident, last, content=wish.content, message=wish.message)
    return made(new, is_new=new.rev == 1)  # A PUT creates the post-mortem, and later changes it.


@routes.api(
    f"POST {_ONE}/transitions", WRITE, "Change the status of the post-mortem", once=True,
    status=(200, 201), headers=_STARTS_FROM, problems=(*_OUTDATED, "illegal-transition", "not-publishable"),
)  # fmt: skip
async def transition(unit: Unit, ref: Ref, wish: model.Transition, *, follows: Follows) -> Reply[Revision]:
    incident, last = await _locked(unit, ref, follows)
    if not model.move(_stage(last), wish) and last is not None:
        return made(last, is_new=False)
    content: Content = Content() if last is None else last.content
    if wish.to is Stage.PUBLISHED:
        await _check_publishable(unit, incident.id, content)
    new = await _append(unit, incident, last, status=wish.to, content=content, message=wish.message)
    return made(new, is_new=True)


@routes.api(
    f"POST {_ONE}/restore", WRITE, "Restore the content of an older revision", once=True,
    status=(200, 201), headers=_STARTS_FROM, problems=_OUTDATED,
)  # fmt: skip
async def restore(unit: Unit, ref: Ref, wish: model.Restore, *, follows: Follows) -> Reply[Revision]:
    incident, last = await _locked(unit, ref, follows)
    source = await postgres.read(unit, incident.id, wish.rev)
    if last is None or source is None:
        error = errors.FieldError("/rev", "unknown", "is not a revision")
        raise errors.InvalidFieldsError("/rev is not a revision", errors=[error])
    if last.content == source.content:
        return made(last, is_new=False)
    new = await _append(unit, incident, last, content=source.content, restored_from=source.rev)
    return made(new, is_new=True)


async def _locked(
    unit: Unit, ref: UUID | int, follows: Callable[[str | None], None]
) -> tuple[Incident, Revision | None]:
    incident = await lock_active(unit, ref)
    last = await postgres.read(unit, incident.id)
    follows(None if last is None else last.etag)
    return incident, last


def _stage(last: Revision | None) -> Stage | None:
    return None if last is None else last.status


async def _check_publishable(unit: Unit, incident_id: UUID, content: Content) -> None:
    unowned = [it for it in await actions.of(unit, incident_id) if it.is_open and it.owner is None]
    if lacking := model.lacks(content, has_owners=not unowned):
        detail = f"Before it can be published, add: {', '.join(lacking)}"
        extra = {"missing": lacking, "actions_without_owner": [str(it.id) for it in unowned]}
        raise errors.NotPublishableError(detail, extra=extra)


async def _append(
    unit: Unit,
    incident: Incident,
    last: Revision | None,
    *,
    content: Content,
    status: Stage | None = None,
    **fields: Any,
) -> Revision:
    at = await unit.stamp(incident.id)
    status = status or model.next_stage(_stage(last))
    revision = await postgres.append(
        unit,
        Revision(
            incident_id=incident.id,
            rev=1 if last is None else last.rev + 1,
            content=content,
            status=status,
            schema_version=SCHEMA_VERSION,
            timeline_digest=await digest_in(unit, incident.id),
            timeline_at=at,
            rules=RULES,
            author=unit.principal.actor,
            at=at,
            **{"message": None, "restored_from": None, **fields},
        ),
    )
    if revision is None:
        error = errors.FieldError("/content", "too_long", "must be at most 512 KiB in total")
        raise errors.InvalidFieldsError(
            "Shorten the post-mortem, or move parts of it elsewhere", errors=[error]
        )
    detail = {"rev": revision.rev, "from": _stage(last), "to": status}
    await unit.audit("postmortem.write", incident.ref, incident_id=incident.id, detail=detail)
    return revision
