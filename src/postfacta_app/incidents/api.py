"""The API of incidents, and the pages that list, record or edit them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import urlencode
from uuid import UUID, uuid4

from pydantic import BaseModel
from starlette.datastructures import QueryParams
from starlette.requests import Request

from ..db import Reader, Unit, insert, update
from ..errors import (
    AppError,
    ConflictError,
    FieldError,
    ForbiddenError,
    InvalidCursorError,
    InvalidFieldsError,
    invalid,
)
from ..principal import Access
from ..web.body import Listed, next_page, read_query
from ..web.forms import Typed, fields_of, formed, read_typed_time
from ..web.merging import any_version, as_texts, merged
from ..web.routes import Call, RouteClass
from ..web.slices import Fields, Fill, Matches, Now, Page, Reply, Routes
from . import access, model
from .access import COLUMNS, Ref, Share, check_active, lock, read_incident
from .model import Change, Incident, IncidentKind, NewIncident, Visibility

M = TypeVar("M", bound=BaseModel)
L = TypeVar("L", bound=Listed[Any])
READ = Access.READ
WRITE = Access.WRITE
routes: Final = Routes("incident")
_MOST_MEMBERS: Final = 100


def _forget(call: Call, _: str) -> Callable[[], None]:
    return partial(call.afterwards.append, call.tools.stale.forget)


Hide = Annotated[Callable[[], None], Fill(_forget)]
"""Forgets the responses kept for outages, since an incident's visibility may have been reduced."""

_INSERT: Final = f"""
with i as (
  insert into incidents ({{names}}, timeline_at)
  values ({{places}}, clock_timestamp())
  on conflict (id) do nothing
  returning *),
moved as (
  insert into status_changes (id, incident_id, to_status, occurred_at, at, actor)
  select gen_random_uuid(), i.id, i.status, i.declared_at, i.timeline_at, i.created_by
    from i)
select {COLUMNS}
  from i"""  # noqa: S608 - only constants of this package
_UNKNOWN_USERS: Final = """
select m.nth
  from unnest($1::uuid[]) with ordinality m(id, nth)
 where not exists (select from users u where u.id = m.id)
 order by m.nth"""


@routes.api("GET /api/v1/incidents", READ, "List incidents", stale=True)
async def page(q: Reader, query: model.IncidentQuery, *, share: Share) -> model.IncidentPage:
    incidents = await access.page(q, query)
    share(*(incident.visibility for incident in incidents.items))
    return incidents


@routes.api("POST /api/v1/incidents", WRITE, "Record an incident", status=201, once=True)
async def create(unit: Unit, new: NewIncident, *, now: Now) -> Reply[Incident]:
    declared_at = model.check_time("/declared_at", new.declared_at or now, now)
    await _check_members(unit, new.members)
    members = _with_caller(unit, new.members)
    _check_private(unit, new.visibility, members)
    caller = unit.principal
    # Names may have one character, reporters need two.
    name = caller.name[:100] if len(caller.name) > 1 else caller.actor
    completed = {
        "reporter": new.reporter or name,
        "members": members,
        "declared_at": declared_at,
    }
    incident = await declare(unit, id=uuid4(), **{**dict(new), **completed})
    return Reply(incident, 201, {"Location": f"/api/v1/incidents/{incident.id}"})


async def declare(unit: Unit, **values: object) -> Incident:
    """Write a new incident with its first status change."""
    values["created_by"] = unit.principal.actor
    places = ", ".join(f"${n}" for n, _ in enumerate(values, 1))
    sql = _INSERT.format(names=", ".join(values), places=places)
    rows = await unit.fetch(sql, *values.values(), operation="incident_insert")
    if not rows:
        raise ConflictError("Incident with the same ID already exists: incident conflict")
    incident = access.incident_of(rows[0])
    await unit.audit("incident.create", incident.ref, incident_id=incident.id)
    if _is_counted(incident):
        unit.counts.append(("postfacta_incidents_opened_total", incident.severity))
    return incident


@routes.api("GET /api/v1/incidents/{ref}", READ, "Read an incident", conditional=True, stale=True)
async def read(q: Reader, ref: Ref, *, share: Share) -> Incident:
    incident = await read_incident(q, ref)
    share(incident.visibility)
    return incident


@routes.api("PATCH /api/v1/incidents/{ref}", WRITE, "Change an incident by JSON Merge Patch")
async def change(unit: Unit, ref: Ref, patch: Change, *, matches: Matches, hide: Hide) -> Incident:
    if "visibility" in patch.model_fields_set:
        hide()
    old = await lock(unit, ref)
    matches(old.etag)
    check_active(old)
    fields = {name: getattr(patch, name) for name in patch.model_fields_set}
    if "members" in fields:
        await _check_members(unit, patch.members)
        fields["members"] = list(dict.fromkeys(patch.members))
    if patch.visibility == Visibility.PRIVATE and old.visibility != Visibility.PRIVATE:
        fields["members"] = _with_caller(unit, fields.get("members", old.members))
    new = old.model_copy(update=fields)
    if new == old:
        return old
    _check_private(unit, new.visibility, new.members)
    before = {name: getattr(old, name) for name in fields}
    detail = {
        name: [before[name], value] for name, value in fields.items() if value != before[name]
    }
    values = {name: getattr(new, name) for name in Change.model_fields}
    row = await update(unit, "incidents", new.id, columns=COLUMNS, **values)
    await _note_changes(unit, old, new)
    await unit.audit("incident.change", new.ref, incident_id=new.id, detail=detail)
    return access.incident_of(row)


async def _note_changes(unit: Unit, old: Incident, new: Incident) -> None:
    """Add a note to the timeline if the severity or the owner changed."""
    changes = (
        ("severity", old.severity.capitalize(), new.severity.capitalize()),
        ("owner", old.owner, new.owner),
    )
    sentences = [
        f"{name}: {was or 'none'} to {now or 'none'}" for name, was, now in changes if was != now
    ]
    if not sentences:
        return
    body = "; ".join(sentences)
    note = uuid4()
    at = await unit.stamp(new.id)
    await insert(
        unit,
        "annotations",
        id=note,
        root=note,
        incident_id=new.id,
        kind="note",
        body=body[0].upper() + body[1:],
        occurred_at=at,
        at=at,
        author=unit.principal.actor,
    )


@routes.api("DELETE /api/v1/incidents/{ref}", WRITE, "Archive an incident")
async def archive(unit: Unit, ref: Ref, *, matches: Matches, now: Now) -> None:
    incident = await lock(unit, ref)
    if not (unit.principal.is_admin or incident.kind == IncidentKind.EXERCISE):
        raise ForbiddenError("Only administrators may archive anything but exercises")
    matches(incident.etag)
    if incident.archived_at is None:
        await update(unit, "incidents", incident.id, archived_at=now)
        await unit.audit("incident.archive", incident.ref, incident_id=incident.id)


@routes.api(
    "POST /api/v1/incidents/{ref}/transitions",
    WRITE,
    "Change the status of an incident",
    status=(200, 201),
    once=True,
    problems=("illegal-transition",),
    operation="move_incident",
)
async def transition(unit: Unit, ref: Ref, wish: model.Move, *, now: Now) -> Reply[Incident]:
    old = await lock(unit, ref)
    occurred_at = model.check_time("/occurred_at", wish.occurred_at or now, now)
    new = model.move(old.status, wish, ended_at=old.ended_at, occurred_at=occurred_at)
    if new is None:
        return Reply(old)
    check_active(old)
    at = await unit.stamp(old.id)
    row = await update(unit, "incidents", old.id, columns=COLUMNS, **new)
    await insert(
        unit,
        "status_changes",
        id=uuid4(),
        incident_id=old.id,
        from_status=old.status,
        to_status=wish.to,
        outcome=wish.outcome,
        reason=wish.reason,
        occurred_at=occurred_at,
        at=at,
        actor=unit.principal.actor,
    )
    detail = {"from": old.status, "to": wish.to, "outcome": wish.outcome}
    await unit.audit("incident.move", old.ref, incident_id=old.id, detail=detail)
    incident = access.incident_of(row)
    if _is_counted(incident):
        unit.counts.append(
            ("postfacta_incident_transitions_total", old.status, wish.to, old.severity)
        )
    return Reply(incident, 201)


def _is_counted(incident: Incident) -> bool:
    # Readers of the metrics may not be members.
    return incident.kind != IncidentKind.EXERCISE and incident.visibility is Visibility.INTERNAL


async def _check_members(unit: Unit, members: Sequence[UUID]) -> None:
    rows = await unit.fetch(_UNKNOWN_USERS, members, operation="users_known") if members else ()
    errors = [FieldError(f"/members/{row['nth'] - 1}", "unknown", "is not a user") for row in rows]
    if errors:
        raise InvalidFieldsError("Members must be users of this service", errors=errors)


def _with_caller(unit: Unit, members: Sequence[UUID]) -> list[UUID]:
    caller = unit.principal.user_id
    return list(dict.fromkeys([*members, caller] if caller else members))


def _check_private(unit: Unit, visibility: Visibility, members: Sequence[UUID]) -> None:
    if len(members) > _MOST_MEMBERS:
        raise invalid(
            "/members", "too_long", f"at most {_MOST_MEMBERS} members, including yourself"
        )
    if visibility == Visibility.PRIVATE and unit.principal.user_id is None:
        raise invalid("/visibility", "forbidden", "an API token cannot make an incident private")
    if visibility == Visibility.PRIVATE and not members:
        raise invalid("/members", "too_short", "a private incident needs at least one member")


# Pages

_FILTERS = (
    "q",
    "status",
    "severity_gte",
    "service",
    "team",
    "label",
    "kind",
    "has_postmortem",
    "from",
    "to",
)
_LISTS = ("status", "service", "team", "label", "kind")  # Of several values, a comma between each.


@routes.page("/incidents", READ, kind=RouteClass.SEARCH, stale=True)
async def listed(q: Reader, *, request: Request, share: Share) -> Page | str:
    ref = access.read_ref(request.query_params.get("q", "").strip().upper())
    if isinstance(ref, int):
        return f"/incidents/{access.ref_text(ref)}"
    rows, shown = await list_page(request, model.IncidentQuery, partial(access.page, q))
    share(*(incident.visibility for incident in rows.items))
    shown["after"] = await access.follow_ups(q, [incident.id for incident in rows.items])
    return Page("incidents.html", shown, status=400 if shown["errors"] else 200)


@routes.page("/incidents/new", WRITE)
async def blank(q: Reader, *, typed: Typed) -> Page:
    return Page(
        "new_incident.html", {"new": fields_of(NewIncident), "reporter": q.principal.name[:100]}
    )


@routes.form("/incidents/new", WRITE, again=blank)
async def record(unit: Unit, new: NewIncident, *, now: Now) -> str:
    return f"/incidents/{(await create(unit, new, now=now)).value.ref}"


@routes.page("/incidents/{ref}/edit", WRITE)
async def editing(q: Reader, ref: Ref) -> Page:
    incident = await read_incident(q, ref)
    context = {"item": incident, "changed": fields_of(Change), "was": as_texts(_shown(incident))}
    return Page("edit_incident.html", context)


@routes.form("/incidents/{ref}/edit", WRITE, again=editing)
async def edit(unit: Unit, ref: Ref, *, fields: Fields, hide: Hide) -> str:
    old = await lock(unit, ref)
    changed = await merged(unit, fields, _shown(old), incident_id=old.id, of=old.ref)
    # An emptied field clears what it shows.
    empty: Mapping[str, list[str]] = {"services": [], "teams": []}
    sent = {name: text or empty.get(name) for name, text in changed.items()}
    await change(unit, ref, formed(Change, sent), matches=any_version, hide=hide)
    return f"/incidents/{old.ref}"


def _shown(incident: Incident) -> Mapping[str, object]:
    """Return what the form shows."""
    return {name: getattr(incident, name) for name in Change.model_fields if name != "members"}


def page_query(request: Request, of: type[M]) -> tuple[M, Sequence[FieldError]]:
    """Return the query of a page with its filters; if some are invalid, without any, and why."""
    try:
        return read_query(QueryParams(filters_of(request)), of, is_page=True), ()
    except AppError as refusal:
        return of.model_validate({}), refusal.errors


async def list_page(
    request: Request,
    of: type[M],
    page: Callable[[M], Awaitable[L]],
    *,
    names: Sequence[str] = _FILTERS,
) -> tuple[L, dict[str, object]]:
    """Return the requested page of a list, and the context of its template.

    If a filter or the cursor is invalid, it is the first page, and says why.
    """
    query, errors = page_query(request, of)
    try:
        rows = await page(query)
    except InvalidCursorError as refusal:
        rows = await page(of.model_validate({}))
        errors = [FieldError("?", refusal.slug, refusal.detail)]
    more = None if errors or rows.next_cursor is None else next_page(request, rows.next_cursor)
    return rows, {**filter_form(request, errors, names), "items": rows.items, "next_url": more}


def filters_of(request: Request) -> list[tuple[str, str]]:
    """Return the filters of a page.

    A form also sends empty ones, several values in one, and typed times.
    """
    filters: list[tuple[str, str]] = []
    for name, value in request.query_params.multi_items():
        texts = [text.strip() for text in value.split(",")] if name in _LISTS else [value]
        read = _instant if name in {"from", "to"} else str
        filters += [(name, read(text)) for text in texts if text]
    return filters


def _instant(text: str) -> str:
    """Return a typed day or time as the API reads it; any other text as it is."""
    for typed in (text, f"{text} 00:00"):
        try:
            return f"{read_typed_time(typed):%Y-%m-%dT%H:%M:%SZ}"
        except ValueError:
            continue
    return text


def filter_form(
    request: Request, errors: Sequence[FieldError], names: Sequence[str] = _FILTERS
) -> dict[str, object]:
    """Return the template context of the filter form, which has fields of these names."""
    filters = [(name, value) for name, value in filters_of(request) if name != "cursor"]
    form: dict[str, str] = dict.fromkeys(names, "")
    more: list[tuple[str, str]] = []  # What has no field of its own, but must not be lost.
    for name, value in filters:
        if name in _LISTS and form.get(name):
            form[name] += f",{value}"
        elif form.get(name) == "":
            form[name] = value
        else:
            more.append((name, value))
    return {
        "form": form,
        "more": more,
        "errors": errors,
        "filtered": bool(filters),
        "query": urlencode(filters),
        "statuses": list(model.Status),
        "severities": list(model.Severity)[::-1],
        "kinds": list(IncidentKind),
    }
