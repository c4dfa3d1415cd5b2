"""The API of timelines: their slices, edits and annotations."""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from ..aside import aside
from ..db import Answer, Query, Reader, Unit
from ..errors import ForbiddenError, invalid
from ..incidents.access import Ref, Share, lock_active, seen
from ..incidents.model import Incident, check_time
from ..principal import Access, Principal
from ..web.body import if_none_match, parse, read_body, read_json
from ..web.calls import Call, Fill, Matches, Now, part
from ..web.paging import Paged, next_link
from ..web.routes import RouteClass
from ..web.slices import Routes
from . import annotations as remarks, postgres
from .annotations import STATES, AnnotationKind, AnnotationState, ShownAnnotation
from .edits import MODELS, AddedEdit, AnyEdit, EditPage, NewEdit, OpOnly, SetMilestone, SetTime
from .kept import KeptTimelines, digest_in
from .query import TimelinePage, TimelineQuery

READ, WRITE, ANNOTATE = Access.READ, Access.WRITE, Access.ANNOTATE
_ONE: Final = "/api/v1/incidents/{ref}"
_ANNOTATION: Final = "/api/v1/annotations/{root}"
_ENTRY: Final = 500  # Bytes of an entry's JSON, about.
routes: Final = Routes("annotation")

Kept = Annotated[KeptTimelines, part(KeptTimelines)]
"""The timelines that the database keeps."""


# Slices


@routes.api(
    f"GET {_ONE}/timeline", READ, "Read the timeline of an incident",
    kind=RouteClass.READ, conditional=True, stale=True,
)  # fmt: skip
async def timeline(
    q: Reader, ref: Ref, query: TimelineQuery, *, kept: Kept, request: Request, share: Share
) -> Annotated[Response, TimelinePage]:
    found = await kept.slice(q, ref, query)
    share(found.incident.visibility)
    headers = {"ETag": found.etag}
    if if_none_match(request, found.etag):
        return Response(status_code=304, headers=headers)
    headers |= next_link(request, found.page.next_cursor)
    return (await aside(_ENTRY * len(found.page.items), Answer.of, 200, found.page, headers)).response()


# Edits


async def _sent_edit(call: Call, _: str) -> NewEdit:
    first = await read_body(call.request, OpOnly)
    return parse(MODELS[first.op], await read_json(call.request))


SentEdit = Annotated[NewEdit, Fill(_sent_edit)]


@routes.api(f"GET {_ONE}/edits", READ, "List the edits of a timeline", kind=RouteClass.READ)
async def edit_page(q: Reader, ref: Ref, query: Paged) -> EditPage:
    incident = await seen(q, ref)
    rows = await postgres.edit_page(q, incident.id, query)
    return query.page(EditPage, rows, str(incident.id), key=lambda it: (it.at, it.id))


@routes.api(f"POST {_ONE}/edits", WRITE, "Edit a timeline; originals are kept", once=True, reads=AnyEdit)
async def add_edit(unit: Unit, ref: Ref, new: SentEdit, *, now: Now) -> AddedEdit:
    if isinstance(new, SetTime | SetMilestone) and new.value is not None and new.value.at is not None:
        check_time("/value/at", new.value.at, now)
    incident = await lock_active(unit, ref)
    edit = await postgres.add_edit(unit, incident.id, new)
    detail = {"edit": edit.id, "op": edit.op}
    await unit.audit("timeline.edit", incident.ref, incident_id=incident.id, detail=detail)
    return AddedEdit(edit=edit, digest=await digest_in(unit, incident.id))


# Annotations


@routes.api(
    f"GET {_ONE}/annotations", READ, "List notes, decisions, hypotheses and questions", kind=RouteClass.READ
)
async def annotation_page(q: Reader, ref: Ref, query: Paged) -> remarks.AnnotationPage:
    incident = await seen(q, ref)
    rows = await postgres.remarks(q, incident.id, query)
    return query.page(remarks.AnnotationPage, rows, str(incident.id), key=lambda it: (it.at, it.id))


@routes.api(
    f"POST {_ONE}/annotations", ANNOTATE, "Add a note, decision, hypothesis or question", once=True
)  # fmt: skip
async def add_annotation(unit: Unit, ref: Ref, new: remarks.NewAnnotation, *, now: Now) -> ShownAnnotation:
    if new.occurred_at is not None:
        check_time("/occurred_at", new.occurred_at, now)
        if new.entry is not None:
            raise invalid("/occurred_at", "forbidden", "an annotation on an entry has no time of its own")
    elif new.precision is not None:
        raise invalid("/precision", "forbidden", "only the time of an annotation has a precision")
    if new.state is None and new.kind in STATES:
        new = new.model_copy(update={"state": AnnotationState.OPEN})
    _check_state(new.kind, new.state)
    incident = await lock_active(unit, ref)
    _check_decision(unit.principal, new.kind)
    root = await postgres.add_annotation(unit, incident.id, new)
    await _audit(unit, "annotation.add", incident, root=root)
    return await annotation(unit, root)


@routes.api(f"GET {_ANNOTATION}", READ, "Read an annotation", kind=RouteClass.READ)
async def annotation(q: Query, root: UUID) -> ShownAnnotation:
    return (await postgres.annotation(q, root))[1]


@routes.api(f"PUT {_ANNOTATION}", ANNOTATE, "Change the text or state of an annotation")
async def change(
    unit: Unit, root: UUID, wish: remarks.AnnotationChange, *, matches: Matches
) -> ShownAnnotation:
    incident, old = await _locked(unit, root)
    matches(old.etag)
    new = old.model_copy(update={name: getattr(wish, name) for name in wish.model_fields_set})
    _check_state(new.kind, new.state)
    if new == old:
        return old
    await postgres.supersede(unit, incident.id, new, retracted=False)
    await _audit(unit, "annotation.change", incident, root=root)
    return await annotation(unit, root)


@routes.api(f"DELETE {_ANNOTATION}", ANNOTATE, "Retract an annotation")
async def retract(unit: Unit, root: UUID, *, matches: Matches) -> None:
    incident, old = await _locked(unit, root)
    matches(old.etag)
    await postgres.supersede(unit, incident.id, old, retracted=True)
    await _audit(unit, "annotation.retract", incident, root=root)


async def _locked(unit: Unit, root: UUID) -> tuple[Incident, ShownAnnotation]:
    incident = await lock_active(unit, (await postgres.annotation(unit, root))[0])
    current = await annotation(unit, root)
    if not (current.author == unit.principal.actor or unit.principal.is_admin):
        raise ForbiddenError("Only its author or an administrator may change an annotation")
    _check_decision(unit.principal, current.kind)
    return incident, current


async def _audit(unit: Unit, action: str, incident: Incident, *, root: UUID) -> None:
    await unit.audit(action, incident.ref, incident_id=incident.id, detail={"annotation": root})


def _check_decision(principal: Principal, kind: AnnotationKind) -> None:
    if kind is AnnotationKind.DECISION and not principal.may(WRITE):
        raise ForbiddenError("Only responders may record decisions")


def _check_state(kind: AnnotationKind, state: AnnotationState | None) -> None:
    if kind not in STATES:
        if state is not None:
            raise invalid("/state", "forbidden", "only a hypothesis or a question may have a state")
    elif state not in STATES[kind]:
        raise invalid("/state", "state", f"of a {kind} is one of: {', '.join(STATES[kind])}")
